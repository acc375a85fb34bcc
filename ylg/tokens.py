"""Sparse self-attention over tokens, for vision transformers and the like: grid cells in any number, and extra tokens.

The weights are named as timm's, so that its pretrained ones load. Read next: layer.py, the block of SAGAN.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.sparse import block_array, csr_array
from torch import Tensor, nn

from ylg.attention import check_backend, check_input, sparse_attention
from ylg.heads import HeadPattern, head_steps, shown_order, sparse_head_masks
from ylg.named_state import NamedState, masks_of_heads, order_name
from ylg.orders import Grid, Order, check_grid, grid_order, is_whole
from ylg.plan import AttentionPlan, apart, attention_plan


class SparseAttention(NamedState):
    """Multi-head self-attention in which the cells of a grid see what their head's mask allows.

    Args:
        channels: C of input and output.
        grid: (rows, cols) of the cells where ``forward`` is given none; None = a square of as many as there are.
        pattern, num_heads, order, stride: as in :func:`ylg.head_masks`. A plan is made for every grid that is met, and
            kept (before torch.compile, by ``plan(grid)`` or the layer's own); an order that is a permutation fits one
            number of cells only.
        extra_tokens: so many tokens stand before those of the grid (class token, registers): they see all tokens and
            are seen by all.
        head_dim: channels of a head; None = ``channels / num_heads``. Scores are multiplied by ``1 / sqrt(head_dim)``.
        bias_grid: (rows, cols) = learn a bias of scores for each head and each offset between two cells, up to those
            inside such a grid; longer offsets share the outermost. Pairs with an extra token have one bias for what it
            sees, one for what sees it, and one for extra tokens among themselves. None = no bias; it starts at 0.
        qkv_bias: the projections of queries, keys and values have a bias.
        backend: as in :func:`ylg.sparse_attention`; with ``bias_grid`` or a key mask "auto" or "tiles".
    Shape:
        input ``[batch, extra_tokens + rows * cols, channels]``, cells row-major; output the same. With
        ``return_attention`` also the probabilities ``[batch, num_heads, tokens, tokens]``.
    State dict: beside the weights, ``_extra_state`` names pattern, order, stride and extra tokens.
    Raises:
        ValueError: sizes that do not divide, unknown names, tokens that fill no grid; a state of other masks.
    """

    def __init__(
        self,
        channels: int,
        grid: Grid | None = None,
        pattern: HeadPattern = "ltr_rtl",
        num_heads: int = 8,
        order: Order = "manhattan",
        *,
        extra_tokens: int = 0,
        head_dim: int | None = None,
        bias_grid: Grid | None = None,
        qkv_bias: bool = True,
        stride: int | None = None,
        backend: str = "auto",
    ):
        super().__init__()
        check_backend(backend)
        head_steps(pattern, num_heads)
        if isinstance(order, str):
            grid_order(1, 1, order)  # an unknown name is refused here, whatever grids come
        if not is_whole(extra_tokens) or extra_tokens < 0:
            raise ValueError(f"extra_tokens={extra_tokens!r} must be a whole number from 0 up")
        if not is_whole(channels) or channels < 1:
            raise ValueError(f"channels={channels!r} must be a whole number from 1 up")
        if head_dim is None and channels % num_heads:
            raise ValueError(
                f"channels={channels} does not divide among num_heads={num_heads}; give head_dim, such as "
                f"head_dim={max(channels // num_heads, 1)}"
            )
        self.channels, self.num_heads = channels, num_heads
        self.head_dim = channels // num_heads if head_dim is None else head_dim
        if not is_whole(self.head_dim) or self.head_dim < 1:
            raise ValueError(f"head_dim={head_dim!r} must be a whole number from 1 up")
        self.grid = None if grid is None else check_grid(grid, "grid")
        self.pattern, self.order, self._plans = pattern, order, {}
        self.extra_tokens, self.stride, self.backend = extra_tokens, stride, backend
        width = num_heads * self.head_dim
        self.qkv = nn.Linear(channels, 3 * width, bias=qkv_bias)
        self.proj = nn.Linear(width, channels)
        self.bias_grid = None if bias_grid is None else check_grid(bias_grid, "bias_grid")
        if self.bias_grid is not None:
            rows, cols = self.bias_grid
            self.offset_bias = nn.Parameter(torch.zeros(num_heads, 2 * rows - 1, 2 * cols - 1))
            if extra_tokens:
                self.extra_bias = nn.Parameter(torch.zeros(num_heads, 3))  # seen by cells, seeing them, both extra
        if self.grid is not None:
            self.plan(self.grid)  # what cannot be is refused here

    def plan(self, grid: Grid) -> AttentionPlan:
        """The plan for a grid of cells, extra tokens first; made once a grid."""
        grid = check_grid(grid, "grid")
        if grid not in self._plans:
            if torch.compiler.is_dynamo_compiling():
                raise ValueError(f"torch.compile cannot make plans; call layer.plan({grid}) once before")
            self._plans[grid] = apart(self._planned, grid)
        return self._plans[grid]

    def _planned(self, grid: Grid) -> AttentionPlan:
        masks = sparse_head_masks(self.pattern, grid, None, self.num_heads, self.order, stride=self.stride)
        distinct = {id(mask): mask for mask in masks}
        wider = {key: _with_extra(mask, self.extra_tokens) for key, mask in distinct.items()}
        return attention_plan([wider[id(mask)] for mask in masks])

    def forward(
        self, x: Tensor, grid: Grid | None = None, key_mask: Tensor | None = None, return_attention: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """
        Args:
            x: ``[batch, extra_tokens + rows * cols, channels]``.
            grid: (rows, cols) of the cells in ``x``; None = the layer's, or a square.
            key_mask: bool ``[batch, tokens]``, False for tokens that nobody may attend to (padding); a query that is
                left without a key gives zeros, before the output's projection.
        """
        check_input(x, "[batch, tokens, channels]", self.channels)
        if x.ndim != 3 or x.shape[2] != self.channels:
            raise ValueError(f"the input must have the shape [batch, tokens, {self.channels}], got {list(x.shape)}")
        grid = self._grid_of(x.shape[1], grid)
        heads = self.qkv(x).unflatten(2, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4)
        mixed = sparse_attention(
            *heads.unbind(0),
            self.plan(grid),
            None,
            self.backend,
            return_attention,
            key_mask=key_mask,
            score_bias=None if self.bias_grid is None else lambda *places: self._bias(grid, *places),
        )
        mixed, attention = mixed if return_attention else (mixed, None)
        out = self.proj(mixed.transpose(1, 2).flatten(2))
        return (out, attention) if return_attention else out

    def _grid_of(self, tokens: int, grid: Grid | None) -> Grid:
        cells = tokens - self.extra_tokens
        if grid is None and self.grid is None:
            grid = (math.isqrt(max(cells, 0)),) * 2
        else:
            grid = check_grid(self.grid if grid is None else grid, "grid")
        if cells < 1 or grid[0] * grid[1] != cells:
            raise ValueError(
                f"{tokens} tokens, {self.extra_tokens} of them extra, do not fill the grid {grid} of "
                f"{grid[0] * grid[1]} cells; give forward(x, grid=(rows, cols))"
            )
        return grid

    def _bias(self, grid: Grid, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        """What is added to the score of each edge."""
        extra = self.extra_tokens
        cells = [(token - extra).clamp(min=0) for token in (query, key)]
        (query_row, query_col), (key_row, key_col) = ((cell // grid[1], cell % grid[1]) for cell in cells)
        rows, cols = self.bias_grid
        row = (key_row - query_row).clamp(1 - rows, rows - 1) + rows - 1
        col = (key_col - query_col).clamp(1 - cols, cols - 1) + cols - 1
        between_cells = self.offset_bias[head, row, col]
        if not extra:
            return between_cells
        from_extra, to_extra = query < extra, key < extra
        kind = torch.where(from_extra, torch.where(to_extra, 2, 1), 0)
        return torch.where(from_extra | to_extra, self.extra_bias[head, kind], between_cells)

    def identity(self) -> dict[str, str | None]:
        order = self.order if isinstance(self.order, str) else order_name(self.order, (1, len(self.order)))
        return masks_of_heads(self.pattern, self.num_heads, order, self.stride) | {
            "extra tokens": str(self.extra_tokens),
            "grid": "any" if self.grid is None else f"{self.grid[0]}x{self.grid[1]}",
        }

    def extra_repr(self) -> str:
        return (
            f"{self.channels}, grid={self.grid}, pattern={self.pattern!r}, num_heads={self.num_heads}, "
            f"order={shown_order(self.pattern, self.order)!r}, extra_tokens={self.extra_tokens}, "
            f"head_dim={self.head_dim}, bias_grid={self.bias_grid}, stride={self.stride}, backend={self.backend!r}"
        )


def _with_extra(mask: csr_array, extra: int) -> csr_array:
    """The mask with so many tokens before its own, which see all and are seen by all."""
    if not extra:
        return mask
    tokens = mask.shape[0]
    among, to, of = (np.ones(shape, dtype=bool) for shape in ((extra, extra), (extra, tokens), (tokens, extra)))
    return csr_array(block_array([[among, to], [of, mask]], format="csr"))
