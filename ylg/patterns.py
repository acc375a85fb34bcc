"""Patterns: sequences of sparse steps over n positions, by which information travels further than one step sees.

A step is a boolean matrix, True where position i (row, query) may attend to position j (column, key). Positions are
cut into blocks of ``stride`` (default floor(sqrt n)), and one step stays inside a block while the next passes between
blocks through *relays*. A pattern has *full information* when the boolean product ``M_p ... M_1`` has no False entry.

The definitions are those of Daras et al., arXiv:1911.12287, section 3.1, mended where the published ones lose
information (a partial last block; the last columns of strided). The published forms are the ``*_original`` names.
Everything is built sparse, by index arithmetic; dense matrices are only a view of it.
Read next: heads.py (patterns over heads and grids), flow.py (what a pattern can carry).
"""

import math
import re
import runpy
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import coo_array, csr_array
from torch import Tensor

from ylg.orders import is_whole
from ylg.reach import Masks, sparse_steps, unreachable_pair

Build = Callable[[int, int], Masks]


@dataclass(frozen=True)
class Pattern:
    """A named sequence of steps, defined for any number of positions.

    Attributes:
        name: what commands and head layouts call it.
        num_steps: p, the number of steps.
        build: ``build(n, stride)`` gives the p steps, ``M_1`` first: bool [p, n, n] or p sparse bool [n, n].
        full_information: the claim that every input reaches every output after the p steps.
        default_stride: the stride for n positions where the caller names none.
        proven: the claim holds for every n and stride by construction (the patterns of this file, see their
            docstrings and tests); any other claim is checked whenever the steps are built.
        about: one line for tables and pages.
    """

    name: str
    num_steps: int
    build: Build
    default_stride: Callable[[int], int] = math.isqrt
    full_information: bool = True
    proven: bool = False
    about: str = ""


def pattern(name: str | Pattern) -> Pattern:
    """The pattern called ``name``; a Pattern is returned as it is.

    Names: "dense", "fixed", "ltr", "rtl", "strided", "butterfly" (two steps; "butterfly3" has three, and so on),
    "star", "ltr_original", "rtl_original", "strided_original", and those given to ``register_pattern``.

    Raises:
        ValueError: no pattern of that name.
    """
    if isinstance(name, Pattern):
        return name
    if isinstance(name, str):
        if name in _REGISTRY:
            return _REGISTRY[name]
        if digits := re.fullmatch(r"butterfly([1-9][0-9]?)", name):
            return butterfly(int(digits[1]))
    raise ValueError(
        f"unknown pattern {name!r}; use one of {', '.join(pattern_names())}, butterfly3, butterfly4, ..., "
        f"or register your own with ylg.register_pattern"
    )


def pattern_names() -> tuple[str, ...]:
    """Every registered name, the package's own first."""
    return tuple(_REGISTRY)


def register_pattern(name: str, build: Build, full_information: bool = True, about: str = "") -> Pattern:
    """Give a pattern of your own a name, under which it then works wherever a pattern's name is taken.

    Args:
        name: a new name of letters, digits, "_" and "-"; registering it again replaces it.
        build: ``build(n, stride)`` gives the steps over n positions, ``M_1`` first, True = row may attend to
            column: bool [p, n, n] (tensor or array) or p sparse bool [n, n]. ``stride`` is floor(sqrt n) unless
            the user chose another. It may raise ValueError for an n that it does not support.
        full_information: the claim that every input reaches every output. It is checked here on a few sizes
            and again at each size used; False opts out of the check, for negative controls.
        about: one line for tables and pages.

    Raises:
        ValueError: the name is taken or malformed, a step is not bool [n, n], a row attends to nothing, or the
            claim is false (the message names the pair that no path joins).

    Example:
        >>> def halves(n, stride):
        ...     i, j = torch.arange(n)[:, None], torch.arange(n)
        ...     return torch.stack([(i < n // 2) == (j < n // 2), (i - j).abs() % max(n // 2, 1) == 0])
        >>> register_pattern("halves", halves).num_steps
        2
    """
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z][\w-]*", name):
        raise ValueError(f"a pattern's name is a letter, then letters, digits, '_' or '-'; got {name!r}")
    if name in _BUILT_IN or name in _RESERVED or re.fullmatch(r"butterfly\d*", name):
        raise ValueError(f"{name!r} is a name of the package itself; choose another")
    mine, refusal = None, None
    for n in (16, 17, 36, 64):
        try:
            steps = build(n, math.isqrt(n))
        except ValueError as error:  # a size may be unsupported, but not every size
            refusal = refusal or error
            continue
        mine = mine or Pattern(name, len(steps), build, full_information=full_information, about=about)
        _checked_steps(mine, n, math.isqrt(n))
    if mine is None:
        raise ValueError(f"pattern {name!r} cannot be built for n = 16, 17, 36 or 64: {refusal}") from refusal
    _REGISTRY[name] = mine
    return mine


