"""A study of patterns: what patterns.py was asked to draw, checked, with its masks and its table of measures."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from sagan_base import tables
from ylg import (
    ALIGNMENTS,
    ORDERS,
    Pattern,
    attention_plan,
    flow_report,
    grid_order,
    head_steps,
    sparse_head_masks,
    sparse_step_masks,
)
from ylg.flow_measures import union
from ylg.grid_flow import coordinates, coverage
from ylg.heads import HeadPattern, has_order, heads_needed
from ylg.orders import Grid, check_grid, is_whole

DEFAULT_PATTERNS = (
    *("ltr_rtl", "strided", "strided_original", "butterfly", "fixed", "star", "dense"),
    *("spread_relays", "rotated_blocks", "window_lattice", "crossed", "interlaced4", "interlaced8"),
)
NO_ORDER = "-"  # how the order of a pattern is shown that is native to the grid, and lies on its row-major cells
LARGEST = 4096  # positions: a picture of a matrix of more would show nothing and take minutes


@dataclass(frozen=True, eq=False)
class Study:
    """What is drawn, with its masks.

    Attributes:
        key_grid, query_grid: (rows, cols).
        layouts, heads: each layout asked for, and the (pattern, step counted from 0) of its distinct heads.
        patterns, steps: the single patterns among them, and their masks over positions, or over cells where the
            pattern is native to the grid.
        orders: the cell of the key grid at each position.
        stride: size of the blocks as it was asked for; None leaves it to each pattern.
        query: (row, column) of the query whose view is drawn.
    """

    key_grid: Grid
    query_grid: Grid
    layouts: dict[str, HeadPattern]
    heads: dict[str, list[tuple[Pattern, int]]]
    patterns: dict[str, Pattern]
    steps: dict[str, tuple[csr_array, ...]]
    orders: dict[str, np.ndarray]
    alignments: tuple[str, ...]
    stride: int | Grid | None
    query: tuple[int, int]

    @property
    def positions(self) -> int:
        return self.key_grid[0] * self.key_grid[1]

    def head_masks(self, layout: str, order: str, queries: Grid, alignment: str = "pool") -> list[csr_array]:
        """The masks of a layout's distinct heads, for ``queries`` over the grid of the keys."""
        cells = self.orders.get(order, "raster")  # of NO_ORDER any will do
        num_heads, stride = len(self.heads[layout]), self.stride
        return sparse_head_masks(self.layouts[layout], queries, self.key_grid, num_heads, cells, alignment, stride)

    def orders_of(self, name: str) -> dict[str, np.ndarray]:
        """The orders by which a layout or a pattern of one can lie on the grid, by name."""
        return self.orders if has_order(self.layouts.get(name, name)) else {NO_ORDER: np.arange(self.positions)}

    @property
    def first_order(self) -> str:
        """The one order of which pages show all: the paper's if it is there."""
        return "manhattan" if "manhattan" in self.orders else next(iter(self.orders))

    @property
    def block(self) -> int:
        """The size of a block of consecutive positions, in pictures and in measures on the grid."""
        return self.stride if is_whole(self.stride) else math.isqrt(self.positions)


