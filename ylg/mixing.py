"""Mixing: what becomes of the inputs where every position averages what it sees, as attention with equal scores does.

The walk W of a sequence of steps is the product of its steps with rows that sum to 1; row i of W^t is the share of each
input in output i after t passes through all steps. flow.py collects these measures.
"""

from collections.abc import Iterator
from functools import reduce

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigs, svds

from ylg import flow_measures as flow
from ylg.flow_measures import Steps

DENSE_UP_TO = 512  # positions: beyond, spectra come from iterations with sparse steps
PASSES = 1000  # followed at most: what has not mixed by then counts as never mixing


def smallest_share(steps: Steps) -> float:
    """n times the smallest weight with which an input enters an output, where every row averages what it sees.

    1 means that every output holds equal parts of all inputs; 0 that some input is lost to some output.
    """
    smallest = min(rows.min() for rows in flow.slices_of_product(averaging(steps)))
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


def mixing_time(steps: Steps) -> int | None:
    """Passes until every output holds nearly the same mixture, whatever its position.

    The least t at which each row of W^t is a total variation of at most 1/4 from the stationary distribution, the usual
    threshold (Levin and Peres, Markov Chains and Mixing Times, section 4.5). None if that takes more than ``PASSES``
    or never happens. After "What makes a good feedforward computational graph?" (arXiv:2502.06751), where the graph
    has one last vertex, which takes all; here every position is an output, and the distribution is the walk's own.
    """
    averages = averaging(steps)
    n = averages[0].shape[0]
    settled = np.full((1, n), 1 / n)
    for _ in range(PASSES):
        before, settled = settled, _pass(settled, averages)
        if np.abs(settled - before).sum() < 1e-12:
            break
    slowest = 0
    for rows in _slices_of_identity(n):
        passes = 0
        while np.abs(rows - settled).sum(axis=1).max() > 1 / 2 + 1e-9:  # twice the total variation, and rounding
            if passes == PASSES:
                return None
            rows, passes = _pass(rows, averages), passes + 1
        slowest = max(slowest, passes)
    return slowest


def minimax_fidelity(steps: Steps) -> float:
    """How sharp the worst heard input ever is: the minimum over outputs and inputs of the largest share over passes.

    min over (i, j) of max over t >= 1 of W^t[i, j]: 1/n where everything is averaged evenly, 0 where some input is
    never heard, larger where inputs arrive before they are mixed. From arXiv:2502.06751, where i is the
    one last vertex of the graph; here it is the worst of the outputs. Passes end where the shares settle, or at
    ``PASSES``.
    """
    averages = averaging(steps)
    worst = np.inf
    for rows in _slices_of_identity(averages[0].shape[0]):
        sharpest = np.zeros_like(rows)
        for _ in range(PASSES):
            before, rows = rows, _pass(rows, averages)
            np.maximum(sharpest, rows, out=sharpest)
            if np.abs(rows - before).max() < 1e-12:
                break
        worst = min(worst, float(sharpest.min()))
    return worst


def _pass(rows: np.ndarray, averages: list[csr_array]) -> np.ndarray:
    """``rows @ W``."""
    return reduce(lambda done, step: done @ step, reversed(averages), rows)


def _slices_of_identity(n: int) -> Iterator[np.ndarray]:
    """The outputs' own positions, some rows at a time, so that no [n, n] array of a large n stands in memory."""
    rows_at_once = max(1, flow.ENTRIES_AT_ONCE // n)
    for first in range(0, n, rows_at_once):
        yield np.eye(min(rows_at_once, n - first), n, first)
