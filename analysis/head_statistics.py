"""Numbers about attention heads: how spread, how far, how much on relays; and what a layer changes at all.

The residual gain starts at 0, where a layer changes nothing whatever its maps show. So beside each layer's statistics
stand the gain, and a comparison of the network with the gain as it is and set to 0.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import ylg
from analysis.inversion.distances import decibels, psnr
from analysis.inversion.saliency import dense, entropy_share, uniform_attention
from sagan_base.network import attention_off
from ylg import Pattern, SparseAttention2d, grid_order, head_steps
from ylg.grid_flow import relays


def head_statistics(layer: SparseAttention2d, attention: Tensor) -> list[dict[str, Any]]:
    """One dict a head, means over images and queries.

    Args:
        attention: [images, num_heads, num_queries, num_keys].
    Returns:
        ``entropy`` in bits, ``most entropy``, that of uniform attention over the allowed keys, and ``of the most``, the
        one over the other; ``distance`` from the query to where it looks, in key cells, and ``uniform distance`` of
        uniform attention; ``on relays``, the share of attention on the pattern's relay cells (None for patterns
        without), and ``uniform on relays``.
    """
    grid = layer.key_grid
    between = _distances(layer.grid, grid)
    rows = []
    patterns = [pattern for pattern, _ in head_steps(layer.pattern, layer.num_heads)]
    for head, uniform in enumerate(dense(uniform_attention(layer)).double()):
        maps = attention[:, head].double().cpu()
        mean = maps.mean(0)
        entropy, most = (torch.special.entr(p).sum(-1).mean().item() / math.log(2) for p in (maps, uniform))
        cells = relay_cells(layer, patterns[head], grid)
        rows.append(
            {
                "head": head,
                "pattern": head_names(layer)[head],
                "entropy": entropy,
                "most entropy": most,
                "of the most": entropy_share(maps, uniform),
                "distance": (mean * between).sum(-1).mean().item(),
                "uniform distance": (uniform * between).sum(-1).mean().item(),
                "on relays": None if cells is None else mean[:, cells].sum(-1).mean().item(),
                "uniform on relays": None if cells is None else uniform[:, cells].sum(-1).mean().item(),
            }
        )
    return rows


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
