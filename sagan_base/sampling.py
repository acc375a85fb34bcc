"""Drawing from a generator, and what becomes of the images: sheets for people, 8-bit samples for measurements.

``generate`` is the one place where codes and classes become images. The functions after it differ in where z comes
from, each with a random stream of its own, so that what is drawn for one purpose never depends on another. They all
want the generator in evaluation mode, except ``GeneratedImages``, which sees to it.
"""

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset
from tqdm import tqdm

from sagan_base.data import ImageData
from sagan_base.draws import latents, stream, truncated_latents
from sagan_base.generator import Generator

MAX_ROWS = 10  # of a preview
COLUMNS = 8


@torch.no_grad()
def generate(generator: nn.Module, z: Tensor, labels: Tensor, batch_size: int = 64) -> Tensor:
    """Images [N, C, R, R] in [-1, 1], on the CPU, of z [N, latent_dim] and labels int64 [N] on any device."""
    device = next(generator.parameters()).device
    parts = zip(z.split(batch_size), labels.split(batch_size), strict=True)
    return torch.cat([generator(some.to(device), classes.to(device)).cpu() for some, classes in parts])


def draw_class(
    generator: Generator, label: int, number: int, seed: int = 0, truncation: float | None = None, batch_size: int = 64
) -> Tensor:
    """Images of one class, [number, C, R, R] in [-1, 1]: the first ones are the same however many are drawn.

    Args:
        truncation: largest |z|; None draws z from N(0, 1).
    """
    source = stream(seed, "sample", label)
    if truncation is None:
        z = latents(source, number, generator.latent_dim)
    else:
        z = truncated_latents(source, number, generator.latent_dim, truncation)
    return generate(generator, z, torch.full((number,), label), batch_size)


def draw_any(generator: Generator, number: int, seed: int = 0) -> Tensor:
    """Images of the classes in turn, [number, C, R, R] in [-1, 1]: what a generator draws, by and large."""
    z = torch.randn(number, generator.latent_dim, generator=torch.Generator().manual_seed(seed))
    return generate(generator, z, torch.arange(number) % generator.num_classes)


def preview(generator: nn.Module, seed: int) -> Image.Image:
    """A sheet with a row per class, of the same latents every time, so that two sheets can be compared."""
    z, labels = preview_inputs(seed, generator.num_classes, generator.latent_dim)
    return sample_sheet(generate(generator, z, labels), COLUMNS)


@torch.no_grad()
def preview_maps(generator: Generator, seed: int) -> np.ndarray:
    """Where the generator's first attention layer looks from the middle of the first sample of each row of ``preview``.

    Returns:
        float16 [rows, num_heads, num_keys]: the attention probabilities of one query.
    """
    z, labels = (each[::COLUMNS] for each in preview_inputs(seed, generator.num_classes, generator.latent_dim))
    device, (rows, cols) = next(generator.parameters()).device, next(iter(generator.attention_layers().values())).grid
    _, maps = generator(z.to(device), labels.to(device), return_attention=True)
    maps = maps[0] if isinstance(maps, tuple) else maps
    return maps[:, :, rows // 2 * cols + cols // 2].half().cpu().numpy()


def preview_inputs(seed: int, num_classes: int, latent_dim: int) -> tuple[Tensor, Tensor]:
    """Fixed z [rows * COLUMNS, latent_dim] and labels [rows * COLUMNS], a row per class.

    Of more than ``MAX_ROWS`` classes, evenly spaced ones; without classes, a square of samples.
    """
    rows = min(num_classes, MAX_ROWS) if num_classes > 1 else COLUMNS
    classes = np.linspace(0, num_classes - 1, rows).round().astype(np.int64)
    z = latents(stream(seed, "preview"), rows * COLUMNS, latent_dim)
    return z, torch.from_numpy(classes).repeat_interleave(COLUMNS)


class GeneratedImages(Dataset[Tensor]):
    """Item i is the sample of ``labels[i]`` and of the i-th z of the seed, uint8 [3, R, R]; grey is repeated.

    Use as a context manager: the generator is in evaluation mode inside, and in its former mode afterwards. Reading in
    order makes each batch once. z is drawn on the CPU, so that every device sees the same.
    """

    def __init__(self, generator: Generator, labels: Tensor, seed: int, batch_size: int = 64, progress: bool = True):
        source = torch.Generator().manual_seed(seed)
        self._generator, self._batch_size = generator, batch_size
        self._labels = labels if generator.num_classes > 1 else torch.zeros_like(labels)
        self._z = torch.randn(len(labels), generator.latent_dim, generator=source)
        self._start, self._batch = -1, torch.empty(0)
        self._bar = tqdm(total=len(labels), unit="image", desc="samples", leave=False, disable=not progress)
        self._was_training = generator.training

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, i: int) -> Tensor:
        if not 0 <= i < len(self):
            raise IndexError(f"sample {i} of {len(self)}")
        start = i - i % self._batch_size
        if start != self._start:
            part = slice(start, start + self._batch_size)
            images = generate(self._generator, self._z[part], self._labels[part], self._batch_size)
            self._start, self._batch = start, to_uint8(images)
            self._bar.update(max(0, start + len(self._batch) - self._bar.n))
        return self._batch[i - start].expand(3, -1, -1)

    def __enter__(self) -> "GeneratedImages":
        self._was_training = self._generator.training
        self._generator.eval()
        return self

    def __exit__(self, *_: object) -> None:
        self._generator.train(self._was_training)
        self._bar.close()


