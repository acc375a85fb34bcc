"""The plain torch backend: gather each tile's queries and keys, then small dense attention, on any device.

The backward pass is written by hand, because autograd's own would scatter gradients entry by entry and keep five
arrays of scores instead of one. What makes it fast on a CPU, each measured:

- scores are laid out ``[keys, queries]`` in a tile: maxima and sums over keys then run along whole vectors;
- masks are added as 0 or -inf (masked_fill is ten times slower than an addition), and exp2 replaces exp, log2(e)
  being part of the scale (four times faster, as accurate);
- probabilities stay unnormalised: outputs and their gradients, which are smaller, are divided instead;
- a product with a narrow result is computed transposed, since matrix libraries want many columns (``_product``);
- gradients of keys are summed by ``embedding_bag`` over the tiles that hold a key: no atomics, always one order.

float16 and bfloat16 are computed in float32. Second derivatives take autograd's way through ``_plain``.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ylg.plan import AttentionPlan, TileGroup

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
    if given in (torch.float16, torch.bfloat16):
        queries, keys, values = queries.float(), keys.float(), values.float()
    with torch.autocast(device, enabled=False):
        out, attention = _TilesAttention.apply(queries, keys, values, plan, scale, return_attention)
    return (out.to(given), attention.to(given)) if return_attention else out.to(given)


class _TilesAttention(torch.autograd.Function):
    """forward -> (out, attention or None)."""

    @staticmethod
    def forward(ctx, queries, keys, values, plan, scale, return_attention):
        layout = tile_layout(plan)
        ctx.plan, ctx.scale = plan, scale
        ctx.set_materialize_grads(False)  # no dense zeros where only one of the outputs is used
        batch, num_heads, num_queries, _ = queries.shape
        rows = [x.reshape(batch, -1, x.shape[-1]) for x in (queries * (scale / math.log(2)), keys, values)]
        attention = None
        if return_attention:
            attention = queries.new_zeros(batch, num_heads * num_queries * plan.num_keys)
        kept, outs = [], []
        for group in layout.groups:
            q, k, v = group.gather_queries(rows[0]), group.gather_keys(rows[1]), group.gather_keys(rows[2])
            weights = torch.bmm(k, q.mT)  # [batch * heads * tiles, L, T], as are all arrays of scores below
            group.mask_(weights)
            weights.sub_(weights.amax(1, keepdim=True)).exp2_()
            total = weights.sum(1).unsqueeze(-1)
            group.clear_padding_(weights)
            outs.append(_product(weights.mT, v).div(total).reshape(batch, -1, v.shape[-1]))
            kept += [weights, total]
            if return_attention:
                probabilities = (weights / total.mT).view(batch, -1)
                attention.index_copy_(1, group.edge_cell, probabilities.index_select(1, group.edge_slot))
        out = layout.to_queries(outs).view(batch, num_heads, num_queries, -1)
        if return_attention:
            attention = attention.view(batch, num_heads, num_queries, plan.num_keys)
        ctx.save_for_backward(queries, keys, values, out, *kept)
        return out, attention

    @staticmethod
    def backward(ctx, d_out, d_attention):
        queries, keys, values, out, *kept = ctx.saved_tensors
        plan, scale = ctx.plan, ctx.scale
        if d_out is None:
            d_out = torch.zeros_like(out)
        if torch.is_grad_enabled():  # create_graph=True: the gradients themselves are to be differentiated
            return *_differentiable_gradients(ctx, queries, keys, values, d_out, d_attention), None, None, None
        layout = tile_layout(plan)
        batch = queries.shape[0]
        q_rows, k_rows, v_rows, d_rows = (x.reshape(batch, -1, x.shape[-1]) for x in (queries, keys, values, d_out))
        if d_attention is None:
            # sum over keys of probability * its gradient, per query; the softmax subtracts it
            shift_rows = (d_out * out).sum(-1).view(batch, -1, 1)
        d_queries, d_keys, d_values = [], [], []
        for number, group in enumerate(layout.groups):
            weights, total = kept[2 * number : 2 * number + 2]
            q, k, v = group.gather_queries(q_rows), group.gather_keys(k_rows), group.gather_keys(v_rows)
            d = group.gather_queries(d_rows) / total
            if d_attention is None:
                shift = group.gather_queries(shift_rows) / total
                d_scores = torch.baddbmm(shift.mT, v, d.mT, beta=-1).mul_(weights)
            else:
                d_scores = torch.bmm(v, d.mT)
                edges = d_attention.reshape(batch, -1).index_select(1, group.edge_cell)
                d_edges = torch.zeros_like(d_scores).view(batch, -1).index_copy_(1, group.edge_slot, edges)
                d_scores += d_edges.view_as(d_scores) / total.mT
                shift = (weights * d_scores).sum(1, keepdim=True) / total.mT
                d_scores = d_scores.sub_(shift).mul_(weights)
            d_queries.append(_product(d_scores.mT, k).reshape(batch, -1, k.shape[-1]))
            d_keys.append(_product(d_scores, q).reshape(batch, -1, k.shape[-1]))
            d_values.append(_product(weights, d).reshape(batch, -1, v.shape[-1]))
        return (
            layout.to_queries(d_queries).mul_(scale).view(queries.shape),
            layout.to_keys(d_keys).mul_(scale).view(keys.shape),
            layout.to_keys(d_values).view(values.shape),
            None,
            None,
            None,
        )


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Batched ``left @ right``; a narrow result is computed as ``(right^T left^T)^T``, up to four times faster."""
    return torch.bmm(right.mT, left.mT).mT if right.shape[-1] < NARROW else torch.bmm(left, right)


