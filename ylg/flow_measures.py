"""Measures of what a sequence of steps can carry, each a pure function of sparse bool steps (``M_1`` first).

They describe the information flow graph: vertices (layer, position) for layers 0..p, and an edge from (t - 1, j) to
(t, i) for every True ``M_t[i, j]``. None is known to predict the quality of a trained network. flow.py collects them.
"""

import hashlib
from collections.abc import Iterator, Sequence
from functools import reduce

import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import maximum_flow
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigs, svds
from scipy.spatial import cKDTree

from ylg.reach import is_full, reached

Steps = Sequence[csr_array]

_ENTRIES_AT_ONCE = 1 << 23  # of a dense slice of an [n, n] product
DENSE_UP_TO = 512  # positions: beyond, spectra come from iterations with sparse steps


def path_counts(steps: Steps) -> tuple[int | float, float, int | float]:
    """Smallest, mean and largest number of paths between an (output, input) pair.

    Exact ints up to 2^53; beyond, floats with rounding, inf where those end.
    """
    smallest, largest, total = np.inf, 0.0, 0.0
    with np.errstate(over="ignore"):
        for rows in _slices_of_product([step.astype(np.float64) for step in steps]):
            smallest, largest = min(smallest, float(rows.min())), max(largest, float(rows.max()))
            total += float(rows.sum())
    exact = (int(count) if count <= 2**53 else count for count in (smallest, largest))
    return next(exact), total / steps[0].shape[0] ** 2, next(exact)


def smallest_share(steps: Steps) -> float:
    """n times the smallest weight with which an input enters an output, where every row averages what it sees.

    1 means that every output holds equal parts of all inputs; 0 that some input is lost to some output.
    """
    smallest = min(rows.min() for rows in _slices_of_product(averaging(steps)))
    return float(smallest * steps[0].shape[0])


def second_singular_value(steps: Steps) -> float:
    """Of the product of the steps as averages: 0 where every output holds the same mixture of the inputs."""
    walk = _walk(steps)
    if isinstance(walk, np.ndarray):
        return float(np.append(np.linalg.svd(walk, compute_uv=False), 0.0)[1])
    return float(svds(walk, k=2, return_singular_vectors=False, v0=_start(walk)).min())


def second_eigenvalue(steps: Steps) -> float:
    """Modulus, of the same product: by this factor per p steps, what tells the positions apart fades (0..1)."""
    walk = _walk(steps)
    if isinstance(walk, np.ndarray):
        return float(np.sort(np.append(np.abs(np.linalg.eigvals(walk)), 0.0))[-2])
    try:
        values = eigs(walk, k=2, return_eigenvectors=False, v0=_start(walk))
    except ArpackNoConvergence:  # many eigenvalues of the same modulus, as in a cycle: slowly, then
        values = np.linalg.eigvals(walk @ np.eye(walk.shape[0]))
    return float(np.sort(np.abs(values))[-2])


def _walk(steps: Steps) -> np.ndarray | LinearOperator:
    """The product of the averages: a matrix while that is quick to decompose, beyond that an operator."""
    averages = averaging(steps)
    n = averages[0].shape[0]
    if n <= DENSE_UP_TO:
        return reduce(lambda done, step: step @ done, averages[1:], averages[0].toarray())

    def forwards(x: np.ndarray) -> np.ndarray:
        return reduce(lambda done, step: step @ done, averages, x)

    def backwards(x: np.ndarray) -> np.ndarray:
        return reduce(lambda done, step: step.T @ done, reversed(averages), x)

    return LinearOperator((n, n), matvec=forwards, rmatvec=backwards, dtype=np.float64)


def _start(walk: LinearOperator) -> np.ndarray:
    """A starting vector for the iterations, of no particular symmetry and the same in every run."""
    return np.random.default_rng(0).standard_normal(walk.shape[0])


def averaging(steps: Steps) -> list[csr_array]:
    """The steps with every row divided by its number of entries: attention with equal scores."""
    averages = []
    for step in steps:
        average = step.astype(np.float64)
        average.data /= np.repeat(np.diff(step.indptr), np.diff(step.indptr))
        averages.append(average)
    return averages


