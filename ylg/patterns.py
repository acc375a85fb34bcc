"""Patterns: sequences of sparse steps over n positions, by which information travels further than one step sees.

A step is a boolean matrix, True where position i (row, query) may attend to position j (column, key). Positions are
cut into blocks of ``stride`` (default floor(sqrt n)), and one step stays inside a block while the next passes between
blocks through *relays*. A pattern has *full information* when the boolean product ``M_p ... M_1`` has no False entry.

The idea is that of Daras et al., arXiv:1911.12287, section 3.1. Where the published definitions lose information (in a
partial last block; in the last columns of strided) they are mended, and the published ones are named ``*_original``.
Steps are built sparse; dense matrices are only a view of them.
Read next: pattern_steps.py (the definitions), heads.py (patterns over heads and grids), flow.py (what they can carry).
"""

import math
import os
import re
import runpy
import traceback
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import lru_cache, partial
from inspect import signature
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from ylg import pattern_steps as definitions
from ylg.orders import is_whole
from ylg.reach import Masks, dense_stack, sparse_steps, unreachable_pair

Build = Callable[[int, int], Masks]

PATTERN_FILES = "YLG_PATTERNS"  # environment variable: files that register patterns of the user's own


@dataclass(frozen=True)
class Pattern:
    """A named sequence of steps, defined for any number of positions.

    Attributes:
        name: what commands and head layouts call it.
        num_steps: p, the number of steps.
        build: ``build(n, stride)`` gives the p steps, ``M_1`` first: bool [p, n, n] or p sparse bool [n, n].
        full_information: the claim that every input reaches every output after the p steps.
        default_stride: the stride for n positions where the caller names none.
        proven: the claim holds for every n and stride by construction (see pattern_steps.py and the tests); any other
            claim is checked whenever the steps are built.
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
        if _load_users_files() and name in _REGISTRY:
            return _REGISTRY[name]
        if name in _RESERVED:
            raise ValueError(f"{name!r} is a layout over heads, for head_masks, and has no steps of its own")
    raise ValueError(
        f"unknown pattern {name!r}; use one of {', '.join(pattern_names())}, butterfly3, butterfly4, ..., over heads "
        f"also {', '.join(_RESERVED)} or a list; or register your own with ylg.register_pattern, for commands in a "
        f"file that {PATTERN_FILES} names"
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
    if not callable(build) or not isinstance(build, Hashable):
        raise ValueError(
            f"build of pattern {name!r} must be a function build(n, stride), or another hashable callable (its steps "
            f"are kept by it), got {type(build).__name__}"
        )
    try:
        signature(build).bind(16, 4)
    except TypeError as error:
        raise ValueError(f"build of pattern {name!r} must take two arguments, build(n, stride): {error}") from None
    mine, refusal = None, None
    for n in (16, 17, 36, 64):
        try:
            steps = build(n, math.isqrt(n))
        except ValueError as error:  # a size may be unsupported, but not every size
            refusal = refusal or error
            continue
        mine = mine or Pattern(name, len(sparse_steps(steps)), build, full_information=full_information, about=about)
        _checked_steps(mine, n, math.isqrt(n))
    if mine is None:
        raise ValueError(f"pattern {name!r} cannot be built for n = 16, 17, 36 or 64: {refusal}") from refusal
    _REGISTRY[name] = mine
    return mine


def load_patterns(path: str | Path) -> tuple[str, ...]:
    """Run a Python file that calls ``register_pattern``.

    Every command, and every program, does so by itself with the files named in the environment variable
    ``YLG_PATTERNS`` (separated as in PATH) when it meets a pattern's name that it does not know.

    Returns:
        The names that the file registered.

    Raises:
        ValueError: there is no such file, running it fails, or it registers nothing.
    """
    if not Path(path).is_file():
        raise ValueError(f"no file {str(path)!r} to load patterns from; give a Python file that registers some")
    before = dict(_REGISTRY)
    try:
        runpy.run_path(str(path))
    except Exception as error:
        calls = [call for call in traceback.extract_tb(error.__traceback__) if call.filename == str(path)]
        where = f"{path}, line {calls[-1].lineno}" if calls else str(path)
        raise ValueError(f"{where}: {type(error).__name__}: {error}") from error
    names = tuple(name for name, found in _REGISTRY.items() if before.get(name) is not found)
    if not names:
        raise ValueError(f"{str(path)!r} registered no pattern; call ylg.register_pattern(name, build) in it")
    return names


def _load_users_files() -> bool:
    """Load the files that the environment names and that are not loaded yet; whether there were any."""
    new = [path for path in os.environ.get(PATTERN_FILES, "").split(os.pathsep) if path and path not in _LOADED]
    for path in new:
        _LOADED.add(path)  # before running it: what it imports may ask for an unknown pattern, too
        load_patterns(path)
    return bool(new)


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
    return torch.from_numpy(dense_stack(sparse_step_masks(name, n, stride)))


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


# ---- The registry ----


@lru_cache(maxsize=64)  # so that a name always gives the same, equal Pattern
def butterfly(num_steps: int, name: str | None = None) -> Pattern:
    """The butterfly of ``num_steps`` steps, each row with about n^(1/p) entries per step."""
    if not is_whole(num_steps) or num_steps < 1:
        raise ValueError(f"num_steps={num_steps!r} must be a whole number, 1 or more")
    return Pattern(
        name or f"butterfly{num_steps}",
        num_steps,
        partial(definitions.butterfly, num_steps),
        partial(definitions.first_radix, num_steps),
        proven=True,
        about=f"each of {num_steps} steps changes one digit of the position",
    )


def _original(name: str, build: Callable[..., Masks], about: str) -> Pattern:
    """A published form: without the claim, which it keeps for some n only."""
    return Pattern(f"{name}_original", 2, partial(build, original=True), full_information=False, about=about)


_BUILT_IN = {
    found.name: found
    for found in (
        Pattern("dense", 1, definitions.dense, proven=True, about="everything attends to everything"),
        Pattern("fixed", 2, definitions.fixed, full_information=False, about="Sparse Transformer's causal blocks"),
        Pattern("ltr", 2, definitions.ltr, proven=True, about="left to right: back in the block, then the block ends"),
        Pattern("rtl", 2, definitions.rtl, proven=True, about="right to left: on in the block, then the block starts"),
        Pattern("strided", 2, definitions.strided, proven=True, about="a window, then every s-th position"),
        butterfly(2, "butterfly"),
        Pattern("star", 2, definitions.star, proven=True, about="negative control: all through position 0"),
        _original("ltr", definitions.ltr, "ltr as published"),
        _original("rtl", definitions.rtl, "rtl as published"),
        _original("strided", definitions.strided, "strided as published: the last columns are cut off"),
    )
}
_REGISTRY: dict[str, Pattern] = dict(_BUILT_IN)
_LOADED: set[str] = set()  # files named by the environment
_RESERVED = ("none", "ltr_rtl", "ltr_rtl_original")  # layouts over heads, see heads.py
