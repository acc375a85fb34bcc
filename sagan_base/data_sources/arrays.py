"""Data sets that come as arrays of small pictures: resampling them to the network's size."""

import numpy as np
import torch
from PIL import Image

from sagan_base.data_sources.pictures import fit_square
from sagan_base.images import ImageData


def from_arrays(
    name: str,
    pictures: np.ndarray,
    labels: np.ndarray,
    class_names: tuple[str, ...],
    source: str,
    resolution: int,
    channels: int,
) -> ImageData:
    """A data set of pictures uint8 [N, h, w] (grey) or [N, h, w, 3] (colour) and integer labels [N]."""
    images = np.empty((len(pictures), channels, resolution, resolution), np.uint8)
    for target, picture in zip(images, pictures, strict=True):
        target[:] = fit_square(Image.fromarray(picture), resolution, channels)
    numbers = torch.from_numpy(np.asarray(labels, np.int64))
    return ImageData(name, torch.from_numpy(images), numbers, class_names, source=source)
