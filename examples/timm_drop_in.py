"""Sparse attention inside a published model: timm's vision transformers, their weights kept.

    python examples/timm_drop_in.py

Every ``timm.layers.Attention`` of a model is replaced by ``SparseAttention`` below, which keeps its projections and
computes ``ylg.sparse_attention`` where timm calls ``scaled_dot_product_attention``. Patches attend by the masks of a
pattern over the patch grid; the class token attends to all patches and is attended by all. Needs ``pip install timm``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

import ylg
from sagan_base.metrics.torchvision_compat import declare_missing_operators

declare_missing_operators()  # timm imports torchvision, whose compiled part may not fit this torch
from timm.layers import Attention  # noqa: E402
from timm.models import VisionTransformer  # noqa: E402


class SparseAttention(nn.Module):
    """timm's attention, its heads restricted to the masks of a plan."""

    def __init__(self, dense: Attention, plan: ylg.AttentionPlan):
        super().__init__()
        self.dense, self.plan = dense, plan

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        if attn_mask is not None or is_causal:
            raise ValueError("the plan is the mask: give SparseAttention neither attn_mask nor is_causal")
        dense = self.dense
        qkv = dense.qkv(x).unflatten(-1, (3, dense.num_heads, dense.head_dim)).permute(2, 0, 3, 1, 4)
        q, k, v = dense.q_norm(qkv[0]), dense.k_norm(qkv[1]), qkv[2]
        out = ylg.sparse_attention(q, k, v, self.plan, scale=dense.scale)
        return dense.proj_drop(dense.proj(dense.norm(out.transpose(1, 2).flatten(2))))


def make_sparse(model: VisionTransformer, pattern: str = "ltr_rtl", order: str = "manhattan") -> VisionTransformer:
    """Replaces the attention of every block, in place.

    Raises:
        ValueError: the heads do not divide among the pattern's steps, or the attention has parts that would be lost.
    """
    for block in model.blocks:
        if block.attn.attn_drop.p or getattr(block.attn, "gate", None) is not None:
            raise ValueError("attention dropout and gates are not part of sparse attention; build the model without")
        masks = ylg.head_masks(pattern, model.patch_embed.grid_size, num_heads=block.attn.num_heads, order=order)
        prefix = model.num_prefix_tokens
        masks = pad(masks, (prefix, 0, prefix, 0), value=True)
        block.attn = SparseAttention(block.attn, ylg.attention_plan(masks))
    return model


def main() -> None:
    torch.manual_seed(0)
    model = VisionTransformer(img_size=128, patch_size=8, embed_dim=96, depth=4, num_heads=4, num_classes=10)
    images = torch.randn(2, 3, 128, 128)
    print("dense: ", model(images)[0, :4].tolist())
    print("sparse:", make_sparse(model)(images)[0, :4].tolist())
    print(model.blocks[0].attn.plan.explain())


if __name__ == "__main__":
    main()
