"""Saliency: how much attention a key position receives, per head.

From Daras et al., arXiv:1911.12287, section 4: where the discriminator of a real image pays attention, an inversion
should match it most closely. Checked against the authors' numbers in tests/analysis/inversion/test_saliency.py.
"""

import math

import torch.nn.functional as F
from torch import Tensor


def saliency(attention: Tensor, queries: str = "attending") -> Tensor:
    """Mean attention that each key receives from the queries that attend to it, or from all.

    Args:
        attention: probabilities [..., num_queries, num_keys], zero outside the mask.
        queries: "attending" divides the sum over queries by the number with a non-zero entry, as the published program
            does; "all" by the number of queries, as the paper's equation does.
    Returns:
        [..., num_keys]. A key that no query attends to gets 0 (the published program gives NaN there; it happens when a
        softmax value underflows).
    """
    received = attention.sum(dim=-2)
    if queries == "all":
        return received / attention.shape[-2]
    attending = (attention != 0).sum(dim=-2)
    return received / attending.clamp(min=1)


def saliency_maps(attention: Tensor, size: tuple[int, int], queries: str = "attending") -> Tensor:
    """The saliency of each head as a map over an image or feature map, each key cell a rectangle, as published.

    Args:
        attention: [batch, num_heads, num_queries, num_keys], of a square grid of keys.
        size: (height, width) wanted. queries: as for ``saliency``.
    Returns:
        [batch, num_heads, height, width].
    Raises:
        ValueError: the keys fill no square.
    """
    side = math.isqrt(attention.shape[-1])
    if side * side != attention.shape[-1]:
        raise ValueError(f"num_keys={attention.shape[-1]} is not a perfect square, so there is no map of them")
    return F.interpolate(saliency(attention, queries).unflatten(-1, (side, side)), size=size, mode="nearest-exact")
