"""Head masks: which keys each attention head sees, for patterns laid over the heads and cells of a 2-D layer.

From positions to cells in three moves: a *layout* gives every head one step of a pattern; the *order* moves the step
from positions onto the cells of the key grid; the *alignment* says which row of it each cell of the (larger) query
grid uses. Reference: Daras et al., arXiv:1911.12287, sections 3 and 4. Read next: plan.py.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from ylg.masks import dense_stack
from ylg.orders import Grid, Order, check_grid, grid_order, is_whole
from ylg.pattern_table import LAYOUTS, Pattern
from ylg.patterns import pattern as find_pattern
from ylg.patterns import sparse_step_masks

HeadPattern = str | Pattern | Sequence["HeadPattern"]


def head_masks(
    pattern: HeadPattern,
    query_grid: Grid,
    key_grid: Grid | None = None,
    num_heads: int = 8,
    order: Order = "manhattan",
    alignment: str = "pool",
    stride: int | Grid | None = None,
) -> Tensor:
    """The masks of all heads, dense. For grids beyond about 64x64 use ``sparse_head_masks``, of which this is a view.

    Args:
        pattern: the name of a pattern ("ltr", ...), a Pattern, a layout of ``LAYOUTS`` ("ltr_rtl", "interlaced4",
            ..., "none" for dense), or a list of them, each given an equal, consecutive share of the heads. Within
            its share a pattern's steps are repeated 1 2 1 2 ...; so "ltr_rtl" over 8 heads is rtl1 rtl2 rtl1 rtl2
            ltr1 ltr2 ltr1 ltr2.
        query_grid: (rows, cols) of the queries, a multiple of ``key_grid``.
        key_grid: (rows, cols) of the keys and values; None for that of the queries.
        num_heads: a multiple of the number of distinct steps.
        order: how positions are laid on the key grid, see ``grid_order``. Patterns native to the grid ignore it:
            they are made on the key grid itself (see ``has_order``).
        alignment: which row of the key grid's mask a query cell uses. "pool": that of the key cell it is pooled
            into. "tile": the query grid is cut into copies of the key grid. "rows": row q mod num_keys for the
            row-major query q, as in the published code (it scrambles the queries' geometry).
        stride: size of the patterns' blocks; None is their default. See ``step_masks``.

    Returns:
        bool tensor [num_heads, num_queries, num_keys], True = may attend; queries and keys are row-major cells.

    Raises:
        ValueError: unknown names, heads that do not divide among the steps, grids that are not multiples.
    """
    arguments = (pattern, query_grid, key_grid, num_heads, order, alignment, stride)
    return torch.from_numpy(dense_stack(sparse_head_masks(*arguments)))


def sparse_head_masks(
    pattern: HeadPattern,
    query_grid: Grid,
    key_grid: Grid | None = None,
    num_heads: int = 8,
    order: Order = "manhattan",
    alignment: str = "pool",
    stride: int | Grid | None = None,
) -> list[csr_array]:
    """The masks of all heads, sparse: the arguments of ``head_masks``, and no dense array on the way.

    Returns:
        ``num_heads`` bool csr_arrays [num_queries, num_keys] with sorted int32 indices. Heads with the same step
        share one object.
    """
    query_grid = check_grid(query_grid, "query_grid")
    key_grid = query_grid if key_grid is None else check_grid(key_grid, "key_grid")
    rows_used = aligned_rows(query_grid, key_grid, alignment)
    steps_of_heads = head_steps(pattern, num_heads)
    cells = grid_order(*key_grid, order).numpy()
    masks: dict[tuple[Pattern, int], csr_array] = {}
    for chosen in dict.fromkeys(chosen for chosen, _ in steps_of_heads):
        for number, step in enumerate(sparse_step_masks(chosen, key_grid, stride)):
            masks[chosen, number] = _take_rows(step if chosen.on_grid else _on_cells(step, cells), rows_used)
    return [masks[step] for step in steps_of_heads]


def head_steps(pattern: HeadPattern, num_heads: int) -> list[tuple[Pattern, int]]:
    """The (pattern, index of its step counted from 0) of each head.

    Raises:
        ValueError: an unknown name, or ``num_heads`` not a multiple of ``heads_needed(pattern)``.
    """
    needed = heads_needed(pattern)
    if not is_whole(num_heads) or num_heads < 1 or num_heads % needed:
        raise ValueError(
            f"num_heads={num_heads!r} is not a multiple of {needed}, the heads that {pattern!r} needs for its "
            f"steps; use {needed}, {2 * needed}, {3 * needed}, ..."
        )
    parts = _parts(pattern)
    if isinstance(parts, Pattern):
        return [(parts, head % parts.num_steps) for head in range(num_heads)]
    return [step for part in parts for step in head_steps(part, num_heads // len(parts))]


def heads_needed(pattern: HeadPattern) -> int:
    """The fewest heads over which a pattern, layout or list can be laid: every step once, in equal shares."""
    parts = _parts(pattern)
    if isinstance(parts, Pattern):
        return parts.num_steps
    return len(parts) * math.lcm(*(heads_needed(part) for part in parts))


def has_order(pattern: HeadPattern) -> bool:
    """Whether the pattern lies on the grid by an order of its cells: not where all of it is native to the grid."""
    parts = _parts(pattern)
    return not parts.on_grid if isinstance(parts, Pattern) else any(has_order(part) for part in parts)


def shown_order(pattern: HeadPattern, order: str) -> str:
    """The order as tables and titles show it: "-" where the pattern has none."""
    try:
        return order if has_order(pattern) else "-"
    except ValueError:  # a pattern of the user's own in a process that does not know it, such as a report's
        return order


def _parts(pattern: HeadPattern) -> Pattern | Sequence[HeadPattern]:
    """The members of a layout or list; a single pattern as it is."""
    if isinstance(pattern, str) and pattern in LAYOUTS:
        return LAYOUTS[pattern]
    if isinstance(pattern, (list, tuple)):
        if not pattern:
            raise ValueError("the list of patterns is empty; name at least one")
        return pattern
    return find_pattern(pattern)


def aligned_rows(query_grid: Grid, key_grid: Grid, alignment: str) -> np.ndarray:
    """For each row-major query cell, the key cell whose mask row it uses: int64 [num_queries].

    Raises:
        ValueError: unknown alignment, or a query grid that is not a multiple of the key grid.
    """
    if not isinstance(alignment, str) or alignment not in ALIGNMENTS:
        raise ValueError(f"unknown alignment {alignment!r}; use one of {', '.join(ALIGNMENTS)}")
    (rows, cols), (key_rows, key_cols) = query_grid, key_grid
    if rows % key_rows or cols % key_cols:
        raise ValueError(
            f"query_grid={query_grid} is not a multiple of key_grid={key_grid} along both axes; "
            f"choose grids that are, such as {(-(-rows // key_rows) * key_rows, -(-cols // key_cols) * key_cols)}"
        )
    row, col = np.divmod(np.arange(rows * cols), cols)
    return ALIGNMENTS[alignment](row, col, query_grid, key_grid)


def _pool(row: np.ndarray, col: np.ndarray, queries: Grid, keys: Grid) -> np.ndarray:
    return row // (queries[0] // keys[0]) * keys[1] + col // (queries[1] // keys[1])


def _tile(row: np.ndarray, col: np.ndarray, queries: Grid, keys: Grid) -> np.ndarray:
    return row % keys[0] * keys[1] + col % keys[1]


def _rows(row: np.ndarray, col: np.ndarray, queries: Grid, keys: Grid) -> np.ndarray:
    return (row * queries[1] + col) % (keys[0] * keys[1])


ALIGNMENTS: dict[str, Callable[[np.ndarray, np.ndarray, Grid, Grid], np.ndarray]] = {
    "pool": _pool,
    "tile": _tile,
    "rows": _rows,
}


def _on_cells(step: csr_array, cells: np.ndarray) -> csr_array:
    """A step over positions as a step over cells: entry (cells[i], cells[j]) for every entry (i, j)."""
    position = np.empty_like(cells)
    position[cells] = np.arange(len(cells))
    moved = csr_array((step.data, cells[step.indices].astype(np.int32), step.indptr), shape=step.shape)
    return _take_rows(moved, position)


def _take_rows(mask: csr_array, rows: np.ndarray) -> csr_array:
    taken = mask[rows]
    taken.sort_indices()
    taken.indices, taken.indptr = taken.indices.astype(np.int32), taken.indptr.astype(np.int32)
    return taken
