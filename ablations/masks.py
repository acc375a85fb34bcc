"""Small pictures of a row's head masks, one pixel an entry, as PNG inside the report.

They are drawn at the row's own grids, by the code that the networks use; the browser enlarges them without smoothing.
"""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from sagan_base.config import ModelConfig
from sagan_base.pages import data_uri
from ylg import head_masks

ALLOWED = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167))  # one colour a distinct mask
FORBIDDEN = (238, 238, 238)
LARGEST_SIDE = 32  # of the query grid: beyond it a matrix of masks is no longer a picture


@dataclass(frozen=True)
class MaskPicture:
    """One distinct mask of a row: which heads use it, its matrix, and what a query in the middle sees.

    Attributes:
        heads: "0, 2". share: of the pairs that is allowed, "8.6%".
        matrix: picture as a data URI, queries down, keys across.
        seen: the key grid, the keys that the middle query may attend to in colour.
    """

    heads: str
    share: str
    matrix: str
    seen: str


def mask_pictures(model: ModelConfig) -> list[MaskPicture]:
    """The distinct masks of a network's first generator attention layer; none without attention or beyond 32x32.

    Raises:
        ValueError: the pattern or order is unknown here.
    """
    if model.attention is None or max(model.generator_attention) > LARGEST_SIDE:
        return []
    side, attention = model.generator_attention[0], model.attention
    grid = (side // 2, side // 2)
    masks = head_masks(
        attention.pattern, (side, side), grid, attention.num_heads, attention.order, attention.alignment
    ).numpy()
    distinct: dict[bytes, list[int]] = {}
    for head, mask in enumerate(masks):
        distinct.setdefault(mask.tobytes(), []).append(head)
    middle = (side // 2) * side + side // 2
    pictures = []
    for number, heads in enumerate(distinct.values()):
        mask, colour = masks[heads[0]], ALLOWED[number % len(ALLOWED)]
        pictures.append(
            MaskPicture(
                heads=", ".join(map(str, heads)),
                share=f"{mask.mean():.1%}",
                matrix=_png(mask, colour),
                seen=_png(mask[middle].reshape(grid), colour),
            )
        )
    return pictures


def _png(cells: np.ndarray, colour: tuple[int, int, int]) -> str:
    pixels = np.where(cells[..., None], np.array(colour, np.uint8), np.array(FORBIDDEN, np.uint8))
    stream = io.BytesIO()
    Image.fromarray(pixels).quantize(4).save(stream, "PNG", optimize=True)
    return data_uri(stream.getvalue())
