"""Saliency: how much attention a key position receives, per head; and what it would be if attention said nothing.

From Daras et al., arXiv:1911.12287, section 4: where the discriminator of a real image pays attention, an inversion
should match it most closely. Checked against the authors' numbers in tests/analysis/inversion/test_saliency.py.
Uniform attention over the mask is the control: what it gives as well is the mask's and no content.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor

from ylg.layer import SparseAttention2d


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


def saliency_maps(attention: Tensor, size: tuple[int, int]) -> Tensor:
    """The saliency of each head as a map over an image or feature map, each key cell a rectangle, as published.

    Args:
        attention: [batch, num_heads, num_queries, num_keys], of a square grid of keys.
        size: (height, width) wanted.
    Returns:
        [batch, num_heads, height, width].
    Raises:
        ValueError: the keys fill no square.
    """
    side = math.isqrt(attention.shape[-1])
    if side * side != attention.shape[-1]:
        raise ValueError(f"num_keys={attention.shape[-1]} is not a perfect square, so there is no map of them")
    return F.interpolate(saliency(attention).unflatten(-1, (side, side)), size=size, mode="nearest-exact")


def uniform_attention(layer: SparseAttention2d) -> list[csr_array]:
    """What a layer's map is when all its scores are equal: of each head float32 [num_queries, num_keys].

    Its entries are the keys that the head may attend to. Of a layer in sequential mode it is the product of its steps.
    """
    heads: list[csr_array] | None = None
    for plan in layer.plans:
        uniform = [evenly(mask) for mask in plan.sparse_masks()]
        heads = uniform if heads is None else [later @ earlier for later, earlier in zip(uniform, heads, strict=True)]
    return heads


def evenly(mask: csr_array) -> csr_array:
    """Each row of a mask [num_queries, num_keys] shared evenly among its entries."""
    counts = np.diff(mask.indptr)
    shares = np.repeat(1 / np.maximum(counts, 1), counts).astype(np.float32)
    return csr_array((shares, mask.indices, mask.indptr), shape=mask.shape)


def dense(uniform: list[csr_array]) -> Tensor:
    """``uniform_attention`` as one tensor [num_heads, num_queries, num_keys], as maps are."""
    return torch.stack([torch.from_numpy(head.toarray()) for head in uniform])


def entropy_share(attention: Tensor, uniform: Tensor) -> float:
    """Mean entropy over queries, as a share of uniform attention's: 1 where a head looks nowhere in particular.

    Args:
        attention, uniform: [..., num_queries, num_keys].
    """
    most = torch.special.entr(uniform.double()).sum(-1).mean()
    return float(torch.special.entr(attention.double()).sum(-1).mean() / most) if most > 0 else 1.0
