"""The same attention in plain, differentiable operators, tile by tile: for what the hand-written passes cannot do.

- derivatives beyond the first (gradient penalties and the like), and torch.func's batching;
- biases of scores and key masks of single samples;
- exporting and tracing, which want operators that everybody knows.

It keeps an array of scores per tile, and costs nothing until it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import compress
from typing import Any

import torch
from torch import Tensor

from ylg.backends.tiles.layout import tile_layout
from ylg.devices import wide
from ylg.plan import AttentionPlan

ScoreBias = Callable[[Tensor, Tensor, Tensor], Tensor]


def plain_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    plan: AttentionPlan,
    scale: float,
    return_attention: bool,
    key_mask: Tensor | None = None,
    score_bias: ScoreBias | None = None,
) -> tuple[Tensor, ...]:
    """(out,) or (out, probabilities ``[B, H, Nq, Nk]``); arguments as in :func:`ylg.sparse_attention`."""
    layout = tile_layout(plan)
    batch, num_heads, num_queries, _ = queries.shape
    if key_mask is not None:  # 0 * NaN is NaN, and who knows what padding holds
        keys, values = (x.masked_fill(~key_mask[:, None, :, None], 0) for x in (keys, values))
    q_rows, k_rows, v_rows = (x.flatten(1, 2) for x in (queries, keys, values))
    outs, edges = [], []
    for piece in layout.pieces:
        q, k, v = piece.queries(q_rows), piece.keys(k_rows), piece.keys(v_rows)
        scores = piece.mask_(scale * torch.bmm(k, q.mT))  # [n, L, T]
        if score_bias is not None:
            added = scores.new_zeros(piece.num_scores)
            added = added.index_copy(0, piece.edges[0], _biases(score_bias, *piece.edge_places(plan)).to(scores.dtype))
            scores = (scores.view(batch, piece.num_scores) + added).view_as(scores)
        if key_mask is not None:
            hidden = ~key_mask.index_select(1, piece.key_row % plan.num_keys).view(-1, piece.L, 1)
            scores = scores.masked_fill(hidden, -torch.inf)
        if key_mask is None and score_bias is None:
            probabilities = scores.softmax(1)
        else:
            nothing = (scores == -torch.inf).all(1, keepdim=True)  # no key is left to the query
            probabilities = scores.masked_fill(nothing, 0).softmax(1).masked_fill(nothing, 0)
        outs.append(torch.bmm(probabilities.mT, v).reshape(batch, piece.num_query_slots, v.shape[-1]))
        if return_attention:
            edges.append(probabilities.reshape(batch, piece.num_scores).index_select(1, piece.edges[0]))
    out = layout.to_queries(torch.cat(outs, dim=1)).view(batch, num_heads, num_queries, values.shape[-1])
    if not return_attention:
        return (out,)
    empty = queries.new_zeros(batch, num_heads * num_queries * plan.num_keys)
    cells = torch.cat([piece.edges[1] for piece in layout.pieces])
    attention = empty.index_copy(1, cells, torch.cat(edges, dim=1))
    return out, attention.view(batch, num_heads, num_queries, plan.num_keys)


def _biases(score_bias: ScoreBias, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
    found = score_bias(head, query, key)
    if not isinstance(found, Tensor) or found.shape != head.shape:
        got = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(f"score_bias must give one number an edge, a tensor {list(head.shape)}, got {got}")
    return found


def second_gradients(
    d_out: Tensor,
    d_attention: Tensor | None,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    plan: AttentionPlan,
    scale: float,
    dd: Sequence[Tensor | None],
    wanted: Sequence[bool] = (True, True, True),
) -> tuple[Tensor | None, ...]:
    """Gradients of d_out, d_attention, queries, keys and values, given those of d queries, d keys and d values, of
    which only the ``wanted`` ones were made.

    float16 and bfloat16 are computed in float32. By torch.func, which reaches through its own transforms too, but not
    through saved-tensor hooks (``save_on_cpu``) that are set while this runs.
    """
    with_map = d_attention is not None

    def attend(*inputs):
        return plain_attention(*map(wide, inputs), plan, scale, with_map)

    def gradients(queries, keys, values, *d_outputs):
        _, pull = torch.func.vjp(attend, queries, keys, values)
        return tuple(compress(pull(tuple(map(wide, d_outputs))), wanted))

    with torch.autocast(queries.device.type, enabled=False):
        d_outputs = (d_out, d_attention) if with_map else (d_out,)
        _, pull = torch.func.vjp(gradients, queries, keys, values, *d_outputs)
        *d_inputs, d_d_out, d_d_attention = (*pull(tuple(compress(dd, wanted))), *[None] * (not with_map))
    return d_d_out, d_d_attention, *d_inputs


def vmap_over_batch(
    function: type[torch.autograd.Function], size: int, in_dims: Sequence[int | None], inputs: Sequence[Any]
) -> tuple[tuple[Tensor | None, ...], tuple[int | None, ...]]:
    """The vmap rule of a function whose tensors all begin with a batch: the mapped dimension becomes part of it."""

    def folded(x, dim):
        if not isinstance(x, Tensor):
            return x
        return (x.expand(size, *x.shape) if dim is None else x.movedim(dim, 0)).flatten(0, 1)

    outputs = function.apply(*map(folded, inputs, in_dims))
    unfolded = tuple(None if x is None else x.unflatten(0, (size, x.shape[0] // size)) for x in outputs)
    return unfolded, tuple(None if x is None else 0 for x in outputs)
