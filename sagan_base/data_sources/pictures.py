"""Any picture file as a square uint8 array: upright, without transparency, centre-cropped, resampled.

Training data and a person's picture pass through the same functions, so that a network sees both alike. One sentence,
``RESIZE_RULE``, says what was done to the pixels; it is part of every cache's name and of every data set's fingerprint.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageOps

from sagan_base.files import check_name

RESIZE_RULE = "centre crop; Lanczos to shrink, bicubic to enlarge; luminance ITU-R 601 for grey"
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
# Only their formats, whatever a file calls itself: Pillow starts Ghostscript for an EPS named evil.png.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
MAX_PIXELS = 100_000_000  # 400 MB once decoded; a small file that claims more is refused unopened
STRIP = 1 << 22  # pixels of a large picture that are converted at once
ORIENTATION = 0x0112  # the EXIF tag


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


class _UnshownError(Exception):
    """A file that can be read, but whose colours cannot be shown; says why, and the remedy."""


class _UnreadableError(Exception):
    """Says what a file is, after its name; and a remedy for who named it."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}; {remedy}")
        self.reason = reason


def read_picture(path: str | Path) -> Picture:
    """Read one picture file.

    EXIF rotation is applied, transparency is laid on white, 16-bit grey is scaled by 1/257, CMYK and palettes become
    RGB. Of an animation the first frame counts.

    Raises:
        ValueError: the file is missing, no regular file, empty, truncated, of no format in ``FORMATS``, has more than
            ``MAX_PIXELS``, or is of a kind with no defined range (float TIFF); names the file and the remedy.
    """
    try:
        with quiet_decoding():
            return _read(Path(path))
    except _UnreadableError as error:
        raise ValueError(f"{path} {error}") from None


