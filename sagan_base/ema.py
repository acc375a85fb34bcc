"""The exponential moving average of the generator: the network that is evaluated, shown and shipped.

Parameters are averaged. Buffers are copied: moving statistics are averages already, and an average of power-iteration
vectors of different weights would belong to none of them.
"""

import copy

import torch
from torch import nn


class GeneratorEMA:
    """average = decay * average + (1 - decay) * trained, from ``start`` updates on; a plain copy before that.

    Args:
        generator: the network to follow; it is copied, so build it and move it to its device first.
        decay, start: ``ema_decay`` and ``ema_start`` of ``Recipe``.
    Attributes:
        module: the averaged generator, in evaluation mode, its parameters frozen.
    """

    def __init__(self, generator: nn.Module, decay: float, start: int = 0) -> None:
        self.module = copy.deepcopy(generator).requires_grad_(False).eval()
        self.decay = decay
        self.start = start
        self._parameters = list(self.module.parameters()), [p.detach() for p in generator.parameters()]
        kept, stored = self.module.state_dict(), generator.state_dict()  # buffers that are not constants
        names = [name for name, _ in generator.named_buffers() if name in stored]
        self._buffers = [kept[name] for name in names], [stored[name] for name in names]

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """Follow one update of the generator; ``updates`` is how many it has had, this one included."""
        average, trained = self._parameters
        if updates <= self.start:
            torch._foreach_copy_(average, trained)
        else:
            torch._foreach_lerp_(average, trained, 1.0 - self.decay)
        average_buffers, trained_buffers = self._buffers
        if average_buffers:
            torch._foreach_copy_(average_buffers, trained_buffers)
