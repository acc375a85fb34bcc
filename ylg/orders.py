"""Orders: ways to number the cells of a grid, so that a pattern over 1-D positions can be laid on an image.

``order[position]`` is the row-major cell that stands at that position. patterns.py builds masks over positions;
heads.py moves them onto cells. The paper's choice (its section 3.2, ESA: enumerate, shift, apply) is
``"manhattan"``; ``"raster"`` is the plain row-major numbering it is compared with.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

Order = str | Tensor | np.ndarray | Sequence[int]
Grid = tuple[int, int]


def grid_order(rows: int, cols: int, order: Order = "manhattan") -> Tensor:
    """The cell that stands at each 1-D position of a grid.

    Args:
        rows, cols: size of the grid, 1 or more each; any rectangle.
        order: a name of ``ORDERS``, or a permutation of ``range(rows * cols)`` (tensor, array or sequence of
            integers), which is checked and returned as it is.

    Returns:
        int64 tensor [rows * cols]; cell ``r * cols + c`` is (r, c). Every order starts at cell (0, 0), except a
        permutation of the caller's own.

    Raises:
        ValueError: the grid is empty, the name unknown, or the sequence not a permutation.

    Reference: Daras et al., arXiv:1911.12287, section 3.2 and Figure 3.
    """
    rows, cols = check_grid((rows, cols), "grid")
    if isinstance(order, str):
        if order not in ORDERS:
            raise ValueError(
                f"unknown order {order!r}; use one of {', '.join(ORDERS)}, or pass a permutation of the cells"
            )
        return torch.from_numpy(ORDERS[order](rows, cols).astype(np.int64))
    return torch.from_numpy(_check_permutation(order, rows, cols))


def check_grid(grid: Sequence[int], name: str) -> Grid:
    """``grid`` as a pair of positive ints, or a ValueError that calls it ``name``."""
    is_pair = isinstance(grid, Sequence) and not isinstance(grid, str) and len(grid) == 2
    if not is_pair or not all(is_whole(side) and side >= 1 for side in grid):
        raise ValueError(f"{name}={grid!r} must be (rows, cols), two whole numbers of 1 or more")
    return int(grid[0]), int(grid[1])


def is_whole(value: object) -> bool:
    """True for Python and NumPy integers; False for bool, which is an int only by inheritance."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _check_permutation(order: Tensor | np.ndarray | Sequence[int], rows: int, cols: int) -> np.ndarray:
    cells = rows * cols
    array = order.detach().cpu().numpy() if isinstance(order, Tensor) else np.asarray(order)
    if array.shape != (cells,) or array.dtype.kind not in "iu":
        raise ValueError(
            f"an order for a {rows}x{cols} grid must hold {cells} integers, got shape {array.shape} of "
            f"{array.dtype}; pass a permutation of range({cells})"
        )
    missing = np.setdiff1d(np.arange(cells), array)
    if missing.size:
        raise ValueError(
            f"the order is not a permutation of the {cells} cells of a {rows}x{cols} grid: cell {missing[0]} "
            f"is missing ({missing.size} in all); name every cell exactly once"
        )
    return array.astype(np.int64)


def _raster(rows: int, cols: int) -> np.ndarray:
    """Row by row, every row from left to right: reading order."""
    return np.arange(rows * cols)


def _snake(rows: int, cols: int) -> np.ndarray:
    """Row by row, every second row from right to left, so that consecutive cells touch."""
    cells = np.arange(rows * cols).reshape(rows, cols)
    cells[1::2] = cells[1::2, ::-1]
    return cells.ravel()


def _manhattan(rows: int, cols: int) -> np.ndarray:
    """The paper's ESA: by Manhattan distance |r| + |c| from cell (0, 0), ties row-major."""
    distance = np.arange(rows)[:, None] + np.arange(cols)
    return np.argsort(distance.ravel(), kind="stable")


def _morton(rows: int, cols: int) -> np.ndarray:
    """By the interleaved bits of (r, c): the Z-order curve, with the cells outside the grid left out."""
    row, col = np.divmod(np.arange(rows * cols), cols)
    code = np.zeros(rows * cols, dtype=np.int64)
    for bit in range(max(rows, cols).bit_length()):
        code |= (col >> bit & 1) << 2 * bit
        code |= (row >> bit & 1) << 2 * bit + 1
    return np.argsort(code, kind="stable")


def _hilbert(rows: int, cols: int) -> np.ndarray:
    """The generalised Hilbert curve: every step goes to one of the four neighbours, on any rectangle.

    A path that visits every cell once, by steps to neighbours, and ends at the other corner of the side it
    starts on, needs that side even, or both sides odd (colour the cells as a chessboard). So the curve runs along
    the longer side unless only the shorter one is even. On squares of 2^k it is the Hilbert curve itself.
    """
    longer, shorter = max(rows, cols), min(rows, cols)
    along_longer = longer % 2 == 0 or shorter % 2 == 1
    along_rows = (rows >= cols) == along_longer or rows == cols
    curve = _hilbert_curve(rows, cols) if along_rows else _hilbert_curve(cols, rows)[:, ::-1]
    return curve[:, 0] * cols + curve[:, 1]


@lru_cache(maxsize=256)
def _hilbert_curve(along: int, across: int) -> np.ndarray:
    """Coordinates [along * across, 2] of a curve from corner (0, 0) to corner (along - 1, 0).

    ``along`` must be even or ``across`` odd. Every part below keeps that condition, because the cuts are made
    at even places; so the parts join without a jump.
    """
    if across == 1 or along == 1:
        line = np.arange(along * across)
        still = np.zeros_like(line)
        return np.stack([line, still] if across == 1 else [still, line], axis=1)
    half_along, half_across = _even_half(along), _even_half(across)
    if 2 * along > 3 * across:  # long and low: two curves, one after the other
        first, second = _hilbert_curve(half_along, across), _hilbert_curve(along - half_along, across)
        return np.concatenate([first, second + np.array([half_along, 0])])
    # Otherwise: up the left side, along the top, and down the right side.
    left = _hilbert_curve(half_across, along // 2)[:, ::-1]
    top = _hilbert_curve(along, across - half_across) + np.array([0, half_across])
    right = [along - 1, half_across - 1] - _hilbert_curve(half_across, along - along // 2)[:, ::-1]
    return np.concatenate([left, top, right])


def _even_half(length: int) -> int:
    """About half of ``length``, and even where there is room for it."""
    half = length // 2
    return half + 1 if half % 2 and length > 2 else half


ORDERS: dict[str, Callable[[int, int], np.ndarray]] = {
    "raster": _raster,
    "manhattan": _manhattan,
    "hilbert": _hilbert,
    "morton": _morton,
    "snake": _snake,
}
