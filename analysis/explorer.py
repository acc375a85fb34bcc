"""Self-contained HTML pages that show where every attention head looks, query by query.

A page holds its pictures and the attention probabilities themselves, so that it works offline from one file. Of a
sparse head only the entries inside its mask are stored: row after row, head after head, float32 in base64; heads with
the same mask share its indices, and what uniform attention over it is. templates/explorer.html shows them. Written by
invert.py and attention_maps.py.
"""

import base64
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from scipy.sparse import csr_array
from torch import Tensor

from analysis.head_statistics import head_names, told
from analysis.overlay import LEAST, LESS, MORE
from sagan_base.attention_health import MapHealth, Maps
from sagan_base.discriminator import Discriminator
from sagan_base.files import write_text
from sagan_base.generator import Generator
from sagan_base.network import Network
from sagan_base.pages import data_uri
from sagan_base.pages import render as rendered
from sagan_base.sampling import to_image
from ylg import SparseAttention2d
from ylg.heads import aligned_rows, shown_order

FULL_PRECISION_BYTES = 10_000_000  # of attention values in one page; beyond it they are stored as float16
MOST_POINTS = 600  # of a line of a curve
HARD = 256  # pixels of a picture's longer side up to which each is shown as a square
INKS = {  # on the darkened image, in either theme
    "less": ",".join(map(str, LESS)),
    "more": ",".join(map(str, MORE)),
    "query": "#ff9a4d",
    "mask": "#56b4e9",
    "row": "#b07cff",
}


@dataclass(frozen=True, eq=False)
class View:
    """One attention layer on one image.

    Attributes:
        name: of network and image, for the tab.
        image: [C, R, R] in [-1, 1]. attention: the layer's map on it, [num_heads, num_queries, num_keys].
        health: of its heads over many images.
        weighs: heads that an inversion weighted by.
    """

    name: str
    layer: SparseAttention2d
    image: Tensor
    attention: Tensor
    health: MapHealth | None = None
    weighs: tuple[int, ...] = ()

    @cached_property
    @torch.no_grad()
    def uniform(self) -> Tensor:
        """The map of equal scores, shaped as ``attention``: above 0 where the mask allows."""
        return Maps(self.layer).uniform.float().cpu()

    @property
    def text(self) -> str:
        """One line about the layer."""
        layer, gain = self.layer, self.layer.gain.item()
        (rows, cols), (key_rows, key_cols) = layer.grid, layer.key_grid
        return (
            f"{layer.num_heads} heads, pattern {layer.pattern}, order {shown_order(layer.pattern, layer.order)}, "
            f"alignment {layer.alignment}, {layer.mode}; {rows}×{cols} queries, {key_rows}×{key_cols} keys; residual "
            f"gain {gain:.4f}" + (" (zero: this layer changes nothing)" if gain == 0 else "")
        )


@dataclass(frozen=True, eq=False)
class Curve:
    """Lines over the steps of an optimisation: ``values`` [steps, lines], of which the chosen one stands out."""

    title: str
    values: np.ndarray
    chosen: int = 0


@dataclass(eq=False)
class Page:
    """What a page shows, top to bottom; every part but the title may be left empty.

    Attributes:
        pictures: with their captions.
        tables, head_tables: by what each shows; the first column names the row.
        frames: (optimisation step, uint8 [C, R, R]).
        details: anything JSON can hold; shown folded.
    """

    title: str
    subtitle: str = ""
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    pictures: list[tuple[str, Image.Image]] = field(default_factory=list)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    frames: list[tuple[int, Tensor]] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    views: list[View] = field(default_factory=list)
    head_tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


Healths = dict[str, MapHealth]  # by the name of the layer in its network


@torch.no_grad()
def generator_views(
    generator: Generator, z: Tensor, label: int, name: str = "Generator", healths: Healths | None = None
) -> list[View]:
    """A view for each attention layer of the generator, on the image it makes of z [latent_dim]."""
    if not generator.attention:
        return []
    device = next(generator.parameters()).device
    image, maps = generator(z[None].to(device), torch.tensor([label], device=device), return_attention=True)
    return _views(generator, image, maps if isinstance(maps, tuple) else (maps,), name, healths)


@torch.no_grad()
def discriminator_views(
    discriminator: Discriminator,
    image: Tensor,
    name: str = "Discriminator",
    weighs: tuple[int, ...] = (),
    healths: Healths | None = None,
) -> list[View]:
    """A view for each attention layer of the discriminator, on an image [C, R, R]; the first one's heads may weigh."""
    batch = image[None].to(next(discriminator.parameters()).device)
    maps = [discriminator.attention_features(batch, int(side))[1] for side in discriminator.attention]
    return _views(discriminator, batch, maps, name, healths, weighs)


