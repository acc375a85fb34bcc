"""Numbers about attention heads: how spread, how far, how much on relays; and what a layer changes at all.

The residual gain starts at 0, where a layer changes nothing whatever its maps show. So beside each layer's statistics
stand the gain, and a comparison of the network with the gain as it is and set to 0.
"""

import math
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

import ylg
from analysis.inversion.distances import decibels, psnr
from sagan_base.attention_health import UNIFORM, MapHealth, Maps
from sagan_base.network import attention_off
from ylg import Pattern, SparseAttention2d, grid_order, head_steps
from ylg.grid_flow import relays


def head_statistics(layer: SparseAttention2d, maps: Maps) -> pd.DataFrame:
    """A row a head, over the images of its layer's ``maps``.

    The columns ``entropy``, ``variation`` and ``between`` are those of ``MapHealth``; ``distance`` is that from the
    query to where it looks, in key cells, and ``on relays`` the share of attention on the pattern's relay cells (None
    for patterns without); both also for uniform attention. All but the first are means over queries.
    """
    away = _distances(layer.grid, layer.key_grid)
    rows = pd.DataFrame({"head": range(layer.num_heads), "pattern": head_names(layer), **asdict(maps.health())})
    cells = [relay_cells(layer, pattern, layer.key_grid) for pattern, _ in head_steps(layer.pattern, layer.num_heads)]
    for kind, mean in (("", maps.mean.cpu()), ("uniform ", maps.uniform.cpu())):
        rows[f"{kind}distance"] = (mean * away).sum(-1).mean(-1).tolist()
        rows[f"{kind}on relays"] = [
            None if heard is None else head[:, heard].sum(-1).mean().item()
            for head, heard in zip(mean, cells, strict=True)
        ]
    return rows


def told(health: MapHealth, head: int) -> str:
    """One line about a head's maps, for under a picture of one."""
    entropy, variation, between = health.entropy[head], health.variation[head], health.between[head]
    uniform = " (uniform)" if variation < UNIFORM else ""
    return f"entropy {entropy:.0%}, {variation:.2f} from uniform{uniform}, {between:.0%} of it between images"


def head_names(layer: SparseAttention2d) -> list[str]:
    """Of each head its pattern, and the step where that has several."""
    steps = head_steps(layer.pattern, layer.num_heads)
    return [f"{pattern.name} step {step + 1}" if pattern.num_steps > 1 else pattern.name for pattern, step in steps]


def relay_cells(layer: SparseAttention2d, pattern: str | Pattern, grid: tuple[int, int]) -> np.ndarray | None:
    """Row-major key cells that the pattern's last step hears from beyond a block; None where that is all or none.

    None also of a pattern native to the grid: its relays are meant to be all cells alike.
    """
    chosen = ylg.pattern(pattern)
    if chosen.on_grid:
        return None
    n = grid[0] * grid[1]
    positions = relays(ylg.sparse_step_masks(chosen, n, layer.stride), layer.stride or math.isqrt(n))
    if len(positions) in (0, n):
        return None
    return grid_order(*grid, layer.order).numpy()[positions]


def _distances(queries: tuple[int, int], keys: tuple[int, int]) -> Tensor:
    """Euclidean distance between the centres of query and key cells, in key cells: [num_queries, num_keys]."""

    def centres(grid: tuple[int, int]) -> Tensor:
        rows = (torch.arange(grid[0], dtype=torch.float64) + 0.5) * keys[0] / grid[0]
        cols = (torch.arange(grid[1], dtype=torch.float64) + 0.5) * keys[1] / grid[1]
        return torch.cartesian_prod(rows, cols)

    return torch.cdist(centres(queries), centres(keys))


@torch.no_grad()
def without_attention(
    generator: nn.Module, discriminator: nn.Module, z: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """What attention changes, on generated images.

    Returns:
        Images with it and without it, and: the gains; mean absolute difference of pixels (of a range of 1) and PSNR
        between the two; mean logits of the discriminator with and without its attention, on the images with it.
    """
    images = generator(z, labels)
    with attention_off(generator):
        off = generator(z, labels)
    logits = discriminator(images, labels)
    with attention_off(discriminator):
        logits_off = discriminator(images, labels)
    numbers = {
        "generator gains": _gains(generator),
        "discriminator gains": _gains(discriminator),
        "mean pixel difference without the generator's attention": (images - off).abs().mean().item() / 2,
        "PSNR between with and without (dB)": decibels(psnr(off, images).mean().item()),
        "mean logit": logits.mean().item(),
        "mean logit without the discriminator's attention": logits_off.mean().item(),
    }
    return images, off, numbers


def _gains(network: nn.Module) -> dict[str, float]:
    return {name: layer.gain.item() for name, layer in network.attention_layers().items()}
