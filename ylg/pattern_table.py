"""The patterns of this package by name, and the layouts that join several of them over the heads of a layer.

A new pattern is one line here and one function in pattern_steps.py (over positions) or grid_steps.py (over the cells
of a grid). Read next: patterns.py, which builds, checks and registers them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

from ylg import grid_steps as grids
from ylg import pattern_steps as positions
from ylg.masks import Masks
from ylg.orders import Grid, is_whole

Build = Callable[[Any, Any], Masks]


@dataclass(frozen=True)
class Pattern:
    """A named sequence of steps, defined for any number of positions, or for the cells of any grid.

    Attributes:
        name: what commands and head layouts call it.
        num_steps: p, the number of steps.
        build: ``build(n, stride)`` gives the p steps, ``M_1`` first: bool [p, n, n] or p sparse bool [n, n]. Of a
            pattern native to the grid: ``build((rows, cols), (rows, cols) of a block)``, over row-major cells.
        default_stride: the stride for n positions, or the block for a grid, where the caller names none.
        full_information: the claim that every input reaches every output after the p steps.
        proven: the claim holds for every size by construction (see pattern_steps.py, grid_steps.py and the tests);
            any other claim is checked whenever the steps are built.
        on_grid: native to the grid: it needs (rows, cols), and no order.
        about: one line for tables and pages.
    """

    name: str
    num_steps: int
    build: Build
    default_stride: Callable[[Any], int | Grid] = math.isqrt
    full_information: bool = True
    proven: bool = False
    on_grid: bool = False
    about: str = ""


@lru_cache(maxsize=64)  # so that a name always gives the same, equal Pattern
def butterfly(num_steps: int, name: str | None = None) -> Pattern:
    """The butterfly of ``num_steps`` steps, each row with about n^(1/p) entries per step."""
    if not is_whole(num_steps) or num_steps < 1:
        raise ValueError(f"num_steps={num_steps!r} must be a whole number, 1 or more")
    return Pattern(
        name or f"butterfly{num_steps}",
        num_steps,
        partial(positions.butterfly, num_steps),
        partial(positions.first_radix, num_steps),
        proven=True,
        about=f"each of {num_steps} steps changes one digit of the position",
    )


def _original(name: str, build: Callable[..., Masks], about: str) -> Pattern:
    """A published form: without the claim, which it keeps for some n only."""
    return Pattern(f"{name}_original", 2, partial(build, original=True), full_information=False, about=about)


def _on_grid(name: str, build: Build, about: str, block: Callable[[Grid], Grid] = grids.default_block) -> Pattern:
    return Pattern(name, 2, build, block, proven=True, on_grid=True, about=about)


def _pair(
    name: str, first: grids.Labels, second: grids.Labels, about: str, down: bool = False, right: bool = False
) -> Pattern:
    """Two orthogonal partitions, both moved by half a block ``down`` and to the ``right``."""
    return _on_grid(name, partial(grids.orthogonal, first, second, down, right), about)


CHOICES = (
    Pattern("dense", 1, positions.dense, proven=True, about="everything attends to everything"),
    Pattern("fixed", 2, positions.fixed, full_information=False, about="Sparse Transformer's causal blocks"),
    Pattern("ltr", 2, positions.ltr, proven=True, about="left to right: back in the block, then the block ends"),
    Pattern("rtl", 2, positions.rtl, proven=True, about="right to left: on in the block, then the block starts"),
    Pattern("strided", 2, positions.strided, proven=True, about="a window, then every s-th position"),
    butterfly(2, "butterfly"),
    Pattern("star", 2, positions.star, proven=True, about="negative control: all through position 0"),
    _original("ltr", positions.ltr, "ltr as published"),
    _original("rtl", positions.rtl, "rtl as published"),
    _original("strided", positions.strided, "strided as published: the last columns are cut off"),
    _pair("rotated_blocks", grids.blocks, grids.rotated, "a block, then one cell of every block, rotated"),
    _on_grid("window_lattice", grids.window_lattice, "a window round the cell, then the lattice it lies on"),
    _on_grid(
        "spread_relays",
        grids.spread_relays,
        "six relays in every 4x4 block, then one of each block's",
        lambda _: (4, 4),
    ),
)

MEMBERS = (  # of the layouts below: known by name, but not offered as choices of their own
    _pair("turned_blocks", grids.blocks, grids.turned, "a block, then one cell of every block, turned"),
    _pair("halved_blocks", grids.blocks, grids.halved, "blocks between those, then halves changed", True, True),
    _pair("rotated_blocks_right", grids.blocks, grids.rotated, "rotated blocks, half a block right", right=True),
    _pair("rotated_blocks_down", grids.blocks, grids.rotated, "rotated blocks, half a block down", down=True),
    _pair("crossed_bands", grids.row_bands, grids.column_bands, "a run of rows, then a run of columns"),
)

LAYOUTS: dict[str, tuple[str, ...]] = {
    "none": ("dense",),
    "ltr_rtl": ("rtl", "ltr"),  # the published network gives rtl the first half of the heads
    "ltr_rtl_original": ("rtl_original", "ltr_original"),
    "interlaced4": ("turned_blocks", "halved_blocks"),
    "interlaced8": ("turned_blocks", "halved_blocks", "rotated_blocks_right", "rotated_blocks_down"),
    "crossed": ("rotated_blocks", "crossed_bands"),
}