def load_patterns(path: str | Path) -> tuple[str, ...]:
    """Run a Python file that calls ``register_pattern``; what commands do with ``--patterns-from FILE.py``.

    Returns:
        The names that the file registered.

    Raises:
        ValueError: there is no such file, or it registers nothing.
    """
    if not Path(path).is_file():
        raise ValueError(f"no file {str(path)!r} to load patterns from; give a Python file that registers some")
    before = dict(_REGISTRY)
    runpy.run_path(str(path))
    names = tuple(name for name, found in _REGISTRY.items() if before.get(name) is not found)
    if not names:
        raise ValueError(f"{str(path)!r} registered no pattern; call ylg.register_pattern(name, build) in it")
    return names


def step_masks(name: str | Pattern, n: int, stride: int | None = None) -> Tensor:
    """The steps of a pattern over n positions, dense.

    Args:
        name: a pattern or its name.
        n: number of positions, 1 or more.
        stride: size of the blocks, 1..n; None is floor(sqrt n). "dense" and "star" have no use for it; in
            "butterfly" it is the first radix.

    Returns:
        bool tensor [num_steps, n, n], ``M_1`` first; entry (i, j) is True where i may attend to j.

    Raises:
        ValueError: unknown name, n < 1, stride out of range, or a claim of full information that fails.
    """
    return torch.from_numpy(np.stack([step.toarray() for step in sparse_step_masks(name, n, stride)]))


def sparse_step_masks(name: str | Pattern, n: int, stride: int | None = None) -> tuple[csr_array, ...]:
    """The same steps as ``step_masks``, as bool csr_arrays [n, n] with sorted int32 indices."""
    chosen = pattern(name)
    if not is_whole(n) or n < 1:
        raise ValueError(f"n={n!r} must be a whole number of positions, 1 or more")
    if stride is not None and (not is_whole(stride) or not 1 <= stride <= n):
        raise ValueError(
            f"stride={stride!r} must be between 1 and n={n}; leave it out for {chosen.default_stride(int(n))}"
        )
    stride = chosen.default_stride(int(n)) if stride is None else int(stride)
    return tuple(step.copy() for step in _checked_steps(chosen, int(n), stride))


@lru_cache(maxsize=8)  # a large n takes tens of megabytes
def _checked_steps(chosen: Pattern, n: int, stride: int) -> tuple[csr_array, ...]:
    """Build, and refuse what attention could not use: wrong shapes, rows without a key, false claims."""
    steps = tuple(step.copy() for step in sparse_steps(chosen.build(n, stride)))
    if len(steps) != chosen.num_steps or steps[0].shape[0] != n:
        raise ValueError(
            f"pattern {chosen.name!r} built {len(steps)} steps of {steps[0].shape} for n={n}; "
            f"expected {chosen.num_steps} of {(n, n)}"
        )
    for number, step in enumerate(steps, start=1):
        step.sum_duplicates()
        step.eliminate_zeros()
        step.indices, step.indptr = step.indices.astype(np.int32), step.indptr.astype(np.int32)
        empty = np.flatnonzero(np.diff(step.indptr) == 0)
        if empty.size:
            raise ValueError(
                f"pattern {chosen.name!r}, n={n}: position {empty[0]} attends to nothing in step {number}, "
                f"and a softmax over nothing has no value; let it attend at least to itself"
            )
    if chosen.full_information and not chosen.proven and (pair := unreachable_pair(steps)):
        raise ValueError(
            f"pattern {chosen.name!r} claims full information, but with n={n}, stride={stride} no path leads "
            f"from input {pair[1]} to output {pair[0]}; mend the steps, or register it with full_information=False"
        )
    return steps


