"""The FlexAttention backend: a peer to measure against, and a fallback that is asked for by name.

FlexAttention multiplies at least 16 channels, so smaller heads are padded with zeros, and skips only whole blocks of
128 x 128 scores, which these patterns rarely leave empty: expect it to compute several times what the plan needs.
It has no backward on CPU and no float64; both are refused here in plain words. Nothing is permuted: cells stay in
row-major order, as anybody would use it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.nn.functional import pad

from ylg.backends.reference import reference_attention
from ylg.plan import AttentionPlan

BLOCK = 128  # FlexAttention's own default; it takes no blocks below its kernels' tiles
SMALLEST_HEAD_DIM = 16
WORD_BITS = 32

# fullgraph: when PyTorch's limit of recompilations is reached, fail rather than turn into dense attention unannounced.
# A graph for each shape: those for shapes of any size are slower, and a peer deserves its best.
_compiled_flex_attention = torch.compile(flex_attention, fullgraph=True, dynamic=False)


def flex_attention_backend(
    queries: Tensor, keys: Tensor, values: Tensor, plan: AttentionPlan, scale: float, return_attention: bool
) -> Tensor | tuple[Tensor, Tensor]:
    """Sparse attention by compiled FlexAttention.

    Args:
        return_attention: FlexAttention returns no probabilities, so the reference backend computes them once more,
            dense, in dense memory.
    Raises:
        ValueError: float64 inputs, or gradients wanted on CPU.
    """
    if queries.dtype == torch.float64:
        raise ValueError("backend='flex' has no float64; use backend='tiles'")
    wants_gradient = torch.is_grad_enabled() and any(x.requires_grad for x in (queries, keys, values))
    if queries.device.type == "cpu" and wants_gradient:
        raise ValueError(
            "backend='flex' cannot be differentiated on CPU (FlexAttention has no backward there); "
            "use backend='tiles', or torch.no_grad()"
        )
    if queries.shape[0] == 0:
        return reference_attention(queries, keys, values, plan, scale, return_attention)
    block_mask = plan.derived(BlockMask, _block_mask)
    head_dim = values.shape[-1]
    inputs = [_padded(x if wants_gradient else x.detach()) for x in (queries, keys, values)]
    # The CPU kernel multiplies what lies in memory behind the last key by 0, and that may be NaN: it gets whole blocks.
    inputs[1:] = [pad(x, (0, 0, 0, -x.shape[-2] % BLOCK)) for x in inputs[1:]]
    out = _compiled_flex_attention(*inputs, block_mask=block_mask, scale=scale)[..., :head_dim]
    if not return_attention:
        return out
    return out, reference_attention(queries, keys, values, plan, scale, True)[1]


def _padded(x: Tensor) -> Tensor:
    return pad(x, (0, max(0, SMALLEST_HEAD_DIM - x.shape[-1])))


def _block_mask(plan: AttentionPlan) -> BlockMask:
    """Which blocks of scores hold any edge, from the sparse masks: create_block_mask would make the dense ones first.

    The masks themselves are looked up in bits, an eighth of their size as bool: the plan is arbitrary, so no formula
    can replace them.
    """
    rows, columns = -(-plan.num_queries // BLOCK), -(-plan.num_keys // BLOCK)
    edges = np.zeros((plan.num_heads, rows * columns), dtype=np.int64)
    words = np.zeros((plan.num_heads, plan.num_queries, columns * BLOCK // WORD_BITS), dtype=np.uint32)
    for head, mask in enumerate(plan.sparse_masks()):
        query, key = mask.nonzero()
        edges[head] = np.bincount(query // BLOCK * columns + key // BLOCK, minlength=rows * columns)
        np.bitwise_or.at(words[head], (query, key // WORD_BITS), np.uint32(1) << (key % WORD_BITS).astype(np.uint32))
    edges = torch.from_numpy(edges).view(1, plan.num_heads, rows, columns)
    bits = torch.from_numpy(words.view(np.int32)).to(plan.device)

    def may_attend(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return ((bits[head, query, key // WORD_BITS] >> (key % WORD_BITS)) & 1) != 0

    def ordered(blocks: Tensor) -> tuple[Tensor, Tensor]:
        """Number of True blocks in each row, and all block columns with those first."""
        order = blocks.int().argsort(dim=-1, descending=True, stable=True)
        return blocks.sum(-1, dtype=torch.int32).to(plan.device), order.int().to(plan.device)

    full = edges == BLOCK * BLOCK
    return BlockMask.from_kv_blocks(
        *ordered((edges > 0) & ~full),
        *ordered(full),
        BLOCK_SIZE=BLOCK,
        mask_mod=may_attend,
        seq_lengths=(plan.num_queries, columns * BLOCK),
    )