def class_frequency_labels(data: ImageData, num_samples: int, seed: int) -> Tensor:
    """int64 [num_samples]: each class as often as the data has it, exact up to rounding, in random order."""
    share = data.class_counts.double() * num_samples / len(data)
    counts = share.floor().long()
    remainder = (share - counts).argsort(descending=True, stable=True)
    counts[remainder[: num_samples - int(counts.sum())]] += 1
    labels = torch.arange(data.num_classes).repeat_interleave(counts)
    return labels[torch.randperm(num_samples, generator=torch.Generator().manual_seed(seed))]


def to_uint8(images: Tensor) -> Tensor:
    """[..., H, W] in [-1, 1] -> uint8 0..255 on the CPU, rounded to the nearest value; values outside are clipped."""
    return images.detach().float().add(1).mul(127.5).round().clamp(0, 255).to("cpu", torch.uint8)


def to_image(image: Tensor) -> Image.Image:
    """[C, H, W] in [-1, 1] -> an 8-bit Pillow image, "L" for one channel and "RGB" for three."""
    return sample_sheet(image[None], columns=1, border=0)


def sheet_images(sheet: Image.Image, columns: int = COLUMNS, border: int = 2) -> Tensor:
    """The inverse of ``sample_sheet``, for whole rows: [rows, columns, C, R, R] in [-1, 1]."""
    pixels = torch.from_numpy(np.array(sheet)).reshape(sheet.height, sheet.width, -1).permute(2, 0, 1)
    step = (sheet.width - border) // columns
    tiles = pixels.unfold(1, step, step).unfold(2, step, step)[..., border:, border:]  # each with the border before it
    return tiles.permute(1, 2, 0, 3, 4).float() / 127.5 - 1


def sample_sheet(images: Tensor, columns: int, border: int = 2) -> Image.Image:
    """Images [N, 1 or 3, H, W] in [-1, 1] side by side on white, ``columns`` a row, ``border`` pixels around each."""
    pixels = to_uint8(images)
    count, channels, height, width = pixels.shape
    rows = -(-count // columns)
    sheet = np.full((rows * (height + border) + border, columns * (width + border) + border, channels), 255, np.uint8)
    for i, image in enumerate(pixels.permute(0, 2, 3, 1).numpy()):
        top, left = border + i // columns * (height + border), border + i % columns * (width + border)
        sheet[top : top + height, left : left + width] = image
    return Image.fromarray(sheet[..., 0] if channels == 1 else sheet)
