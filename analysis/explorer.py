"""Self-contained HTML pages that show where every attention head looks, query by query.

A page holds its pictures and the attention probabilities themselves, so that it works offline from one file. Of a
sparse head only the entries inside its mask are stored: row after row, head after head, float32 in base64; heads with
the same mask share its indices. explorer_template.html draws them. Written by invert.py and attention_maps.py.
"""

import base64
import html
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy.sparse import csr_array
from torch import Tensor, nn

from sagan_base.files import atomic_write
from sagan_base.sampling import to_image
from ylg import SparseAttention2d, head_steps
from ylg.heads import aligned_rows

TEMPLATE = Path(__file__).with_name("explorer_template.html")
FULL_PRECISION_BYTES = 10_000_000  # of attention values in one page; beyond it they are stored as float16


@dataclass(frozen=True, eq=False)
class View:
    """One attention layer on one image.

    Attributes:
        name: of network and image, for the tab. text: one line about the layer.
        image: [C, R, R] in [-1, 1]. attention: [num_heads, num_queries, num_keys].
        masks: of each head, csr [num_queries, num_keys]; equal heads share one object.
        rows_used: for each query, the key cell whose mask row it uses.
        weighs: heads that an inversion weighted by.
    """

    name: str
    text: str
    image: Tensor
    attention: Tensor
    masks: list[csr_array]
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
        pictures: (caption, [C, R, R] in [-1, 1] or a Pillow image).
        tables, head_tables: {"columns": [...], "rows": [[...], ...]}.
        frames: (optimisation step, uint8 [C, R, R]).
        curves: {"title": ..., "every": steps between two values, "series": [{"values": [...], "chosen": bool}, ...]}.
        details: anything JSON can hold; shown folded.
    """

    title: str
    subtitle: str = ""
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    pictures: list[tuple[str, Tensor | Image.Image]] = field(default_factory=list)
    tables: list[dict[str, Any]] = field(default_factory=list)
    frames: list[tuple[int, Tensor]] = field(default_factory=list)
    curves: list[dict[str, Any]] = field(default_factory=list)
    views: list[View] = field(default_factory=list)
    head_tables: list[dict[str, Any]] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)


def layer_masks(layer: SparseAttention2d) -> tuple[list[csr_array], tuple[int, int]]:
    """The masks of a layer's heads, and its key grid.

    The map of a layer in sequential mode is the product of its steps, for which every key counts as allowed.
    """
    grid = (layer.grid[0] // layer.pool, layer.grid[1] // layer.pool)
    if layer.mode == "sequential":
        everything = csr_array(np.ones((layer.grid[0] * layer.grid[1], grid[0] * grid[1]), dtype=bool))
        return [everything] * layer.num_heads, grid
    return list(layer.plan.sparse_masks()), grid


def view_of_layer(
    layer: SparseAttention2d, name: str, image: Tensor, attention: Tensor, weighs: tuple[int, ...] = ()
) -> View:
    """The view of one layer's map [num_heads, num_queries, num_keys] on one image."""
    masks, grid = layer_masks(layer)
    steps = head_steps(layer.pattern, layer.num_heads)
    size = f"{layer.grid[0]}×{layer.grid[1]} queries, {grid[0]}×{grid[1]} keys"
    text = (
        f"{layer.num_heads} heads, pattern {layer.pattern}, order {layer.order}, alignment {layer.alignment}, "
        f"{layer.mode}; {size}; residual gain {layer.gain.item():.4f}"
    )
    if layer.gain.item() == 0:
        text += " (zero: this layer changes nothing)"
    return View(
        name=name,
        text=text,
        image=image,
        attention=attention,
        masks=masks,
        head_names=[f"{p.name} step {t + 1}" if p.num_steps > 1 else p.name for p, t in steps],
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
        view_of_layer(layer, _at(name, layer, layers), image[0].cpu(), attention[0].cpu())
        for layer, attention in zip(layers, maps, strict=True)
    ]


@torch.no_grad()
def discriminator_views(
    discriminator: nn.Module, image: Tensor, name: str = "Discriminator", weighs: tuple[int, ...] = ()
) -> list[View]:
    """A view for each attention layer of the discriminator, on an image [C, R, R]."""
    layers = list(discriminator.attention_layers().values())
    device = next(discriminator.parameters()).device
    views = []
    for layer in layers:
        _, attention = discriminator.attention_features(image[None].to(device), side=layer.grid[0])
        weights = weighs if layer is layers[0] else ()
        views.append(view_of_layer(layer, _at(name, layer, layers), image.cpu(), attention[0].cpu(), weights))
    return views