def _views(
    network: Network, image: Tensor, maps: Sequence[Tensor], name: str, healths: Healths | None, weighs=()
) -> list[View]:
    layers = network.attention_layers()
    return [
        View(
            name if len(layers) == 1 else f"{name}, {layer.grid[0]}×{layer.grid[1]}",
            layer,
            image[0].cpu(),
            attention[0].cpu(),
            (healths or {}).get(key),
            () if index else weighs,
        )
        for index, ((key, layer), attention) in enumerate(zip(layers.items(), maps, strict=True))
    ]


def write_page(page: Page, path: str | Path) -> int:
    """Write the page, whole or not at all; returns its size in bytes."""
    text = render(page)
    write_text(path, text)
    return len(text.encode())


def render(page: Page) -> str:
    """The page as HTML. File names and notes in it are data, never markup."""
    stored = sum(int((view.uniform > 0).sum()) for view in page.views)
    dtype = "float32" if 4 * stored <= FULL_PRECISION_BYTES else "float16"
    rounding = ["the attention values are rounded to float16, to keep the page small"] * (dtype == "float16")
    masks: list[Tensor] = []
    views = [_view(view, masks, dtype) for view in page.views]
    return rendered(
        "analysis",
        "explorer.html",
        title=page.title,
        subtitle=page.subtitle,
        notes=page.notes + rounding,
        warnings=page.warnings,
        pictures=[
            {"caption": caption, "source": _png(image), "smooth": max(image.size) > HARD}
            for caption, image in page.pictures
        ],
        tables=page.tables,
        head_tables=page.head_tables,
        details=json.dumps(page.details, indent=2, ensure_ascii=False) if page.details else "",
        data={
            "animation": _animation(page.frames),
            "curves": [_curve(curve) for curve in page.curves],
            "masks": [_mask(mask) for mask in masks],
            "views": views,
            "inks": INKS,
            "least": LEAST,
        },
    )


def _view(view: View, masks: list[Tensor], dtype: str) -> dict[str, Any]:
    """The view as JSON; its uniform maps are added to ``masks`` unless equal ones are there."""
    layer = view.layer
    heads = []
    for head, (name, uniform) in enumerate(zip(head_names(layer), view.uniform, strict=True)):
        index = next((i for i, known in enumerate(masks) if torch.equal(known, uniform)), len(masks))
        if index == len(masks):
            masks.append(uniform)
        heads.append({"name": name, "mask": index, "health": told(view.health, head) if view.health else ""})
    return {
        "name": view.name,
        "text": view.text,
        "image": _png(to_image(view.image)),
        "heads": heads,
        "values": _array(view.attention[view.uniform > 0].numpy(), dtype),
        "query_grid": layer.grid,
        "key_grid": layer.key_grid,
        "alignment": layer.alignment,
        "rows_used": _array(aligned_rows(layer.grid, layer.key_grid, layer.alignment), "uint32"),
        "weighs": list(view.weighs) or None,
    }


def _mask(uniform: Tensor) -> dict[str, Any]:
    """A uniform map as a CSR matrix, whose values travel only where they differ in a row, as in sequential mode."""
    rows = csr_array(uniform.numpy())
    parts = {
        "indptr": _array(rows.indptr, "uint32"),
        "indices": _array(rows.indices, "uint16" if rows.shape[1] <= 65536 else "uint32"),
    }
    if (uniform.amax(-1) * (uniform > 0).sum(-1) > 1.0001).any():
        parts["uniform"] = _array(rows.data, "float32")
    return parts


def _array(values: np.ndarray, dtype: str) -> dict[str, str]:
    little_endian = np.ascontiguousarray(values).astype(np.dtype(dtype).newbyteorder("<"))
    return {"dtype": dtype, "base64": base64.b64encode(little_endian.tobytes()).decode()}


def _png(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return data_uri(buffer.getvalue())


def _animation(frames: list[tuple[int, Tensor]]) -> dict[str, Any] | None:
    """The frames side by side in one picture."""
    if not frames:
        return None
    sheet = torch.cat([image for _, image in frames], dim=2).permute(1, 2, 0).numpy()
    picture = Image.fromarray(sheet[:, :, 0] if sheet.shape[2] == 1 else sheet)
    return {"sheet": _png(picture), "side": sheet.shape[0], "steps": [step for step, _ in frames]}


def _curve(curve: Curve) -> dict[str, Any]:
    """As JSON, which has no infinity: a value that is not finite leaves a gap."""
    every = math.ceil(len(curve.values) / MOST_POINTS)
    series = [
        {
            "values": [float(f"{value:.5g}") if math.isfinite(value) else None for value in line[::every]],
            "chosen": number == curve.chosen,
        }
        for number, line in enumerate(curve.values.T.tolist())
    ]
    return {"title": curve.title, "every": every, "series": series}
