"""The steps of the package's patterns, each a function of n positions and a stride.

i is the row, the position that attends; s the stride, the size of the blocks. The definitions are those of Daras et
al., arXiv:1911.12287, section 3.1, mended where the published ones lose information: each docstring says why the
mended form has full information for every n and every stride. Everything is built by index arithmetic into CSR
arrays, without a loop over positions or a dense matrix. patterns.py gives them their names.
"""

import math
from functools import lru_cache

import numpy as np
from scipy.sparse import coo_array, csr_array


def dense(n: int, stride: int) -> tuple[csr_array]:
    """One step in which everything attends to everything."""
    return (progressions(np.zeros(n, dtype=np.int64), np.full(n, n), 1),)


def ltr(n: int, stride: int, original: bool = False) -> tuple[csr_array, csr_array]:
    """Left to right: back to the start of the own block; then the last position of every block, and oneself.

    The last position of a block has heard the whole block after step 1, and step 2 listens to all of them: full
    information. The published form has no last position for a block cut short by the end.
    """
    i = np.arange(n)
    relays = np.arange(stride - 1, n, stride)
    if n % stride and not original:
        relays = np.append(relays, n - 1)
    return progressions(i // stride * stride, i % stride + 1, 1), _relays_and_self(relays, n)


def rtl(n: int, stride: int, original: bool = False) -> tuple[csr_array, csr_array]:
    """Right to left: on to the end of the own block; then the first position of every block, and oneself.

    The published form counts only the blocks that are complete.
    """
    i = np.arange(n)
    ends = np.minimum((i // stride + 1) * stride, n)
    relays = np.arange(0, n - stride + 1 if original else n, stride)
    return progressions(i, ends - i, 1), _relays_and_self(relays, n)


def fixed(n: int, stride: int) -> tuple[csr_array, csr_array]:
    """Sparse Transformer's causal pattern (Child et al., arXiv:1904.10509): ltr that never looks ahead."""
    within, across = ltr(n, stride)
    rows = np.repeat(np.arange(n), np.diff(across.indptr))
    causal = across.indices <= rows
    return within, from_pairs(rows[causal], across.indices[causal], n)


def strided(n: int, stride: int, original: bool = False) -> tuple[csr_array, csr_array]:
    """The last s positions, oneself among them; then every position at a multiple of s from oneself.

    Input j reaches row i through a k that lies in j..j+s-1 and is congruent to i. Such a k exists unless j is one
    of the last s - 1 positions; so the last s rows look both ways in step 1, and then the last s positions, which
    have every residue, all hear of j. The published form lacks those s (s - 1) / 2 entries.
    """
    i = np.arange(n)
    starts = np.maximum(i - stride + 1, 0)
    stops = i + 1 if original else np.where(i >= n - stride, n, i + 1)
    residue = i % stride
    return progressions(starts, stops - starts, 1), progressions(residue, -(-(n - residue) // stride), stride)


def butterfly(num_steps: int, n: int, stride: int) -> tuple[csr_array, ...]:
    """Step t changes digit t of the position, written with radices r_1 (least significant, the stride) ... r_p.

    Every digit is changed once, so there is exactly one path between any two positions. Where r_1 ... r_p exceeds
    n, each position that does not exist, v, is played by v - r_1 ... r_(p-1), which does: joining two vertices
    of a graph breaks no path, so full information remains.
    """
    chosen = radices(n, num_steps, first=stride)
    virtual = np.arange(math.prod(chosen))
    player = np.where(virtual < n, virtual, virtual - math.prod(chosen[:-1]))
    steps, weight = [], 1
    for radix in chosen:
        base = virtual - virtual // weight % radix * weight
        columns = base[:, None] + weight * np.arange(radix)
        steps.append(from_pairs(np.repeat(player, radix), player[columns.ravel()], n))
        weight *= radix
    return tuple(steps)


@lru_cache(maxsize=4096)
def radices(n: int, count: int, first: int | None = None) -> tuple[int, ...]:
    """Ascending radices with product n or a little more: fewest edges, then the smallest product."""
    if count == 1:
        return (n,)
    candidates = range(1, math.ceil(n ** (1 / count)) + 1) if first is None else (first,)
    choices = [(radix, *radices(-(-n // radix), count - 1)) for radix in candidates]
    return min(choices, key=lambda choice: (sum(choice), math.prod(choice), choice))


def first_radix(num_steps: int, n: int) -> int:
    """The stride that ``butterfly`` takes where none is given."""
    return radices(n, num_steps)[0]


def star(n: int, stride: int) -> tuple[csr_array, csr_array]:
    """Position 0 hears everybody, then everybody hears position 0: full information through one vertex."""
    spread = _relays_and_self(np.zeros(1, dtype=np.int64), n)
    return csr_array(spread.T), spread


# ---- CSR by index arithmetic ----


def progressions(starts: np.ndarray, counts: np.ndarray, step: int) -> csr_array:
    """Row i holds the columns ``starts[i] + step * (0 .. counts[i] - 1)``."""
    n = len(starts)
    indptr = np.append(0, np.cumsum(counts))
    within = np.arange(indptr[-1]) - np.repeat(indptr[:-1], counts)
    indices = np.repeat(starts, counts) + step * within
    return _csr(indices, indptr, n)


def _relays_and_self(relays: np.ndarray, n: int) -> csr_array:
    """Every row holds the columns ``relays``, and its own."""
    ordinary = np.setdiff1d(np.arange(n), relays)
    rows = np.append(np.repeat(np.arange(n), len(relays)), ordinary)
    return from_pairs(rows, np.append(np.tile(relays, n), ordinary), n)


def from_pairs(rows: np.ndarray, columns: np.ndarray, n: int) -> csr_array:
    """The entries (row, column), of which some may be named twice."""
    matrix = coo_array((np.ones(len(rows), dtype=bool), (rows, columns)), shape=(n, n)).tocsr()
    matrix.sort_indices()
    return _csr(matrix.indices, matrix.indptr, n)


def _csr(indices: np.ndarray, indptr: np.ndarray, n: int) -> csr_array:
    parts = (np.ones(len(indices), dtype=bool), indices.astype(np.int32), indptr.astype(np.int32))
    return csr_array(parts, shape=(n, n))
