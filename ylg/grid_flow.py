"""Measures of where a pattern reaches on the plane: pure functions of sparse steps and of where positions lie.

``places`` is the (row, column) of the cell at each position. flow.py collects these measures.
"""

import numpy as np
from scipy.sparse import csr_array
from scipy.spatial import cKDTree

from ylg.flow_measures import Steps, flow_across
from ylg.orders import Grid


def coordinates(order: np.ndarray, columns: int) -> np.ndarray:
    """(row, column) of the cell at each position: float64 [n, 2]."""
    return np.stack(np.divmod(order, columns), axis=1).astype(np.float64)


def flow_between_sides(steps: Steps, places: np.ndarray, grid: Grid) -> tuple[int, int, int, int]:
    """Maximum flow down (from the top half to the bottom half), up, to the right, and to the left.

    Of an odd number of rows or columns the one in the middle belongs to the bottom or right half.
    """
    halves = (places < np.array(grid) // 2).T
    return tuple(flow for half in halves for flow in flow_across(steps, *map(np.flatnonzero, (half, ~half))))


def flow_between_corners(steps: Steps, places: np.ndarray, grid: Grid) -> tuple[int, int, int, int]:
    """Maximum flow from the corner top left to that bottom right, back, from top right to bottom left, and back.

    A corner is a quarter of the rows by a quarter of the columns, rounded up.
    """
    quarter = -(-np.array(grid) // 4)
    top, left = (places < quarter).T
    bottom, right = (places >= np.array(grid) - quarter).T
    diagonals = ((top & left, bottom & right), (top & right, bottom & left))
    return tuple(flow for ends in diagonals for flow in flow_across(steps, *map(np.flatnonzero, ends)))


def coverage(mask: csr_array, places: np.ndarray, grid: Grid, width: int) -> float:
    """Share of the cells in the ``width`` x ``width`` squares round every cell, itself among them, that it attends to.

    Squares end at the edge of the grid.
    """
    reach = width // 2
    rows, columns = mask.nonzero()
    near = np.abs(places[rows] - places[columns]).max(axis=1) <= reach
    ranges = [np.arange(side) for side in grid]
    there = [np.sum(np.abs(places_of[:, None] - places_of) <= reach) for places_of in ranges]
    return float(near.sum() / np.prod(there))


def block_distance(places: np.ndarray, stride: int) -> float:
    """Mean distance on the grid between two different positions of the same block of ``stride``."""
    total, pairs = 0.0, 0
    for first in range(0, len(places), stride):
        block = places[first : first + stride]
        total += np.linalg.norm(block[:, None] - block, axis=-1).sum()
        pairs += len(block) * (len(block) - 1)
    return float(total / pairs) if pairs else 0.0


def neighbours_together(order: np.ndarray, grid: tuple[int, int], stride: int) -> float:
    """Share of the pairs of touching cells (left-right, up-down) that stand in the same block."""
    block = np.empty(grid[0] * grid[1], dtype=np.int64)
    block[order] = np.arange(len(order)) // stride
    block = block.reshape(grid)
    together = np.append((block[1:] == block[:-1]).ravel(), (block[:, 1:] == block[:, :-1]).ravel())
    return float(together.mean()) if together.size else 1.0


def relays(steps: Steps, stride: int) -> np.ndarray:
    """The positions that the last step hears from beyond a block: attended by some position of another block."""
    rows, columns = steps[-1].nonzero()
    return np.unique(columns[rows // stride != columns // stride])


def relay_distances(places: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Distance on the grid from every position to the nearest of ``positions``: float64 [n]."""
    return cKDTree(places[positions]).query(places)[0]


def step_distance(step: csr_array, places: np.ndarray) -> float:
    """Mean distance on the grid between a position and those it attends to, itself left out."""
    rows, columns = step.nonzero()
    other = rows != columns
    if not other.any():
        return 0.0
    return float(np.linalg.norm(places[rows[other]] - places[columns[other]], axis=1).mean())
