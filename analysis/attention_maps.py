"""Show where the attention heads of a model look, on generated or real images, and whether attention does anything.

    python analysis/attention_maps.py                            images that the shipped model makes
    python analysis/attention_maps.py picture.jpg --checkpoint runs/mine/model.safetensors

Writes attention_maps.html (point at a cell and see every head of both networks), attention_maps.png (saliency per
head and one query's attention, against uniform attention over the mask), attention_off.png (the same images with the
residual gains set to 0), attention_maps.npz (the maps themselves) and head_statistics.csv and .json.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from analysis.explorer import Page, View, discriminator_views, generator_views, write_page
from analysis.fitting_model import DEFAULT_CHOICE, fitting_model
from analysis.head_statistics import head_statistics, without_attention
from analysis.inversion.report import shorten
from analysis.inversion.saliency import dense, entropy_share, saliency
from analysis.inversion.targets import Target, from_file, generated, held_out
from analysis.loading import Model, add_model_arguments
from analysis.overlay import against_uniform, at_least, captioned, fitted, overlay
from sagan_base.cli import Parser, usage_errors, writable_folder
from sagan_base.files import atomic_write, save_image, write_json, write_text
from sagan_base.provenance import provenance
from sagan_base.sampling import to_image
from sagan_base.tables import csv
from sagan_base.tables import text as table_text

STATISTICS_IMAGES = 64  # generated ones, over which the statistics are taken
MOST_SHOWN = 12


def build_parser() -> Parser:
    parser = Parser("python analysis/attention_maps.py", __doc__.split("\n\n")[0])
    parser.add_argument("pictures", nargs="*", type=Path, metavar="PICTURE", help="real images to look at")
    parser.add_argument("--generated", type=int, metavar="N", help="images to generate (default: 2)")
    parser.add_argument("--held-out", type=int, default=0, metavar="N", help="test images of the model's data set")
    parser.add_argument("--data", metavar="SPEC", help="data set of --held-out (default: the model's own)")
    parser.add_argument("--class", dest="label", metavar="CLASS", help="of the generated images (default: one each)")
    parser.add_argument(
        "--query", nargs=2, type=int, metavar=("ROW", "COL"), help="query shown in the PNG (default: the middle)"
    )
    add_model_arguments(parser, DEFAULT_CHOICE)
    parser.add_argument("--seed", type=int, default=0, help="of the generated images (default: 0)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="results (default: runs/attention/NAME)")
    return parser


def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    with usage_errors():
        model, choice = fitting_model(arguments, arguments.pictures)
        label = model.label(arguments.label)
        layers = [*model.generator.attention_layers().values(), *model.discriminator.attention_layers().values()]
        if not layers:
            raise ValueError(f"{model.name} has no attention layer; choose a model with one")
        _check_query(arguments.query, layers)
        targets = _targets(arguments, model, label)
        out = arguments.out or Path("runs") / "attention" / model.path.stem
        writable_folder("--out", out)
    print(model.describe() + (f"\n{choice}" if choice else ""))
    views = [view for target in targets for view in _views(model, target)]
    statistics, comparison, sheet = _statistics(model, arguments.seed, label)
    save_image(out / "attention_off.png", sheet)
    save_image(out / "attention_maps.png", picture_of(views, arguments.query))
    _write_maps(views, out / "attention_maps.npz")
    record = {"comparison": comparison, "heads": statistics, "images": STATISTICS_IMAGES}
    record["provenance"] = provenance(arguments.seed)
    write_json(out / "head_statistics.json", record)
    frames = {name: pd.DataFrame(rows) for name, rows in statistics.items()}
    write_text(out / "head_statistics.csv", csv(pd.concat(frames, names=["layer", None]).reset_index("layer")))
    compared = pd.DataFrame(comparison.items(), columns=["with attention and without", ""])
    compared[""] = [", ".join(f"{k} {v:.4f}" for k, v in x.items()) if isinstance(x, dict) else x for x in compared[""]]
    page = Page(
        title=f"Attention of {model.name}",
        subtitle=model.describe() + ".",
        notes=[f"{target.name}: {note}" for target in targets for note in target.notes],
        pictures=[
            ("above: as trained; below: the same z with the generator's residual gains set to 0", sheet),
        ],
        tables={"with attention and without": compared},
        views=views,
        head_tables=frames,
        details=record,
    )
    size = write_page(page, out / "attention_maps.html")
    for network, frame in frames.items():
        print(f"\n{network}, means over {STATISTICS_IMAGES} generated images\n{table_text(frame)}")
    print(f"\n{table_text(compared)}")
    files = "attention_maps.png, attention_off.png, attention_maps.npz, head_statistics.csv, head_statistics.json"
    print(f"\nwrote {shorten(out / 'attention_maps.html')} ({size / 1e6:.1f} MB), {files}")
    return 0


def _check_query(query: list[int] | None, layers: list) -> None:
    if query is None:
        return
    rows, cols = np.min([layer.grid for layer in layers], axis=0)
    if not (0 <= query[0] < rows and 0 <= query[1] < cols):
        raise ValueError(f"--query {query[0]} {query[1]} is outside the {rows}x{cols} grid of queries")


def _targets(arguments: Any, model: Model, label: int | None) -> list[Target]:
    targets = [from_file(path, model) for path in arguments.pictures]
    if arguments.held_out < 0 or (arguments.generated or 0) < 0:
        raise ValueError("--held-out and --generated count images; give 0 or more")
    if arguments.held_out:
        targets += held_out(model, arguments.held_out, arguments.data)
    count = arguments.generated if arguments.generated is not None else 0 if targets else 2
    targets += generated(model, count, arguments.seed, label)
    if not 0 < len(targets) <= MOST_SHOWN:
        raise ValueError(f"{len(targets)} images to show; choose 1 to {MOST_SHOWN}, so that the page stays small")
    return targets


def _views(model: Model, target: Target) -> list[View]:
    views = []
    if target.latent is not None:
        views += generator_views(model.generator, target.latent, target.label, f"G · {target.name}")
    return views + discriminator_views(model.discriminator, target.image, f"D · {target.name}")


def _statistics(
    model: Model, seed: int, label: int | None
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, Any], Image.Image]:
    """Statistics of every layer on generated images, and the comparison with attention off, also as a sheet."""
    drawn = list(generated(model, STATISTICS_IMAGES, seed, label))
    z = torch.stack([target.latent for target in drawn]).to(model.device)
    labels = torch.tensor([target.label for target in drawn], device=model.device)
    images, off, comparison = without_attention(model.generator, model.discriminator, z, labels)
    rows = [("", [("", to_image(image)) for image in some[:8]]) for some in (images, off)]
    tables = {}
    with torch.no_grad():
        if model.generator.attention_layers():
            _, maps = model.generator(z, labels, return_attention=True)
            maps = maps if isinstance(maps, tuple) else (maps,)
            for layer, attention in zip(model.generator.attention_layers().values(), maps, strict=True):
                tables[f"generator at {layer.grid[0]}x{layer.grid[1]}"] = head_statistics(layer, attention)
        for layer in model.discriminator.attention_layers().values():
            _, attention = model.discriminator.attention_features(images, side=layer.grid[0])
            tables[f"discriminator at {layer.grid[0]}x{layer.grid[1]}"] = head_statistics(layer, attention)
    return tables, comparison, captioned(rows, at_least(96, images.shape[-1]))


def _write_maps(views: list[View], path: Path) -> None:
    arrays = {}
    for index, view in enumerate(views):
        arrays[f"{index}_name"] = np.array(view.name)
        arrays[f"{index}_image"] = view.image.numpy()
        arrays[f"{index}_attention"] = view.attention.numpy()
    with atomic_write(path) as temporary:
        np.savez_compressed(temporary, **arrays)


def picture_of(views: list[View], query: list[int] | None = None, side: int = 112) -> Image.Image:
    """Two rows a view, a column a head: saliency, and the attention of one query (the middle one by default).

    Both are drawn against uniform attention over the mask; above stands the entropy, as a share of its entropy.
    """
    rows = []
    for view in views:
        row, col = query or (view.query_grid[0] // 2, view.query_grid[1] // 2)
        image = fitted(to_image(view.image), side)
        received, of_query = [("image", image)], [("", _marked(image, view, row, col))]
        for name, attention, uniform in zip(view.head_names, view.attention, dense(view.uniform), strict=True):
            ratios = against_uniform(saliency(attention), saliency(uniform))
            received.append((f"{name}, {entropy_share(attention, uniform):.0%}", _overlaid(view, ratios, side)))
            own, even = (maps[row * view.query_grid[1] + col][None] for maps in (attention, uniform))
            shown = _overlaid(view, against_uniform(own, even), side)
            of_query.append((f"{entropy_share(own, even):.0%}", _marked(shown, view, row, col)))
        rows += [(f"{view.name}\nsaliency of each head", received), (f"query ({row}, {col})\nof each head", of_query)]
    return captioned(rows, side)


def _overlaid(view: View, ratios: Tensor, side: int) -> Image.Image:
    return fitted(overlay(view.image, ratios.reshape(view.key_grid))[0], side)


def _marked(image: Image.Image, view: View, row: int, col: int) -> Image.Image:
    """With the query's cell outlined."""
    image = image.copy()
    height, width = image.height / view.query_grid[0], image.width / view.query_grid[1]
    corners = (col * width - 1, row * height - 1, (col + 1) * width, (row + 1) * height)
    ImageDraw.Draw(image).rectangle(corners, outline=(86, 180, 233), width=2)
    return image


if __name__ == "__main__":
    sys.exit(main())
