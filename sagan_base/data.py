"""Real images by name: ``load_data("digits", 32)``, ``load_data("folder:PATH", 128)``.

The sources are in ``data_sources``, a file each. To add one, write a file with ``USAGE``, which says what people type,
and ``load(path, resolution, channels, split, cache)``, which gives an ``ImageData``; and enter it in ``SOURCES``.
"""

import os
from pathlib import Path

from sagan_base.data_sources import cifar10, digits, fashion_mnist, folder, imagenet
from sagan_base.files import user_path
from sagan_base.images import ImageData, evenly_spaced

__all__ = ["SOURCES", "SPLITS", "ImageData", "default_cache", "evenly_spaced", "load_data"]

SPLITS = ("train", "test")
SOURCES = {
    "digits": digits,
    "fashion-mnist": fashion_mnist,
    "cifar10": cifar10,
    "folder": folder,
    "imagenet": imagenet,
}


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
        raise ValueError(
            f"unknown data set {spec!r}; use one of {', '.join(source.USAGE for source in SOURCES.values())}"
        )
    if split not in SPLITS:
        raise ValueError(f"split={split!r} is unknown; use 'train' or 'test'")
    if resolution < 1:
        raise ValueError(f"resolution={resolution} is not positive")
    if channels not in (None, 1, 3):
        raise ValueError(f"channels={channels}: use 1 (grey), 3 (colour) or None (as the data set has it)")
    return SOURCES[name].load(path, resolution, channels, split, Path(cache) if cache else default_cache())


def default_cache() -> Path:
    """Where decoded images, classifiers and statistics are kept: $YLG_CACHE, or ylg in the user's cache folder."""
    return user_path(os.environ.get("YLG_CACHE") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "ylg"))