# ---- The patterns of the package. i is the row, that is the position that attends; s the stride. ----


def _dense(n: int, stride: int) -> tuple[csr_array]:
    """One step in which everything attends to everything."""
    return (_progressions(np.zeros(n, dtype=np.int64), np.full(n, n), 1),)


def _ltr(n: int, stride: int, original: bool = False) -> tuple[csr_array, csr_array]:
    """Left to right: back to the start of the own block; then the last position of every block, and oneself.

    The last position of a block has heard the whole block after step 1, and step 2 listens to all of them: full
    information. The published form has no last position for a block cut short by the end.
    """
    i = np.arange(n)
    relays = np.arange(stride - 1, n, stride)
    if n % stride and not original:
        relays = np.append(relays, n - 1)
    return _progressions(i // stride * stride, i % stride + 1, 1), _relays_and_self(relays, n)


def _rtl(n: int, stride: int, original: bool = False) -> tuple[csr_array, csr_array]:
    """Right to left: on to the end of the own block; then the first position of every block, and oneself.

    The published form counts only the blocks that are complete.
    """
    i = np.arange(n)
    ends = np.minimum((i // stride + 1) * stride, n)
    relays = np.arange(0, n - stride + 1 if original else n, stride)
    return _progressions(i, ends - i, 1), _relays_and_self(relays, n)


def _fixed(n: int, stride: int) -> tuple[csr_array, csr_array]:
    """Sparse Transformer's causal pattern (Child et al., arXiv:1904.10509): ltr that never looks ahead."""
    within, across = _ltr(n, stride)
    rows = np.repeat(np.arange(n), np.diff(across.indptr))
    causal = across.indices <= rows
    return within, _from_pairs(rows[causal], across.indices[causal], n)


def _strided(n: int, stride: int, original: bool = False) -> tuple[csr_array, csr_array]:
    """The last s positions, oneself among them; then every position at a multiple of s from oneself.

    Input j reaches row i through a k that lies in j..j+s-1 and is congruent to i. Such a k exists unless j is one
    of the last s - 1 positions; so the last s rows look both ways in step 1, and then the last s positions, which
    have every residue, all hear of j. The published form lacks those s (s - 1) / 2 entries.
    """
    i = np.arange(n)
    starts = np.maximum(i - stride + 1, 0)
    stops = i + 1 if original else np.where(i >= n - stride, n, i + 1)
    residue = i % stride
    return _progressions(starts, stops - starts, 1), _progressions(residue, -(-(n - residue) // stride), stride)


def _butterfly(num_steps: int, n: int, stride: int) -> tuple[csr_array, ...]:
    """Step t changes digit t of the position, written with radices r_1 (least significant, the stride) ... r_p.

    Every digit is changed once, so there is exactly one path between any two positions. Where r_1 ... r_p exceeds
    n, each position that does not exist, v, is played by v - r_1 ... r_(p-1), which does: joining two vertices
    of a graph breaks no path, so full information remains.
    """
    radices = _radices(n, num_steps, first=stride)
    virtual = np.arange(math.prod(radices))
    player = np.where(virtual < n, virtual, virtual - math.prod(radices[:-1]))
    steps, weight = [], 1
    for radix in radices:
        base = virtual - virtual // weight % radix * weight
        columns = base[:, None] + weight * np.arange(radix)
        steps.append(_from_pairs(np.repeat(player, radix), player[columns.ravel()], n))
        weight *= radix
    return tuple(steps)


@lru_cache(maxsize=4096)
def _radices(n: int, count: int, first: int | None = None) -> tuple[int, ...]:
    """Ascending radices with product n or a little more: fewest edges, then the smallest product."""
    if count == 1:
        return (n,)
    candidates = range(1, math.ceil(n ** (1 / count)) + 1) if first is None else (first,)
    choices = [(radix, *_radices(-(-n // radix), count - 1)) for radix in candidates]
    return min(choices, key=lambda radices: (sum(radices), math.prod(radices), radices))


def _star(n: int, stride: int) -> tuple[csr_array, csr_array]:
    """Position 0 hears everybody, then everybody hears position 0: full information through one vertex."""
    i = np.arange(n)
    hub, self_ = np.zeros(n, dtype=np.int64), i[1:]
    gather = _from_pairs(np.append(hub, self_), np.append(i, self_), n)
    return gather, csr_array(gather.T)


# ---- Building blocks: CSR by index arithmetic, never a loop over positions or a dense matrix. ----


def _progressions(starts: np.ndarray, counts: np.ndarray, step: int) -> csr_array:
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
    return _from_pairs(rows, np.append(np.tile(relays, n), ordinary), n)


def _from_pairs(rows: np.ndarray, columns: np.ndarray, n: int) -> csr_array:
    """The entries (row, column), of which some may be named twice."""
    matrix = coo_array((np.ones(len(rows), dtype=bool), (rows, columns)), shape=(n, n)).tocsr()
    matrix.sort_indices()
    return _csr(matrix.indices, matrix.indptr, n)


def _csr(indices: np.ndarray, indptr: np.ndarray, n: int) -> csr_array:
    parts = (np.ones(len(indices), dtype=bool), indices.astype(np.int32), indptr.astype(np.int32))
    return csr_array(parts, shape=(n, n))


# ---- The registry ----


def _butterfly_stride(num_steps: int, n: int) -> int:
    return _radices(n, num_steps)[0]


@lru_cache(maxsize=64)  # so that a name always gives the same, equal Pattern
def butterfly(num_steps: int, name: str | None = None) -> Pattern:
    """The butterfly of ``num_steps`` steps, each row with about n^(1/p) entries per step."""
    if not is_whole(num_steps) or num_steps < 1:
        raise ValueError(f"num_steps={num_steps!r} must be a whole number, 1 or more")
    return Pattern(
        name or f"butterfly{num_steps}",
        num_steps,
        partial(_butterfly, num_steps),
        partial(_butterfly_stride, num_steps),
        proven=True,
        about=f"each of {num_steps} steps changes one digit of the position",
    )


_BUILT_IN = {
    found.name: found
    for found in (
        Pattern("dense", 1, _dense, proven=True, about="everything attends to everything"),
        Pattern("fixed", 2, _fixed, full_information=False, about="Sparse Transformer's causal blocks"),
        Pattern("ltr", 2, _ltr, proven=True, about="left to right: back in the block, then the block ends"),
        Pattern("rtl", 2, _rtl, proven=True, about="right to left: on in the block, then the block starts"),
        Pattern("strided", 2, _strided, proven=True, about="a window, then every s-th position"),
        butterfly(2, "butterfly"),
        Pattern("star", 2, _star, proven=True, about="negative control: all through position 0"),
        Pattern("ltr_original", 2, partial(_ltr, original=True), full_information=False, about="ltr as published"),
        Pattern("rtl_original", 2, partial(_rtl, original=True), full_information=False, about="rtl as published"),
        Pattern(
            "strided_original",
            2,
            partial(_strided, original=True),
            full_information=False,
            about="strided as published: the last columns are cut off",
        ),
    )
}
_REGISTRY: dict[str, Pattern] = dict(_BUILT_IN)
_RESERVED = ("none", "ltr_rtl", "ltr_rtl_original")  # layouts over heads, see heads.py
