"""Lookahead (Zhang et al., arXiv:1907.08610): after every k steps of any optimiser, go back part of the way.

The authors of the paper built it for their inversion but ran its operations once, before the loop; here it runs.
"""

import torch
from torch import Tensor
from torch.optim import Optimizer


class Lookahead:
    """Wraps an optimiser: slow weights move by ``alpha``, in (0, 1], towards the fast ones every ``k`` steps, and reset
    them; config.py refuses other values."""

    def __init__(self, optimizer: Optimizer, k: int = 5, alpha: float = 0.5) -> None:
        self.optimizer, self.k, self.alpha = optimizer, k, alpha
        self.taken = 0
        self.slow: list[Tensor] = [p.detach().clone() for group in optimizer.param_groups for p in group["params"]]

    @torch.no_grad()
    def step(self) -> None:
        self.optimizer.step()
        self.taken += 1
        if self.taken % self.k == 0:
            fast = [p for group in self.optimizer.param_groups for p in group["params"]]
            for slow, weight in zip(self.slow, fast, strict=True):
                slow.lerp_(weight, self.alpha)
                weight.copy_(slow)
