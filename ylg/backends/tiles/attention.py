"""The CPU kernel, in plain torch: gather each tile's queries and keys, then small dense attention; on any device.

The backward pass is written by hand, because autograd's own would scatter gradients entry by entry and keep
several arrays of scores. What makes it fast on a CPU, each measured:

- scores are laid out ``[keys, queries]`` in a tile: maxima and sums over keys then run along whole vectors;
- masks are added as 0 or -inf (masked_fill is ten times slower than an addition), and exp2 replaces exp (three times
  faster with the product by log2(e), which follows the subtraction of the maximum: before it, its rounding would grow
  with the scores);
- scores are made, used and dropped in chunks that fit the cache, and made again in the backward pass, which
  is faster than writing them to memory and takes none;
- a product with a narrow result is computed transposed, since matrix libraries want many columns (``_product``);
- gradients of keys are summed by ``embedding_bag`` over the tiles that hold a key: no atomics, always one order.

Full tiles (butterfly, rotated_blocks) apply no mask. Rows that lie together are gathered as one, and are a view where
all follow each other (``Rows``): windows of cells enumerated window by window take 0.9 of the time of the same windows
of a raster (benchmarks/attention.py, windows-64). Strided copies in place of index_select would gain no more, nor would
tiles kept from forward for backward, which take the memory of the inputs once more.

float16 and bfloat16 are computed in float32. Read next: layout.py, which turns a plan into the indices used
here, and plain.py, for derivatives beyond the first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ylg.backends.finite import all_finite, guarded_product
from ylg.backends.tiles.layout import TileLayout, tile_layout
from ylg.backends.tiles.plain import second_gradients, vmap_over_batch
from ylg.devices import autocasted, wide
from ylg.plan import AttentionPlan, groups_of_arguments, plan_of_arguments

LOG2_E = math.log2(math.e)
NARROW = 16  # results with fewer columns than this are computed transposed


def tiles_attention(
    queries: Tensor, keys: Tensor, values: Tensor, plan: AttentionPlan, scale: float, return_attention: bool
) -> Tensor | tuple[Tensor, Tensor]:
    """See :func:`ylg.sparse_attention`. Under autocast, inputs are cast first, as scaled_dot_product_attention does."""
    queries, keys, values = autocasted(queries, keys, values)
    given = queries.dtype
    queries, keys, values = map(wide, (queries, keys, values))
    attend = _tiles_operator if torch.compiler.is_compiling() else _TilesAttention.apply
    with torch.autocast(queries.device.type, enabled=False):
        out, _, attention = attend(queries, keys, values, plan, scale, return_attention)
    return (out.to(given), attention.to(given)) if return_attention else out.to(given)


class _TilesAttention(torch.autograd.Function):
    """(out, softmax, attention or None). Scores are kept nowhere: backward computes them again, chunk by chunk."""

    @staticmethod
    def forward(queries, keys, values, plan, scale, return_attention):
        return _forward(queries, keys, values, tile_layout(plan), scale, return_attention)

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, ctx.plan, ctx.scale, _ = inputs
        softmax = output[1]
        ctx.set_materialize_grads(False)  # no dense zeros where only one of the outputs is used
        ctx.mark_non_differentiable(softmax)
        ctx.save_for_backward(*tensors, softmax)

    @staticmethod
    def backward(ctx, d_out, _, d_attention):
        queries, keys, values, softmax = ctx.saved_tensors
        if d_out is None:
            d_out = queries.new_zeros(*queries.shape[:3], values.shape[-1])
        tensors, wanted = (d_out, d_attention, queries, keys, values, softmax), tuple(ctx.needs_input_grad[:3])
        gradients = _TilesGradient.apply(*tensors, ctx.plan, ctx.scale, wanted)
        return *gradients, None, None, None

    @staticmethod
    def vmap(info, in_dims, *inputs):
        return vmap_over_batch(_TilesAttention, info.batch_size, in_dims, inputs)


class _TilesGradient(torch.autograd.Function):
    """The gradients that are wanted, themselves differentiable: see plain.py."""

    @staticmethod
    def forward(d_out, d_attention, queries, keys, values, softmax, plan, scale, wanted):
        with torch.autocast(queries.device.type, enabled=False):  # backward() may be called under it
            return _backward(d_out, d_attention, queries, keys, values, softmax, tile_layout(plan), scale, wanted)

    @staticmethod
    def setup_context(ctx, inputs, output):
        d_out, d_attention, queries, keys, values, _, ctx.plan, ctx.scale, ctx.wanted = inputs
        ctx.save_for_backward(d_out, d_attention, queries, keys, values)

    @staticmethod
    def backward(ctx, *dd):
        found = second_gradients(*ctx.saved_tensors, ctx.plan, ctx.scale, dd, ctx.wanted)
        return *found, None, None, None, None

    @staticmethod
    def vmap(info, in_dims, *inputs):
        return vmap_over_batch(_TilesGradient, info.batch_size, in_dims, inputs)


def _forward(
    queries: Tensor, keys: Tensor, values: Tensor, layout: TileLayout, scale: float, return_attention: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Output; of every query's softmax the largest score and 1 / the sum, [batch, 2, slots]; and the map.

    Not log2 of the sum, from which backward could take probabilities in one pass: its rounding grows with the scores.
    """
    batch, num_heads, num_queries, _ = queries.shape
    num_keys, dim_v = values.shape[2:]
    q_rows, k_rows, v_rows = _rows(queries), _rows(keys * scale), _rows(values)
    finite = all_finite(k_rows, v_rows)
    out_tiles = queries.new_empty(batch, layout.query_slots, dim_v)
    softmax = queries.new_empty(batch, 2, layout.query_slots)
    attention = queries.new_zeros(batch, num_heads * num_queries * num_keys) if return_attention else None
    for piece, some in layout.chunks(batch):
        q, k, v = piece.queries(q_rows[some]), piece.keys(k_rows[some]), piece.keys(v_rows[some])
        weights = piece.mask_(torch.bmm(k, q.mT), finite)  # [n, L, T], as are all arrays of scores below
        most = weights.amax(1, keepdim=True)
        total = weights.sub_(most).mul_(LOG2_E).exp2_().sum(1, keepdim=True)
        place = out_tiles[some, piece.query_slots].unflatten(1, (-1, piece.T))
        mixed = _product(weights.mT, v) if finite else guarded_product(weights.mT, v, weights.mT)
        torch.div(mixed.view_as(place), total.mT.view(*place.shape[:3], 1), out=place)
        if attention is not None:
            slot, cell = piece.edges
            attention[some].index_copy_(1, cell, (weights / total).view(-1, piece.num_scores).index_select(1, slot))
        softmax[some, 0, piece.query_slots] = most.view(-1, piece.num_query_slots)
        softmax[some, 1, piece.query_slots] = total.reciprocal_().view(-1, piece.num_query_slots)
    out = _shaped(layout.to_queries(out_tiles), (batch, num_heads, num_queries, dim_v))
    if attention is not None:
        attention = _shaped(attention, (batch, num_heads, num_queries, num_keys))
    return out, softmax, attention


