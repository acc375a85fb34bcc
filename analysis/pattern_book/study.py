"""A study of patterns: what patterns.py was asked to draw, checked, with its masks and its table of measures."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_array

from sagan_base import tables
from sagan_base.files import write_text
from ylg import (
    ALIGNMENTS,
    ORDERS,
    Pattern,
    flow_report,
    grid_order,
    head_steps,
    sparse_head_masks,
    sparse_step_masks,
)
from ylg.heads import HeadPattern, heads_needed
from ylg.orders import Grid, check_grid

DEFAULT_PATTERNS = ("ltr_rtl", "strided", "strided_original", "butterfly", "fixed", "star", "dense")
LARGEST = 4096  # positions: a picture of a matrix of more would show nothing and take minutes


@dataclass(frozen=True, eq=False)
class Study:
    """What is drawn, with every mask built.

    Attributes:
        key_grid, query_grid: (rows, cols).
        heads: of each layout asked for, the (pattern, step counted from 0) of its distinct heads.
        patterns, steps: the single patterns among them, and their masks over positions.
        orders: the cell of the key grid at each position.
        views: (layout, order, alignment) -> masks of the heads, over cells.
        stride: size of the blocks in pictures and in measures on the grid.
        query: (row, column) of the query whose view is drawn.
    """

    key_grid: Grid
    query_grid: Grid
    heads: dict[str, list[tuple[Pattern, int]]]
    patterns: dict[str, Pattern]
    steps: dict[str, tuple[csr_array, ...]]
    orders: dict[str, np.ndarray]
    alignments: tuple[str, ...]
    views: dict[tuple[str, str, str], list[csr_array]]
    stride: int
    query: tuple[int, int]

    @property
    def positions(self) -> int:
        return self.key_grid[0] * self.key_grid[1]


def prepare(
    pattern: Sequence[str] = DEFAULT_PATTERNS,
    order: Sequence[str] = tuple(ORDERS),
    grid: str = "16x16",
    query_grid: str | None = None,
    stride: int | None = None,
    alignment: Sequence[str] = tuple(ALIGNMENTS),
    query: Sequence[int] | None = None,
) -> Study:
    """Check what was asked for and build every mask.

    Args:
        pattern: names of patterns and layouts; names joined by commas share the heads.
        order, alignment: names.
        grid, query_grid: "ROWSxCOLS" of keys and queries; by default twice as many queries each way.
        stride: of the blocks; None leaves it to each pattern.
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
    layouts: dict[str, HeadPattern] = {name: name.split(",") if "," in name else name for name in pattern}
    heads = {name: head_steps(layout, heads_needed(layout)) for name, layout in layouts.items()}
    patterns = {chosen.name: chosen for steps in heads.values() for chosen, _ in steps}
    orders = {name: grid_order(*key_grid, name).numpy() for name in order}
    return Study(
        key_grid=key_grid,
        query_grid=queries,
        heads=heads,
        patterns=patterns,
        steps={name: sparse_step_masks(chosen, n, stride) for name, chosen in patterns.items()},
        orders=orders,
        alignments=tuple(dict.fromkeys(alignment)),
        views={
            (name, order, kind): sparse_head_masks(layout, queries, key_grid, len(heads[name]), cells, kind, stride)
            for name, layout in layouts.items()
            for order, cells in orders.items()
            for kind in alignment
        },
        stride=math.isqrt(n) if stride is None else stride,
        query=(int(viewer[0]), int(viewer[1])),
    )


def parse_grid(text: str) -> Grid:
    """ "16x12" as (16, 12)."""
    rows, _, cols = text.partition("x")
    if not (rows.isdecimal() and cols.isdecimal()):
        raise ValueError(f"a grid is written ROWSxCOLS, such as 16x16; got {text!r}")
    return check_grid((int(rows), int(cols)), "grid")


def comparison(study: Study) -> list[dict[str, Any]]:
    """The flow report of every pattern under every order."""
    return [
        {"pattern": name, "order": order, **flow_report(steps, study.key_grid, cells, study.stride)}
        for name, steps in study.steps.items()
        for order, cells in study.orders.items()
    ]


def write_csv(rows: list[dict[str, Any]], path: Path) -> None:
    """One line for each pattern and order; where there is a number for each step, they are joined by spaces."""
    joined = pd.DataFrame({name: _joined(value) for name, value in row.items()} for row in rows)
    write_text(path, tables.csv(joined))


def _joined(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return " ".join(f"{each:.{tables.DIGITS}g}" if isinstance(each, float) else str(each) for each in value)
    return "" if value is None else value  # a column of whole numbers stays one