# --- the plan as flat indices ---------------------------------------------------------------------------------------


class GroupLayout:
    """A tile group as indices into ``[batch, heads * cells, dim]``. Heads are ordered by their mask."""

    def __init__(self, group: TileGroup, plan: AttentionPlan):
        self.masks, self.tiles, self.T, self.L = group.shape
        order = sorted(range(len(group.heads)), key=lambda i: group.mask_of_head[i])
        device = group.tile_mask.device
        self.head = torch.tensor([group.heads[i] for i in order], device=device)[:, None, None]
        self.mask_number = torch.tensor([group.mask_of_head[i] for i in order], device=device)
        self.query = group.query_index.long()[self.mask_number]  # [heads, tiles, T]
        self.key = group.key_index.long()[self.mask_number]
        self.query_row = (self.head * plan.num_queries + self.query.clamp(min=0)).flatten()
        self.key_row = (self.head * plan.num_keys + self.key.clamp(min=0)).flatten()
        self.num_queries, self.num_keys = plan.num_queries, plan.num_keys
        self.bias = self.valid = None
        padded = group.query_index < 0
        if not group.full:
            # a padding query may attend to everything: finite, and cleared below
            allowed = group.tile_mask | padded[..., None]
            bias = torch.zeros(allowed.shape, device=device).masked_fill_(~allowed, -math.inf).mT.contiguous()
            equal_shares = len(order) % self.masks == 0 and all(
                group.mask_of_head[i] == place // (len(order) // self.masks) for place, i in enumerate(order)
            )
            # [masks or heads, heads of each, tiles, L, T]: equal heads share one copy
            self.bias = (bias if equal_shares else bias[self.mask_number])[:, None]
            if padded.any():
                self.valid = (~padded)[self.mask_number].view(len(order), self.tiles, 1, self.T)
        self.tile_mask = group.tile_mask

    def gather_queries(self, rows: Tensor) -> Tensor:
        """[batch, heads * queries, dim] -> [batch * heads * tiles, T, dim]"""
        return rows.index_select(1, self.query_row).view(-1, self.T, rows.shape[-1])

    def gather_keys(self, rows: Tensor) -> Tensor:
        return rows.index_select(1, self.key_row).view(-1, self.L, rows.shape[-1])

    def mask_(self, scores: Tensor) -> None:
        if self.bias is not None:
            first = self.bias.shape[0]
            scores.view(-1, first, len(self.mask_number) // first, self.tiles, self.L, self.T).add_(self.bias)

    def clear_padding_(self, weights: Tensor) -> None:
        if self.valid is not None:
            weights.view(-1, *self.valid.shape[:2], self.L, self.T).mul_(self.valid)

    @cached_property
    def _edges(self) -> tuple[Tensor, Tensor]:
        head, tile, t, k = self.tile_mask[self.mask_number].nonzero(as_tuple=True)
        slot = ((head * self.tiles + tile) * self.L + k) * self.T + t
        cell = (self.head.flatten()[head] * self.num_queries + self.query[head, tile, t]) * self.num_keys
        return slot, cell + self.key[head, tile, k]

    @property
    def edge_slot(self) -> Tensor:
        """Of every edge, its place in this group's scores of one batch element, flattened."""
        return self._edges[0]

    @property
    def edge_cell(self) -> Tensor:
        """Of every edge, its place in ``[heads, queries, keys]``, flattened."""
        return self._edges[1]


class TileLayout:
    """A plan as flat indices, and the way back from tiles to cells."""

    def __init__(self, plan: AttentionPlan):
        self.groups = [GroupLayout(group, plan) for group in plan.groups]
        query_row = torch.cat([group.query_row for group in self.groups])
        real = torch.cat([group.query.flatten() for group in self.groups]) >= 0
        slots = torch.arange(query_row.numel(), device=query_row.device)
        self.slot_of_query = torch.empty(plan.num_heads * plan.num_queries, dtype=torch.long, device=slots.device)
        self.slot_of_query[query_row[real]] = slots[real]
        key_row = torch.cat([group.key_row for group in self.groups])
        real = torch.cat([group.key.flatten() for group in self.groups]) >= 0
        self.key_slots = key_row.numel()
        slots = torch.arange(self.key_slots, device=key_row.device)[real]
        by_key = key_row[real].argsort(stable=True)
        self.slots_of_key = slots[by_key]
        counts = torch.bincount(key_row[real], minlength=plan.num_heads * plan.num_keys)
        self.first_of_key = counts.cumsum(0) - counts

    def to_queries(self, tiles: list[Tensor]) -> Tensor:
        """Rows of every group ``[batch, slots, dim]`` -> ``[batch, heads * queries, dim]``."""
        return _joined(tiles).index_select(1, self.slot_of_query)

    def to_keys(self, tiles: list[Tensor]) -> Tensor:
        """Rows of every group ``[batch, slots, dim]``, summed over the slots of each key."""
        rows = _joined(tiles)
        batch, _, dim = rows.shape
        number = torch.arange(batch, device=rows.device)[:, None]
        slots = (self.slots_of_key + number * self.key_slots).flatten()
        first = (self.first_of_key + number * self.slots_of_key.numel()).flatten()
        return torch.nn.functional.embedding_bag(slots, rows.reshape(-1, dim), first, mode="sum").view(batch, -1, dim)


def _joined(tiles: list[Tensor]) -> Tensor:
    return tiles[0] if len(tiles) == 1 else torch.cat(tiles, dim=1)


_LAYOUTS: OrderedDict[AttentionPlan, TileLayout] = OrderedDict()
_LAYOUTS_KEPT = 32


def tile_layout(plan: AttentionPlan) -> TileLayout:
    """The layout of a plan, made once and kept by content."""
    if plan not in _LAYOUTS:
        _LAYOUTS[plan] = TileLayout(plan)
        if len(_LAYOUTS) > _LAYOUTS_KEPT:
            _LAYOUTS.popitem(last=False)
    return _LAYOUTS[plan]


# --- second derivatives -----------------------------------------------------------------------------------------------


def _plain(queries: Tensor, keys: Tensor, values: Tensor, plan: AttentionPlan, scale: float) -> tuple[Tensor, Tensor]:
    """The same attention and its dense probabilities, in operators that autograd differentiates as often as asked."""
    layout = tile_layout(plan)
    batch, num_heads, num_queries, _ = queries.shape
    rows = [x.reshape(batch, -1, x.shape[-1]) for x in (queries, keys, values)]
    outs = []
    attention = queries.new_zeros(batch, num_heads * num_queries * plan.num_keys)
    for group in layout.groups:
        q, k, v = group.gather_queries(rows[0]), group.gather_keys(rows[1]), group.gather_keys(rows[2])
        scores = scale * torch.bmm(k, q.mT)
        group.mask_(scores)
        probabilities = scores.softmax(1)
        outs.append(torch.bmm(probabilities.mT, v).reshape(batch, -1, v.shape[-1]))
        edges = probabilities.reshape(batch, -1).index_select(1, group.edge_slot)
        attention = attention.index_copy(1, group.edge_cell, edges)
    out = layout.to_queries(outs).view(batch, num_heads, num_queries, -1)
    return out, attention.view(batch, num_heads, num_queries, plan.num_keys)


def _differentiable_gradients(ctx, queries, keys, values, d_out, d_attention):
    inputs = (queries, keys, values)
    wanted = [x for x, needed in zip(inputs, ctx.needs_input_grad, strict=False) if needed]
    out, attention = _plain(*inputs, ctx.plan, ctx.scale)
    pairs = [(out, d_out)] if d_attention is None else [(out, d_out), (attention, d_attention)]
    outputs, gradients = zip(*pairs, strict=True)
    found = iter(torch.autograd.grad(outputs, wanted, gradients, create_graph=True))
    return tuple(next(found) if needed else None for needed in ctx.needs_input_grad[:3])
