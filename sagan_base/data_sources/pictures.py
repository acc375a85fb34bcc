"""Any picture file as a square uint8 array: upright, without transparency, centre-cropped, resampled.

Every source of images passes through ``fit_square``, so that one sentence, ``RESIZE_RULE``, says what was done to
the pixels; it is part of every cache's name and of every data set's fingerprint.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

RESIZE_RULE = "centre crop; Lanczos to shrink, bicubic to enlarge; luminance ITU-R 601 for grey"
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})


def read_square(path: str | Path, resolution: int, channels: int) -> np.ndarray:
    """Read one picture file as uint8 [channels, resolution, resolution].

    EXIF rotation is applied, transparency is laid on white, 16-bit grey is scaled by 1/257, CMYK and palettes become
    RGB. Of an animation the first frame counts.

    Raises:
        ValueError: the file is missing, truncated, no image, or of a kind with no defined range (float TIFF).
    """
    try:
        with Image.open(path) as picture:
            # A JPEG decodes faster at 1/2, 1/4 or 1/8; three times the wanted side leaves the resampling its work.
            picture.draft(None, (3 * resolution, 3 * resolution))
            return fit_square(_upright_opaque(picture), resolution, channels)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    except (OSError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
        # Pillow reports damaged files by any of these.
        raise ValueError(
            f"{path} cannot be read as an image ({str(error) or type(error).__name__}); remove or replace it"
        ) from error


def fit_square(picture: Image.Image, resolution: int, channels: int) -> np.ndarray:
    """Crop an opaque picture (mode "L" or "RGB") to its centre square and resample it.

    Returns:
        uint8 [channels, resolution, resolution]; grey is repeated for 3 channels, colour becomes luminance for 1.
    """
    picture = picture.convert("L" if channels == 1 else "RGB")
    width, height = picture.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    if side != resolution or width != height:
        method = Image.Resampling.LANCZOS if side > resolution else Image.Resampling.BICUBIC
        picture = picture.resize((resolution, resolution), method, box=(left, top, left + side, top + side))
    pixels = np.asarray(picture)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _upright_opaque(picture: Image.Image) -> Image.Image:
    """The picture as its author saw it, in mode "L" or "RGB"."""
    picture = ImageOps.exif_transpose(picture)
    if picture.mode == "F":
        raise ValueError("its pixels are floating-point numbers, whose range is unknown; save it as 8-bit PNG")
    if picture.mode.startswith("I"):  # 16 bits; Pillow's own conversion would clip at 255 instead of scaling
        pixels = np.asarray(picture).astype(np.int64)
        return Image.fromarray(np.clip((pixels + 128) // 257, 0, 255).astype(np.uint8))
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        opaque = Image.new("RGBA", picture.size, "white")
        opaque.alpha_composite(picture.convert("RGBA"))
        return opaque.convert("RGB")
    return picture.convert("L" if picture.mode in ("1", "L") else "RGB")


@contextmanager
def quiet_decoding() -> Iterator[None]:
    """Silence Pillow's remarks on odd but readable files (damaged EXIF, more than 89 million pixels)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield
