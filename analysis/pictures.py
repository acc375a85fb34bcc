"""Reading any image file a person may hold, and fitting it to a network: what was done is told, what cannot is refused.

``read_picture`` turns a file into upright 8-bit grey or RGB pixels; ``fit_picture`` crops and resizes them to the
network's square. Both carry notes in plain words, because a user who sees a cropped, greyed, flattened picture wants
to know why. Read next: inversion/targets.py.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from sagan_base.data_sources.pictures import fit_square
from sagan_base.sampling import to_image

MAX_PIXELS = 100_000_000  # 100 megapixels: 300 MB once decoded. A small file that claims more is refused unopened.


@dataclass(frozen=True, eq=False)
class Picture:
    """An upright 8-bit picture, and what had to be done to the file to get it.

    Attributes:
        image: Pillow image of mode "L" or "RGB".
        path: where it came from.
        notes: one plain sentence for each conversion that changed what is seen.
    """

    image: Image.Image
    path: Path
    notes: tuple[str, ...] = ()


def read_picture(path: str | Path) -> Picture:
    """Read one image file: colour, grey, alpha, palette, 16-bit, CMYK, rotated by EXIF, or animated (first frame).

    Raises:
        ValueError: the file is missing, empty, not an image, truncated, has too many pixels or a colour space that
            cannot be shown; the message names the file and the remedy.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name an image file in it")
    if not path.exists():
        raise ValueError(f"{path} does not exist; name an image file")
    if not path.is_file():
        raise ValueError(f"{path} is not a regular file; name an image file")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty; name an image file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # Pillow's own limit and damaged EXIF warn; our limit and EXIF's absence decide
            with Image.open(path) as opened:
                return _upright(opened, path)
    except _RefusedError as error:
        raise ValueError(f"{path} {error}") from None
    except Image.UnidentifiedImageError:
        raise ValueError(f"{path} is not an image that Pillow can read; convert it to PNG or JPEG") from None
    except Image.DecompressionBombError:
        raise ValueError(f"{path} claims more than {MAX_PIXELS:,} pixels; make it smaller first") from None
    # Decoders of damaged files raise nearly anything (OSError, SyntaxError, struct.error, IndexError, MemoryError...).
    except Exception as error:
        raise ValueError(f"{path} is damaged or truncated ({error}); export it again") from None


class _RefusedError(Exception):
    """A file that can be read, but should not or cannot be shown."""


def _upright(opened: Image.Image, path: Path) -> Picture:
    width, height = opened.size
    if width * height > MAX_PIXELS:
        raise _RefusedError(f"has {width}x{height} pixels, more than {MAX_PIXELS:,}; make it smaller first")
    notes = []
    frames = getattr(opened, "n_frames", 1)
    if frames > 1:
        notes.append(f"it has {frames} frames: the first is used")
    opened.load()
    orientation = opened.getexif().get(0x0112, 1)
    image = ImageOps.exif_transpose(opened)
    if orientation not in (0, 1):
        notes.append("it was turned upright as its EXIF data say")
    image, more = _eight_bit(image)
    return Picture(image, path, (*notes, *more))


def _eight_bit(image: Image.Image) -> tuple[Image.Image, list[str]]:
    """To mode "L" or "RGB", over white where it is transparent."""
    mode = image.mode
    if mode in ("I;16", "I;16L", "I;16B", "I;16N", "I", "F"):
        return _rescaled(image)
    if "A" in mode or "a" in mode or "transparency" in image.info:
        grey = mode in ("LA", "La", "L", "1")
        flat = Image.new("RGBA", image.size, "white")
        flat.alpha_composite(image.convert("LA" if mode == "La" else "RGBA").convert("RGBA"))
        opaque = image.convert("RGBA").getchannel("A").getextrema()[0] == 255
        return flat.convert("L" if grey else "RGB"), [] if opaque else ["its transparent parts were laid over white"]
    if mode in ("L", "1"):
        return image.convert("L"), []
    try:
        converted = image.convert("RGB")
    except ValueError:
        raise _RefusedError(f"has colour mode {mode}, which cannot be converted to RGB; save it as RGB") from None
    return converted, [f"its {mode} colours were converted to RGB"] if mode in ("CMYK", "YCbCr", "LAB", "HSV") else []


def _rescaled(image: Image.Image) -> tuple[Image.Image, list[str]]:
    """16-bit, 32-bit and floating-point grey: by the range of the type where it is known, else by its own."""
    values = np.asarray(image, dtype=np.float64)
    if not np.isfinite(values).all():
        raise _RefusedError("holds values that are not finite; export it as 8-bit")
    low, high = float(values.min()), float(values.max())
    if image.mode == "F" and low >= 0 and high <= 1:
        low, high, what = 0.0, 1.0, "its floating-point values in 0..1 were"
    elif image.mode != "F" and low >= 0 and high <= 65535:
        low, high, what = 0.0, 65535.0, "its 16-bit values were"
    else:
        what = f"its values from {low:g} to {high:g} were"
    scaled = (values - low) / max(high - low, 1e-12) * 255
    return Image.fromarray(np.rint(scaled).astype(np.uint8)), [f"{what} scaled to 8 bits"]


def fit_picture(picture: Picture, resolution: int, channels: int) -> tuple[Tensor, Picture]:
    """The largest centred square, resized to the network's resolution and number of channels.

    Args:
        channels: 1 (grey, by luma) or 3 (a grey picture gets three equal channels).
    Returns:
        float32 [channels, resolution, resolution] in [-1, 1], and the picture with notes of what was done.
    Raises:
        ValueError: ``channels`` is neither 1 nor 3.
    """
    if channels not in (1, 3):
        raise ValueError(f"channels={channels}: use 1 (grey) or 3 (colour)")
    image, notes = picture.image, list(picture.notes)
    (width, height), side = image.size, min(image.size)
    if width != height:
        notes.append(f"the central {side}x{side} of its {width}x{height} pixels were taken")
    if channels == 1 and image.mode == "RGB" and not _is_grey(image):
        notes.append("it was made grey, because the model draws grey pictures")
    if channels == 3 and image.mode == "L":
        notes.append("it is grey: all three colour channels got its values")
    if side != resolution:
        verb = "reduced" if side > resolution else "enlarged"
        notes.append(f"it was {verb} from {side}x{side} to {resolution}x{resolution}")
    # The rule by which training data were made: the model should see a user's picture as it saw those.
    pixels = torch.from_numpy(fit_square(image, resolution, channels).astype(np.float32)) / 127.5 - 1
    return pixels, replace(picture, image=to_image(pixels), notes=tuple(notes))


def _is_grey(image: Image.Image) -> bool:
    red, green, blue = (np.asarray(channel) for channel in image.split())
    return bool((red == green).all() and (green == blue).all())


def files_in(folder: str | Path) -> Iterator[Path]:
    """Every file below a folder that is not hidden, sorted, so that results do not depend on the file system."""
    folder = Path(folder)
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path
