"""Saliency: how much attention a key position receives, per head, and how to lay it over an image.

From Daras et al., arXiv:1911.12287, section 4: where the discriminator of a real image pays attention, an inversion
should match it most closely. Checked against the authors' numbers in tests/analysis/inversion/test_saliency.py.
"""

import math

import torch.nn.functional as F
from torch import Tensor


def key_grid(num_keys: int) -> tuple[int, int]:
    """The square grid of that many keys.

    Raises:
        ValueError: ``num_keys`` is not a perfect square.
    """
    side = math.isqrt(num_keys)
    if side * side != num_keys:
        raise ValueError(f"num_keys={num_keys} is not a perfect square; give the key grid's (height, width)")
    return side, side


def saliency(attention: Tensor) -> Tensor:
    """Mean attention that each key receives from the queries that attend to it.

    Args:
        attention: probabilities [..., num_queries, num_keys], zero outside the mask.
    Returns:
        [..., num_keys]: the sum over queries, divided by the number of queries with a non-zero entry. A key without
        any gets 0 (the published program gives NaN there; it happens when a softmax value underflows).
    """
    received = attention.sum(dim=-2)
    attending = (attention != 0).sum(dim=-2)
    return received / attending.clamp(min=1)


def saliency_maps(
    attention: Tensor, size: tuple[int, int], grid: tuple[int, int] | None = None, interpolation: str = "nearest"
) -> Tensor:
    """The saliency of each head as a map over an image or feature map.

    Args:
        attention: [batch, num_heads, num_queries, num_keys].
        size: (height, width) wanted.
        grid: the key grid; None means square.
        interpolation: "nearest" (published: each key cell becomes a rectangle) or "bilinear", half-pixel centres.
    Returns:
        [batch, num_heads, height, width].
    Raises:
        ValueError: ``interpolation`` is unknown or the keys do not fill the grid.
    """
    modes = {"nearest": "nearest-exact", "bilinear": "bilinear"}
    if interpolation not in modes:
        raise ValueError(f"interpolation={interpolation!r} is unknown; use one of {sorted(modes)}")
    rows, cols = grid or key_grid(attention.shape[-1])
    if rows * cols != attention.shape[-1]:
        raise ValueError(f"{attention.shape[-1]} keys do not fill a {rows}x{cols} grid")
    per_key = saliency(attention).unflatten(-1, (rows, cols))
    return F.interpolate(per_key, size=size, mode=modes[interpolation])
