"""Pictures of samples: one sheet, a row per class, the same latents every time so that two sheets can be compared."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from sagan_base.draws import latents, stream

MAX_ROWS = 10
COLUMNS = 8


def images_to_uint8(images: Tensor) -> Tensor:
    """[..., H, W] in [-1, 1] -> uint8 0..255 on the CPU, rounded to the nearest value; values outside are clipped."""
    return images.detach().float().add(1).mul(127.5).round().clamp(0, 255).to("cpu", torch.uint8)


def sample_sheet(images: Tensor, columns: int, border: int = 2) -> Image.Image:
    """Images side by side on white, ``columns`` a row.

    Args:
        images: [N, 1 or 3, R, R] in [-1, 1].
        border: white pixels around each image.
    """
    pixels = images_to_uint8(images)
    count, channels, height, width = pixels.shape
    rows = -(-count // columns)
    sheet = np.full((rows * (height + border) + border, columns * (width + border) + border, channels), 255, np.uint8)
    for i, image in enumerate(pixels.permute(0, 2, 3, 1).numpy()):
        top, left = border + i // columns * (height + border), border + i % columns * (width + border)
        sheet[top : top + height, left : left + width] = image
    return Image.fromarray(sheet[..., 0] if channels == 1 else sheet)


def preview_inputs(seed: int, num_classes: int, latent_dim: int) -> tuple[Tensor, Tensor]:
    """Fixed z [rows * COLUMNS, latent_dim] and labels [rows * COLUMNS], a row per class.

    Of more than ``MAX_ROWS`` classes, evenly spaced ones; without classes, a square of samples.
    """
    rows = min(num_classes, MAX_ROWS) if num_classes > 1 else COLUMNS
    classes = np.linspace(0, num_classes - 1, rows).round().astype(np.int64)
    z = latents(stream(seed, "preview"), rows * COLUMNS, latent_dim)
    return z, torch.from_numpy(classes).repeat_interleave(COLUMNS)


@torch.no_grad()
def preview(generator: nn.Module, seed: int) -> Image.Image:
    """The sheet of ``generator`` (in evaluation mode) on the fixed inputs of this seed."""
    device = next(generator.parameters()).device
    z, labels = preview_inputs(seed, generator.num_classes, generator.latent_dim)
    batches = zip(z.split(64), labels.split(64), strict=True)
    images = torch.cat([generator(part.to(device), classes.to(device)).cpu() for part, classes in batches])
    return sample_sheet(images, COLUMNS)
