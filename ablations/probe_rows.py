"""The rows of the probes: named patterns and random ones, and what their masks alone predict for every task.

A prediction says what an ideal network could score with these masks; nothing is fitted. ``find``: a cell that a path
leads to from the marked one names its colour, any other guesses. ``swap``: of one half of the grid as much arrives in
the other as the maximum flow lets through, the worst of the four ways, and nothing where no path leads; the rest guess.
That is min(share of the flow, share of the pairs joined): a bound of both, chosen while the set-up was looked for and
before the predictions were committed. ``near``: the shares of the colours of independent cells are explained as far as
those cells are seen.
"""

from dataclasses import dataclass
from functools import partial, reduce

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_array

from ablations.probe_tasks import COLOURS, SWAPS, TASKS
from ylg import Pattern, sparse_head_masks
from ylg.flow_measures import union
from ylg.grid_flow import coordinates, coverage, flow_between_sides
from ylg.heads import HeadPattern, heads_needed
from ylg.masks import sparse_steps
from ylg.orders import Grid


@dataclass(frozen=True)
class ProbeRow:
    """A pattern laid on the grid by an order, over four heads; interlaced8 needs eight, so has twice the channels."""

    name: str
    pattern: HeadPattern
    order: str = "manhattan"

    @property
    def num_heads(self) -> int:
        return max(4, heads_needed(self.pattern))

    def heads(self, grid: Grid) -> list[csr_array]:
        """The masks of the distinct steps, over the cells of the grid."""
        return sparse_head_masks(self.pattern, grid, num_heads=heads_needed(self.pattern), order=self.order)


def window(radius: int, grid: Grid, block: Grid) -> np.ndarray:
    """One step: the cells at most ``radius`` away on both axes."""
    places = coordinates(np.arange(grid[0] * grid[1]), grid[1])
    return (np.abs(places[:, None] - places).max(axis=2) <= radius)[None]


def random_steps(number: int, grid: Grid, block: Grid) -> np.ndarray:
    """Two random steps: every cell hears itself and some cells, then itself and some of a few relays.

    How many cells and how many relays goes with ``number`` over a range from hardly anything to nearly everything.
    """
    n = grid[0] * grid[1]
    random = np.random.default_rng(number)
    heard, relays = (1, 2, 4, 7, 12)[number % 5], (2, 8, 24, n)[number // 5 % 4]
    steps = np.zeros((2, n, n), dtype=bool)
    few = random.permutation(n)[:relays]
    for cell in range(n):
        steps[0, cell, random.permutation(n)[:heard]] = True
        steps[1, cell, random.permutation(few)[: min(heard, relays)]] = True
    return steps | np.eye(n, dtype=bool)


def _own(name: str, num_steps: int, build) -> ProbeRow:
    return ProbeRow(name, Pattern(name, num_steps, build, lambda grid: grid, full_information=False, on_grid=True))


NAMED = (
    ProbeRow("dense", "dense"),
    ProbeRow("ltr_rtl, ESA", "ltr_rtl"),
    ProbeRow("ltr_rtl, raster", "ltr_rtl", "raster"),
    ProbeRow("ltr_rtl, Hilbert", "ltr_rtl", "hilbert"),
    ProbeRow("strided, ESA", "strided"),
    ProbeRow("strided_original, ESA", "strided_original"),
    ProbeRow("fixed, ESA", "fixed"),
    ProbeRow("star", "star"),
    ProbeRow("butterfly, Hilbert", "butterfly", "hilbert"),
    _own("window 5x5", 1, partial(window, 2)),
    ProbeRow("rotated_blocks", "rotated_blocks"),
    ProbeRow("window_lattice", "window_lattice"),
    ProbeRow("crossed", "crossed"),
    ProbeRow("interlaced4", "interlaced4"),
    ProbeRow("interlaced8", "interlaced8"),
)
RANDOM = tuple(_own(f"random {number}", 2, partial(random_steps, number)) for number in range(20))


def mode_of(task: str) -> str:
    """*near* asks what one look covers; the others chain the steps of a pattern, as two layers of a network would."""
    return "parallel" if task == "near" else "sequential"


def predictions(rows: tuple[ProbeRow, ...], grid: Grid) -> pd.DataFrame:
    """One line for each row and task: what the masks alone let expect."""
    return pd.DataFrame(
        {"grid": f"{grid[0]}x{grid[1]}", "row": row.name, "task": task, "predicted": round(float(expected[task]), 4)}
        for row in rows
        for expected in [_expected(row, grid)]
        for task in TASKS
    )


def _expected(row: ProbeRow, grid: Grid) -> dict[str, float]:
    heads, n = row.heads(grid), grid[0] * grid[1]
    places = coordinates(np.arange(n), grid[1])
    length = 1 if row.name in ("dense", "window 5x5") else 2  # of the chain of steps that one head runs
    chains = [sparse_steps(heads[first : first + length]) for first in range(0, len(heads), length)]
    halves = [flow_between_sides(chain, places, grid) for chain in chains]
    carried = min(min(sum(ways), n // 2) for ways in zip(*halves, strict=True)) / (n // 2)
    oneself = csr_array(np.eye(n, dtype=bool))  # the layer adds to what a cell knows
    joined = union([oneself, *(reduce(lambda done, step: step @ done, chain) for chain in chains)]).toarray()
    cells = torch.arange(n).reshape(grid)
    right = {"find": joined.mean()}
    for task, elsewhere in SWAPS.items():
        right[task] = min(carried, joined[np.arange(n), elsewhere(cells).flatten().numpy()].mean())
    return {
        **{task: share + (1 - share) / COLOURS for task, share in right.items()},
        "near": coverage(union([*heads, oneself]), places, grid, 5),
    }
