"""Pictures for people: attention laid over an image against uniform attention, and sheets with captions."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

LESS, MORE = (30, 105, 225), (255, 145, 40)  # than uniform attention; told apart by colour-blind readers
LEAST = math.log2(1.25)  # where colours end at the least, so that rounding is not drawn as content
GAP = 8  # pixels between the pictures of a sheet


def against_uniform(weights: Tensor, uniform: Tensor) -> Tensor:
    """log2 of attention over what uniform attention over the mask gives, of any shape; 0 where the mask allows none."""
    return torch.where(uniform > 0, (weights / uniform).log2(), 0.0)


def overlay(image: Tensor, ratios: Tensor) -> tuple[Image.Image, float]:
    """``against_uniform`` over an image: orange where there is more attention, blue where less.

    Args:
        image: [C, R, R] in [-1, 1]. ratios: [h, w], whose cells become rectangles.
    Returns:
        The picture [R, R], and the factor at which its colours end on both sides, 1.25 or more.
    """
    finite = ratios[ratios.isfinite()]  # what gets next to nothing must not make the rest pale: the most sets the end
    end = max(float(finite.max()) if len(finite) else 0.0, LEAST)
    size = image.shape[-2:]
    cells = torch.nn.functional.interpolate(ratios[None, None].float().clamp(-end, end), size, mode="nearest-exact")
    strength = (cells[0, 0] / end).numpy()[..., None]
    grey = (image.expand(3, -1, -1).permute(1, 2, 0).numpy() + 1) * 127.5 * 0.5
    colour = np.where(strength > 0, MORE, LESS)
    opacity = 0.85 * np.abs(strength)
    return Image.fromarray(np.rint((1 - opacity) * grey + opacity * colour).clip(0, 255).astype(np.uint8)), 2**end


def captioned(rows: Sequence[tuple[str, Sequence[tuple[str, Image.Image]]]], side: int) -> Image.Image:
    """A sheet on white: of each row its label at the left, then its pictures with their captions above.

    Pictures are fitted into ``side`` x ``side`` pixels, small ones in hard pixels.
    """
    font = ImageFont.load_default(size=13)
    ruler = ImageDraw.Draw(Image.new("L", (1, 1)))

    def size(text: str) -> tuple[int, int]:
        _, _, width, height = ruler.multiline_textbbox((0, 0), text, font)
        return math.ceil(width) + GAP, math.ceil(height) + GAP

    def wrapped(text: str) -> str:
        lines = [""]
        for word in text.split():
            longer = f"{lines[-1]} {word}".strip()
            lines[-1:] = [longer] if font.getlength(longer) <= side else [lines[-1], word]
        return "\n".join(lines)

    rows = [(label, [(wrapped(caption), picture) for caption, picture in pictures]) for label, pictures in rows]
    left = max(size(label)[0] if label else 0 for label, _ in rows)
    tops = [max(size(caption)[1] if caption else 0 for caption, _ in pictures) for _, pictures in rows]
    columns = max(len(pictures) for _, pictures in rows)
    sheet = Image.new("RGB", (left + columns * (side + GAP) + GAP, sum(tops) + len(rows) * (side + GAP) + GAP), "white")
    draw, y = ImageDraw.Draw(sheet), GAP
    for (label, pictures), top in zip(rows, tops, strict=True):
        draw.multiline_text((GAP, y + top + GAP), label, fill="black", font=font)
        for column, (caption, picture) in enumerate(pictures):
            x = left + GAP + column * (side + GAP)
            draw.multiline_text((x, y), caption, fill="black", font=font)
            sheet.paste(fitted(picture, side), (x, y + top))
        y += top + side + GAP
    return sheet


def fitted(picture: Image.Image, side: int) -> Image.Image:
    """In RGB, its longer side ``side`` pixels."""
    scale = side / max(picture.size)
    size = tuple(max(1, round(length * scale)) for length in picture.size)
    method = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    return picture.convert("RGB").resize(size, method)


def marked(image: Image.Image, grid: tuple[int, int], row: int, col: int) -> Image.Image:
    """With a cell of the grid outlined: the query."""
    image = image.copy()
    height, width = image.height / grid[0], image.width / grid[1]
    corners = (col * width - 1, row * height - 1, (col + 1) * width, (row + 1) * height)
    ImageDraw.Draw(image).rectangle(corners, outline=(86, 180, 233), width=2)
    return image


def at_least(pixels: int, resolution: int) -> int:
    """The smallest multiple of an image's resolution that is so many pixels: in it all its pixels are equally large."""
    return -(-pixels // resolution) * resolution
