"""Differentiable augmentation of everything the discriminator sees, so that it cannot learn a small data set by heart.

Real and generated images are changed alike, in the discriminator's and in the generator's update; the gradient flows
through the change, so the generator does not learn to draw it. From Zhao et al., arXiv:2006.10738 (DiffAugment). The
random numbers come from outside (draws.py), so that a resumed run augments as the undisturbed one would.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from sagan_base.config import AUGMENTATIONS

NUM_DRAWS = 7  # colour takes the first three, translation two, cutout two; whatever the choice, so choices compare


def augment(images: Tensor, draws: Tensor, names: tuple[str, ...]) -> Tensor:
    """Change each image in its own way.

    Args:
        images: [B, 1 or 3, R, R], around [-1, 1]; values may leave that range.
        draws: uniform numbers in [0, 1), float [B, ``NUM_DRAWS``].
        names: some of ``AUGMENTATIONS``; they act in that order, whatever the order given.
    Returns:
        [B, C, R, R], differentiable in ``images``.
    """
    parts = {"colour": (_colour, draws[:, :3]), "translation": (_translation, draws[:, 3:5])}
    parts["cutout"] = (_cutout, draws[:, 5:7])
    for name in AUGMENTATIONS:
        if name in names:
            change, its_draws = parts[name]
            images = change(images, *its_draws.T[:, :, None, None, None])
    return images


def _colour(images: Tensor, brightness: Tensor, saturation: Tensor, contrast: Tensor) -> Tensor:
    """Brightness by -0.5 to 0.5, saturation times 0 to 2, contrast times 0.5 to 1.5."""
    images = images + (brightness - 0.5)
    grey = images.mean(1, keepdim=True)
    images = torch.lerp(grey, images, 2 * saturation)
    mean = images.mean((1, 2, 3), keepdim=True)
    return torch.lerp(mean, images, contrast + 0.5)


def _translation(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """By up to an eighth of the side in whole pixels; black comes in."""
    side = images.shape[-1]
    reach = round(side / 8)
    padded = F.pad(images, [reach] * 4, value=-1.0).permute(0, 2, 3, 1)
    cells = torch.arange(side, device=images.device)
    rows, columns = (cells + (move * (2 * reach + 1)).long().flatten()[:, None] for move in (down, right))
    image = torch.arange(len(images), device=images.device)[:, None, None]
    return padded[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _cutout(images: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """A grey square of half the side, its centre anywhere; it may stick out."""
    side = images.shape[-1]
    cells = torch.arange(side, device=images.device)
    inside = ((cells[:, None] - (row * side).long()) + side // 4).div(side // 2, rounding_mode="floor") == 0
    inside = inside & (((cells - (column * side).long()) + side // 4).div(side // 2, rounding_mode="floor") == 0)
    return images * ~inside
