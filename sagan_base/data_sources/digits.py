"""Scikit-learn's handwritten digits: 1,797 real grey pictures of 8x8 with 17 levels, shipped inside its wheel.

The training split has 1,442 of them. The test split is every fifth picture of each class, in the file's order: no
random numbers, so it is the same with every version of every library.
"""

from pathlib import Path

import numpy as np

from sagan_base.data_sources.arrays import from_arrays
from sagan_base.images import ImageData

USAGE = "digits"
CLASS_NAMES = tuple("0123456789")


def load(path: str, resolution: int, channels: int | None, split: str, cache: Path) -> ImageData:
    """The digits, grey by default.

    Raises:
        ValueError: a path is given.
    """
    if path:
        raise ValueError(f"'digits' takes no path, got {path!r}; for your own images use folder:{path}")
    from sklearn.datasets import load_digits

    digits = load_digits()
    held_out = np.zeros(len(digits.target), bool)
    for label in range(10):
        held_out[np.flatnonzero(digits.target == label)[4::5]] = True
    chosen = held_out if split == "test" else ~held_out
    pictures = np.rint(digits.images[chosen] * (255 / 16)).astype(np.uint8)
    source = "scikit-learn's handwritten digits (UCI, 8x8, enlarged; test split: every fifth picture of a class)"
    return from_arrays("digits", pictures, digits.target[chosen], CLASS_NAMES, source, resolution, channels or 1)
