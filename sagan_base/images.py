"""A data set: one array of uint8 pixels (in memory, or memory-mapped when it is large), labels, and a fingerprint."""

import hashlib
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from sagan_base.data_sources.pictures import RESIZE_RULE


@dataclass(frozen=True, eq=False)
class ImageData:
    """Labelled images of one size.

    Attributes:
        name: short, for labels of columns: "digits", or the folder's name.
        images: uint8 [N, channels, resolution, resolution], values 0..255; possibly memory-mapped.
        labels: int64 [N], indices into ``class_names``.
        class_names: one a class.
        fingerprint: hex SHA-256 over pixels, labels, class names and the resize rule; computed where not given.
        source: one line that says where the images come from and what was done to them.
        notes: warnings about the data set, shown by ``describe``.
    Raises:
        ValueError: shapes, types or labels that do not fit together.
    """

    name: str
    images: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    class_names: tuple[str, ...]
    fingerprint: str = ""
    source: str = ""
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        shape = tuple(self.images.shape)
        if self.images.dtype != torch.uint8 or len(shape) != 4 or shape[1] not in (1, 3) or shape[2] != shape[3]:
            raise ValueError(f"images are {self.images.dtype} {shape}; expected uint8 [N, 1 or 3, R, R]")
        if self.labels.dtype != torch.int64 or tuple(self.labels.shape) != shape[:1] or not shape[0]:
            raise ValueError(f"{shape[0]} images with labels {self.labels.dtype} {tuple(self.labels.shape)}")
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < 0 or high >= len(self.class_names):
            raise ValueError(f"labels range over {low}..{high}, but there are {len(self.class_names)} class names")
        if not self.fingerprint:
            computed = fingerprint(self.images.shape, _digest(self.images), self.labels, self.class_names)
            object.__setattr__(self, "fingerprint", computed)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def resolution(self) -> int:
        return self.images.shape[-1]

    @property
    def channels(self) -> int:
        return self.images.shape[1]

    @property
    def class_counts(self) -> Tensor:
        """int64 [num_classes]: how many images each class has."""
        return torch.bincount(self.labels.cpu(), minlength=self.num_classes)

    def batch(self, index: Tensor, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """The images of these indices as float32 in [-1, 1] (x / 127.5 - 1), and their labels, on ``device``."""
        pixels = self.images[index.to(self.images.device)].to(device, non_blocking=True)
        labels = self.labels[index.to(self.labels.device)].to(device, non_blocking=True)
        return pixels.float().div_(127.5).sub_(1), labels

    def describe(self) -> str:
        """A few lines for the start of a run: size, value range, classes with their counts, and warnings."""
        counts = self.class_counts.tolist()
        sample = self.images[:: max(1, len(self) // 1000)]
        kind = "grey" if self.channels == 1 else "colour"
        shown = [f"{name} {count}" for name, count in zip(self.class_names, counts, strict=True)]
        if len(shown) > 20:
            shown = [*shown[:10], f"... ({len(shown) - 15} more)", *shown[-5:]]
        few = [name for name, count in zip(self.class_names, counts, strict=True) if count == 0]
        empty = [f"no images of {', '.join(few[:5])}" + (", ..." if len(few) > 5 else "")] if few else []
        return "\n".join(
            [
                f"data: {self.name}, {len(self):,} {kind} images of {self.resolution}x{self.resolution}, "
                f"values {int(sample.min())}..{int(sample.max())} of 0..255 (shown to the networks as -1..1)",
                f"  {self.num_classes} {'class' if self.num_classes == 1 else 'classes'}: {', '.join(shown)}",
                f"  source: {self.source or 'given as arrays'}; fingerprint {self.fingerprint[:12]}",
                *(f"  warning: {note}" for note in (*self.notes, *empty)),
            ]
        )


def evenly_spaced(count: int, most: int) -> Tensor:
    """Indices int64 of all ``count`` items, or of ``most`` of them at even distances: a sample without luck."""
    kept = min(count, most)
    return torch.arange(kept) * count // kept


def halves(data: ImageData) -> tuple[ImageData, ImageData]:
    """Two parts of a data set, each with every other image of each class."""
    by_class = data.labels.argsort(stable=True)
    parts = (by_class[start::2].sort().values for start in (0, 1))
    first, second = (
        replace(data, images=data.images[part], labels=data.labels[part], fingerprint="") for part in parts
    )
    return first, second


def _digest(images: Tensor) -> str:
    digest = hashlib.sha256()
    for part in images.split(1024):
        digest.update(part.cpu().contiguous().numpy())
    return digest.hexdigest()


def fingerprint(shape: torch.Size, pixel_digest: str, labels: Tensor, class_names: tuple[str, ...]) -> str:
    """Hex SHA-256 of a data set; ``pixel_digest`` is that of its pixels."""
    digest = hashlib.sha256(f"{tuple(shape)}\n{pixel_digest}\n{RESIZE_RULE}\n{class_names}\n".encode())
    digest.update(labels.cpu().contiguous().numpy())
    return digest.hexdigest()