def prepare(
    pattern: Sequence[str] | None = None,
    order: Sequence[str] | None = None,
    grid: str = "16x16",
    query_grid: str | None = None,
    stride: int | Grid | None = None,
    alignment: Sequence[str] = tuple(ALIGNMENTS),
    query: Sequence[int] | None = None,
) -> Study:
    """Check what was asked for and build every mask.

    Args:
        pattern: names of patterns and layouts; names joined by commas share the heads. By default
            ``DEFAULT_PATTERNS``, those that the grid allows.
        order, alignment: names; by default all.
        grid, query_grid: "ROWSxCOLS" of keys and queries; by default twice as many queries each way.
        stride: of the blocks; None leaves it to each pattern. (rows, cols) are for patterns native to the grid alone.
        query: (row, column) of the query whose view is drawn; by default a little below and left of the middle.

    Raises:
        ValueError: anything a caller can mend, by value and remedy.
    """
    key_grid = parse_grid(grid)
    queries = parse_grid(query_grid) if query_grid else (2 * key_grid[0], 2 * key_grid[1])
    n = key_grid[0] * key_grid[1]
    if n > LARGEST:
        raise ValueError(f"grid {grid} has {n} positions; pictures are drawn of up to {LARGEST} (64x64)")
    viewer = (queries[0] * 5 // 8, queries[1] * 3 // 8) if query is None else tuple(query)
    if not (0 <= viewer[0] < queries[0] and 0 <= viewer[1] < queries[1]):
        raise ValueError(f"query {viewer} is outside the query grid {queries}; rows and columns count from 0")
    if pattern is None:
        whole = key_grid[0] % 4 == key_grid[1] % 4 == 0 and stride in (None, 4, (4, 4))
        pattern = [name for name in DEFAULT_PATTERNS if whole or name != "spread_relays"]
    layouts: dict[str, HeadPattern] = {name: name.split(",") if "," in name else name for name in pattern}
    heads = {name: head_steps(layout, heads_needed(layout)) for name, layout in layouts.items()}
    patterns = {chosen.name: chosen for steps in heads.values() for chosen, _ in steps}
    if order is not None and not any(map(has_order, layouts.values())):
        raise ValueError(f"{', '.join(pattern)} lies on the grid itself and takes no order; leave --order out")
    orders = {name: grid_order(*key_grid, name).numpy() for name in order or ORDERS}
    study = Study(
        key_grid=key_grid,
        query_grid=queries,
        layouts=layouts,
        heads=heads,
        patterns=patterns,
        steps={name: sparse_step_masks(chosen, key_grid, stride) for name, chosen in patterns.items()},
        orders=orders,
        alignments=tuple(dict.fromkeys(alignment)),
        stride=stride,
        query=(int(viewer[0]), int(viewer[1])),
    )
    for name in layouts:
        for kind in alignment:
            study.head_masks(name, next(iter(study.orders_of(name))), queries, kind)  # refused before anything is drawn
    return study


def parse_grid(text: str) -> Grid:
    """ "16x12" as (16, 12)."""
    rows, _, cols = text.partition("x")
    if not (rows.isdecimal() and cols.isdecimal()):
        raise ValueError(f"a grid is written ROWSxCOLS, such as 16x16; got {text!r}")
    return check_grid((int(rows), int(cols)), "grid")


def parse_stride(text: str) -> int | Grid:
    """ "16" as 16, "2x4" as (2, 4)."""
    return int(text) if text.isdecimal() else parse_grid(text)


def comparison(study: Study) -> pd.DataFrame:
    """The flow report of every pattern under every order that it can have; a number for each step is a list."""
    rows = pd.DataFrame(
        {"pattern": name, "order": order, **flow_report(steps, study.key_grid, cells, study.block)}
        for name, steps in study.steps.items()
        for order, cells in study.orders_of(name).items()
    )
    return rows.astype({"layers_parallel": "Int64", "layers_sequential": "Int64"})  # whole, or none


def heads_together(study: Study, rows: pd.DataFrame) -> pd.DataFrame:
    """What the heads of one layer cost and see side by side: a row for each layout and order.

    Args:
        rows: of the comparison. Of a layout's patterns the most edges, the least flow and the worst congestion stand
            in the table, with the least congestion that as many edges allow.
    """
    measured = {(row["pattern"], row["order"]): row for row in rows.to_dict("records")}
    places = coordinates(np.arange(study.positions), study.key_grid[1])
    lines = []
    for name, heads in study.heads.items():
        for order in study.orders_of(name):
            parts = {chosen.name for chosen, _ in heads}
            reports = [measured[part, order if order in study.orders_of(part) else NO_ORDER] for part in parts]
            seen = union(study.head_masks(name, order, study.key_grid))
            busiest = max(reports, key=lambda report: report["congestion"])
            lines.append(
                {
                    "layout": name,
                    "order": order,
                    "heads": len(heads),
                    "edges of a pattern": max(report["edges"] for report in reports),
                    "full information": all(report["full_information"] for report in reports),
                    "flow ↓": min(report["flow_down"] for report in reports),
                    "flow →": min(report["flow_right"] for report in reports),
                    "corner to corner": min(report["flow_corners"][0] for report in reports),
                    "congestion": busiest["congestion"],
                    "its bound": busiest["congestion_bound"],
                    "3x3 covered": coverage(seen, places, study.key_grid, 3),
                    "5x5 covered": coverage(seen, places, study.key_grid, 5),
                    "distance in step 1": float(np.mean([report["step_distance"][0] for report in reports])),
                    "keys seen": seen.nnz / study.positions,
                    "scores per edge": attention_plan(study.head_masks(name, order, study.query_grid)).scores_per_edge,
                }
            )
    return pd.DataFrame(lines)


def in_order(rows: pd.DataFrame, order: str) -> pd.DataFrame:
    """The rows of that order, and of what has none."""
    return rows[rows["order"].isin([order, NO_ORDER])]


def as_csv(rows: pd.DataFrame) -> str:
    """One line for each pattern and order; where there is a number for each step, they are joined by spaces."""
    return tables.csv(rows.map(_joined))


def _joined(value: Any) -> Any:
    if not isinstance(value, (list, tuple)):
        return value
    return " ".join(f"{each:.{tables.DIGITS}g}" if isinstance(each, float) else str(each) for each in value)
