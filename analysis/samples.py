"""Look at what a model draws: sheets of each class, the effect of truncation, and the nearest training images.

    python analysis/samples.py
    python analysis/samples.py --checkpoint runs/mine/model.safetensors --class 3 5 --neighbours 8

Writes classes.png (a row a class), truncation.png (a row a limit on |z|, the same class), and where the training data
are at hand neighbours.png (a generated image, then the nearest training images) and samples.json. Whether a model has
memorised shows in numbers: how far generated images are from the training set, beside how far held-out real ones are.
"""

import math
import sys
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from sagan_base.cli import Parser, command, shared_option, usage_errors, whole

import torch
from PIL import Image
from torch import Tensor

from analysis.inversion.report import shorten
from analysis.loading import Model, add_common_arguments, model_of, out_folder
from analysis.neighbours import Encoder, encoded, encoder, nearest
from analysis.overlay import at_least, captioned
from sagan_base.data import ImageData, evenly_spaced
from sagan_base.files import save_image, write_json
from sagan_base.provenance import provenance
from sagan_base.sampling import draw_class, to_image

# Of |z|; drawn by the inverse distribution function, so that every row begins from the same random numbers.
LIMITS = (0.5, 1.0, 1.5, 2.0, math.inf)
HELD_OUT = 200  # real images that are compared with the training set, at most
MOST_ROWS = 20


def build_parser() -> Parser:
    parser = Parser("python analysis/samples.py", __doc__)
    shared_option(parser, "--class", f"numbers or names (default: the first {MOST_ROWS})", dest="labels", nargs="+")
    parser.add_argument("--number", type=whole(2), default=10, metavar="N", help="images a row (default: 10)")
    parser.add_argument(
        "--neighbours", type=whole(0), default=5, metavar="K", help="training images a row; 0: none (default: 5)"
    )
    parser.add_argument(
        "--features", choices=("pixels", "efficientnet"), default="pixels",
        help="in which images are near: pixels, or EfficientNet-Lite0's (extra 'features'; slower)",
    )  # fmt: skip
    shared_option(parser, "--data", "training data (default: the model's own)")
    add_common_arguments(parser, "samples", "the latents")
    return parser


@command()
def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    with usage_errors():
        model = model_of(arguments)
        labels = [model.label(text) for text in arguments.labels or ()]
        labels = labels or list(range(min(model.generator.num_classes, MOST_ROWS)))
        data = _at_hand(model, "train", arguments.data) if arguments.neighbours else None
        test = _at_hand(model, "test", arguments.data) if data else None
        encode = encoder(arguments.features, data, model.device) if data else None
        out = out_folder(arguments, model.path.stem)
    print(model.describe())
    number, seed = arguments.number, arguments.seed
    rows = [(model.class_name(label), draw_class(model.generator, label, number, seed)) for label in labels]
    save_image(out / "classes.png", labelled_sheet(rows))
    truncated = {
        "no limit" if math.isinf(limit) else f"|z| <= {limit}": draw_class(
            model.generator, labels[0], number, seed, limit
        )
        for limit in LIMITS
    }
    save_image(out / "truncation.png", labelled_sheet(list(truncated.items())))
    spreads = {name: spread(images) for name, images in truncated.items()}
    truncation = {"class": model.class_names[labels[0]], "mean distance between two images": spreads}
    numbers: dict[str, Any] = {"truncation": truncation, "provenance": provenance(seed)}
    between = "mean distance of pixels between two images, of a range of 1"
    _tell(f"spread of class {model.class_name(labels[0])} ({between})", spreads)
    written = "classes.png, truncation.png"
    if data is not None:
        images = torch.cat([images for _, images in rows])
        sheet, distances = neighbours(images, data, test, encode, arguments.neighbours)
        numbers["neighbours"] = {"features": arguments.features, **distances}
        save_image(out / "neighbours.png", sheet)
        written += ", neighbours.png"
        medians = distances["median distance to the nearest training image"]
        _tell(f"distance to the nearest training image, by {arguments.features} (median)", medians)
    write_json(out / "samples.json", numbers)
    print(f"wrote {shorten(out)}: {written}, samples.json")
    return 0


def _tell(what: str, values: dict[str, float]) -> None:
    print("\n".join([f"{what}:", *(f"  {name:22} {value:.4f}" for name, value in values.items())]))


def spread(images: Tensor) -> float:
    """Mean absolute difference of pixels between two of the images, of a range of 1."""
    flat = images.flatten(1)
    differences = torch.cdist(flat, flat, p=1) / flat.shape[1] / 2
    return float(differences.sum() / (len(flat) * (len(flat) - 1)))


def _at_hand(model: Model, split: str, spec: str | None) -> ImageData | None:
    """None, and a note, where there are none; training images of data that were named must be there."""
    try:
        return model.training_data(split, spec)
    except ValueError as error:
        if spec is not None and split == "train":
            raise
        print(f"note: no {split} images to compare with ({error})", file=sys.stderr)
        return None


def neighbours(
    images: Tensor, data: ImageData, test: ImageData | None, encode: Encoder, count: int
) -> tuple[Image.Image, dict[str, Any]]:
    """The sheet of the training images nearest to generated ones, and how near these and held-out real ones are."""
    real = [] if test is None else [test.batch(evenly_spaced(len(test), HELD_OUT))[0]]
    queries = encode(torch.cat([images, *real]))
    distances, indices = nearest(queries, encoded(data, encode), count)
    closest = distances[: len(images), 0]
    medians = {"generated": float(closest.median())}
    if real:
        medians["held-out real"] = float(distances[len(images) :, 0].median())
    # The nearest of all generated images first: if anything was copied, it stands on top.
    order = closest.argsort()
    shown = order[evenly_spaced(len(order), 10)].tolist()
    rows = [
        (f"nearest {closest[i].item():.3f}", torch.cat([images[i : i + 1], data.batch(indices[i])[0]])) for i in shown
    ]
    numbers = {
        "training images": len(data),
        "median distance to the nearest training image": medians,
        "smallest distance of a generated image": closest.min().item(),
    }
    return labelled_sheet(rows, ["generated", "nearest training images"]), numbers


def labelled_sheet(rows: list[tuple[str, Tensor]], headings: Sequence[str] = ()) -> Image.Image:
    """A row for each (label, images [N, C, R, R]); ``headings`` stand above the first columns."""
    pictures = [(label, [("", to_image(image)) for image in images]) for label, images in rows]
    first = zip_longest(headings, [picture for _, picture in pictures[0][1]], fillvalue="")
    pictures[0] = (pictures[0][0], list(first))
    return captioned(pictures, at_least(64, rows[0][1].shape[-1]))


if __name__ == "__main__":
    sys.exit(main())
