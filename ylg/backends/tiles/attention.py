"""The CPU kernel, in plain torch: gather each tile's queries and keys, then small dense attention; on any device.

The backward pass is written by hand, because autograd's own would scatter gradients entry by entry and keep
several arrays of scores. What makes it fast on a CPU, each measured:

- scores are laid out ``[keys, queries]`` in a tile: maxima and sums over keys then run along whole vectors;
- masks are added as 0 or -inf (masked_fill is ten times slower than an addition), and exp2 replaces exp, log2(e)
  being part of the scale (four times faster, as accurate);
- scores are made, used and dropped in chunks that fit the cache, and made again in the backward pass, which
  is faster than writing them to memory and takes none;
- a product with a narrow result is computed transposed, since matrix libraries want many columns (``_product``);
- gradients of keys are summed by ``embedding_bag`` over the tiles that hold a key: no atomics, always one order.

float16 and bfloat16 are computed in float32. Read next: layout.py, which turns a plan into the indices used
here, and second_order.py, for derivatives beyond the first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ylg.backends.tiles.layout import TileLayout, tile_layout
from ylg.backends.tiles.second_order import second_gradients, vmap_over_batch
from ylg.devices import wide
from ylg.plan import AttentionPlan, groups_of_arguments, plan_of_arguments

LOG2_E = math.log2(math.e)
NARROW = 16  # results with fewer columns than this are computed transposed


def tiles_attention(
    queries: Tensor, keys: Tensor, values: Tensor, plan: AttentionPlan, scale: float, return_attention: bool
) -> Tensor | tuple[Tensor, Tensor]:
    """See :func:`ylg.sparse_attention`. Under autocast, inputs are cast first, as scaled_dot_product_attention does."""
    device = queries.device.type
    if torch.is_autocast_enabled(device) and queries.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device)
        queries, keys, values = queries.to(dtype), keys.to(dtype), values.to(dtype)
    given = queries.dtype
    queries, keys, values = map(wide, (queries, keys, values))
    attend = _tiles_operator if torch.compiler.is_compiling() else _TilesAttention.apply
    with torch.autocast(device, enabled=False):
        out, _, attention = attend(queries, keys, values, plan, scale, return_attention)
    return (out.to(given), attention.to(given)) if return_attention else out.to(given)


class _TilesAttention(torch.autograd.Function):
    """(out, log_total, attention or None). Scores are kept nowhere: backward computes them again, chunk by chunk."""

    @staticmethod
    def forward(queries, keys, values, plan, scale, return_attention):
        return _forward(queries, keys, values, tile_layout(plan), scale, return_attention)

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, ctx.plan, ctx.scale, _ = inputs
        log_total = output[1]
        ctx.set_materialize_grads(False)  # no dense zeros where only one of the outputs is used
        ctx.mark_non_differentiable(log_total)
        ctx.save_for_backward(*tensors, log_total)

    @staticmethod
    def backward(ctx, d_out, _, d_attention):
        queries, keys, values, log_total = ctx.saved_tensors
        if d_out is None:
            d_out = queries.new_zeros(*queries.shape[:3], values.shape[-1])
        gradients = _TilesGradient.apply(d_out, d_attention, queries, keys, values, log_total, ctx.plan, ctx.scale)
        return *gradients, None, None, None

    @staticmethod
    def vmap(info, in_dims, *inputs):
        return vmap_over_batch(_TilesAttention, info.batch_size, in_dims, inputs)


class _TilesGradient(torch.autograd.Function):
    """The gradients, themselves differentiable: see second_order.py."""

    @staticmethod
    def forward(d_out, d_attention, queries, keys, values, log_total, plan, scale):
        with torch.autocast(queries.device.type, enabled=False):  # backward() may be called under it
            return _backward(d_out, d_attention, queries, keys, values, log_total, tile_layout(plan), scale)

    @staticmethod
    def setup_context(ctx, inputs, output):
        d_out, d_attention, queries, keys, values, _, ctx.plan, ctx.scale = inputs
        ctx.save_for_backward(d_out, d_attention, queries, keys, values)

    @staticmethod
    def backward(ctx, *dd):
        found = second_gradients(*ctx.saved_tensors, ctx.plan, ctx.scale, dd)
        return *found, None, None, None

    @staticmethod
    def vmap(info, in_dims, *inputs):
        return vmap_over_batch(_TilesGradient, info.batch_size, in_dims, inputs)


def _forward(
    queries: Tensor, keys: Tensor, values: Tensor, layout: TileLayout, scale: float, return_attention: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Output, log2 of the softmax's denominators (with which backward gets probabilities in one pass), and map."""
    batch, num_heads, num_queries, _ = queries.shape
    num_keys, dim_v = values.shape[2:]
    q_rows, k_rows, v_rows = _rows(queries), _rows(keys * (scale * LOG2_E)), _rows(values)
    out_tiles = queries.new_empty(batch, layout.query_slots, dim_v)
    log_total = queries.new_empty(batch, layout.query_slots)
    attention = queries.new_zeros(batch, num_heads * num_queries * num_keys) if return_attention else None
    for piece, some in layout.chunks(batch):
        q, k, v = piece.queries(q_rows[some]), piece.keys(k_rows[some]), piece.keys(v_rows[some])
        weights = piece.mask_(torch.bmm(k, q.mT))  # [n, L, T], as are all arrays of scores below
        most = weights.amax(1, keepdim=True)
        total = weights.sub_(most).exp2_().sum(1, keepdim=True)
        place = out_tiles[some, piece.query_slots].unflatten(1, (-1, piece.T))
        torch.div(_product(weights.mT, v).view_as(place), total.mT.view(*place.shape[:3], 1), out=place)
        if attention is not None:
            edges = (weights / total).view(-1, piece.num_scores).index_select(1, piece.edge_slot)
            attention[some].index_copy_(1, piece.edge_cell, edges)
        log_total[some, piece.query_slots] = total.log2_().add_(most).view(-1, piece.num_query_slots)
    out = layout.to_queries(out_tiles).view(batch, num_heads, num_queries, dim_v)
    if attention is not None:
        attention = attention.view(batch, num_heads, num_queries, num_keys)
    return out, log_total, attention


