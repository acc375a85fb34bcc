"""Measures of what a sequence of steps can carry, each a pure function of sparse bool steps (``M_1`` first).

They describe the information flow graph: vertices (layer, position) for layers 0..p, and an edge from (t - 1, j) to
(t, i) for every True ``M_t[i, j]``. None is known to predict the quality of a trained network. flow.py collects them;
mixing.py has those of the steps as averages, grid_flow.py those of the plane.
"""

import hashlib
from collections.abc import Iterator, Sequence
from functools import reduce

import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import maximum_flow

from ylg.reach import is_full, reached

Steps = Sequence[csr_array]

ENTRIES_AT_ONCE = 1 << 23  # of a dense slice of an [n, n] product


def path_counts(steps: Steps) -> tuple[int | float, float, int | float]:
    """Smallest, mean and largest number of paths between an (output, input) pair.

    Exact ints up to 2^53; beyond, floats with rounding, inf where those end.
    """
    smallest, largest, total = np.inf, 0.0, 0.0
    with np.errstate(over="ignore"):
        for rows in slices_of_product([step.astype(np.float64) for step in steps]):
            smallest, largest = min(smallest, float(rows.min())), max(largest, float(rows.max()))
            total += float(rows.sum())
    exact = (int(count) if count <= 2**53 else count for count in (smallest, largest))
    return next(exact), total / steps[0].shape[0] ** 2, next(exact)


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


def congestion_bound(steps: Steps) -> float | None:
    """The least congestion that two steps of full information can have with as many edges: (2 n / edges)^2.

    The paths through a relay are its keys times its listeners, at most a share c of all T >= n^2 of them; so edges,
    the sum of keys and listeners over all relays, are at least 2 sqrt(T / c). None of other numbers of steps, and
    of steps without edges.
    """
    edges = sum(step.nnz for step in steps)
    return (2 * steps[0].shape[0] / edges) ** 2 if len(steps) == 2 and edges else None


def flow_across(steps: Steps, first: np.ndarray, second: np.ndarray) -> tuple[int, int]:
    """Maximum flow from the inputs ``first`` to the outputs ``second``, and from the inputs ``second`` to ``first``.

    Every vertex passes one unit, so the flow is the largest number of paths that share no vertex.
    """
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


def slices_of_product(steps: Steps) -> Iterator[np.ndarray]:
    """Dense slices of rows of ``M_p ... M_1``, so that large products never stand in memory at once."""
    n = steps[0].shape[0]
    rows_at_once = max(1, ENTRIES_AT_ONCE // n)
    for first in range(0, n, rows_at_once):
        last = steps[-1][first : first + rows_at_once]
        yield reduce(lambda done, step: done @ step, reversed(steps[:-1]), last).toarray()
