"""The paper's Figures 5 and 6 with a model of this package: reconstructions side by side, and where its heads look.

    python analysis/figures.py --model cifar10 --data folder:PATH

Pictures, query points and heads were chosen before any map was seen, by these rules: the first held-out picture of
two classes, and photographs that scikit-learn (china, flower: licensed CC BY, by danielbuechele and damienmyers) and
scikit-image (astronaut: public domain) ship; of each picture a point of the background, one on the object's
edge and one far across; the first head of each step of each pattern. Writes figure5.webp (pixels, features and saliency
minimised) and figure6.webp (the generator's attention, of the code that saliency led to, against uniform attention over
the mask: colours end at the factor above each, beside its entropy, of the largest that the mask allows). The inversions
lie beside them; what is there is not computed again.
"""

import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import NamedTuple

from sagan_base.cli import INTERRUPTED, Parser, command, shared_option, usage_errors

import numpy as np
import torch
from PIL import Image

from analysis.explorer import View, generator_views
from analysis.head_statistics import head_names
from analysis.inversion.config import InversionConfig, LossConfig, add_effort_options
from analysis.inversion.distances import choose_distance
from analysis.inversion.job import Job
from analysis.inversion.report import LATENT, RECONSTRUCTION, read_latent, shorten
from analysis.inversion.targets import Target, from_file, held_out
from analysis.loading import Model, add_common_arguments, model_of, out_folder
from analysis.overlay import against_uniform, captioned, fitted, marked, overlay
from sagan_base.data_sources.pictures import read_picture
from sagan_base.extras import install_command, missing_modules
from sagan_base.files import save_image
from sagan_base.sampling import to_image

Point = tuple[float, float]  # row and column, as parts of the picture's side
METHODS = ("pixel", "features", "saliency")
POINTS = ("background", "edge", "far across")
HELD_OUT: dict[str, tuple[Point, Point, Point]] = {  # class -> its points
    "airplane": ((0.3, 0.8), (0.45, 0.3), (0.9, 0.9)),
    "horse": ((0.1, 0.2), (0.3, 0.5), (0.9, 0.9)),
}
PHOTOGRAPHS: dict[tuple[str, str], tuple[Point, Point, Point]] = {  # package and file -> points
    ("sklearn", "datasets/images/china.jpg"): ((0.15, 0.8), (0.35, 0.5), (0.9, 0.95)),
    ("sklearn", "datasets/images/flower.jpg"): ((0.1, 0.1), (0.5, 0.8), (0.9, 0.95)),
    ("skimage", "data/astronaut.png"): ((0.25, 0.65), (0.6, 0.07), (0.85, 0.9)),
}
SIDE = 96
QUALITY = {"quality": 65, "method": 6}  # of WebP


class Chosen(NamedTuple):
    """A picture and its points."""

    target: Target
    points: tuple[Point, Point, Point]

    @property
    def name(self) -> str:
        return self.target.name if self.target.photograph else f"{self.target.name},\n{self.target.source}"

    @property
    def shown(self) -> Image.Image:
        """As a person sees it: the photograph's square, or the held-out picture itself."""
        photograph = self.target.photograph
        return fitted(photograph.crop if photograph else to_image(self.target.image), SIDE)


def build_parser() -> Parser:
    parser = Parser("python analysis/figures.py", __doc__)
    shared_option(parser, "--data", "of the held-out pictures (default: the model's own)")
    add_effort_options(parser)
    add_common_arguments(parser, "figures")
    return parser


@command()
def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    with usage_errors():
        model = model_of(arguments)
        chosen = list(chosen_pictures(model, arguments.data))
        out = out_folder(arguments, model.path.stem)
    print(model.describe())
    distance = choose_distance()
    rows, looks = [], []
    for each in chosen:
        print(each.target.name)
        side = model.generator.resolution
        pictures = [("the picture", each.shown), (f"at {side}x{side}", to_image(each.target.image))]
        for method in METHODS:
            config = InversionConfig(
                LossConfig(method), steps=arguments.steps, restarts=arguments.restarts, draws=arguments.draws
            )
            job = Job(model, distance, each.target, each.target, config, None, out / each.target.name / method)
            numbers = job.done_before() or job.run()
            if numbers["stopped"] == "interrupted":
                return INTERRUPTED
            with usage_errors():  # of an inversion that was done before
                image = read_picture(job.out / RECONSTRUCTION).image
                code = read_latent(job.out / LATENT, model)
            pictures.append((f"{method}: {numbers[distance.name]:.2f}, {numbers['psnr']:.1f} dB", image))
        rows.append((each.name, pictures))
        view = generator_views(model.generator, *code)[0]  # of the last method, saliency
        looks += list(looked(each, view))
    save_image(out / "figure5.webp", captioned(rows, SIDE), **QUALITY)
    save_image(out / "figure6.webp", captioned(looks, SIDE), **QUALITY)
    print(f"wrote {shorten(out)}: figure5.webp ({distance.name}, PSNR), figure6.webp, and the inversions")
    return 0


def chosen_pictures(model: Model, spec: str | None) -> Iterator[Chosen]:
    """The pictures of the figures, as far as their packages are installed; says which are left out.

    Raises:
        ValueError: the model has no such classes, or its held-out pictures are not here.
    """
    absent = [name for name in HELD_OUT if name not in model.class_names]
    if absent:
        raise ValueError(f"{model.name} has no class {', '.join(absent)}; take a model of CIFAR-10")
    firsts = {model.class_names[target.label]: target for target in held_out(model, len(model.class_names), spec)}
    for name, points in HELD_OUT.items():
        yield Chosen(replace(firsts[name], name=name), points)
    if missing_modules("photographs"):
        print(f"note: scikit-image's photographs are left out; {install_command('photographs')}", file=sys.stderr)
    for (package, file), points in PHOTOGRAPHS.items():
        if package not in missing_modules("photographs"):
            with resources.as_file(resources.files(package) / file) as path:
                yield Chosen(from_file(Path(path), model), points)


def looked(chosen: Chosen, view: View) -> Iterator[tuple[str, list[tuple[str, Image.Image]]]]:
    """For each point the picture with the query marked, and where each head looks from there."""
    names = head_names(view.layer)
    heads = [names.index(name) for name in dict.fromkeys(names)]
    (rows, cols), photograph = view.layer.grid, torch.from_numpy(np.array(chosen.shown)).permute(2, 0, 1) / 127.5 - 1
    for which, (down, across) in zip(POINTS, chosen.points, strict=True):
        row, col = int(down * rows), int(across * cols)
        pictures = [("query", marked(chosen.shown, view.layer.grid, row, col))]
        for head in heads:
            pair = [maps[head, row * cols + col] for maps in (view.attention, view.uniform)]
            picture, end = overlay(photograph, against_uniform(*pair).reshape(view.layer.key_grid))
            entropy, most = (float(torch.special.entr(each).sum()) for each in pair)
            spread = f"entropy {entropy / most:.0%}" if most else "one key only"
            caption = f"head {head}, {names[head]}, {end:.1f}x, {spread}"
            pictures.append((caption, marked(picture, view.layer.grid, row, col)))
        yield f"{chosen.name}\n{which}", pictures


if __name__ == "__main__":
    sys.exit(main())
