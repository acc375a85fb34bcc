"""The steps of the patterns that are native to a grid, each a function of (rows, cols) and the (rows, cols) of a block.

Most are *orthogonal partitions*. Cells of one class attend to each other: step 1 joins the classes of one partition,
step 2 those of another, and every class of the first meets every class of the second. Then input j reaches output i
through a cell in the class of j and the class of i: full information, without a mask inside the tiles. A two-step
pattern in which no relay carries more than a share c of all paths needs 2 n / sqrt(c) edges (the n^2 paths through a
relay with a keys and b listeners are a b <= c n^2 of them); where all classes are alike, such pairs have no more.

Each axis is cut into runs of nearly equal length, the shortest of L cells. A label below takes every residue mod L
inside every run, because L consecutive cells do; so each pair of partitions is orthogonal on every rectangle.
Read next: pattern_table.py, which gives the pairs their names and joins them to layouts over heads; docs/patterns.md.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.sparse import csr_array, kron

from ylg.orders import Grid
from ylg.pattern_steps import from_pairs, progressions

Labels = Callable[["Runs", "Runs"], np.ndarray]  # of the rows [rows, 1] and the columns [cols] to int [rows, cols]


@dataclass(frozen=True, eq=False)
class Runs:
    """One axis of a grid, cut into runs: for each place its run, its offset in it, and the length of that run."""

    place: np.ndarray
    run: np.ndarray
    offset: np.ndarray
    length: np.ndarray
    shortest: int

    @property
    def rotated(self) -> np.ndarray:
        """The offset, turned by one for every run: neighbours across a border get the same label."""
        return (self.place - self.run) % self.shortest


def cut(place: np.ndarray, longest: int) -> Runs:
    """All places of an axis, in as few runs of at most ``longest`` as there can be, their lengths at most one apart."""
    run = place * -(-place.size // longest) // place.size
    lengths = np.bincount(run.ravel())
    starts = np.cumsum(lengths) - lengths
    return Runs(place, run, place - starts[run], lengths[run], int(lengths.min()))


# ---- Partitions ----


def blocks(rows: Runs, cols: Runs) -> np.ndarray:
    """B: the block."""
    return _joint(rows.run, cols.run)


def rotated(rows: Runs, cols: Runs) -> np.ndarray:
    """ROT: the offset, rotated by the number of the block on both axes."""
    return _joint(rows.rotated, cols.rotated)


def turned(rows: Runs, cols: Runs) -> np.ndarray:
    """TURN: the offset, in every second block (as on a chessboard) turned by half a circle."""
    odd = (rows.run + cols.run) % 2
    row = np.where(odd, rows.length - 1 - rows.offset, rows.offset) % rows.shortest
    col = np.where(odd, cols.length - 1 - cols.offset, cols.offset) % cols.shortest
    return _joint(row, col)


def halved(rows: Runs, cols: Runs) -> np.ndarray:
    """HALF: the offset, in every second block moved by half a block on both axes."""
    odd = (rows.run + cols.run) % 2
    row = (rows.offset + odd * (rows.shortest // 2)) % rows.shortest
    col = (cols.offset + odd * (cols.shortest // 2)) % cols.shortest
    return _joint(row, col)


def row_bands(rows: Runs, cols: Runs) -> np.ndarray:
    """Runs of the rows, with the rotated offset of the columns."""
    return _joint(rows.run, cols.rotated)


def column_bands(rows: Runs, cols: Runs) -> np.ndarray:
    """Runs of the columns, with the rotated offset of the rows."""
    return _joint(rows.rotated, cols.run)


def _joint(row: np.ndarray, col: np.ndarray) -> np.ndarray:
    """One label for each pair of labels."""
    return row * (int(col.max()) + 1) + col


# ---- Patterns ----


def orthogonal(
    first: Labels, second: Labels, half_down: bool, half_right: bool, grid: Grid, block: Grid
) -> tuple[csr_array, csr_array]:
    """Step 1 joins equal labels of ``first``, step 2 those of ``second``.

    ``half_down`` and ``half_right`` move both partitions against the grid by half the shortest run, so that the
    borders of blocks fall elsewhere. They wrap round: a move renames the cells, and orthogonal partitions stay so.
    """
    rows, cols = cut(np.arange(grid[0])[:, None], block[0]), cut(np.arange(grid[1]), block[1])
    moves = (-(rows.shortest // 2) * half_down, -(cols.shortest // 2) * half_right)
    return tuple(_classes(np.roll(labels(rows, cols), moves, axis=(0, 1))) for labels in (first, second))


def window_lattice(grid: Grid, block: Grid) -> tuple[csr_array, csr_array]:
    """Every cell is heard in the window of one block round it; then the cells congruent to it mod the block's sides.

    The window keeps its size: at the border it is moved inside, so a cell there is heard as far as the window's end,
    and the rows of cells near it are stretched to the edge. A window has as many consecutive cells along an axis as
    there are residues, so for any input j and output i it holds a cell that hears j and is congruent to i.
    """
    windows, lattices = [], []
    for side, width in zip(grid, block, strict=True):
        place = np.arange(side)
        windows.append(progressions(np.clip(place - width // 2, 0, side - width), np.full(side, width), 1).T.tocsr())
        lattices.append(progressions(place % width, -(-(side - place % width) // width), width))
    return kron(*windows, format="csr"), kron(*lattices, format="csr")


SPREAD = np.array([0, 3, 5, 10, 12, 15])  # the relays of a 4x4 block, by offset: two apart, never in one row of two


def spread_relays(grid: Grid, block: Grid) -> tuple[csr_array, csr_array]:
    """Six cells of every 4x4 block hear the block, the others their quarter of it; then one of the six in every block.

    Which of the six a cell asks changes with its offset and with both blocks, so that all carry alike. Whichever it
    is, it has heard its whole block, and every block is asked: full information, with about as many edges as ltr.

    Raises:
        ValueError: sides that are no multiples of 4, or other blocks than 4x4.
    """
    if grid[0] % 4 or grid[1] % 4:
        nearest = tuple(max(4, 4 * round(side / 4)) for side in grid)
        raise ValueError(
            f"spread_relays is made of 4x4 blocks, and the grid {grid} is not: use sides that are multiples of 4, "
            f"such as {nearest}, or rotated_blocks, which takes every rectangle"
        )
    if block != (4, 4):
        raise ValueError(f"the blocks of spread_relays are 4x4, not {block[0]}x{block[1]}; leave stride out")
    row, col = np.indices(grid).reshape(2, -1)
    number, offset = row // 4 * (grid[1] // 4) + col // 4, row % 4 * 4 + col % 4
    quarter = row // 2 * (grid[1] // 2) + col // 2
    rows, keys = _classes(number.reshape(grid)).nonzero()
    heard = np.isin(offset, SPREAD)[rows] | (quarter[rows] == quarter[keys])
    n = len(number)
    step_1 = from_pairs(rows[heard], keys[heard], n)

    cell = np.empty((n // 16, 16), dtype=np.int64)  # the cell of each offset in each block
    cell[number, offset] = np.arange(n)
    asked = SPREAD[(offset[:, None] + number[:, None] + np.arange(n // 16)) % 6]
    relays = cell[np.arange(n // 16), asked]
    rows = np.append(np.repeat(np.arange(n), n // 16), np.arange(n))
    return step_1, from_pairs(rows, np.append(relays.ravel(), np.arange(n)), n)


def _classes(labels: np.ndarray) -> csr_array:
    """Cells of equal label attend to each other."""
    labels = np.unique(labels.ravel(), return_inverse=True)[1].ravel()
    sizes = np.bincount(labels)
    members = np.argsort(labels, kind="stable")  # class after class, the cells of each in ascending order
    step = progressions((np.cumsum(sizes) - sizes)[labels], sizes[labels], 1)
    return csr_array((step.data, members.astype(np.int32)[step.indices], step.indptr), shape=step.shape)


# ---- The block where none is chosen ----


@lru_cache(maxsize=64)
def default_block(grid: Grid) -> Grid:
    """The (rows, cols) of a block that give B and ROT the fewest edges, at most twice as long as it must be.

    Of equals the flattest, because the cells of a row lie together in memory. On a narrow grid a block of sqrt(n)
    cells is long anyhow: there twice that is allowed.
    """
    heights, widths = (np.arange(1, side + 1) for side in grid)
    of_rows, of_cols = (
        np.array([_edges(cut(np.arange(side), longest)) for longest in range(1, side + 1)]).T for side in grid
    )
    edges = (of_rows[:, :, None] * of_cols[:, None, :]).sum(0)  # of B and of ROT
    elongation = np.maximum(heights[:, None] / widths, widths / heights[:, None])
    allowed = elongation <= 2 * max(1.0, (grid[0] * grid[1]) ** 0.5 / min(grid) ** 2)
    best = np.argmin(np.where(allowed, edges, np.iinfo(np.int64).max))
    return int(best // grid[1]) + 1, int(best % grid[1]) + 1


def _edges(runs: Runs) -> tuple[int, int]:
    """Pairs of places of one run, and of one rotated offset."""
    return int((np.bincount(runs.run) ** 2).sum()), int((np.bincount(runs.rotated) ** 2).sum())
