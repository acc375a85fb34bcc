"""Find the latent code of which a generator makes a picture, and show where the networks look.

    python analysis/invert.py picture.jpg                  one picture, with the shipped model that fits
    python analysis/invert.py FOLDER --method saliency features pixel
    python analysis/invert.py --held-out 20 --generated 20 --method saliency features pixel

One picture gives reconstruction.png, comparison.png, latent.npz, metrics.json and explorer.html, a page that shows
for every query where each head of both networks looks. Several give a folder each, and a table of all.
"""

import argparse
import json
import sys
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from analysis.fitting_model import DEFAULT_CHOICE, fitting_model
from analysis.inversion.distances import Distance, choose_distance
from analysis.inversion.loss import FEATURES, METHODS, NORMS, WEIGHTINGS, InversionLoss
from analysis.inversion.report import TUNED, shorten, summary, write_inversion
from analysis.inversion.search import PRESETS, InversionConfig, invert
from analysis.inversion.table import rows_of, write_tables
from analysis.inversion.targets import Target, brightness_warning, from_file, from_folder, generated, held_out
from analysis.loading import Model, add_model_arguments
from analysis.pictures import files_in
from sagan_base.checkpoint import model_file
from sagan_base.cli import INTERRUPTED, usage_errors, writable_folder
from sagan_base.options import Parser
from sagan_base.provenance import command_line, provenance


def build_parser() -> argparse.ArgumentParser:
    parser = Parser("python analysis/invert.py", __doc__.split("\n\n")[0])
    parser.epilog = (
        "The settings left out are those of --preset. Ctrl-C keeps the best so far. Exit codes: 0 done, 2 a "
        "mistake in the command or its files, 130 interrupted."
    )
    what = parser.add_argument_group("what to invert")
    what.add_argument("picture", nargs="?", type=Path, metavar="PICTURE", help="an image file, or a folder of them")
    what.add_argument("--held-out", type=int, default=0, metavar="N", help="N test images of the model's data set")
    what.add_argument("--generated", type=int, default=0, metavar="N", help="N images the model makes, z being known")
    what.add_argument("--data", metavar="SPEC", help="data set of --held-out (default: the model's own)")
    what.add_argument("--limit", type=int, metavar="N", help="at most N pictures of the folder")
    what.add_argument("--negative", action="store_true", help="exchange light and dark of the pictures first")
    what.add_argument("--class", dest="label", metavar="CLASS", help="its number or name (default: searched)")
    what.add_argument(
        "--true-class", action="store_true",
        help="use the class that is known: of held-out and generated images, and of files in a folder named by class",
    )  # fmt: skip
    add_model_arguments(parser, DEFAULT_CHOICE)
    how = parser.add_argument_group("how")
    how.add_argument("--preset", choices=sorted(PRESETS), default="default", help="'published' is the authors' program")
    how.add_argument("--method", nargs="+", choices=METHODS, default=["saliency"], help="the paper's, or a baseline")
    how.add_argument(
        "--features", choices=FEATURES, help="before the first attention layer (published), or all blocks'"
    )
    how.add_argument("--heads", type=int, nargs="+", metavar="H", help="heads that weigh (default: the first half)")
    how.add_argument("--weighting", choices=WEIGHTINGS, help="a norm per head, or one with their mean saliency")
    how.add_argument("--norm", choices=NORMS, help="per restart, over the whole batch (published), or L1")
    helps = {
        "steps": "optimisation steps",
        "restarts": "codes optimised side by side",
        "draws": "random codes scored first; the best become restarts",
        "classes": "how many of the best classes to keep, where none is given",
        "learning_rate": "of Adam",
        "ramp_up": "part of the steps over which the rate rises",
        "ramp_down": "part of the steps over which it falls along a cosine",
        "lookahead": "k of Lookahead; 0 leaves it out",
        "lookahead_alpha": "how far Lookahead's slow weights move",
        "clamp": "largest absolute entry of z; 0 leaves z free",
        "noise": "standard deviation of noise on z at the start",
        "patience": "stop after so many steps without improvement; 0 never",
        "seed": "of all random draws",
    }
    for field in fields(InversionConfig):
        if field.name in helps:
            value = getattr(PRESETS["default"], field.name)
            option = "--" + field.name.replace("_", "-")
            how.add_argument(option, type=type(value), metavar="X", help=f"{helps[field.name]} (default: {value})")
    how.add_argument(
        "--tune-generator", dest="tune_steps", type=int, nargs="?", const=200, metavar="STEPS",
        help="then adapt the generator's weights to the picture (200 steps if no number is given); its result is "
        "labelled, because it is no reconstruction by z alone",
    )  # fmt: skip
    how.add_argument("--tune-learning-rate", type=float, metavar="X", help="of that stage (default: 0.001)")
    how.add_argument(
        "--lpips", nargs=2, type=Path, metavar=("VGG16", "LPIPS"),
        help="weights of torchvision's VGG16 and of LPIPS 'vgg' 0.1: restarts are then chosen by LPIPS",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="DIR", help="results (default: runs/inversion/NAME)")
    return parser


