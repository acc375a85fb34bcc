"""Sparse attention in a diffusion U-Net of diffusers, whatever its weights: a processor takes the place of SDPA.

    python examples/diffusers_unet.py        # a minute: learns to take noise off digits, dense and sparse

diffusers lets an attention processor compute what an ``Attention`` module attends to; everything else, names of the
weights too, stays the model's. Needs ``pip install diffusers``.
"""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

import ylg
from sagan_base.data import load_data
from sagan_base.torchvision_compat import declare_missing_operators

declare_missing_operators()  # diffusers imports torchvision, whose compiled part may not fit this torch
from diffusers import DDPMScheduler, UNet2DModel  # noqa: E402
from diffusers.models.attention_processor import Attention  # noqa: E402


@lru_cache
def plan(pattern: str, order: str, grid: tuple[int, int], heads: int) -> ylg.AttentionPlan:
    return ylg.attention_plan(ylg.head_masks(pattern, grid, num_heads=heads, order=order))


class SparseProcessor:
    """Self-attention of a feature map under a pattern's masks, on whatever grid the map has.

    Args:
        pattern, order: as in ``ylg.head_masks``.
    """

    def __init__(self, pattern: str = "interlaced8", order: str = "manhattan"):
        self.pattern, self.order = pattern, order

    def __call__(
        self,
        module: Attention,
        maps: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        if encoder_hidden_states is not None or attention_mask is not None or maps.ndim != 4:
            raise ValueError("sparse attention is self-attention of a map [B, C, H, W]; leave this module as it was")
        grid = tuple(maps.shape[2:])
        tokens = maps.flatten(2)
        if module.group_norm is not None:
            tokens = module.group_norm(tokens)
        tokens = tokens.mT
        queries, keys, values = (
            project(tokens).unflatten(2, (module.heads, -1)).transpose(1, 2)
            for project in (module.to_q, module.to_k, module.to_v)
        )
        masks = plan(self.pattern, self.order, grid, module.heads)
        mixed = ylg.sparse_attention(queries, keys, values, masks, module.scale).transpose(1, 2).flatten(2)
        for layer in module.to_out:  # a linear layer and dropout
            mixed = layer(mixed)
        result = mixed.mT.unflatten(2, grid)
        return (result + maps * module.residual_connection) / module.rescale_output_factor


def unet(side: int = 16) -> UNet2DModel:
    """A U-Net for grey images whose attention stands at full resolution, where dense attention is dearest."""
    return UNet2DModel(
        sample_size=side, in_channels=1, out_channels=1, layers_per_block=1, block_out_channels=(32, 64),
        down_block_types=("AttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "AttnUpBlock2D"),
        attention_head_dim=4, norm_num_groups=8,
    )  # fmt: skip


def make_sparse(model: UNet2DModel, pattern: str = "interlaced8", order: str = "manhattan") -> UNet2DModel:
    """Give every attention of a model the processor, in place; its weights stay."""
    for module in model.modules():
        if isinstance(module, Attention):
            module.set_processor(SparseProcessor(pattern, order))
    return model


def train(model: UNet2DModel, images: Tensor, steps: int) -> list[float]:
    """Losses of learning to tell the noise in images [N, 1, H, W] in [-1, 1]."""
    scheduler, optimizer = DDPMScheduler(), torch.optim.Adam(model.parameters(), 1e-3)
    losses = []
    for _ in range(steps):
        clean = images[torch.randint(len(images), (16,))]
        noise, times = torch.randn_like(clean), torch.randint(scheduler.config.num_train_timesteps, (16,))
        loss = F.mse_loss(model(scheduler.add_noise(clean, noise, times), times).sample, noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def main(steps: int = 150) -> None:
    images, _ = (data := load_data("digits", 16)).batch(torch.arange(len(data)))
    for name, change in (("dense", lambda model: model), ("interlaced8", make_sparse)):
        torch.manual_seed(0)
        losses = torch.tensor(train(change(unet()), images, steps))
        first, last = losses[: steps // 10 + 1].mean(), losses[-(steps // 10 + 1) :].mean()
        print(f"{name}: loss {first:.3f} at the start, {last:.3f} at the end")


if __name__ == "__main__":
    main()
