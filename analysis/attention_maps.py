"""Show where the attention heads of a model look, on generated or real images, and whether attention does anything.

    python analysis/attention_maps.py                            images that the shipped model makes
    python analysis/attention_maps.py picture.jpg --checkpoint runs/mine/model.safetensors

Writes attention_maps.html (point at a cell and see every head of both networks), attention_maps.png (saliency per
head and one query's attention, against uniform attention over the mask), attention_off.png (the same images with the
residual gains set to 0), attention_maps.npz (the maps themselves) and head_statistics.json.
"""

import sys
from pathlib import Path
from typing import Any

from sagan_base.cli import Parser, command, shared_option, usage_errors, whole

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from analysis.explorer import Healths, Page, View, discriminator_views, generator_views, write_page
from analysis.fitting_model import DEFAULT_CHOICE, fitting_model
from analysis.head_statistics import head_names, head_statistics, told, without_attention
from analysis.inversion.report import shorten
from analysis.inversion.saliency import saliency
from analysis.inversion.targets import Target, codes, from_file, generated, held_out
from analysis.loading import Model, add_common_arguments, out_folder
from analysis.overlay import against_uniform, at_least, captioned, fitted, marked, overlay
from sagan_base.attention_health import IMAGES, Batches, real_batches, watch
from sagan_base.files import atomic_write, save_image, write_json
from sagan_base.provenance import provenance
from sagan_base.sampling import generate, to_image
from sagan_base.tables import text as table_text

COMPARED = 64  # samples, with attention and without
MOST_SHOWN = 12


def build_parser() -> Parser:
    parser = Parser("python analysis/attention_maps.py", __doc__)
    parser.add_argument("pictures", nargs="*", type=Path, metavar="PICTURE", help="real images to look at")
    parser.add_argument("--generated", type=whole(0), metavar="N", help="images to generate (default: 2)")
    parser.add_argument("--held-out", type=whole(0), default=0, metavar="N", help="test images of the model's data set")
    shared_option(parser, "--data", "of --held-out and of the statistics (default: the model's own)")
    shared_option(parser, "--class", "of the generated images (default: one each)", dest="label")
    parser.add_argument(
        "--query", nargs=2, type=int, metavar=("ROW", "COL"), help="query shown in the PNG (default: the middle)"
    )
    add_common_arguments(parser, "attention", "the generated images", DEFAULT_CHOICE)
    return parser


@command()
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
        z, labels = (each.to(model.device) for each in codes(model, IMAGES, arguments.seed, label))
        samples = list(zip(z.split(32), labels.split(32), strict=True))
        real, shown = _real(model, arguments.data, samples)
        out = out_folder(arguments, model.path.stem)
    print(model.describe() + (f"\n{choice}" if choice else ""))
    images, off, comparison = without_attention(model.generator, model.discriminator, z[:COMPARED], labels[:COMPARED])
    rows = [("", [("", to_image(image)) for image in some[:8]]) for some in (images, off)]
    sheet = captioned(rows, at_least(96, images.shape[-1]))
    save_image(out / "attention_off.png", sheet)
    frames: dict[str, pd.DataFrame] = {}
    watched = [("generator", model.generator, samples), (f"discriminator on {shown}", model.discriminator, real)]
    healths: list[Healths] = []
    for name, network, batches in watched:
        maps = watch(network, batches)
        healths.append({key: each.health() for key, each in maps.items()})
        for key, layer in network.attention_layers().items():
            frames[f"{name} at {layer.grid[0]}x{layer.grid[1]}"] = head_statistics(layer, maps[key])
    views = [view for target in targets for view in _views(model, target, *healths)]
    save_image(out / "attention_maps.png", picture_of(views, arguments.query))
    _write_maps(views, out / "attention_maps.npz")
    heads = {name: frame.to_dict("records") for name, frame in frames.items()}
    record = {"comparison": comparison, "heads": heads, "images": IMAGES, "provenance": provenance(arguments.seed)}
    write_json(out / "head_statistics.json", record)
    compared = pd.DataFrame(comparison.items(), columns=["with attention and without", ""])
    compared[""] = [_gains(value) if isinstance(value, dict) else value for value in compared[""]]
    page = Page(
        title=f"Attention of {model.name}",
        subtitle=model.describe() + ".",
        notes=[f"{target.name}: {note}" for target in targets for note in target.notes],
        pictures=[
            ("above: as trained; below: the same codes without the generator's attention", sheet),
        ],
        tables={"with attention and without": compared},
        views=views,
        head_tables=frames,
        details=record,
    )
    size = write_page(page, out / "attention_maps.html")
    for network, frame in frames.items():
        print(f"\n{network}, means over images and queries\n{table_text(frame)}")
    print(f"\n{table_text(compared)}")
    files = "attention_maps.png, attention_off.png, attention_maps.npz, head_statistics.json"
    print(f"\nwrote {shorten(out / 'attention_maps.html')} ({size / 1e6:.1f} MB), {files}")
    return 0


