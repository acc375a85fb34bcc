"""Small pictures of a row's head masks, one pixel an entry, as PNG inside the report.

They are drawn at the row's own grids, by the code that the networks use; the browser enlarges them without smoothing.
"""

import io
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image

from sagan_base.blocks import attention
from sagan_base.config import ModelConfig
from sagan_base.pages import data_uri

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
    side = model.generator_attention[0]
    with torch.device("meta"):  # no weights: a layer's masks are asked for
        # In sequence, a layer's map shows where paths through its steps lead; the steps are those of a parallel one.
        parallel = replace(model.attention, mode="parallel")
        layer = attention(model.generator_channels(side), side, parallel, model.numerics)
    masks = [mask.toarray() for mask in layer.head_masks()]
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
                seen=_png(mask[middle].reshape(layer.key_grid), colour),
            )
        )
    return pictures


def _png(cells: np.ndarray, colour: tuple[int, int, int]) -> str:
    pixels = np.where(cells[..., None], np.array(colour, np.uint8), np.array(FORBIDDEN, np.uint8))
    stream = io.BytesIO()
    Image.fromarray(pixels).quantize(4).save(stream, "PNG", optimize=True)
    return data_uri(stream.getvalue())
