"""Samples of a generator as a Dataset of 8-bit images, made batch by batch as they are asked for."""

import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from sagan_base.data import ImageData
from sagan_base.generator import Generator
from sagan_base.preview import images_to_uint8


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
        self._device = next(generator.parameters()).device
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
            self._start, self._batch = start, self._generate(slice(start, start + self._batch_size))
            self._bar.update(max(0, start + len(self._batch) - self._bar.n))
        return self._batch[i - start].expand(3, -1, -1)

    @torch.no_grad()
    def _generate(self, part: slice) -> Tensor:
        z, labels = self._z[part].to(self._device), self._labels[part].to(self._device)
        return images_to_uint8(self._generator(z, labels))

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