def _gains(gains: dict[str, float]) -> str:
    sides = {name.rpartition(".")[2]: gain for name, gain in gains.items()}
    return ", ".join(f"{gain:.4f} at {side}x{side}" for side, gain in sides.items())


def _check_query(query: list[int] | None, layers: list) -> None:
    if query is None:
        return
    rows, cols = np.min([layer.grid for layer in layers], axis=0)
    if not (0 <= query[0] < rows and 0 <= query[1] < cols):
        raise ValueError(f"--query {query[0]} {query[1]} is outside the {rows}x{cols} grid of queries")


def _targets(arguments: Any, model: Model, label: int | None) -> list[Target]:
    targets = [from_file(path, model) for path in arguments.pictures]
    if arguments.held_out:
        targets += held_out(model, arguments.held_out, arguments.data)
    count = arguments.generated if arguments.generated is not None else 0 if targets else 2
    targets += generated(model, count, arguments.seed, label)
    if not 0 < len(targets) <= MOST_SHOWN:
        raise ValueError(f"{len(targets)} images to show; choose 1 to {MOST_SHOWN}, so that the page stays small")
    return targets


def _views(model: Model, target: Target, of_generator: Healths, of_discriminator: Healths) -> list[View]:
    views = []
    if target.latent is not None:
        name = f"Generator · {target.name}"
        views += generator_views(model.generator, target.latent, target.label, name, of_generator)
    name = f"Discriminator · {target.name}"
    return views + discriminator_views(model.discriminator, target.image, name, healths=of_discriminator)


def _real(model: Model, spec: str | None, samples: list[tuple[Tensor, Tensor]]) -> tuple[Batches, str]:
    """What the discriminator is watched on: real images; of a model whose data are not here, its own samples."""
    try:
        data = model.training_data("train", spec, labelled=False)
    except ValueError as error:
        if spec is not None:
            raise
        print(f"note: the discriminator is watched on generated images ({error})", file=sys.stderr)
        return ((generate(model.generator, *each).to(model.device), each[1]) for each in samples), "generated images"
    # Maps do not depend on classes, which may be others than the model's.
    batches = ((images, torch.zeros_like(labels)) for images, labels in real_batches(data, device=model.device))
    return batches, f"real images of {data.name}"


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

    Both are drawn against uniform attention over the mask; above each stands the health of the head.
    """
    rows = []
    for view in views:
        (height, width), names = view.layer.grid, head_names(view.layer)
        row, col = query or (height // 2, width // 2)
        image = fitted(to_image(view.image), side)
        received, of_query = [("image", image)], [("", marked(image, view.layer.grid, row, col))]
        for head, (name, *pair) in enumerate(zip(names, view.attention, view.uniform, strict=True)):
            caption = f"{name}: {told(view.health, head)}" if view.health else name
            received.append((caption, _overlaid(view, against_uniform(*map(saliency, pair)), side)))
            ratios = against_uniform(*(maps[row * width + col] for maps in pair))
            of_query.append((caption, marked(_overlaid(view, ratios, side), view.layer.grid, row, col)))
        rows += [(f"{view.name}\nsaliency of each head", received), (f"query ({row}, {col})\nof each head", of_query)]
    return captioned(rows, side)


def _overlaid(view: View, ratios: Tensor, side: int) -> Image.Image:
    return fitted(overlay(view.image, ratios.reshape(view.layer.key_grid))[0], side)


if __name__ == "__main__":
    sys.exit(main())
