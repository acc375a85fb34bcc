"""Watch a training run: its curves, samples over time on one sheet, and an animation with one head's map beside it.

    python analysis/progress.py runs/mine
    python analysis/progress.py runs/mine --head 4 --class 7

Works on any run's folder, also while it trains, and only reads it. Writes curves.png (losses, gains, how far attention
is from uniform, distances), samples_over_time.png (a row a class, a column a step) and progress.webp: at each step the
sheet of samples and, of one class's first sample, where a head of the generator looks from the middle of the image.
"""

import math
import sys
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from sagan_base.cli import Parser, command, shared_option, usage_errors, whole, writable_folder

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image

from analysis.head_statistics import head_names
from analysis.inversion.report import shorten
from analysis.loading import Model, load_model
from analysis.overlay import against_uniform, at_least, captioned, marked, overlay
from sagan_base.attention_health import Maps
from sagan_base.data_sources.pictures import read_picture
from sagan_base.files import atomic_write, read_arrays, save_image
from sagan_base.run_folder import MAPS_SUFFIX, METRICS_FILE, SAMPLES_FOLDER, read_metrics
from sagan_base.sampling import sheet_images, to_image
from sagan_base.typed import reading

MOST_COLUMNS = 12  # of the sheet over time
PANELS = {  # title -> what the names of its curves begin with
    "losses": ("discriminator_loss", "generator_loss"),
    "residual gains": ("gain/",),
    "attention: entropy of the most": ("entropy/",),
    "attention: share between images": ("between/",),
    "distances": ("FD", "FID"),
}


@dataclass(frozen=True)
class Moment:
    """The samples of one step.

    Attributes:
        sheet: the picture. maps: float16 [rows, num_heads, num_keys] of the middle query, None where not recorded.
    """

    step: int
    sheet: Image.Image
    maps: np.ndarray | None

    @cached_property
    def images(self) -> torch.Tensor:
        """[rows, columns, C, R, R] in [-1, 1]."""
        return sheet_images(self.sheet)


def moments(run: Path, model: Model) -> list[Moment]:
    """Every step whose samples the run keeps, in order.

    Raises:
        ValueError: there are none, or a file is not what this model draws.
    """
    kept: list[Moment] = []
    layer, drawn = next(iter(model.generator.attention_layers().values()), None), model.generator.config
    for path in sorted((run / SAMPLES_FOLDER).glob("step_*.png")):
        if not (step := path.stem.removeprefix("step_")).isdecimal():
            continue
        with reading(path):
            moment = Moment(int(step), read_picture(path).image, None)
            count, _, *image = moment.images.shape
            first = kept[0].images if kept else moment.images
            if image != [drawn.image_channels, drawn.resolution, drawn.resolution] or len(first) != count:
                raise ValueError("it is no sheet of this model's samples")
        if (maps := path.with_name(path.stem + MAPS_SUFFIX)).is_file():
            with reading(maps):
                moment = replace(moment, maps=read_arrays(maps)["middle"])
                if layer is None or moment.maps.shape != (count, layer.num_heads, math.prod(layer.key_grid)):
                    raise ValueError("it holds no maps of this model")
        kept.append(moment)
    if not kept:
        raise ValueError(f"{run} keeps no samples ({SAMPLES_FOLDER}/step_*.png); name a run that drew some")
    return kept


def curves(run: Path) -> Figure:
    """A panel for each kind of what the run logs; ValueError where it logs none."""
    lines = read_metrics(run)
    names = list(dict.fromkeys(name for line in lines for name in line))
    panels = {title: [name for name in names if name.startswith(starts)] for title, starts in PANELS.items()}
    panels = {title: shown for title, shown in panels.items() if shown}
    if not panels:
        raise ValueError(f"{run} has no log ({METRICS_FILE}) of what a training says; name the folder of a run")
    figure = Figure(figsize=(7.2, 2.3 * len(panels) + 0.4), layout="constrained")
    axes = figure.subplots(len(panels), squeeze=False, sharex=True)[:, 0]
    for axis, (title, shown) in zip(axes, panels.items(), strict=True):
        for name in shown:
            points = [(line["step"], line[name]) for line in lines if name in line]
            label = name.partition("/")[2] or name.replace("_", " ")
            axis.plot(*zip(*points, strict=True), linewidth=1.2, label=label, marker="." if len(points) < 30 else None)
        axis.set_title(title, fontsize=9, loc="left")
        axis.grid(alpha=0.25)
        axis.legend(fontsize=7, frameon=False)
    axis.set_xlabel("generator updates")
    return figure