def _at(name: str, layer: SparseAttention2d, layers: list) -> str:
    return name if len(layers) == 1 else f"{name}, {layer.grid[0]}×{layer.grid[1]}"


def write_page(page: Page, path: str | Path) -> int:
    """Write the page, whole or not at all; returns its size in bytes."""
    text = render(page)
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return len(text.encode())


def render(page: Page) -> str:
    """The page as HTML. File names and notes in it are data, never markup."""
    stored = sum(mask.nnz for view in page.views for mask in view.masks)
    dtype = "float32" if 4 * stored <= FULL_PRECISION_BYTES else "float16"
    notes = list(page.notes)
    if dtype == "float16":
        notes.append("the attention values are rounded to float16, to keep the page small")
    masks: list[csr_array] = []
    views = [_view(view, masks, dtype) for view in page.views]
    data = {
        "title": page.title,
        "subtitle": page.subtitle,
        "notes": notes,
        "warnings": page.warnings,
        "pictures": [{"caption": caption, "src": _png(picture)} for caption, picture in page.pictures],
        "tables": page.tables,
        "head_tables": page.head_tables,
        "animation": _animation(page.frames),
        "curves": [_rounded(curve) for curve in page.curves],
        "masks": [{"indptr": _array(m.indptr, "uint32"), "indices": _array(m.indices, _index(m))} for m in masks],
        "views": views,
        "details": page.details,
    }
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    template = TEMPLATE.read_text(encoding="utf-8")
    head, rest = template.split("__TITLE__")
    middle, tail = rest.split("__DATA__")
    # A "<" inside a script element could close it; JSON may write it as an escape.
    return head + html.escape(page.title) + middle + text.replace("<", "\\u003c") + tail


def _view(view: View, masks: list[csr_array], dtype: str) -> dict[str, Any]:
    """The view as JSON; its masks are added to ``masks`` unless equal ones are there."""
    values, heads = [], []
    attention = view.attention.numpy()
    for head, (mask, name) in enumerate(zip(view.masks, view.head_names, strict=True)):
        heads.append({"name": name, "mask": _position(mask, masks)})
        rows = np.repeat(np.arange(mask.shape[0]), np.diff(mask.indptr))
        values.append(attention[head][rows, mask.indices])
    return {
        "name": view.name,
        "text": view.text,
        "image": _png(view.image),
        "heads": heads,
        "values": _array(np.concatenate(values), dtype),
        "query_grid": view.query_grid,
        "key_grid": view.key_grid,
        "alignment": view.alignment,
        "rows_used": _array(view.rows_used, "uint32"),
        "weighs": list(view.weighs) or None,
    }


def _position(mask: csr_array, masks: list[csr_array]) -> int:
    for index, known in enumerate(masks):
        same = known is mask or (known.shape == mask.shape and known.nnz == mask.nnz)
        if same and np.array_equal(known.indices, mask.indices) and np.array_equal(known.indptr, mask.indptr):
            return index
    masks.append(mask)
    return len(masks) - 1


def _index(mask: csr_array) -> str:
    return "uint16" if mask.shape[1] <= 65536 else "uint32"


def _array(values: np.ndarray, dtype: str) -> dict[str, str]:
    little_endian = np.ascontiguousarray(values).astype(np.dtype(dtype).newbyteorder("<"))
    return {"dtype": dtype, "base64": base64.b64encode(little_endian.tobytes()).decode()}


def _png(picture: Tensor | Image.Image) -> str:
    image = to_image(picture) if isinstance(picture, Tensor) else picture
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _animation(frames: list[tuple[int, Tensor]]) -> dict[str, Any] | None:
    """The frames side by side in one picture."""
    if not frames:
        return None
    sheet = torch.cat([image for _, image in frames], dim=2).permute(1, 2, 0).numpy()
    picture = Image.fromarray(sheet[:, :, 0] if sheet.shape[2] == 1 else sheet)
    return {"sheet": _png(picture), "side": sheet.shape[0], "steps": [step for step, _ in frames]}


def _rounded(curve: dict[str, Any]) -> dict[str, Any]:
    series = [{**s, "values": [float(f"{value:.5g}") for value in s["values"]]} for s in curve["series"]]
    return {**curve, "series": series}