def fit_picture(picture: Picture, resolution: int, channels: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """The picture as ``fit_square`` gives it to a network, uint8 [channels, R, R], and its notes with what was done.

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
    return fit_square(image, resolution, channels), tuple(notes)


def read_square(path: str | Path, resolution: int, channels: int) -> np.ndarray:
    """Read and fit in one, as training data are: uint8 [channels, R, R].

    A JPEG decodes faster at 1/2, 1/4 or 1/8, where three times the wanted side leaves the resampling its work. Threads
    may call this; their caller enters ``quiet_decoding`` for all of them.

    Raises:
        ValueError: as ``read_picture``.
    """
    try:
        return fit_square(_read(Path(path), 3 * resolution).image, resolution, channels)
    except _UnreadableError as error:
        raise ValueError(f"{path} cannot be read as an image (it {error.reason}); remove or replace it") from None


def fit_square(picture: Image.Image, resolution: int, channels: int) -> np.ndarray:
    """Crop an opaque picture (mode "L" or "RGB") to its centre square and resample it.

    Returns:
        uint8 [channels, resolution, resolution]; grey is repeated for 3 channels, colour becomes luminance for 1.
    """
    wanted = "L" if channels == 1 else "RGB"
    picture = picture if picture.mode == wanted else picture.convert(wanted)
    width, height = picture.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    if side != resolution or width != height:
        method = Image.Resampling.LANCZOS if side > resolution else Image.Resampling.BICUBIC
        picture = picture.resize((resolution, resolution), method, box=(left, top, left + side, top + side))
    pixels = np.asarray(picture)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _read(path: Path, draft_side: int | None = None) -> Picture:
    if not path.is_file():  # reading a pipe or a device would wait for ever
        problem = "is a folder" if path.is_dir() else "is no regular file" if path.exists() else "does not exist"
        raise _UnreadableError(problem, "name an image file")
    check_name(str(path))
    try:
        with Image.open(path, formats=FORMATS) as opened:
            width, height = opened.size
            if width * height > MAX_PIXELS:
                size = f"has {width}x{height} pixels, more than {MAX_PIXELS:,}"
                raise _UnreadableError(size, "make it smaller first")
            if draft_side is not None:
                opened.draft(None, (draft_side, draft_side))
            image, notes = _upright(opened)
            return Picture(image, path, tuple(notes))
    except _UnreadableError:
        raise
    except _UnshownError as error:
        raise ValueError(f"{path}: {error}") from None
    except Image.DecompressionBombError:
        raise _UnreadableError(f"claims more than {MAX_PIXELS:,} pixels", "make it smaller first") from None
    except Image.UnidentifiedImageError:
        if not path.stat().st_size:
            raise _UnreadableError("is empty", "name an image file") from None
        reason = f"is not an image that Pillow can read as {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
        raise _UnreadableError(reason, "convert it to PNG or JPEG") from None
    # Decoders of damaged files raise nearly anything (OSError, SyntaxError, struct.error, IndexError, MemoryError...).
    except Exception as error:
        reason = f"is damaged or truncated ({str(error) or type(error).__name__})"
        raise _UnreadableError(reason, "export it again") from None


def _upright(opened: Image.Image) -> tuple[Image.Image, list[str]]:
    notes = []
    if (frames := getattr(opened, "n_frames", 1)) > 1:
        notes.append(f"it has {frames} frames: the first is used")
    opened.load()
    if opened.getexif().get(ORIENTATION, 1) not in (0, 1):
        notes.append("it was turned upright as its EXIF data say")
        opened = ImageOps.exif_transpose(opened)
    image, more = _eight_bit(opened)
    return image, [*notes, *more]


def _eight_bit(picture: Image.Image) -> tuple[Image.Image, list[str]]:
    """The picture as its author saw it, in mode "L" or "RGB", over white where it is transparent; and what was done.

    A large one is converted strip by strip: 12 KB of PNG may be 100 million pixels, each of 20 bytes on the way.
    """
    if picture.mode in ("L", "RGB") and "transparency" not in picture.info:
        return picture, []
    width, height = picture.size
    rows = max(1, STRIP // width)
    if rows >= height:
        return _converted(picture)
    whole, notes = None, []
    for top in range(0, height, rows):
        part, more = _converted(picture.crop((0, top, width, min(top + rows, height))))
        whole = whole or Image.new(part.mode, picture.size)
        whole.paste(part, (0, top))
        notes += [note for note in more if note not in notes]
    return whole, notes


def _converted(picture: Image.Image) -> tuple[Image.Image, list[str]]:
    mode = picture.mode
    if mode == "F":
        raise _UnshownError("its pixels are floating-point numbers, whose range is unknown; save it as 8-bit PNG")
    if mode.startswith("I"):  # 16 bits; Pillow's own conversion would clip at 255 instead of scaling
        values = np.asarray(picture).astype(np.int64)
        notes = ["its 16-bit values were scaled to 8 bits"]
        if values.min() < 0 or values.max() > 65535:
            notes.append("its values below 0 became black and those above 65535 white")
        return Image.fromarray(np.clip((values + 128) // 257, 0, 255).astype(np.uint8)), notes
    if mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        colours = picture.convert("LA" if mode == "La" else "RGBA").convert("RGBA")
        flat = Image.new("RGBA", picture.size, "white")
        flat.alpha_composite(colours)
        opaque = colours.getchannel("A").getextrema()[0] == 255
        kind = "L" if mode in ("L", "1", "LA", "La") else "RGB"
        return flat.convert(kind), [] if opaque else ["its transparent parts were laid over white"]
    if mode == "1":
        return picture.convert("L"), []
    try:
        converted = picture.convert("RGB")
    except ValueError:
        raise _UnshownError(f"its colour mode {mode} cannot be converted to RGB; save it as RGB") from None
    return converted, [f"its {mode} colours were converted to RGB"] if mode not in ("RGB", "P") else []


def _is_grey(picture: Image.Image) -> bool:
    red, green, blue = picture.split()
    return not any(ImageChops.difference(red, other).getbbox() for other in (green, blue))


@contextmanager
def quiet_decoding() -> Iterator[None]:
    """Silence Pillow's remarks on odd but readable files (damaged EXIF, more than 89 million pixels)."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield
