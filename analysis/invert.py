"""Find the latent code of which a generator makes a picture, and show where the networks look.

    python analysis/invert.py picture.jpg                  one picture, with the shipped model that fits
    python analysis/invert.py FOLDER --method saliency features pixel
    python analysis/invert.py --held-out 20 --generated 20 --method saliency features pixel

One picture gives reconstruction.png, comparison.png, latent.npz, metrics.json and explorer.html, a page that shows
for every query where each head of both networks looks. Several give a folder each, and a table of all. Settings that
are left out are those of --preset. Ctrl-C keeps the best so far; exit codes: 0 done, 2 a mistake in the command or its
files, 130 interrupted.
"""

import argparse
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from sagan_base.cli import INTERRUPTED, Parser, command, shared_option, usage_errors, whole

from analysis.fitting_model import DEFAULT_CHOICE, fitting_model
from analysis.inversion.calibration import standing
from analysis.inversion.config import EFFORT, METHODS, PRESETS, InversionConfig, LossConfig
from analysis.inversion.distances import Distance, choose_distance
from analysis.inversion.job import Job
from analysis.inversion.loss import InversionLoss
from analysis.inversion.photograph import CROPS, Crop
from analysis.inversion.report import shorten
from analysis.inversion.table import rows_of, write_tables
from analysis.inversion.targets import (
    Target,
    brightness_warning,
    files_in,
    from_file,
    from_folder,
    generated,
    held_out,
)
from analysis.loading import Model, add_common_arguments, out_folder
from sagan_base.options import argument_kind
from sagan_base.provenance import command_line


def build_parser() -> argparse.ArgumentParser:
    parser = Parser("python analysis/invert.py", __doc__)
    what = parser.add_argument_group("what to invert")
    what.add_argument("picture", nargs="?", type=Path, metavar="PICTURE", help="an image file, or a folder of them")
    what.add_argument("--held-out", type=whole(0), default=0, metavar="N", help="N test images of the model's data set")
    what.add_argument("--generated", type=whole(0), default=0, metavar="N", help="N images the model makes, of known z")
    shared_option(what, "--data", "data set of --held-out (default: the model's own)")
    what.add_argument("--limit", type=whole(1), metavar="N", help="at most N pictures of the folder")
    what.add_argument(
        "--crop", choices=CROPS, help="the largest centred square (default), or all, on a square of its border's colour"
    )
    what.add_argument(
        "--box", type=int, nargs=4, metavar=("LEFT", "TOP", "RIGHT", "BOTTOM"),
        help="take this box out of the picture first, in pixels of the upright picture",
    )  # fmt: skip
    what.add_argument("--negative", action="store_true", help="exchange light and dark of the pictures first")
    shared_option(what, "--class", "its number or name (default: searched)", dest="label")
    what.add_argument(
        "--true-class", action="store_true",
        help="use the class that is known: of held-out and generated images, and of files in a folder named by class",
    )  # fmt: skip
    add_common_arguments(parser, "inversion", default=DEFAULT_CHOICE)
    how = parser.add_argument_group("how")
    how.add_argument("--preset", choices=sorted(PRESETS), default="default", help="'published' is the authors' program")
    how.add_argument(
        "--method", nargs="+", choices=METHODS, default=["saliency"], metavar="NAME",
        help="what is minimised: the paper's (saliency, the default), a baseline (features, pixel), or a control of "
        "what weighs (uniform: attention that says nothing; other-image: the saliency of the next picture, or of a "
        "generated one)",
    )  # fmt: skip
    for name in (*EFFORT, "seed", "choose"):
        _add_setting(how, InversionConfig, name)
    how.add_argument(
        "--tune-generator", dest="tune_steps", type=int, nargs="?", const=200, metavar="STEPS",
        help="then adapt the generator's weights to the picture (200 steps if no number is given); its result is "
        "labelled, because it is no reconstruction by z alone",
    )  # fmt: skip
    how.add_argument(
        "--lpips", nargs=2, type=Path, metavar=("VGG16", "LPIPS"),
        help="weights of torchvision's VGG16 and of LPIPS 'vgg' 0.1: restarts are then chosen by LPIPS",
    )  # fmt: skip
    for title, part in (("details of the loss", LossConfig), ("details of the search", InversionConfig)):
        group = parser.add_argument_group(title)
        for field in fields(part):
            if field.name not in (*EFFORT, "seed", "choose", "loss", "method", "tune_steps"):
                _add_setting(group, part, field.name)
    return parser


def _add_setting(group: argparse._ArgumentGroup, part: type, name: str) -> None:
    """The option of a field of a configuration."""
    field = part.__dataclass_fields__[name]
    about, choices = field.metadata["about"], field.metadata["choices"]
    kind = {"choices": choices} if choices else argument_kind(part, name)
    kind |= {"metavar": "H"} if name == "heads" else {}
    shown = "" if field.default is None else f" (default: {field.default})"
    group.add_argument("--" + name.replace("_", "-"), help=about + shown, **kind)


def configs_of(arguments: argparse.Namespace) -> list[InversionConfig]:
    """One configuration a method.

    Raises:
        ValueError: a setting is refused.
    """
    given = {name: tuple(v) if isinstance(v, list) else v for name, v in vars(arguments).items() if v is not None}
    methods = dict.fromkeys(given.pop("method"))

    def changed(config: Any, **more: Any) -> Any:
        return replace(config, **{f.name: given[f.name] for f in fields(config) if f.name in given}, **more)

    preset = PRESETS[arguments.preset]
    return [changed(preset, loss=changed(preset.loss, method=method)) for method in methods]


def targets_of(arguments: argparse.Namespace, model: Model, crop: Crop) -> tuple[list[Target], list[str]]:
    """The images to invert, and a line for each file of a folder that is none.

    Raises:
        ValueError: nothing to invert, or none of it can be read.
    """
    picture, known = arguments.picture, arguments.held_out or arguments.generated
    folder = picture is not None and picture.is_dir()
    for given, needed, option, needs in (
        (arguments.limit is not None, folder, "--limit", "a folder"),
        (arguments.crop is not None, picture, "--crop", "a picture or a folder"),
        (arguments.box is not None, picture and not folder, "--box", "a picture"),
        (arguments.negative, picture, "--negative", "a picture or a folder"),
        (arguments.data is not None, arguments.held_out, "--data", "--held-out N"),
        (arguments.true_class, known, "--true-class", "--held-out N or --generated N"),
    ):
        if given and not needed:
            raise ValueError(f"{option} changes nothing without {needs}; give that, or leave it out")
    targets: list[Target] = []
    refused: list[str] = []
    if folder:
        targets, refused = from_folder(picture, model, arguments.limit, arguments.negative, crop)
    elif picture is not None:
        targets = [from_file(picture, model, arguments.negative, crop=crop)]
    targets += held_out(model, arguments.held_out, arguments.data) if arguments.held_out else []
    targets += generated(model, arguments.generated, arguments.seed or 0)
    if not targets:
        raise ValueError("nothing to invert: name a picture or a folder, or give --held-out N or --generated N")
    return targets, refused


@command()
def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    with usage_errors():
        configs = configs_of(arguments)
        crop = Crop(arguments.crop or "centre", arguments.box and tuple(arguments.box))
        distance = choose_distance(arguments.lpips and tuple(arguments.lpips))
        model, choice = fitting_model(
            arguments, _files(arguments.picture), distance, negative=arguments.negative, crop=crop
        )
        targets, refused = targets_of(arguments, model, crop)
        name = arguments.picture.resolve().stem if arguments.picture else model.path.stem
        arguments.out = arguments.out or Path("runs") / arguments.results / name
        jobs = jobs_of(arguments, model, distance, targets, configs)
        for job in jobs[: len(configs)]:  # is there an attention layer, and are there such heads?
            image, other = (target.image[None].to(model.device) for target in (job.target, job.other))
            InversionLoss(model.discriminator, image, job.config.loss, other)
        out = out_folder(arguments, name)
    print(model.describe() + (f"\n{choice}" if choice else ""))
    for line in refused:
        print(f"skipped: {line}", file=sys.stderr)
    rows, interrupted = [], False
    try:
        for index, job in enumerate(jobs):
            if index % len(configs) == 0:
                _introduce(job, index // len(configs), len(targets))
            numbers = job.done_before()
            if numbers is not None:
                print(f"  {job.config.loss.method}: done before, {job.line(numbers)}")
            else:
                numbers = job.run()
            rows += rows_of(numbers)
            if numbers["stopped"] == "interrupted":
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        interrupted = True
        kept = "the best so far is kept" if rows else "before anything was found; nothing was written"
        print(f"interrupted: {kept}", file=sys.stderr)
    if len(jobs) > 1 and rows:
        made_by = {"model": model.describe(), "command": command_line(), "config": configs[0]}
        print("\n" + write_tables(rows, out, **made_by, distance=distance.name))
        print(f"\nwrote {shorten(out / 'table.md')}, table.csv, and a folder for each picture and method")
    return INTERRUPTED if interrupted else 0


def jobs_of(
    arguments: argparse.Namespace,
    model: Model,
    distance: Distance,
    targets: list[Target],
    configs: list[InversionConfig],
) -> list[Job]:
    """Every target by every method; a single one goes right into ``--out``, several into folders of their own."""
    label = model.label(arguments.label)
    others = [*targets[1:], targets[0]] if len(targets) > 1 else generated(model, 1, arguments.seed or 0)
    jobs = []
    for target, other in zip(targets, others, strict=True):
        known = target.label if arguments.true_class and label is None else label
        stands, far = standing(model, target.image, distance) if target.source == "file" else ("", False)
        if stands and not far:
            target = replace(target, notes=(*target.notes, stands))
        warnings = [text for text in (brightness_warning(model, target.image), stands if far else "") if text]
        for config in configs:
            out = arguments.out / target.name / config.loss.method if len(targets) * len(configs) > 1 else arguments.out
            jobs.append(Job(model, distance, target, other, config, known, out, warnings))
    return jobs


def _introduce(job: Job, index: int, count: int) -> None:
    numbered = f"[{index + 1}/{count}] " if count > 1 else ""
    print(f"{numbered}{job.target.name}: " + ("\n  ".join(job.target.notes) or "used as it is"))
    for warning in job.warnings:
        print(f"warning: {job.target.name}: {warning}", file=sys.stderr)


def _files(picture: Path | None) -> list[Path]:
    if picture is None:
        return []
    return list(files_in(picture)) if picture.is_dir() else [picture]


if __name__ == "__main__":
    sys.exit(main())
