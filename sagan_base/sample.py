"""Draw samples from a trained model: ``python -m sagan_base.sample model.safetensors --class 3 --number 16``.

Nothing but the checkpoint is needed: it holds the networks' configuration and the names of the classes. The images of
a class depend on the seed and their number in it only, not on what else is drawn.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from sagan_base.cli import (
    Parser,
    command,
    find_device,
    positive,
    shared_option,
    usage_errors,
    whole,
    writable_file,
    writable_folder,
)

import torch
from torch import Tensor
from tqdm import tqdm

from sagan_base.checkpoint import model_file, network_of, read_checkpoint
from sagan_base.files import save_image
from sagan_base.generator import Generator
from sagan_base.models import BEST_MODEL, resolve_model
from sagan_base.sampling import draw_class, sample_sheet, to_image
from sagan_base.trained_on import names_of_classes

MOST_ON_A_SHEET = 10_000
MOST_OF_A_NAME = 50  # letters of a class, of up to four bytes, in a file name of at most 255


def find_classes(wanted: Sequence[str], names: Sequence[str]) -> list[int]:
    """Class numbers from numbers or names; all of them where none is wanted.

    Raises:
        ValueError: there is no such class.
    """
    chosen = []
    for text in wanted:
        if text in names:
            chosen.append(list(names).index(text))
        elif text.isdecimal() and int(text) < len(names):
            chosen.append(int(text))
        else:
            shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
            raise ValueError(
                f"--class {text} is not a class of this model; use 0 ... {len(names) - 1} or one of {shown}"
            )
    return chosen or list(range(len(names)))


def build_parser() -> argparse.ArgumentParser:
    """Every option of the command."""
    parser = Parser("python -m sagan_base.sample", "Draw samples from a trained model, as a sheet or as files.")
    model = parser.add_mutually_exclusive_group()
    model.add_argument("checkpoint", nargs="?", type=Path, help="a .safetensors file of a run, or the run's folder "
                       "(default: the shipped model of --model)")  # fmt: skip
    model.add_argument("--model", metavar="NAME", help="a shipped model; python -m sagan_base.models lists them "
                       f"(default: {BEST_MODEL})")  # fmt: skip
    shared_option(parser, "--class", "numbers or names (default: every class)", dest="classes", nargs="+", default=[])
    parser.add_argument("--number", type=whole(1), default=8, metavar="N", help="images of each class (default: 8)")
    parser.add_argument("--truncation", type=positive, metavar="X",
                        help="draw z with |z| <= X: typical images, less varied (0.5 to 2 are usual)")  # fmt: skip
    shared_option(parser, "--seed", "of the latents (default: 0)", default=0)
    output = parser.add_mutually_exclusive_group()
    output.add_argument(
        "--sheet", type=Path, metavar="FILE", help="one picture, a row per class (default: samples.png)"
    )
    output.add_argument("--folder", type=Path, metavar="DIR", help="a PNG per image, in a folder per class")
    shared_option(parser, "--batch-size", "images generated at once (default: 64)", default=64)
    shared_option(parser, "--device")
    return parser


@command()
def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    arguments = build_parser().parse_args(argv)
    with usage_errors():
        if arguments.sheet is not None and arguments.sheet.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
            raise ValueError(f"--sheet {arguments.sheet} is not a picture's name; end it in .png")
        given, shipped = arguments.checkpoint, arguments.model or BEST_MODEL
        path = model_file(given) if given else resolve_model(shipped)
        generator, names = load_generator(path)
        classes = find_classes(arguments.classes, names)
        total = arguments.number * len(classes)
        if arguments.folder is None and total > MOST_ON_A_SHEET:
            raise ValueError(
                f"{total:,} images are too many for one sheet (at most {MOST_ON_A_SHEET:,}); choose --class, a smaller "
                "--number, or --folder"
            )
        generator = generator.to(find_device(arguments.device))
        sheet = arguments.sheet or Path("samples.png")
        if arguments.folder is None:
            writable_file("--sheet", sheet)
        else:
            writable_folder("--folder", arguments.folder)
    drawn = (
        (
            label,
            draw_class(generator, label, arguments.number, arguments.seed, arguments.truncation, arguments.batch_size),
        )
        for label in tqdm(classes, unit="class", disable=len(classes) == 1)
    )
    if arguments.folder is not None:
        for label, images in drawn:
            _write_files(arguments.folder / f"{label:04d}_{_safe(names[label])}", images)
        print(f"{total:,} images of {len(classes)} classes in {arguments.folder}")
    else:
        save_image(sheet, sample_sheet(torch.cat([images for _, images in drawn]), arguments.number))
        print(f"{total:,} images, a row per class ({', '.join(names[c] for c in classes[:12])}"
              f"{', ...' if len(classes) > 12 else ''}), in {sheet}")  # fmt: skip
    return 0


def load_generator(path: Path) -> tuple[Generator, tuple[str, ...]]:
    """The EMA generator of a file, in evaluation mode, and the names of its classes.

    Raises:
        FileNotFoundError, ValueError: as ``load_checkpoint``.
    """
    checkpoint = read_checkpoint(path, ("ema",))
    generator = network_of(checkpoint, "ema")
    return generator, names_of_classes(checkpoint.info, generator.num_classes)


def _safe(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name)[:MOST_OF_A_NAME]


def _write_files(folder: Path, images: Tensor) -> None:
    for number, image in enumerate(images):
        save_image(folder / f"{number:05d}.png", to_image(image))


if __name__ == "__main__":
    sys.exit(main())
