"""How far apart two images are: by pixels (PSNR), by local structure (SSIM), by a classification network's features.

LPIPS (Zhang et al., arXiv:1801.03924) compares features at several depths, normalised over channels at each location,
with learned weights per channel. Its weights must be downloaded, so it is used where their files are given. The default
is the same recipe on EfficientNet-Lite0, whose weights come with a small package, with all channels weighted equally:
its name says so, and its values compare with each other only. Without that package, 1 - SSIM.
"""

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sagan_base.efficientnet import efficientnet_lite0
from sagan_base.extras import install_command, missing_modules
from sagan_base.torchvision_compat import declare_missing_operators

Stages = Callable[[Tensor], list[Tensor]]
EFFICIENTNET_SIDE = 128  # features of smaller images would vanish in the network's five halvings


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
    """A named distance between images: ``distance(images [B, C, R, R], reference [1 or B, C, R, R]) -> [B]``.

    Attributes:
        compare: of what ``embed`` makes of each of the two, so that one image can be compared with many.
    """

    name: str
    compare: Callable[[Any, Any], Tensor]
    embed: Callable[[Tensor], Any] = lambda images: images

    def __call__(self, images: Tensor, reference: Tensor) -> Tensor:
        with torch.no_grad():
            return self.compare(self.embed(images), self.embed(reference))


def ssim_distance() -> Distance:
    """1 - SSIM: what is used where no perceptual network is installed."""
    return Distance("1 - SSIM", lambda images, reference: 1 - ssim(images, reference))


def decibels(value: float) -> float:
    """PSNR for tables and JSON, which have no infinity: 99 dB stands for equal images."""
    return 99.0 if math.isinf(value) else value


def choose_distance(lpips: tuple[Path, Path] | None = None) -> Distance:
    """The best distance there is here; says once, on standard error, when it is the last resort.

    Args:
        lpips: files of torchvision's VGG16 weights and of LPIPS's "vgg" weights (v0.1).
    Raises:
        ValueError: a given file is missing or does not hold these weights.
    """
    if lpips is not None:
        return lpips_distance(*lpips)
    if not missing_modules("features"):
        return efficientnet_distance()
    note = f"note: restarts are compared by 1 - SSIM; for perceptual features {install_command('features')}"
    print(note, file=sys.stderr)
    return ssim_distance()


@lru_cache(maxsize=1)
def efficientnet_distance() -> Distance:
    """Mean squared difference of EfficientNet-Lite0's five stages, normalised over channels, summed over stages."""
    network = efficientnet_lite0(features_only=True)
    network.requires_grad_(False)
    weigh_equally = [lambda squared: squared.sum(1)] * 5
    # The network was trained on (value - 127) / 128, which is [-1, 1] but for half a grey level.
    return _deep_distance("EfficientNet-Lite0 distance", network, weigh_equally, EFFICIENTNET_SIDE)


def lpips_distance(vgg: Path, linear: Path) -> Distance:
    """LPIPS 0.1 with VGG16.

    Args:
        vgg: state of ``torchvision.models.vgg16``. linear: LPIPS's ``vgg.pth`` ("lin0.model.1.weight", ...).
    Raises:
        ValueError: a file is missing or holds something else.
    """
    declare_missing_operators()
    from torchvision.models.vgg import cfgs, make_layers

    features = make_layers(cfgs["D"], batch_norm=False).eval().requires_grad_(False)
    state = _load(vgg)
    heads = _load(linear)
    try:
        features.load_state_dict({k.removeprefix("features."): v for k, v in state.items() if "features." in k})
        weights = [heads[f"lin{i}.model.1.weight"].flatten() for i in range(5)]
    except (RuntimeError, KeyError) as error:
        raise ValueError(f"{vgg} and {linear} are not the weights of VGG16 and LPIPS ({error})") from None
    shift = torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1)

    def stages(images: Tensor) -> list[Tensor]:
        x, kept = (images - shift.to(images)) / scale.to(images), []
        for index, layer in enumerate(features[:30]):
            x = layer(x)
            if index in (3, 8, 15, 22, 29):  # the last activation before each pooling
                kept.append(x)
        return kept

    weigh = [lambda squared, w=w: (squared * w.to(squared).view(1, -1, 1, 1)).sum(1) for w in weights]
    return _deep_distance("LPIPS (VGG16)", stages, weigh, 64, module=features)


def _load(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ValueError(f"{path} does not exist; give the files of VGG16's and LPIPS's weights")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling of arbitrary bytes raises nearly anything
        raise ValueError(f"{path} is not a file of weights ({type(error).__name__})") from None


def _deep_distance(
    name: str, stages: Stages, weigh: list[Callable[[Tensor], Tensor]], side: int, module: nn.Module | None = None
) -> Distance:
    """Args: stages: colour images in [-1, 1] -> feature maps. side: smaller images are enlarged to it."""
    module = stages if module is None else module

    def unit(images: Tensor) -> list[Tensor]:
        module.to(images.device)
        x = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
        if x.shape[-1] < side:
            x = F.interpolate(x, size=(side, side), mode="bicubic", align_corners=False).clamp(-1, 1)
        return [F.normalize(stage, dim=1, eps=1e-10) for stage in stages(x)]

    def compare(images: list[Tensor], reference: list[Tensor]) -> Tensor:
        triples = zip(images, reference, weigh, strict=True)
        return torch.stack([w((x - y).square()).mean((-2, -1)) for x, y, w in triples]).sum(0)

    return Distance(name, compare, unit)
