"""SAGAN's self-attention block with sparse heads: a layer for any network of NCHW feature maps.

The block is that of Zhang et al., arXiv:1805.08318, section 3; the masks those of Daras et al., arXiv:1911.12287.
"""

from __future__ import annotations

import math
from numbers import Real

import torch
from scipy.sparse import csr_array
from torch import Tensor, nn
from torch.nn import functional as F

from ylg.attention import check_backend, check_input, check_scale, sparse_attention
from ylg.devices import choose_backend
from ylg.heads import HeadPattern, head_steps, shown_order, sparse_head_masks
from ylg.named_state import NamedState, masks_of_heads, order_name
from ylg.orders import Order, check_grid, is_whole
from ylg.patterns import Pattern
from ylg.plan import AttentionPlan, apart, attention_plan

MODES = ("parallel", "sequential")


class SparseAttention2d(NamedState):
    """Self-attention over a feature map, in which each head sees only the keys its mask allows.

    Args:
        channels: C of the input and output.
        grid: (height, width) of the feature map: the query grid, a multiple of ``pool`` both ways.
        pattern, num_heads, order, alignment, stride: as in :func:`ylg.head_masks`.
        mode: "parallel": every head applies one step, as in the paper; two such layers in a row have full
            information. "sequential": every head applies all steps of its pattern one after another, each on what
            the one before gave (the last step on the query grid, those before it on the key grid), so this one
            layer has full information; all heads' patterns must then have equally many steps.
        pool: keys and values are max-pooled ``pool x pool``; 1 = not pooled.
        qk_channels: of queries and of keys, all heads together; None = ``max(C // 8, 8)``, rounded up to a multiple of
            num_heads.
        v_channels: of values; None = ``max(C // 2, 8)``, rounded up likewise.
        scale: what scores are multiplied by; SAGAN does not scale. None = ``1 / sqrt(head_dim)``.
        qk_norm: queries and keys (after pooling) get unit length, and scores the factor ``exp(log_temperature)``,
            learned for each head: the maps have range whatever the size of the features (Henry et al.,
            arXiv:2010.04245; cosine attention of Swin v2, arXiv:2111.09883).
        temperature: where that factor starts, for every head; only with ``qk_norm``.
        backend: as in :func:`ylg.sparse_attention`.
    Shape:
        input ``[batch, channels, height, width]``; output the same, and equal to the input at initialisation,
        because the residual gain starts at 0. With ``return_attention`` also the probabilities
        ``[batch, num_heads, num_queries, num_keys]``: in sequential mode the product of the steps' probabilities,
        which is what the output is made of.
    State dict: beside the weights, ``_extra_state`` names the pattern, order, alignment, stride, mode and grid.
    Raises:
        ValueError: sizes that do not divide, unknown names, an input that is not on ``grid``; loading the state of a
            layer of another pattern, order, alignment, stride or mode (one that names none is loaded).
    """

    def __init__(
        self,
        channels: int,
        grid: tuple[int, int],
        pattern: HeadPattern = "ltr_rtl",
        num_heads: int = 8,
        order: Order = "manhattan",
        alignment: str = "pool",
        mode: str = "parallel",
        *,
        pool: int = 2,
        qk_channels: int | None = None,
        v_channels: int | None = None,
        scale: float | None = 1.0,
        stride: int | None = None,
        qk_norm: bool = False,
        temperature: float = 4.0,
        backend: str = "auto",
    ):
        super().__init__()
        grid = check_grid(grid, "grid")
        if mode not in MODES:
            raise ValueError(f"unknown mode {mode!r}; use one of {', '.join(MODES)}")
        check_backend(backend)
        if not is_whole(channels) or channels < 1:
            raise ValueError(f"channels={channels!r} must be a whole number from 1 up")
        if not is_whole(pool) or pool < 1 or grid[0] % pool or grid[1] % pool:
            raise ValueError(f"pool={pool!r} does not divide the grid {grid}; pool=1 leaves keys as they are")
        check_scale(scale)
        if not isinstance(temperature, Real) or not 0 < temperature < math.inf:
            raise ValueError(f"temperature={temperature!r} must be a positive number; 4 to 16 suit small head dims")
        layout = head_steps(pattern, num_heads)  # before the channels: heads that fit no pattern never fit those
        if qk_channels is None:
            qk_channels = _multiple_above(max(channels // 8, 8), num_heads)
        if v_channels is None:
            v_channels = _multiple_above(max(channels // 2, 8), num_heads)
        for name, size in (("qk_channels", qk_channels), ("v_channels", v_channels)):
            if not is_whole(size) or size < 1:
                raise ValueError(f"{name}={size!r} must be a whole number from 1 up, a multiple of {num_heads}")
            if size % num_heads:
                raise ValueError(
                    f"{name}={size} does not divide among num_heads={num_heads}; give a multiple, "
                    f"such as {name}={max(size // num_heads, 1) * num_heads}"
                )
        self.channels, self.grid, self.pattern, self.num_heads = channels, grid, pattern, num_heads
        self.order, self.alignment, self.mode, self.pool = order, alignment, mode, pool
        self.scale, self.stride, self.backend = scale, stride, backend
        chain = _chained_steps(layout) if mode == "sequential" else [list(range(num_heads))]
        query_grids = [self.key_grid] * (len(chain) - 1) + [grid]
        self._first_plans = [apart(self._planned, *step) for step in zip(query_grids, chain, strict=True)]
        self.plans = self._first_plans

        self.query = nn.Conv2d(channels, qk_channels, 1, bias=False)
        self.key = nn.Conv2d(channels, qk_channels, 1, bias=False)
        self.value = nn.Conv2d(channels, v_channels, 1, bias=False)
        self.output = nn.Conv2d(v_channels, channels, 1, bias=False)
        self.gain = nn.Parameter(torch.zeros(()))
        self.qk_norm = qk_norm
        if qk_norm:
            self.log_temperature = nn.Parameter(torch.full((num_heads,), math.log(temperature)))

    @property
    def plan(self) -> AttentionPlan:
        """The plan on the query grid: the only one, or that of the last step."""
        return self.plans[-1]

    @property
    def key_grid(self) -> tuple[int, int]:
        return self.grid[0] // self.pool, self.grid[1] // self.pool

    def head_masks(self) -> list[csr_array]:
        """Of each head, which entries of its map may be more than 0: bool [num_queries, num_keys], sparse.

        In sequential mode those that a path through all steps leads to.
        """
        masks = self.plans[0].sparse_masks()
        for plan in self.plans[1:]:
            masks = [later @ earlier for later, earlier in zip(plan.sparse_masks(), masks, strict=True)]
        return masks

    def _planned(self, query_grid: tuple[int, int], heads: list[int]) -> AttentionPlan:
        """The plan of masks of the parallel layout, named by its heads."""
        chosen = (self.num_heads, self.order, self.alignment, self.stride)
        masks = sparse_head_masks(self.pattern, query_grid, self.key_grid, *chosen)
        return attention_plan([masks[head] for head in heads])

    def _apply(self, fn, recurse=True):
        """Plans follow the parameters. They are no buffers, so no layer can change what another one uses."""
        super()._apply(fn, recurse)
        self.plans = [plan.to(self.gain.device) for plan in self._first_plans]
        return self

    def identity(self) -> dict[str, str | None]:
        order = order_name(self.order, self.key_grid)
        return masks_of_heads(self.pattern, self.num_heads, order, self.stride) | {
            "alignment": self.alignment,
            "mode": self.mode,
            "grid": f"{self.grid[0]}x{self.grid[1]}",
        }

    def forward(self, x: Tensor, return_attention: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        check_input(x, "[batch, channels, height, width]", self.channels)
        if x.ndim != 4 or x.shape[1:] != (self.channels, *self.grid):
            raise ValueError(
                f"the input must have the shape [batch, {self.channels}, {self.grid[0]}, {self.grid[1]}], "
                f"got {list(x.shape)}"
            )
        # The GPU kernels read a cell's channels together; on a CPU NCHW maps are left as they are, to the last bit.
        features = x.contiguous(memory_format=torch.channels_last) if self._by_kernels(x) else x
        queries, keys, values = self.query(features), self.key(features), self.value(features)
        keys, values = self._pooled(keys), self._pooled(values)
        if len(self.plans) > 1:
            coarse_queries = self._asking(self._pooled(queries))
        queries, keys, mixed = self._asking(queries), self._heads(keys), self._heads(values)
        keys = _unit(keys) if self.qk_norm else keys
        attention = None
        for t, plan in enumerate(self.plans):
            asking = queries if t == len(self.plans) - 1 else coarse_queries
            mixed = sparse_attention(asking, keys, mixed, plan, self.scale, self.backend, return_attention)
            if return_attention:
                mixed, probabilities = mixed
                attention = probabilities if attention is None else probabilities @ attention
        out = self._added(x, mixed)
        return (out, attention) if return_attention else out

    def _by_kernels(self, x: Tensor) -> bool:
        return (choose_backend(x.device.type)[0] if self.backend == "auto" else self.backend) == "triton"

    def with_attention(self, x: Tensor, attention: Tensor) -> Tensor:
        """What the layer would give for ``x`` if ``attention`` were its maps: to ask what the maps are worth.

        Args:
            x: [batch, channels, height, width].
            attention: [batch or 1, num_heads, num_queries, num_keys]; its own maps give its own output.
        """
        values = self._heads(self._pooled(self.value(x)))
        return self._added(x, attention.to(values.dtype) @ values)

    def _added(self, x: Tensor, mixed: Tensor) -> Tensor:
        # [batch, heads, cells, dim] -> channel = dim * num_heads + head, as in the published network
        merged = mixed.permute(0, 3, 1, 2).flatten(1, 2).unflatten(2, self.grid)
        return x + self.gain * self.output(merged)

    def _pooled(self, maps: Tensor) -> Tensor:
        return F.max_pool2d(maps, self.pool) if self.pool > 1 else maps

    def _heads(self, maps: Tensor) -> Tensor:
        """[batch, heads * dim, h, w] -> [batch, heads, h * w, dim]; channel = head * dim + d."""
        batch, channels, height, width = maps.shape
        return maps.reshape(batch, self.num_heads, channels // self.num_heads, height * width).mT

    def _asking(self, maps: Tensor) -> Tensor:
        """Queries of the heads, with the temperature in them."""
        queries = self._heads(maps)
        if not self.qk_norm:
            return queries
        return _unit(queries) * self.log_temperature.exp().to(queries.dtype)[:, None, None]

    def extra_repr(self) -> str:
        return (
            f"{self.channels}, grid={self.grid}, pattern={self.pattern!r}, num_heads={self.num_heads}, "
            f"order={shown_order(self.pattern, self.order)!r}, alignment={self.alignment!r}, mode={self.mode!r}, "
            f"pool={self.pool}, scale={self.scale}, stride={self.stride}, qk_norm={self.qk_norm}, "
            f"backend={self.backend!r}"
            + "".join(f"\n{plan.explain()}" for plan in self.plans)
        )


def _unit(x: Tensor) -> Tensor:
    """Vectors along the last axis at length 1, computed in float32 or better.

    The constant bounds the gradient at vectors of length 0, which bfloat16 features do meet.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return (wide * (wide.square().sum(-1, keepdim=True) + 1e-6).rsqrt()).to(x.dtype)


def _multiple_above(least: int, of: int) -> int:
    return -(-least // of) * of


def _chained_steps(layout: list[tuple[Pattern, int]]) -> list[list[int]]:
    """For every step of the chain and every head: the head of the parallel layout whose mask is that step."""
    lengths = {chosen.name: chosen.num_steps for chosen, _ in layout}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"mode='sequential' needs patterns of equally many steps, got {lengths}; use mode='parallel'")
    return [[layout.index((chosen, t)) for chosen, _ in layout] for t in range(max(lengths.values()))]
