"""Walk through the latent space of a model: a looping animation, and the walk as a strip of pictures.

    python analysis/interpolate.py --class 3
    python analysis/interpolate.py --between runs/inversion/a/latent.npz runs/inversion/b/latent.npz

Goes round a loop of random codes of one class, or to and fro between codes that inversions found. Codes are
interpolated on the great circle, because a normal code of dimension d nearly always has length sqrt(d): the straight
line between two would pass through lengths the generator never saw. Writes walk.gif or walk.webp, and walk_strip.png.
"""

import sys
from pathlib import Path

from sagan_base.cli import Parser, command, shared_option, usage_errors, whole

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from analysis.inversion.report import read_latent, shorten
from analysis.loading import Model, add_common_arguments, model_of, out_folder
from analysis.overlay import at_least, captioned
from sagan_base.files import save_image
from sagan_base.sampling import generate, to_image

STRIP = 16  # pictures of the walk in the strip
LARGEST = {"gif": 65535, "webp": 16383}  # pixels that a side may have in the format


def great_circle(start: Tensor, end: Tensor, t: Tensor) -> Tensor:
    """Codes [len(t), d] from ``start`` [d] (t = 0) to ``end`` (t = 1): direction and length change evenly.

    Equal, opposite and zero vectors span no great circle; between them the line is straight.
    """
    t = t[:, None]
    lengths = start.norm(), end.norm()
    straight = (1 - t) * start + t * end
    if min(lengths) == 0:
        return straight
    a, b = start / lengths[0], end / lengths[1]
    angle = torch.arccos((a @ b).clamp(-1, 1))
    if angle.sin() < 1e-3:  # also: too close to tell the plane of the circle
        return straight
    direction = (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / angle.sin()
    return direction * ((1 - t) * lengths[0] + t * lengths[1])


def closed_walk(points: Tensor, frames: int) -> Tensor:
    """``frames`` codes from each of ``points`` [n, d] to the next, and back to the first: [n * frames, d]."""
    t = torch.arange(frames) / frames
    legs = zip(points, points.roll(-1, 0), strict=True)
    return torch.cat([great_circle(start, end, t) for start, end in legs])


def build_parser() -> Parser:
    parser = Parser("python analysis/interpolate.py", __doc__)
    shared_option(parser, "--class", "number or name (default: the first class)", dest="label")
    parser.add_argument("--between", nargs="+", type=Path, metavar="NPZ", help="latent.npz files of inversions")
    add = parser.add_argument
    add("--points", type=whole(2), default=4, metavar="N", help="random codes on the way (default: 4)")
    add("--frames", type=whole(1), default=24, metavar="N", help="pictures from one code to the next (default: 24)")
    shared_option(parser, "--rate", "pictures a second (default: 20)", default=20)
    add("--format", choices=("gif", "webp"), default="gif", help="of the animation (default: gif)")
    add("--size", type=whole(1), default=128, metavar="N", help="side of the animation in pixels (default: 128)")
    add_common_arguments(parser, "walk", "the codes")
    return parser


@command()
def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    with usage_errors():
        if arguments.size > LARGEST[arguments.format]:
            raise ValueError(
                f"--size {arguments.size} is more than the {LARGEST[arguments.format]} pixels that a side of a "
                f".{arguments.format} may have"
            )
        if arguments.between and len(arguments.between) < 2:
            raise ValueError("--between needs two latent.npz files or more: a walk goes from one code to the next")
        model = model_of(arguments)
        label = model.label(arguments.label)
        points, stored_label = _points(model, arguments.between, arguments.points, arguments.seed)
        label = stored_label if label is None else label
        out = out_folder(arguments, model.path.stem)
    print(model.describe())
    codes = closed_walk(points, arguments.frames)
    images = generate(model.generator, codes, torch.full((len(codes),), label))
    animation = out / f"walk.{arguments.format}"
    frames = [to_image(image).resize((arguments.size,) * 2, Image.Resampling.NEAREST) for image in images]
    milliseconds = round(1000 / arguments.rate)
    save_image(animation, frames[0], save_all=True, append_images=frames[1:], duration=milliseconds, loop=0)
    kept = torch.linspace(0, len(images) - 1, min(STRIP, len(images))).round().long()
    strip = [("", to_image(image)) for image in images[kept]]
    rows = [("", strip[start : start + 8]) for start in range(0, len(strip), 8)]
    save_image(out / "walk_strip.png", captioned(rows, at_least(64, images.shape[-1])))
    print(f"class {model.class_name(label)}, {len(points)} codes, {len(images)} pictures")
    print(f"wrote {shorten(animation)}, walk_strip.png")
    return 0


def _points(model: Model, files: list[Path] | None, count: int, seed: int) -> tuple[Tensor, int]:
    """The codes to visit [n, d], and the class of the first."""
    if not files:
        random, shape = np.random.default_rng([seed, 21]), (count, model.generator.latent_dim)
        return torch.from_numpy(random.standard_normal(shape, dtype=np.float32)), 0
    codes, labels = zip(*(read_latent(path, model) for path in files), strict=True)
    return torch.stack(codes), labels[0]


if __name__ == "__main__":
    sys.exit(main())
