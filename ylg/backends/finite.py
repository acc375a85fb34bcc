"""What is not finite stays with those who attend to it: one rule for all backends, forward and backward.

Outside a mask weights are 0, yet 0 * inf and 0 * NaN are NaN, so that one bad number in a key or a value would reach
every query that shares a matrix product with it. Where inputs are all finite, which one sum tells, plain products are
exact and nothing is paid for the rule.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ylg.devices import wide


def all_finite(*tensors: Tensor) -> bool:
    """Whether plain products are safe. Says False also where sums overflow, or cannot be read (graph capture)."""
    if tensors[0].is_cuda and torch.cuda.is_current_stream_capturing():
        return False
    return math.isfinite(sum(wide(x.detach()).sum() for x in tensors))


def guarded_product(left: Tensor, right: Tensor, weights: Tensor) -> Tensor:
    """Batched ``left @ right``, in which what is not finite in ``right`` reaches only rows of ``weights`` above 0."""
    product = left @ right.where(right.isfinite(), 0)
    for sign in (1, -1):  # NaN counts as both, and inf - inf is NaN
        reached = weights @ (~(sign * right < math.inf)).to(weights.dtype) > 0
        product = product + torch.zeros_like(product).masked_fill_(reached, sign * math.inf)
    return product