def congestion(steps: Steps) -> float:
    """The largest share of all paths that pass through one vertex between the first and the last layer.

    0.0 for a single step, which has no vertex between.
    """
    counts = [step.astype(np.float64) for step in steps]
    ones = np.ones(steps[0].shape[0])
    arriving, leaving = [ones], [ones]
    for step in counts:
        arriving.append(_to_one(step @ arriving[-1]))
    for step in reversed(counts):
        leaving.insert(0, _to_one(step.T @ leaving[0]))
    through = [a * b for a, b in zip(arriving[1:-1], leaving[1:-1], strict=True)]  # of each layer's paths, to a factor
    return float(max((paths.max() / paths.sum() for paths in through if paths.any()), default=0.0))


def _to_one(paths: np.ndarray) -> np.ndarray:
    """Scaled to a largest entry of 1, so that the paths of many steps stay in range."""
    return paths / max(paths.max(), 1.0)


def half_to_half_flow(steps: Steps) -> tuple[int, int]:
    """Maximum flow from the first half of the inputs to the second half of the outputs, and the other way.

    Every vertex passes one unit, so the flow is the largest number of paths that share no vertex; at most
    floor(n / 2). Of an odd n the position in the middle belongs to the second half.
    """
    n = steps[0].shape[0]
    first, second = np.arange(n // 2), np.arange(n // 2, n)
    return _vertex_disjoint_paths(steps, first, second), _vertex_disjoint_paths(steps, second, first)


def _vertex_disjoint_paths(steps: Steps, sources: np.ndarray, targets: np.ndarray) -> int:
    n, layers = steps[0].shape[0], len(steps) + 1
    entry = np.arange(layers * n).reshape(layers, n)  # each vertex is an entry and an exit, joined by one unit
    leave = entry + layers * n
    source, target = 2 * layers * n, 2 * layers * n + 1
    tails, heads = [entry.ravel()], [leave.ravel()]
    for t, step in enumerate(steps):
        rows, columns = step.nonzero()
        tails.append(leave[t, columns])
        heads.append(entry[t + 1, rows])
    tails += [np.full(len(sources), source), leave[-1, targets]]
    heads += [entry[0, sources], np.full(len(targets), target)]
    # of 32 bits, because SciPy 1.12 computes no flow on wider indices
    tail, head = np.concatenate(tails).astype(np.int32), np.concatenate(heads).astype(np.int32)
    size = (2 * layers * n + 2, 2 * layers * n + 2)
    network = coo_array((np.ones(len(tail), dtype=np.int32), (tail, head)), shape=size).tocsr()
    return int(maximum_flow(network, source, target).flow_value)


def layers_until_full(layer: Steps) -> int | None:
    """How many layers in a row, each made of the steps ``layer`` one after the other, until all pairs are joined.

    None where no number of layers is enough.
    """
    seen: set[bytes] = set()  # digests: slow patterns pass through as many states, of n^2 bits each, as positions
    bits = reached(layer)
    while (state := hashlib.blake2b(bits, digest_size=16).digest()) not in seen:
        seen.add(state)
        if is_full(bits):
            return len(seen)
        bits = reached(layer, before=bits)
    return None


def union(steps: Steps) -> csr_array:
    """All steps at once, as parallel heads of one layer see."""
    return reduce(lambda done, step: done + step, steps)


def _slices_of_product(steps: Steps) -> Iterator[np.ndarray]:
    """Dense slices of rows of ``M_p ... M_1``, so that large products never stand in memory at once."""
    n = steps[0].shape[0]
    rows_at_once = max(1, _ENTRIES_AT_ONCE // n)
    for first in range(0, n, rows_at_once):
        last = steps[-1][first : first + rows_at_once]
        yield reduce(lambda done, step: done @ step, reversed(steps[:-1]), last).toarray()


# ---- Under an order: where on the grid the positions lie ----


def coordinates(order: np.ndarray, columns: int) -> np.ndarray:
    """(row, column) of the cell at each position: float64 [n, 2]."""
    return np.stack(np.divmod(order, columns), axis=1).astype(np.float64)


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
