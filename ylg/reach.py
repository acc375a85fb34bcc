"""Reachability: which inputs of a sequence of boolean steps arrive at which outputs.

The boolean product ``M_p ... M_1`` is computed on bits, 64 inputs to a word, so that the exact answer costs about
(edges * n / 64) operations: milliseconds at n = 1,024, a few seconds at n = 16,384. flow.py measures more than this;
patterns.py uses it to refuse patterns that claim full information and lack it.
"""

from collections.abc import Sequence
from functools import reduce

import numpy as np
from scipy.sparse import csr_array

_BUDGET = 1 << 25  # bytes of bits gathered at once


def reached(steps: Sequence[csr_array], before: np.ndarray | None = None) -> np.ndarray:
    """Which inputs reach each output: the boolean product ``M_p ... M_1``, as bits.

    Args:
        steps: p sparse bool [n, n].
        before: what has been reached before ``M_1``, in the form of the result; None for each position itself.

    Returns:
        uint64 [n, words]; ``np.unpackbits(row.view(np.uint8), count=n)`` is a row of the product.
    """
    return reduce(_gathered_or, steps, _themselves(steps[0].shape[0]) if before is None else before)


def unreachable_pair(steps: Sequence[csr_array]) -> tuple[int, int] | None:
    """The first (output, input) that no path joins, or None where every input reaches every output."""
    bits, n = reached(steps), steps[0].shape[0]
    short = np.flatnonzero((bits != _all_inputs(n)).any(axis=1))
    if not short.size:
        return None
    output = int(short[0])
    return output, int(np.argmin(np.unpackbits(bits[output].view(np.uint8), count=n)))


def is_full(bits: np.ndarray) -> bool:
    """Whether every input is in every row of what ``reached`` gave."""
    return bool((bits == _all_inputs(len(bits))).all())


def count_pairs(bits: np.ndarray) -> int:
    """How many of the n * n (output, input) pairs ``reached`` found joined by a path."""
    return int(np.unpackbits(bits.view(np.uint8)).sum(dtype=np.int64))


def _themselves(n: int) -> np.ndarray:
    """Each position reached by itself alone: uint64 [n, words]."""
    bits, own = np.zeros((n, 8 * -(-n // 64)), dtype=np.uint8), np.arange(n)
    bits[own, own // 8] = 128 >> own % 8
    return bits.view(np.uint64)


def _all_inputs(n: int) -> np.ndarray:
    return np.bitwise_or.reduce(_themselves(n))


def _gathered_or(bits: np.ndarray, step: csr_array) -> np.ndarray:
    """Row i of the result: the OR of the rows of ``bits`` that row i of ``step`` attends."""
    result = np.zeros_like(bits)
    edges_at_once = max(1, _BUDGET // bits[0].nbytes)
    filled = np.flatnonzero(np.diff(step.indptr))  # reduceat cannot express an empty sum
    starts, stops = step.indptr[filled], step.indptr[filled + 1]
    first = 0
    while first < len(filled):
        last = max(first + 1, int(np.searchsorted(stops, starts[first] + edges_at_once, side="right")))
        gathered = bits[step.indices[starts[first] : stops[last - 1]]]
        result[filled[first:last]] = np.bitwise_or.reduceat(gathered, starts[first:last] - starts[first], axis=0)
        first = last
    return result