def _backward(
    d_out: Tensor,
    d_attention: Tensor | None,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    log_total: Tensor,
    layout: TileLayout,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values."""
    batch = queries.shape[0]
    q_rows, k_rows, v_rows = _rows(queries), _rows(keys * (scale * LOG2_E)), _rows(values)
    d_rows = _rows(d_out)
    if d_attention is not None:
        d_attention = d_attention.flatten(1)
    dq_tiles = queries.new_empty(batch, layout.query_slots, queries.shape[-1])
    dk_tiles = queries.new_empty(batch, layout.key_slots, queries.shape[-1])
    dv_tiles = queries.new_empty(batch, layout.key_slots, values.shape[-1])
    for piece, some in layout.chunks(batch):
        q, k, v = piece.queries(q_rows[some]), piece.keys(k_rows[some]), piece.keys(v_rows[some])
        d = piece.queries(d_rows[some])
        offset = log_total[some, piece.query_slots].reshape(-1, 1, piece.T)
        weights = piece.mask_(torch.baddbmm(offset, k, q.mT, beta=-1)).exp2_()
        piece.clear_padding_(weights)
        d_weights = torch.bmm(v, d.mT)
        if d_attention is not None:
            edges = d_attention[some].index_select(1, piece.edge_cell)
            d_edges = torch.zeros_like(weights).view(-1, piece.num_scores).index_copy_(1, piece.edge_slot, edges)
            d_weights += d_edges.view_as(d_weights)
        # weights * (d_weights - (weights * d_weights).sum(1, keepdim=True)), in one pass
        d_scores = torch._softmax_backward_data(d_weights, weights, 1, weights.dtype)
        piece.put_(dq_tiles[some, piece.query_slots], _product(d_scores.mT, k))
        piece.put_(dk_tiles[some, piece.key_slots], _product(d_scores, q))
        piece.put_(dv_tiles[some, piece.key_slots], _product(weights, d))
    return (
        layout.to_queries(dq_tiles).mul_(1 / LOG2_E).view(queries.shape),
        layout.to_keys(dk_tiles).mul_(scale).view(keys.shape),
        layout.to_keys(dv_tiles).view(values.shape),
    )


def _rows(x: Tensor) -> Tensor:
    """[batch, heads, cells, dim] -> [batch, heads * cells, dim], contiguous"""
    return x.flatten(1, 2).contiguous()


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Batched ``left @ right``; a narrow result is computed as ``(right^T left^T)^T``, up to four times faster."""
    return torch.bmm(right.mT, left.mT).mT if right.shape[-1] < NARROW else torch.bmm(left, right)


# --- under torch.compile ----------------------------------------------------------------------------------------------
# The same two functions as registered operators, so that a compiled graph holds attention as one node. The plan
# travels as its tensors, since operators take no other objects.


def _tiles_operator(queries, keys, values, plan, scale, return_attention):
    tensors, heads = plan.as_arguments()
    return tiles_forward(queries, keys, values, tensors, heads, plan.digest, scale, return_attention)


@torch.library.custom_op("ylg::tiles_forward", mutates_args=())
def tiles_forward(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    tensors: Sequence[Tensor],
    heads: Sequence[int],
    digest: str,
    scale: float,
    return_attention: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    layout = tile_layout(plan_of_arguments(tensors, heads, (*queries.shape[1:3], keys.shape[2]), digest))
    out, log_total, attention = _forward(queries, keys, values, layout, scale, return_attention)
    return out, log_total, queries.new_empty(0) if attention is None else attention


@tiles_forward.register_fake
def _(queries, keys, values, tensors, heads, digest, scale, return_attention):
    batch, num_heads, num_queries, _ = queries.shape
    slots = sum(len(group.heads) * group.query_index[0].numel() for group in groups_of_arguments(tensors, heads))
    attention = (batch, num_heads, num_queries, keys.shape[2]) if return_attention else (0,)
    out = queries.new_empty(batch, num_heads, num_queries, values.shape[-1])
    return out, queries.new_empty(batch, slots), queries.new_empty(attention)


@torch.library.custom_op("ylg::tiles_backward", mutates_args=())
def tiles_backward(
    d_out: Tensor,
    d_attention: Tensor | None,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    log_total: Tensor,
    tensors: Sequence[Tensor],
    heads: Sequence[int],
    digest: str,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    layout = tile_layout(plan_of_arguments(tensors, heads, (*queries.shape[1:3], keys.shape[2]), digest))
    return _backward(d_out, d_attention, queries, keys, values, log_total, layout, scale)


@tiles_backward.register_fake
def _(d_out, d_attention, queries, keys, values, log_total, tensors, heads, digest, scale):
    return tuple(x.new_empty(x.shape) for x in (queries, keys, values))


def _save_for_backward(ctx, inputs, output) -> None:
    queries, keys, values, tensors, ctx.heads, ctx.digest, ctx.scale, ctx.return_attention = inputs
    ctx.save_for_backward(queries, keys, values, output[1], *tensors)


def _operator_backward(ctx, d_out, d_log_total, d_attention):
    saved = ctx.saved_tensors
    d_attention = d_attention if ctx.return_attention else None
    gradients = tiles_backward(d_out, d_attention, *saved[:4], list(saved[4:]), ctx.heads, ctx.digest, ctx.scale)
    return *gradients, [None] * len(saved[4:]), None, None, None, None


tiles_forward.register_autograd(_operator_backward, setup_context=_save_for_backward)