def over_time(kept: list[Moment], class_names: tuple[str, ...]) -> Image.Image:
    """The first sample of every row, a column a step; of many steps evenly spaced ones with the first and the last."""
    evenly = np.linspace(0, len(kept) - 1, min(MOST_COLUMNS, len(kept))).round().astype(int)
    chosen = [kept[i] for i in evenly]
    count = len(kept[0].images)
    names = row_names(count, class_names)
    rows = [
        (names[row], [(f"{m.step:,}" if row == 0 else "", to_image(m.images[row, 0])) for m in chosen])
        for row in range(count)
    ]
    return captioned(rows, at_least(48, kept[0].images.shape[-1]))


def row_names(count: int, class_names: tuple[str, ...]) -> list[str]:
    """Of the rows of a sheet, as ``preview_inputs`` chooses classes for them."""
    if len(class_names) == 1:
        return [""] * count
    return [class_names[int(i)] for i in np.linspace(0, len(class_names) - 1, count).round()]


@torch.no_grad()
def frames(kept: list[Moment], model: Model, row: int, head: int) -> list[Image.Image]:
    """At each step the sheet, and beside it the row's first sample with the head's map, where maps were recorded."""
    layer = next(iter(model.generator.attention_layers().values()), None)
    side = max(kept[0].sheet.size)
    pictures = []
    if layer is not None:
        height, width = layer.grid
        middle = height // 2, width // 2
        name, uniform = head_names(layer)[head], Maps(layer).uniform[head, middle[0] * width + middle[1]]
    for moment in kept:
        shown = [(f"step {moment.step:,}", moment.sheet)]
        if moment.maps is not None:
            sample = moment.images[row, 0]
            attention = torch.from_numpy(moment.maps[row, head].astype(np.float64))
            picture, end = overlay(sample, against_uniform(attention, uniform).reshape(layer.key_grid))
            picture = picture.resize((side // sample.shape[-1] * sample.shape[-1],) * 2, Image.Resampling.NEAREST)
            caption = f"head {head}, {name}: where the middle looks, up to {end:.1f} times uniform"
            shown += [("the sample", to_image(sample)), (caption, marked(picture, layer.grid, *middle))]
        pictures.append(captioned([("", shown)], side))
    most = tuple(max(picture.size[axis] for picture in pictures) for axis in (0, 1))
    return [_on_white(picture, most) for picture in pictures]


def _on_white(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Every frame of an animation has one size; captions of other lengths give others."""
    sheet = Image.new("RGB", size, "white")
    sheet.paste(picture, (0, size[1] - picture.height))
    return sheet


@command()
def main(argv: list[str] | None = None) -> int:
    parser = Parser("python analysis/progress.py", __doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a training run")
    parser.add_argument("--head", type=whole(0), default=0, metavar="H", help="of the generator (default: 0)")
    shared_option(parser, "--class", "number or name of a row (default: the first)", dest="label")
    shared_option(parser, "--rate", "steps a second (default: 4)", default=4)
    shared_option(parser, "--out", "results (default: runs/progress/NAME)")
    arguments = parser.parse_args(argv)
    with usage_errors():
        model = load_model(checkpoint=arguments.run)
        kept = moments(arguments.run, model)
        layers = list(model.generator.attention_layers().values())
        if layers and arguments.head >= layers[0].num_heads:
            raise ValueError(f"--head {arguments.head} does not exist; there are heads 0 to {layers[0].num_heads - 1}")
        names = row_names(len(kept[0].images), model.class_names)
        wanted = model.class_names[model.label(arguments.label)] if arguments.label else names[0]
        if wanted not in names:
            raise ValueError(f"--class {arguments.label} has no row on the sheets; use one of {', '.join(names)}")
        figure = curves(arguments.run)
        out = arguments.out or Path("runs") / "progress" / arguments.run.resolve().name
        writable_folder("--out", out)
    if layers and kept[-1].maps is None:
        print("note: the run recorded no maps with its samples: the animation shows samples alone", file=sys.stderr)
    with atomic_write(out / "curves.png") as path:
        figure.savefig(path, dpi=110)
    save_image(out / "samples_over_time.png", over_time(kept, model.class_names))
    first, *rest = frames(kept, model, names.index(wanted), arguments.head)
    save_image(out / "progress.webp", first, save_all=True, append_images=rest, duration=round(1000 / arguments.rate),
               loop=0, quality=70)  # fmt: skip
    print(f"{len(kept)} steps, {kept[0].step:,} to {kept[-1].step:,}")
    print(f"wrote {shorten(out)}: curves.png, samples_over_time.png, progress.webp")
    return 0


if __name__ == "__main__":
    sys.exit(main())
