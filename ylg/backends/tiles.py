"""Plain torch on any device: gather each tile's queries and keys, then small dense attention."""

from __future__ import annotations

import torch
from torch import Tensor

from ylg.plan import AttentionPlan


def tiles_attention(
    queries: Tensor, keys: Tensor, values: Tensor, plan: AttentionPlan, scale: float, return_attention: bool
) -> Tensor | tuple[Tensor, Tensor]:
    batch, num_heads, num_queries, _ = queries.shape
    out = queries.new_zeros(batch, num_heads, num_queries + 1, values.shape[-1])
    attention = (
        queries.new_zeros(batch, num_heads, num_queries + 1, plan.num_keys) if return_attention else None
    )
    for group in plan.groups:
        head = torch.tensor(group.heads, device=queries.device)[:, None, None]
        which = torch.tensor(group.mask_of_head, device=queries.device)
        query_index, key_index, mask = (
            group.query_index[which].long(),
            group.key_index[which].long(),
            group.tile_mask[which],
        )
        q, k, v = (
            queries[:, head, query_index.clamp(min=0)],
            keys[:, head, key_index.clamp(min=0)],
            values[:, head, key_index.clamp(min=0)],
        )
        scores = (scale * q @ k.mT).masked_fill(~mask, float("-inf"))
        scores = scores.masked_fill(
            query_index[..., None] < 0, 0.0
        )  # padding rows: finite, and thrown away below
        probabilities = scores.softmax(dim=-1)
        place = torch.where(query_index < 0, num_queries, query_index)
        out = out.index_put(
            (torch.arange(batch, device=out.device)[:, None, None, None], head, place), probabilities @ v
        )
        if return_attention:
            index = (
                torch.arange(batch, device=out.device)[:, None, None, None, None],
                head[..., None],
                place[..., None],
                key_index.clamp(min=0)[..., None, :],
            )
            attention = attention.index_put(index, probabilities.masked_fill(~mask, 0.0), accumulate=True)
    out = out[:, :, :num_queries]
    return (out, attention[:, :, :num_queries]) if return_attention else out
