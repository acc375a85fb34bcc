"""Data sets that come as arrays of small pictures: resampling them to the network's size."""

import numpy as np
from PIL import Image

from sagan_base.data_sources.pictures import fit_square


def resample(pictures: np.ndarray, resolution: int, channels: int) -> np.ndarray:
    """Bring uint8 [N, h, w] (grey) or [N, h, w, 3] (colour) to uint8 [N, channels, resolution, resolution]."""
    out = np.empty((len(pictures), channels, resolution, resolution), np.uint8)
    for target, picture in zip(out, pictures, strict=True):
        target[:] = fit_square(Image.fromarray(picture), resolution, channels)
    return out
