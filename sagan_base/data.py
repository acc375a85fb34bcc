"""Real images by name: ``load_data("digits", 32)``, ``load_data("folder:PATH", 128)``.

A data set is one array of uint8 pixels (in memory, or memory-mapped when it is large), its labels, and a fingerprint
of both. The sources are in ``data_sources``; to add one, write a function with the signature of ``digits.load`` and
enter it in ``SOURCES``.
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from sagan_base.data_sources import cifar10, decoding, digits, fashion_mnist, folder
from sagan_base.data_sources.pictures import RESIZE_RULE

SPLITS = ("train", "test")


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
            computed = _fingerprint(self.images.shape, _digest(self.images), self.labels, self.class_names)
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
        here = index.to(self.images.device)
        pixels = self.images[here].to(device, non_blocking=True)
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


def load_data(
    spec: str,
    resolution: int,
    channels: int | None = None,
    split: str = "train",
    cache: Path | None = None,
) -> ImageData:
    """Load a data set by name, at the network's size.

    Args:
        spec: ``NAME`` or ``NAME:PATH``; the names are the keys of ``SOURCES``.
        resolution: side of the square images wanted.
        channels: 1 (grey) or 3 (colour); None lets the source decide.
        split: "train" or "test".
        cache: folder for decoded images; None means ``default_cache()``.
    Raises:
        ValueError: unknown name, missing or empty folder, unreadable image, no such split; says what to do.
    """
    name, _, path = spec.partition(":")
    if name not in SOURCES:
        raise ValueError(f"unknown data set {spec!r}; use one of {', '.join(USAGE)}")
    if split not in SPLITS:
        raise ValueError(f"split={split!r} is unknown; use 'train' or 'test'")
    if resolution < 1:
        raise ValueError(f"resolution={resolution} is not positive")
    if channels not in (None, 1, 3):
        raise ValueError(f"channels={channels}: use 1 (grey), 3 (colour) or None (as the data set has it)")
    return SOURCES[name](path, resolution, channels, split, Path(cache) if cache else default_cache())


def evenly_spaced(count: int, most: int) -> Tensor:
    """Indices int64 of all ``count`` items, or of ``most`` of them at even distances: a sample without luck."""
    kept = min(count, most)
    return torch.arange(kept) * count // kept


def default_cache() -> Path:
    """Where decoded images, classifiers and statistics are kept: $YLG_CACHE, or ylg in the user's cache folder."""
    if given := os.environ.get("YLG_CACHE"):
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ylg"


def _load_digits(path: str, resolution: int, channels: int | None, split: str, cache: Path) -> ImageData:
    if path:
        raise ValueError(f"'digits' takes no path, got {path!r}; for your own images use folder:{path}")
    return _from_arrays("digits", *digits.load(resolution, channels, split))


def _load_fashion_mnist(path: str, resolution: int, channels: int | None, split: str, cache: Path) -> ImageData:
    return _from_arrays("fashion-mnist", *fashion_mnist.load(path, resolution, channels, split, cache))


def _load_cifar10(path: str, resolution: int, channels: int | None, split: str, cache: Path) -> ImageData:
    return _from_arrays("cifar10", *cifar10.load(path, resolution, channels, split, cache))


def _load_folder(path: str, resolution: int, channels: int | None, split: str, cache: Path) -> ImageData:
    if not path:
        raise ValueError("folder: needs a path, as in folder:my_images")
    return _from_listing(folder.list_folder(path, split), Path(path), resolution, channels, cache)


def _load_imagenet(path: str, resolution: int, channels: int | None, split: str, cache: Path) -> ImageData:
    if not path:
        raise ValueError("imagenet: needs a path, as in imagenet:/data/ILSVRC2012, the folder that has train/")
    return _from_listing(folder.list_split_folder(path, split), Path(path), resolution, channels or 3, cache)


def _from_arrays(
    name: str, images: np.ndarray, labels: np.ndarray, class_names: tuple[str, ...], source: str
) -> ImageData:
    labels = torch.from_numpy(np.asarray(labels, np.int64))
    return ImageData(name, torch.from_numpy(images), labels, class_names, source=source)


def _from_listing(listing: folder.Listing, root: Path, resolution: int, channels: int | None, cache: Path) -> ImageData:
    decoded = decoding.decode(listing, resolution, channels or 3, cache)
    images = torch.from_numpy(decoded.pixels)
    if channels is None and decoded.is_grey:
        images = images[:, :1]
    labels = torch.tensor(listing.labels, dtype=torch.int64)
    notes = []
    if len(listing.class_names) == 1:
        notes.append("a single class: networks trained on it are unconditional; for labels, use one sub-folder a class")
    if listing.ignored:
        notes.append(f"sub-folders without images, ignored: {', '.join(listing.ignored[:5])}")
    if listing.loose:
        notes.append(f"{listing.loose} images beside the class folders belong to no class and are left out")
    return ImageData(
        name=root.expanduser().resolve().name,
        images=images,
        labels=labels,
        class_names=listing.class_names,
        fingerprint=_fingerprint(images.shape, decoded.digest, labels, listing.class_names),
        source=f"{listing.root} ({RESIZE_RULE})",
        notes=tuple(notes),
    )


def _digest(images: Tensor) -> str:
    digest = hashlib.sha256()
    for part in images.split(1024):
        digest.update(part.cpu().contiguous().numpy())
    return digest.hexdigest()


def _fingerprint(shape: torch.Size, pixel_digest: str, labels: Tensor, class_names: tuple[str, ...]) -> str:
    digest = hashlib.sha256(f"{tuple(shape)}\n{pixel_digest}\n{RESIZE_RULE}\n{class_names}\n".encode())
    digest.update(labels.cpu().contiguous().numpy())
    return digest.hexdigest()


Loader = Callable[[str, int, int | None, str, Path], ImageData]
SOURCES: dict[str, Loader] = {
    "digits": _load_digits,
    "fashion-mnist": _load_fashion_mnist,
    "cifar10": _load_cifar10,
    "folder": _load_folder,
    "imagenet": _load_imagenet,
}
USAGE = ("digits", "fashion-mnist[:FOLDER]", "cifar10[:FOLDER]", "folder:PATH", "imagenet:PATH")
