"""How alike two images are, by pixels and by local structure: PSNR and SSIM. Read next: perceptual.py."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


def psnr(images: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in decibels, [B], of images in [-1, 1]: 10 log10(2^2 / MSE). Equal images give inf."""
    error = (images - reference).square().flatten(1).mean(1)
    return 10 * torch.log10(4 / error)


def ssim(images: Tensor, reference: Tensor, window: int = 11, sigma: float = 1.5) -> Tensor:
    """Structural similarity, [B], of images in [-1, 1]; 1 for equal ones.

    Gaussian window as in Wang et al. (2004), where it fits inside the image; mean over channels and positions.
    Images smaller than the window use the largest odd window that fits.
    """
    window = min(window, images.shape[-1] - 1 + images.shape[-1] % 2)
    offsets = torch.arange(window, dtype=images.dtype, device=images.device) - window // 2
    line = torch.exp(-(offsets**2) / (2 * sigma**2))
    line = line / line.sum()
    channels = images.shape[1]
    kernel = torch.outer(line, line).expand(channels, 1, window, window)

    def blur(x: Tensor) -> Tensor:
        return F.conv2d(x, kernel, groups=channels)

    reference = reference.expand_as(images)
    mean_x, mean_y = blur(images), blur(reference)
    var_x, var_y = blur(images**2) - mean_x**2, blur(reference**2) - mean_y**2
    covariance = blur(images * reference) - mean_x * mean_y
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2  # the range of values is 2
    score = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return (score / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))).flatten(1).mean(1)


@dataclass(frozen=True, eq=False)
class Distance:
    """A named distance between images: ``distance(images [B, C, R, R], reference [1 or B, C, R, R]) -> [B]``."""

    name: str
    function: Callable[[Tensor, Tensor], Tensor]

    def __call__(self, images: Tensor, reference: Tensor) -> Tensor:
        with torch.no_grad():
            return self.function(images, reference)


def ssim_distance() -> Distance:
    """1 - SSIM: what is used where no perceptual network is installed."""
    return Distance("1 - SSIM", lambda images, reference: 1 - ssim(images, reference))


def decibels(value: float) -> float:
    """PSNR for tables and JSON, which have no infinity: 99 dB stands for equal images."""
    return 99.0 if math.isinf(value) else value
