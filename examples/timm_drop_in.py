"""Sparse attention inside a published model: timm's vision transformers, their weights kept.

    python examples/timm_drop_in.py

Every ``timm.layers.Attention`` of a model is replaced by ``ylg.SparseAttention``, whose weights have the same names, so
that timm's load. Patches attend by the masks of a pattern over the patch grid; the class token attends to all patches
and is attended by all. Needs ``pip install timm``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

import ylg
from sagan_base.torchvision_compat import declare_missing_operators

declare_missing_operators()  # timm imports torchvision, whose compiled part may not fit this torch
from timm.models import VisionTransformer  # noqa: E402


class SparseTimmAttention(ylg.SparseAttention):
    """The layer with the arguments of timm's."""

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        if attn_mask is not None or is_causal:
            raise ValueError("the plan is the mask: give sparse attention neither attn_mask nor is_causal")
        return super().forward(x)


def make_sparse(model: VisionTransformer, pattern: str = "ltr_rtl", order: str = "manhattan") -> VisionTransformer:
    """Replaces the attention of every block, in place.

    Raises:
        ValueError: the heads do not divide among the pattern's steps, or the attention has parts that would be lost.
    """
    for block in model.blocks:
        dense = block.attn
        parts = (dense.q_norm, dense.k_norm, dense.norm, getattr(dense, "gate", None) or nn.Identity())
        if dense.attn_drop.p or dense.proj_drop.p or not all(isinstance(part, nn.Identity) for part in parts):
            raise ValueError(
                "attention dropout, norms and gates are not part of sparse attention; build the model without"
            )
        block.attn = SparseTimmAttention(
            dense.qkv.in_features,
            model.patch_embed.grid_size,
            pattern,
            dense.num_heads,
            order,
            extra_tokens=model.num_prefix_tokens,
            qkv_bias=dense.qkv.bias is not None,
        ).to(dense.qkv.weight)
        block.attn.load_state_dict(dense.state_dict())
    return model


def main() -> None:
    torch.manual_seed(0)
    model = VisionTransformer(img_size=128, patch_size=8, embed_dim=96, depth=4, num_heads=4, num_classes=10)
    images = torch.randn(2, 3, 128, 128)
    print("dense: ", model(images)[0, :4].tolist())
    print("sparse:", make_sparse(model)(images)[0, :4].tolist())
    print(model.blocks[0].attn.plan(model.patch_embed.grid_size).explain())


if __name__ == "__main__":
    main()
