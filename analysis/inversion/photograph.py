"""Which square of a person's photograph a network gets, and pictures that show the person which it was."""

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageDraw

from sagan_base.data_sources.pictures import Picture

CROPS = ("centre", "fit")
SHOWN = 512  # pixels of the longer side of what is shown

Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Crop:
    """How a square is made of a picture.

    Attributes:
        rule: "centre" takes the largest centred square; "fit" takes all, on a square of its border's mean colour.
        box: (left, top, right, bottom) in pixels of the upright picture, taken out first; None is the whole.
    """

    rule: str = "centre"
    box: Box | None = None

    def __post_init__(self) -> None:
        if self.rule not in CROPS:
            raise ValueError(f"crop={self.rule!r} is unknown; use one of {', '.join(CROPS)}")
        if self.box is not None and not (0 <= self.box[0] < self.box[2] and 0 <= self.box[1] < self.box[3]):
            raise ValueError(f"box={self.box} is no box; give left, top, right and bottom, in pixels from the corner")


@dataclass(frozen=True, eq=False)
class Photograph:
    """For people, at most ``SHOWN`` pixels wide and high: the picture, framed where a part was taken, and that part.

    Of a square that was taken whole they are one and the same.
    """

    caption: str
    shown: Image.Image
    crop: Image.Image


def cropped(picture: Picture, crop: Crop) -> tuple[Picture, Photograph]:
    """What of a picture goes to ``fit_picture``, which takes the centre of what is no square, as training did.

    Raises:
        ValueError: the box reaches outside the picture.
    """
    image, notes = picture.image, list(picture.notes)
    box = crop.box or (0, 0, *image.size)
    if box[2] > image.width or box[3] > image.height:
        raise ValueError(f"box={box} reaches outside {picture.path}, which has {image.width}x{image.height} pixels")
    taken = image
    if crop.box is not None:
        taken = image.crop(box)
        notes.append(f"the box {box} of its {image.width}x{image.height} pixels was taken")
    (width, height), side = taken.size, min(taken.size)
    if crop.rule == "fit" and width != height:
        taken = _on_a_square(taken)
        notes.append(f"its {width}x{height} pixels were laid on a square of the mean colour of their border")
        square = taken
    else:
        left, top = box[0] + (width - side) // 2, box[1] + (height - side) // 2
        box = (left, top, left + side, top + side)
        square = image.crop(box)
    part = _reduced(square)
    if box != (0, 0, *image.size):
        shown = Photograph("the photograph; in the frame, what was taken", _framed(image, box), part)
    else:
        shown = Photograph("the photograph", part if square.size == image.size else _reduced(image), part)
    return replace(picture, image=taken, notes=tuple(notes)), shown


def _on_a_square(image: Image.Image) -> Image.Image:
    values = np.asarray(image, dtype=np.float64)
    border = np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])
    colour = np.rint(border.mean(0)).astype(int).tolist()
    side = max(image.size)
    square = Image.new(image.mode, (side, side), tuple(colour) if isinstance(colour, list) else colour)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def _framed(image: Image.Image, box: Box) -> Image.Image:
    """The whole picture, darker outside the box."""
    shown = _reduced(image).convert("RGB")
    scale = shown.width / image.width
    dimmed = shown.point(lambda level: level // 2)
    corners = tuple(round(edge * scale) for edge in box)
    dimmed.paste(shown.crop(corners), corners[:2])
    ImageDraw.Draw(dimmed).rectangle((*corners[:2], corners[2] - 1, corners[3] - 1), outline=(255, 145, 40), width=2)
    return dimmed


def _reduced(image: Image.Image) -> Image.Image:
    shown = image.copy()
    shown.thumbnail((SHOWN, SHOWN))
    return shown
