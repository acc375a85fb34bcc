"""Patterns: sequences of sparse steps, by which information travels further than one step sees.

A step is a boolean matrix, True where position i (row, query) may attend to position j (column, key). Positions are
cut into blocks of ``stride`` (default floor(sqrt n)), and one step stays inside a block while the next passes between
blocks through *relays*. A pattern has *full information* when the boolean product ``M_p ... M_1`` has no False entry.
Patterns native to a grid are defined on its cells instead, whose neighbours above and below a row of positions hides.

The idea is that of Daras et al., arXiv:1911.12287, section 3.1. Where the published definitions lose information (in a
partial last block; in the last columns of strided) they are mended, and the published ones are named ``*_original``.
Steps are built sparse; dense matrices are only a view of them.
Read next: pattern_table.py (the names), pattern_steps.py and grid_steps.py (the definitions), heads.py (patterns over
heads and grids), flow.py (what they can carry).
"""

import math
import os
import re
import runpy
import traceback
from collections.abc import Hashable, Sequence
from functools import lru_cache
from inspect import signature
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from ylg.grid_steps import default_block
from ylg.masks import Masks, dense_stack, sparse_steps
from ylg.orders import Grid, check_grid, is_whole
from ylg.pattern_table import CHOICES, LAYOUTS, MEMBERS, Build, Pattern, butterfly
from ylg.reach import unreachable_pair

PATTERN_FILES = "YLG_PATTERNS"  # environment variable: files that register patterns of the user's own

_BUILT_IN = {found.name: found for found in (*CHOICES, *MEMBERS)}
_REGISTRY: dict[str, Pattern] = dict(_BUILT_IN)
_LOADED: set[str] = set()  # files named by the environment


def pattern(name: str | Pattern) -> Pattern:
    """The pattern called ``name``; a Pattern is returned as it is.

    Names: "dense", "fixed", "ltr", "rtl", "strided", "butterfly" (two steps; "butterfly3" has three, and so on),
    "star", "ltr_original", "rtl_original", "strided_original"; native to a grid: "rotated_blocks", "window_lattice",
    "spread_relays", and the members of the layouts; and those given to ``register_pattern``.

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
        if name in LAYOUTS:
            raise ValueError(f"{name!r} is a layout over heads, for head_masks, and has no steps of its own")
    raise ValueError(
        f"unknown pattern {name!r}; use one of {', '.join(pattern_names())}, butterfly3, butterfly4, ..., over heads "
        f"also {', '.join(LAYOUTS)} or a list; or register your own with ylg.register_pattern, for commands in a "
        f"file that {PATTERN_FILES} names"
    )


def pattern_names() -> tuple[str, ...]:
    """Every registered name, the package's own first."""
    members = {member.name for member in MEMBERS}
    return tuple(name for name in _REGISTRY if name not in members)


