"""A stage after the inversion: adapt the generator to one image, which is no reconstruction by z alone."""

import math
from collections.abc import Callable
from copy import deepcopy

import torch
from torch import Tensor, nn

from analysis.inversion.config import InversionConfig
from analysis.inversion.loss import InversionLoss


def tune(
    generator: nn.Module,
    loss: InversionLoss,
    real: Tensor,
    code: Tensor,
    label: Tensor,
    config: InversionConfig,
    report: Callable[[str, int, int, float], None],
) -> tuple[Tensor | None, list[float], bool]:
    """Adapt a copy of the generator to this one image (as Pan et al., arXiv:2003.13659, do after finding z).

    Minimises the inversion's loss plus the mean squared difference of pixels, each relative to its value before; the
    code [1, d] moves too. Batch statistics stay as stored. Ctrl-C keeps what there is.

    Returns:
        The image of the lowest loss [C, H, W] (None where there was no time for one), the losses, and whether Ctrl-C
        ended it.
    """
    tuned = deepcopy(generator).requires_grad_(True)
    code = code.clone().requires_grad_(True)
    moving = [*tuned.parameters(), code]
    adam = torch.optim.Adam(moving, lr=config.tune_learning_rate)
    best, losses, scale, lowest = None, [], None, math.inf
    try:
        for step in range(config.tune_steps):
            image = tuned(code, label)
            parts = torch.stack([loss.objective(loss.terms(image)), (image - real).square().mean()])
            # What is matched already has nothing to be relative to.
            scale = parts.detach().clamp(min=torch.finfo(parts.dtype).tiny) if scale is None else scale
            value = (parts / scale).sum()
            losses.append(float(value.detach()))
            if losses[-1] < lowest:
                lowest, best = losses[-1], image.detach()[0].cpu()
            report("tuning", step + 1, config.tune_steps, lowest)
            adam.zero_grad()
            value.backward(inputs=moving)
            adam.step()
    except KeyboardInterrupt:
        return best, losses, True
    return best, losses, False