def configs_of(arguments: argparse.Namespace) -> list[InversionConfig]:
    """One configuration a method.

    Raises:
        ValueError: a setting is refused.
    """
    preset = PRESETS[arguments.preset]
    given = {f.name: getattr(arguments, f.name, None) for f in fields(preset)}
    given = {name: value for name, value in given.items() if value is not None}
    loss = {"heads": arguments.heads and tuple(arguments.heads), "features": arguments.features}
    loss |= {"weighting": arguments.weighting, "norm": arguments.norm}
    loss = {name: value for name, value in loss.items() if value is not None}
    methods = dict.fromkeys(arguments.method)
    return [replace(preset, loss=replace(preset.loss, method=method, **loss), **given) for method in methods]


def targets_of(arguments: argparse.Namespace, model: Model) -> tuple[list[Target], list[str]]:
    """The images to invert, and a line for each file of a folder that is none.

    Raises:
        ValueError: nothing to invert, or none of it can be read.
    """
    for name in ("held_out", "generated"):
        if getattr(arguments, name) < 0:
            raise ValueError(f"--{name.replace('_', '-')} {getattr(arguments, name)} is negative")
    if arguments.limit is not None and arguments.limit < 1:
        raise ValueError(f"--limit {arguments.limit} is not positive")
    known = arguments.held_out or arguments.generated
    for given, needed, option, needs in (
        (arguments.limit is not None, arguments.picture and arguments.picture.is_dir(), "--limit", "a folder"),
        (arguments.negative, arguments.picture, "--negative", "a picture or a folder"),
        (arguments.data is not None, arguments.held_out, "--data", "--held-out N"),
        (arguments.true_class, known, "--true-class", "--held-out N or --generated N"),
    ):
        if given and not needed:
            raise ValueError(f"{option} changes nothing without {needs}; give that, or leave it out")
    targets: list[Target] = []
    refused: list[str] = []
    if arguments.picture is not None and arguments.picture.is_dir():
        targets, refused = from_folder(arguments.picture, model, arguments.limit, arguments.negative)
    elif arguments.picture is not None:
        targets = [from_file(arguments.picture, model, arguments.negative)]
    targets += held_out(model, arguments.held_out, arguments.data) if arguments.held_out else []
    targets += generated(model, arguments.generated, arguments.seed or 0)
    if not targets:
        raise ValueError("nothing to invert: name a picture or a folder, or give --held-out N or --generated N")
    return targets, refused


def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    with usage_errors():
        configs = configs_of(arguments)
        distance = choose_distance(arguments.lpips and tuple(arguments.lpips))
        model, choice = fitting_model(arguments, _files(arguments.picture), distance)
        label = model.label(arguments.label)
        targets, refused = targets_of(arguments, model)
        for config in configs:  # is there an attention layer, and are there such heads?
            InversionLoss(model.discriminator, targets[0].image[None].to(model.device), config.loss)
        name = arguments.picture.resolve().stem if arguments.picture else model.path.stem
        out = arguments.out or Path("runs") / "inversion" / name
        writable_folder("--out", out)
    print(model.describe() + (f"\n{choice}" if choice else ""))
    for line in refused:
        print(f"skipped: {line}", file=sys.stderr)
    one = len(targets) == 1 and len(configs) == 1
    folders = {} if one else {target.name: out / target.name for target in targets}
    rows: list[dict[str, Any]] = []
    interrupted = False
    for index, target in enumerate(targets):
        count = "" if one else f"[{index + 1}/{len(targets)}] "
        print(f"{count}{target.name}: {'; '.join(target.notes) or 'used as it is'}")
        if warning := brightness_warning(model, target.image):
            print(f"warning: {warning}", file=sys.stderr)
        known = target.label if arguments.true_class and label is None else label
        for config in configs:
            folder = out if one else folders[target.name] / config.loss.method
            interrupted = interrupted or not _inverted(model, target, config, known, distance, folder, warning, rows)
    if interrupted:
        kept = "the best so far is kept" if rows else "before anything was found; nothing was written"
        print(f"interrupted: {kept}", file=sys.stderr)
    if not one and rows:
        print("\n" + write_tables(rows, out, _heading(model, configs[0], distance)))
        print(f"\nwrote {shorten(out / 'table.md')}, table.csv, and a folder for each picture and method")
    return INTERRUPTED if interrupted else 0