def register_pattern(
    name: str, build: Build, full_information: bool = True, about: str = "", on_grid: bool = False
) -> Pattern:
    """Give a pattern of your own a name, under which it then works wherever a pattern's name is taken.

    Args:
        name: a new name of letters, digits, "_" and "-"; registering it again replaces it.
        build: ``build(n, stride)`` gives the steps over n positions, ``M_1`` first, True = row may attend to
            column: bool [p, n, n] (tensor or array) or p sparse bool [n, n]. ``stride`` is floor(sqrt n) unless
            the user chose another. It may raise ValueError for an n that it does not support. With ``on_grid``
            it is ``build(grid, block)``: both are (rows, cols), and the steps are over the grid's row-major cells.
        full_information: the claim that every input reaches every output. It is checked here on a few sizes
            and again at each size used; False opts out of the check, for negative controls.
        about: one line for tables and pages.
        on_grid: the pattern is native to a grid; an order has no meaning for it.

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
    if name in _BUILT_IN or name in LAYOUTS or re.fullmatch(r"butterfly\d*", name):
        raise ValueError(f"{name!r} is a name of the package itself; choose another")
    form, sizes = "build(n, stride)", (16, 17, 36, 64)
    if on_grid:
        form, sizes = "build(grid, block)", ((4, 4), (3, 6), (6, 6), (8, 8))
    if not callable(build) or not isinstance(build, Hashable):
        raise ValueError(
            f"build of pattern {name!r} must be a function {form}, or another hashable callable (its steps "
            f"are kept by it), got {type(build).__name__}"
        )
    try:
        signature(build).bind(16, 4)
    except TypeError as error:
        raise ValueError(f"build of pattern {name!r} must take two arguments, {form}: {error}") from None
    default_stride = default_block if on_grid else math.isqrt
    _checked_steps.cache_clear()  # the same function may have changed what it does
    mine, refusal = None, None
    for size in sizes:
        try:
            steps = _built(name, build, size, default_stride(size))
        except ValueError as error:  # a size may be unsupported, but not every size
            refusal = refusal or error
            continue
        num_steps = len(sparse_steps(steps))
        mine = mine or Pattern(name, num_steps, build, default_stride, full_information, on_grid=on_grid, about=about)
        _checked_steps(mine, size, default_stride(size))
    if mine is None:
        tried = f"{', '.join(map(str, sizes[:-1]))} or {sizes[-1]}"
        what = "grid" if on_grid else "n"
        raise ValueError(f"pattern {name!r} cannot be built for {what} = {tried}: {refusal}") from refusal
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


def step_masks(
    name: str | Pattern, n_or_grid: int | Sequence[int], stride: int | Sequence[int] | None = None
) -> Tensor:
    """The steps of a pattern, dense.

    Args:
        name: a pattern or its name.
        n_or_grid: number of positions, 1 or more; or (rows, cols), which patterns native to a grid need. Their steps
            are over row-major cells; those of the others over rows * cols positions, not yet laid on cells.
        stride: size of the blocks, 1..n; None is floor(sqrt n). "dense" and "star" have no use for it; in
            "butterfly" it is the first radix. On a grid the side of a block or its (rows, cols), within the grid;
            None is a block of about sqrt(n) cells, nearly square, for which the pattern has few edges.

    Returns:
        bool tensor [num_steps, n, n], ``M_1`` first; entry (i, j) is True where i may attend to j.

    Raises:
        ValueError: unknown name, n < 1 or an n where a grid is needed, stride out of range, a grid or stride that
            the pattern does not support, or a claim of full information that fails.
    """
    return torch.from_numpy(dense_stack(sparse_step_masks(name, n_or_grid, stride)))


def sparse_step_masks(
    name: str | Pattern, n_or_grid: int | Sequence[int], stride: int | Sequence[int] | None = None
) -> tuple[csr_array, ...]:
    """The same steps as ``step_masks``, as bool csr_arrays [n, n] with sorted int32 indices."""
    chosen = pattern(name)
    size = _checked_size(chosen, n_or_grid)
    if stride is None:
        stride = chosen.default_stride(size)
    else:
        stride = _checked_block(chosen, size, stride) if chosen.on_grid else _checked_stride(chosen, size, stride)
    return tuple(step.copy() for step in _checked_steps(chosen, size, stride))


def _checked_size(chosen: Pattern, n_or_grid: int | Sequence[int]) -> int | Grid:
    """The grid of a pattern native to it, the number of positions of another."""
    if isinstance(n_or_grid, Sequence) and not isinstance(n_or_grid, str):
        rows, cols = check_grid(n_or_grid, "grid")
        return (rows, cols) if chosen.on_grid else rows * cols
    if not is_whole(n_or_grid) or n_or_grid < 1:
        raise ValueError(f"n={n_or_grid!r} must be a whole number of positions, 1 or more")
    if chosen.on_grid:
        rows = next(side for side in range(math.isqrt(n_or_grid), 0, -1) if n_or_grid % side == 0)
        raise ValueError(
            f"pattern {chosen.name!r} lies on a grid, and n={n_or_grid} does not say which; give (rows, cols), such "
            f"as {(rows, int(n_or_grid) // rows)}"
        )
    return int(n_or_grid)


def _checked_stride(chosen: Pattern, n: int, stride: int | Sequence[int]) -> int:
    if not is_whole(stride) or not 1 <= stride <= n:
        raise ValueError(f"stride={stride!r} must be between 1 and n={n}; leave it out for {chosen.default_stride(n)}")
    return int(stride)


def _checked_block(chosen: Pattern, grid: Grid, stride: int | Sequence[int]) -> Grid:
    block = check_grid((stride, stride) if is_whole(stride) else stride, "stride")
    if block[0] > grid[0] or block[1] > grid[1]:
        raise ValueError(
            f"stride={stride!r}: a block of {block[0]}x{block[1]} is larger than the grid {grid}; give its (rows, "
            f"cols) within the grid, or leave it out for {chosen.default_stride(grid)}"
        )
    return block


def _built(name: str, build: Build, size: int | Grid, stride: int | Grid) -> Masks:
    """What ``build`` gives; its ValueErrors are its own, anything else is a fault in it."""
    try:
        return build(size, stride)
    except ValueError:
        raise
    except Exception as error:
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise ValueError(f"build of pattern {name!r} fails for {size}, {stride}: {said}") from error


@lru_cache(maxsize=8)  # a large n takes tens of megabytes
def _checked_steps(chosen: Pattern, size: int | Grid, stride: int | Grid) -> tuple[csr_array, ...]:
    """Build, and refuse what attention could not use: wrong shapes, rows without a key, false claims."""
    steps = tuple(step.copy() for step in sparse_steps(_built(chosen.name, chosen.build, size, stride)))
    n, sized = (math.prod(size), f"grid={size}") if chosen.on_grid else (size, f"n={size}")
    if len(steps) != chosen.num_steps or steps[0].shape[0] != n:
        raise ValueError(
            f"pattern {chosen.name!r} built {len(steps)} steps of {steps[0].shape} for {sized}; "
            f"expected {chosen.num_steps} of {(n, n)}"
        )
    for number, step in enumerate(steps, start=1):
        step.indices, step.indptr = step.indices.astype(np.int32), step.indptr.astype(np.int32)
        empty = np.flatnonzero(np.diff(step.indptr) == 0)
        if empty.size:
            raise ValueError(
                f"pattern {chosen.name!r}, {sized}: position {empty[0]} attends to nothing in step {number}, "
                f"and a softmax over nothing has no value; let it attend at least to itself"
            )
    if chosen.full_information and not chosen.proven and (pair := unreachable_pair(steps)):
        raise ValueError(
            f"pattern {chosen.name!r} claims full information, but with {sized}, stride={stride} no path leads "
            f"from input {pair[1]} to output {pair[0]}; mend the steps, or register it with full_information=False"
        )
    return steps
