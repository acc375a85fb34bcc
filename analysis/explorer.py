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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from scipy.sparse import csr_array
from torch import Tensor, nn

from analysis.head_statistics import head_names
from analysis.inversion.saliency import evenly, uniform_attention
from analysis.overlay import LEAST, LESS, MORE
from sagan_base.files import write_text
from sagan_base.pages import data_uri
from sagan_base.pages import render as rendered
from sagan_base.sampling import to_image
from ylg import SparseAttention2d
from ylg.heads import aligned_rows, shown_order

FULL_PRECISION_BYTES = 10_000_000  # of attention values in one page; beyond it they are stored as float16
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
        name: of network and image, for the tab. text: one line about the layer.
        image: [C, R, R] in [-1, 1]. attention: [num_heads, num_queries, num_keys].
        uniform: of each head, as ``uniform_attention``: its entries are the keys that the mask allows.
        rows_used: for each query, the key cell whose mask row it uses.
        weighs: heads that an inversion weighted by.
    """

    name: str
    text: str
    image: Tensor
    attention: Tensor
    uniform: list[csr_array]
    head_names: list[str]
    query_grid: tuple[int, int]
    key_grid: tuple[int, int]
    alignment: str
    rows_used: np.ndarray
    weighs: tuple[int, ...] = ()


@dataclass(eq=False)
class Page:
    """What a page shows, top to bottom; every part but the title may be left empty.

    Attributes:
        pictures: with their captions.
        tables, head_tables: by what each shows; the first column names the row.
        frames: (optimisation step, uint8 [C, R, R]).
        curves: {"title": ..., "every": steps between two values, "series": [{"values": [...], "chosen": bool}, ...]};
            a value that is not finite leaves a gap.
        details: anything JSON can hold; shown folded.
    """

    title: str
    subtitle: str = ""
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    pictures: list[tuple[str, Image.Image]] = field(default_factory=list)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    frames: list[tuple[int, Tensor]] = field(default_factory=list)
    curves: list[dict[str, Any]] = field(default_factory=list)
    views: list[View] = field(default_factory=list)
    head_tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)


def view_of_layer(
    layer: SparseAttention2d, name: str, image: Tensor, attention: Tensor, weighs: tuple[int, ...] = ()
) -> View:
    """The view of one layer's map [num_heads, num_queries, num_keys] on one image."""
    grid = layer.key_grid
    size = f"{layer.grid[0]}×{layer.grid[1]} queries, {grid[0]}×{grid[1]} keys"
    order = shown_order(layer.pattern, layer.order)
    text = (
        f"{layer.num_heads} heads, pattern {layer.pattern}, order {order}, alignment {layer.alignment}, "
        f"{layer.mode}; {size}; residual gain {layer.gain.item():.4f}"
    )
    if layer.gain.item() == 0:
        text += " (zero: this layer changes nothing)"
    return View(
        name=name,
        text=text,
        image=image.cpu(),
        attention=attention.cpu(),
        uniform=uniform_attention(layer),
        head_names=head_names(layer),
        query_grid=layer.grid,
        key_grid=grid,
        alignment=layer.alignment,
        rows_used=aligned_rows(layer.grid, grid, layer.alignment),
        weighs=weighs,
    )


@torch.no_grad()
def generator_views(generator: nn.Module, z: Tensor, label: int, name: str = "Generator") -> list[View]:
    """A view for each attention layer of the generator, on the image it makes of z [latent_dim]."""
    layers = list(generator.attention_layers().values())
    if not layers:
        return []
    device = next(generator.parameters()).device
    labels = torch.tensor([label], device=device)
    image, maps = generator(z[None].to(device), labels, return_attention=True)
    maps = maps if isinstance(maps, tuple) else (maps,)
    return [
        view_of_layer(layer, _at(name, layer, layers), image[0], attention[0])
        for layer, attention in zip(layers, maps, strict=True)
    ]


@torch.no_grad()
def discriminator_views(
    discriminator: nn.Module, image: Tensor, name: str = "Discriminator", weighs: tuple[int, ...] = ()
) -> list[View]:
    """A view for each attention layer of the discriminator, on an image [C, R, R]; the first one's heads may weigh."""
    layers = list(discriminator.attention_layers().values())
    device = next(discriminator.parameters()).device
    views = []
    for layer in layers:
        _, attention = discriminator.attention_features(image[None].to(device), side=layer.grid[0])
        weights = weighs if layer is layers[0] else ()
        views.append(view_of_layer(layer, _at(name, layer, layers), image, attention[0], weights))
    return views


def _at(name: str, layer: SparseAttention2d, layers: list) -> str:
    return name if len(layers) == 1 else f"{name}, {layer.grid[0]}×{layer.grid[1]}"


def write_page(page: Page, path: str | Path) -> int:
    """Write the page, whole or not at all; returns its size in bytes."""
    text = render(page)
    write_text(path, text)
    return len(text.encode())


def render(page: Page) -> str:
    """The page as HTML. File names and notes in it are data, never markup."""
    stored = sum(uniform.nnz for view in page.views for uniform in view.uniform)
    dtype = "float32" if 4 * stored <= FULL_PRECISION_BYTES else "float16"
    rounding = ["the attention values are rounded to float16, to keep the page small"] * (dtype == "float16")
    masks: list[csr_array] = []
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
            "curves": [_rounded(curve) for curve in page.curves],
            "masks": [_mask(mask) for mask in masks],
            "views": views,
            "inks": INKS,
            "least": LEAST,
        },
    )


def _view(view: View, masks: list[csr_array], dtype: str) -> dict[str, Any]:
    """The view as JSON; its masks are added to ``masks`` unless equal ones are there."""
    values, heads = [], []
    for attention, uniform, name in zip(view.attention.numpy(), view.uniform, view.head_names, strict=True):
        heads.append({"name": name, "mask": _index_of(uniform, masks)})
        rows = np.repeat(np.arange(uniform.shape[0]), np.diff(uniform.indptr))
        values.append(attention[rows, uniform.indices])
    return {
        "name": view.name,
        "text": view.text,
        "image": _png(to_image(view.image)),
        "heads": heads,
        "values": _array(np.concatenate(values), dtype),
        "query_grid": view.query_grid,
        "key_grid": view.key_grid,
        "alignment": view.alignment,
        "rows_used": _array(view.rows_used, "uint32"),
        "weighs": list(view.weighs) or None,
    }


def _mask(uniform: csr_array) -> dict[str, Any]:
    """The shares of uniform attention travel only where they are not even in each row, as in sequential mode."""
    parts = {
        "indptr": _array(uniform.indptr, "uint32"),
        "indices": _array(uniform.indices, "uint16" if uniform.shape[1] <= 65536 else "uint32"),
    }
    if not np.array_equal(uniform.data, evenly(uniform).data):
        parts["uniform"] = _array(uniform.data, "float32")
    return parts


def _index_of(mask: csr_array, masks: list[csr_array]) -> int:
    parts = ("indptr", "indices", "data")
    for index, known in enumerate(masks):
        if all(np.array_equal(getattr(known, part), getattr(mask, part)) for part in parts):
            return index
    masks.append(mask)
    return len(masks) - 1


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


def _rounded(curve: dict[str, Any]) -> dict[str, Any]:
    def shown(value: float) -> float | None:
        return float(f"{value:.5g}") if math.isfinite(value) else None

    return {**curve, "series": [{**s, "values": [shown(value) for value in s["values"]]} for s in curve["series"]]}