def _files(picture: Path | None) -> list[Path]:
    if picture is None:
        return []
    return list(files_in(picture)) if picture.is_dir() else [picture]


def _heading(model: Model, config: InversionConfig, distance: Distance) -> list[str]:
    return [
        f"{model.describe()}.",
        "",
        f"`{command_line()}`",
        "",
        f"{config.restarts} restarts from the best of {max(config.draws, config.restarts)} draws, up to {config.steps} "
        f"steps; the restart is chosen by {distance.name}, which was not minimised. The feature distance favours "
        "the methods that minimise features, PSNR the one that minimises pixels.",
    ]


def _inverted(
    model: Model,
    target: Target,
    config: InversionConfig,
    label: int | None,
    distance: Distance,
    out: Path,
    warning: str | None,
    rows: list[dict[str, Any]],
) -> bool:
    """Invert one image, write its folder and add to the rows; a folder that holds that very result is read instead.

    Returns:
        False where it was interrupted; what was found until then is kept.
    """
    request = _request(model, config, label, target, distance.name)
    numbers = _finished(out, request)
    if numbers is not None:
        print(f"  {config.loss.method}: done before, {_line(numbers, distance)}")
        rows += rows_of(numbers)
        return True
    try:
        with _Progress() as progress:
            found = invert(model.generator, model.discriminator, target.image, config, distance, label, progress)
    except KeyboardInterrupt:
        return False
    numbers = summary(model, target, found, distance, class_given=label is not None)
    numbers |= {"request": request, "provenance": provenance(config.seed)}
    size = write_inversion(model, target, found, numbers, out, [warning] if warning else [])
    rows += rows_of(numbers)
    given = "given" if label is not None else "found"
    print(
        f"  {config.loss.method}: class {model.class_name(found.label)} ({given}); restart {found.chosen} of "
        f"{len(found.latents)}, chosen by {distance.name}; {len(found.losses)} steps ({found.stopped}), "
        f"{found.seconds:.1f} s\n  {_line(numbers, distance)}"
    )
    if TUNED in numbers:
        print(f"  {TUNED}: {_line(numbers[TUNED], distance)}")
    files = "reconstruction.png, comparison.png, latent.npz, metrics.json"
    print(f"  wrote {shorten(out / 'explorer.html')} ({size / 1e6:.1f} MB), {files}")
    return found.stopped != "interrupted"


def _line(numbers: dict[str, Any], distance: Distance) -> str:
    parts = [f"PSNR {numbers['psnr']:.2f} dB", f"SSIM {numbers['ssim']:.3f}"]
    for name in (distance.name, "feature distance", "latent error"):
        if name in numbers:
            parts.append(f"{name} {numbers[name]:.3f}")
    return ", ".join(parts)


def _request(model: Model, config: InversionConfig, label: int | None, target: Target, distance: str) -> dict[str, Any]:
    """What decides a result, to recognise it again."""
    file = model_file(model.path)
    weights = [file.name, file.stat().st_size, int(file.stat().st_mtime)]
    wanted = {"config": asdict(config), "label": label, "target": target.fingerprint, "weights": weights}
    wanted["chosen_by"] = distance
    return json.loads(json.dumps(wanted))


def _finished(out: Path, request: dict[str, Any]) -> dict[str, Any] | None:
    try:
        numbers = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    same = isinstance(numbers, dict) and numbers.get("request") == request
    return numbers if same and numbers["stopped"] != "interrupted" else None


class _Progress:
    """A bar for each stage, with its rate, time left and the lowest loss."""

    def __init__(self) -> None:
        self.bar: tqdm | None = None
        self.stage = ""

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.close()

    def __call__(self, stage: str, done: int, total: int, loss: float) -> None:
        if stage != self.stage or self.bar is None:
            self._close()
            self.stage = stage
            self.bar = tqdm(total=total, desc=f"  {stage}", leave=False)
        self.bar.set_postfix(loss=f"{loss:.4g}", refresh=False)
        self.bar.update(done - self.bar.n)


if __name__ == "__main__":
    sys.exit(main())