def _backward(
    d_out: Tensor,
    d_attention: Tensor | None,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    softmax: Tensor,
    layout: TileLayout,
    scale: float,
    wanted: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of queries, keys and values, as far as they are ``wanted``."""
    batch = queries.shape[0]
    q_rows, k_rows, v_rows = _rows(queries), _rows(keys * scale), _rows(values)
    d_rows = _rows(d_out)
    finite = all_finite(q_rows, k_rows, v_rows, d_rows)
    if d_attention is not None:
        d_attention = d_attention.flatten(1)
    dq_tiles, dk_tiles, dv_tiles = (
        queries.new_empty(batch, slots, dim) if needed else None
        for needed, slots, dim in zip(
            wanted,
            (layout.query_slots, layout.key_slots, layout.key_slots),
            (queries.shape[-1], queries.shape[-1], values.shape[-1]),
            strict=True,
        )
    )
    for piece, some in layout.chunks(batch):
        q, k, v = piece.queries(q_rows[some]), piece.keys(k_rows[some]), piece.keys(v_rows[some])
        d = piece.queries(d_rows[some])
        most, share = (softmax[some, i, piece.query_slots].reshape(-1, 1, piece.T) for i in (0, 1))
        weights = piece.mask_(torch.bmm(k, q.mT), finite).sub_(most).mul_(LOG2_E).exp2_().mul_(share)
        piece.clear_(weights, finite)

        def product(left, right, transposed=False, weights=weights):
            if finite:
                return _product(left, right)
            return guarded_product(left, right, weights.mT if transposed else weights)

        if dv_tiles is not None:
            piece.put_(dv_tiles[some, piece.key_slots], product(weights, d))
        if dq_tiles is None and dk_tiles is None:
            continue
        d_weights = torch.bmm(v, d.mT)
        if not finite:
            piece.clear_(d_weights, finite)
        if d_attention is not None:
            slot, cell = piece.edges
            edges = d_attention[some].index_select(1, cell)
            d_edges = torch.zeros_like(weights).view(-1, piece.num_scores).index_copy_(1, slot, edges)
            d_weights += d_edges.view_as(d_weights)
        # weights * (d_weights - (weights * d_weights).sum(1, keepdim=True)), in one pass
        d_scores = torch._softmax_backward_data(d_weights, weights, 1, weights.dtype)
        if not finite:
            piece.clear_(d_scores, finite)
        if dq_tiles is not None:
            piece.put_(dq_tiles[some, piece.query_slots], product(d_scores.mT, k, transposed=True))
        if dk_tiles is not None:
            piece.put_(dk_tiles[some, piece.key_slots], product(d_scores, q))
    return (
        None if dq_tiles is None else _shaped(layout.to_queries(dq_tiles), queries.shape),
        None if dk_tiles is None else _shaped(layout.to_keys(dk_tiles).mul_(scale), keys.shape),
        None if dv_tiles is None else _shaped(layout.to_keys(dv_tiles), values.shape),
    )


def _rows(x: Tensor) -> Tensor:
    """[batch, heads, cells, dim] -> [batch, heads * cells, dim], contiguous"""
    return x.flatten(1, 2).contiguous()


def _shaped(x: Tensor, shape: Sequence[int]) -> Tensor:
    """A view that autograd does not know as one: what a Function returns may then be changed in place."""
    return torch.ops.aten._unsafe_view(x, shape)


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
    out, softmax, attention = _forward(queries, keys, values, layout, scale, return_attention)
    return out, softmax, queries.new_empty(0) if attention is None else attention


@tiles_forward.register_fake
def _(queries, keys, values, tensors, heads, digest, scale, return_attention):
    batch, num_heads, num_queries, _ = queries.shape
    slots = sum(len(group.heads) * group.query_index[0].numel() for group in groups_of_arguments(tensors, heads))
    attention = (batch, num_heads, num_queries, keys.shape[2]) if return_attention else (0,)
    out = queries.new_empty(batch, num_heads, num_queries, values.shape[-1])
    return out, queries.new_empty(batch, 2, slots), queries.new_empty(attention)


@torch.library.custom_op("ylg::tiles_backward", mutates_args=())
def tiles_backward(
    d_out: Tensor,
    d_attention: Tensor | None,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    softmax: Tensor,
    tensors: Sequence[Tensor],
    heads: Sequence[int],
    digest: str,
    scale: float,
    wanted: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """What is not wanted is empty: operators return tensors only."""
    layout = tile_layout(plan_of_arguments(tensors, heads, (*queries.shape[1:3], keys.shape[2]), digest))
    found = _backward(d_out, d_attention, queries, keys, values, softmax, layout, scale, wanted)
    return tuple(queries.new_empty(0) if x is None else x for x in found)


@tiles_backward.register_fake
def _(d_out, d_attention, queries, keys, values, softmax, tensors, heads, digest, scale, wanted):
    inputs = (queries, keys, values)
    return tuple(x.new_empty(x.shape if needed else 0) for x, needed in zip(inputs, wanted, strict=True))


def _save_for_backward(ctx, inputs, output) -> None:
    queries, keys, values, tensors, ctx.heads, ctx.digest, ctx.scale, ctx.return_attention = inputs
    ctx.save_for_backward(queries, keys, values, output[1], *tensors)


def _operator_backward(ctx, d_out, d_softmax, d_attention):
    saved = ctx.saved_tensors
    d_attention = d_attention if ctx.return_attention else None
    plan, wanted = (list(saved[4:]), ctx.heads, ctx.digest, ctx.scale), list(ctx.needs_input_grad[:3])
    found = tiles_backward(d_out, d_attention, *saved[:4], *plan, wanted)
    gradients = (x if needed else None for x, needed in zip(found, wanted, strict=True))
    return *gradients, [None] * len(saved[4:]), None, None, None, None


tiles_forward.register_autograd(_operator_backward, setup_context=_save_for_backward)
