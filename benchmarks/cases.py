"""What attention.py times: layers of several sizes, and the masks that peers have and ``ylg`` does not name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor

from ylg import sparse_head_masks


@dataclass(frozen=True)
class Case:
    """One attention layer: queries on ``grid``, keys on half of it each way; the first pattern is the peers' too."""

    grid: int
    batch: int
    patterns: tuple[str, ...] = ("ltr_rtl",)
    head_dim_qk: int = 4
    head_dim_v: int = 16
    dtype: str = "float32"
    num_heads: int = 8
    key_grid: int | None = None

    @property
    def num_queries(self) -> int:
        return self.grid**2

    @property
    def num_keys(self) -> int:
        return (self.key_grid or self.grid // 2) ** 2

    @property
    def scores(self) -> int:
        """Of dense attention: what a method that keeps them keeps."""
        return self.batch * self.num_heads * self.num_queries * self.num_keys

    def masks(self, pattern: str) -> list[csr_array]:
        if pattern in OWN_MASKS:
            return [OWN_MASKS[pattern](self.grid)] * self.num_heads
        key_grid = (self.key_grid or self.grid // 2,) * 2
        return sparse_head_masks(pattern, (self.grid,) * 2, key_grid, self.num_heads)

    def inputs(self, device: torch.device, one_head: bool) -> list[Tensor]:
        """Queries, keys, values, and the gradient of the output."""
        heads, wider = (1, self.num_heads) if one_head else (self.num_heads, 1)
        qk, v = wider * self.head_dim_qk, wider * self.head_dim_v
        shapes = [(self.num_queries, qk), (self.num_keys, qk), (self.num_keys, v), (self.num_queries, v)]
        random = torch.Generator().manual_seed(0)
        made = [torch.randn(self.batch, heads, *shape, generator=random) for shape in shapes]
        *inputs, d_out = (x.to(device, getattr(torch, self.dtype)) for x in made)
        return [*(x.requires_grad_() for x in inputs), d_out]


def neighbourhood(grid: int, side: int = 7) -> csr_array:
    """Every cell attends to the side x side cells around it, and at the border to the nearest such square."""
    start = np.clip(np.arange(grid) - side // 2, 0, grid - side)
    near = start[:, None] + np.arange(side)
    keys = (near[:, None, :, None] * grid + near[None, :, None, :]).reshape(grid**2, side**2)
    rows = np.arange(grid**2).repeat(side**2)
    return csr_array((np.ones(keys.size, bool), (rows, keys.ravel())), shape=(grid**2, grid**2))


def windows(grid: int, in_a_row: bool, side: int = 8) -> csr_array:
    """Every cell attends to its window of side x side cells; ``in_a_row``: cells are enumerated window by window."""
    window = np.arange(grid**2) // side**2
    if not in_a_row:
        row, column = np.divmod(np.arange(grid**2), grid)
        window = row // side * (grid // side) + column // side
    return csr_array(window[:, None] == window)


WINDOWS = "windows in a row"
OWN_MASKS: dict[str, Callable[[int], csr_array]] = {
    "neighbourhood": neighbourhood,
    WINDOWS: partial(windows, in_a_row=True),
    "windows of a raster": partial(windows, in_a_row=False),
}
PATTERNS = ("ltr_rtl", "strided", "butterfly", "rotated_blocks", "interlaced8")
CASES = {
    "grid-16": Case(16, 8),
    "grid-32": Case(32, 8, PATTERNS),
    "grid-64": Case(64, 2, PATTERNS),
    "grid-128": Case(128, 1),
    "grid-256": Case(256, 1),
    "discriminator-32": Case(32, 8, head_dim_qk=2, head_dim_v=8),
    "neighbourhood-64": Case(64, 1, ("neighbourhood",), key_grid=64),
    "windows-64": Case(64, 2, (WINDOWS, "windows of a raster"), key_grid=64),
    # enough work for a GPU
    "grid-32-batch-64": Case(32, 64, PATTERNS),
    "grid-32-batch-64-bfloat16": Case(32, 64, PATTERNS, dtype="bfloat16"),
    "grid-64-batch-16-bfloat16": Case(64, 16, PATTERNS, dtype="bfloat16"),
}
ON_A_CPU = tuple(name for name in CASES if "batch" not in name)
