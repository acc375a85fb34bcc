"""Does saliency help an inversion? Held-out pictures by every variant of the loss, and one question fixed beforehand.

    python analysis/compare_inversions.py --model cifar10 --data folder:PATH       goes on where it was stopped
    python analysis/compare_inversions.py --table --out FOLDER                     the table again from its records

Says first how many CPU hours it will take. Writes inversions.csv (the records, a line an inversion), settings.json,
table.csv and table.md. What is compared, and why, says inversion/comparison.py.
"""

import json
import sys
import time
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from sagan_base.cli import INTERRUPTED, Parser, command, shared_option, usage_errors, whole

import pandas as pd
from tqdm import tqdm

from analysis.inversion.comparison import (
    AGAINST,
    DISTANCE,
    PICTURES,
    RECORDS,
    REFERENCE,
    SETTINGS,
    VARIANTS,
    loss_of,
    read_records,
    what_saliency_says,
    write_table,
)
from analysis.inversion.config import InversionConfig, add_effort_options
from analysis.inversion.distances import Distance, efficientnet_distance
from analysis.inversion.report import shorten, similarity
from analysis.inversion.search import Inversion, invert
from analysis.inversion.targets import Target, held_out
from analysis.loading import Model, add_common_arguments, model_of, out_folder
from sagan_base.extras import require_extra
from sagan_base.files import write_json, write_text
from sagan_base.images import evenly_spaced
from sagan_base.provenance import command_line, provenance
from sagan_base.tables import csv
from sagan_base.typed import read_json, reading

WATCHED = 256  # held-out pictures on which it is measured whether saliency depends on the picture
MAY_DIFFER = ("command", "provenance")  # between the sessions of one comparison


def build_parser() -> Parser:
    parser = Parser("python analysis/compare_inversions.py", __doc__)
    add = parser.add_argument
    add("--pictures", type=whole(2), default=PICTURES, metavar="N", help=f"held-out pictures (default: {PICTURES})")
    add("--variants", nargs="+", choices=tuple(VARIANTS), default=list(VARIANTS), metavar="NAME",
        help=f"{', '.join(VARIANTS)} (default: all)")  # fmt: skip
    add_effort_options(parser)
    shared_option(parser, "--data", "whose held-out pictures (default: of the model's own data)")
    add("--table", action="store_true", help="invert nothing; the table again from the records in --out")
    add("--dry-run", action="store_true", help="say what it takes, and stop")
    add_common_arguments(parser, "comparison", "all random draws")
    return parser


@command()
def main(argv: list[str] | None = None) -> int:
    arguments = build_parser().parse_args(argv)
    require_extra("features", "a comparison")
    with usage_errors():
        if arguments.table:
            show(arguments.out or Path())
            return 0
        model = model_of(arguments)
        config = InversionConfig(
            steps=arguments.steps, restarts=arguments.restarts, draws=arguments.draws, choose="loss",
            seed=arguments.seed,
        )  # fmt: skip
        configs = {name: replace(config, loss=loss_of(name, model)) for name in arguments.variants}
        # One more than are inverted: another image's saliency is that of the next.
        targets = held_out(model, arguments.pictures + 1, arguments.data)
        data = model.training_data("test", arguments.data)
        out = out_folder(arguments, model.path.stem)
        distance = efficientnet_distance()
        settings = json.loads(json.dumps({
            "model": model.describe(),
            "weights": model.generator_fingerprint,
            "data": data.name,
            "data fingerprint": data.fingerprint,
            "config": asdict(config),
            "saliency": what_saliency_says(model, data.batch(evenly_spaced(len(data), WATCHED))[0]),
            "command": command_line(),
            "provenance": provenance(arguments.seed),
        }))  # fmt: skip
        rows = records(out, settings)
    done = set(zip(rows["picture"], rows["variant"], strict=True)) if len(rows) else set()
    left = [
        (target, other, name)
        for names in ((REFERENCE, *AGAINST), set(VARIANTS) - {REFERENCE, *AGAINST})  # the question is answered first
        for target, other in pairwise(targets)
        for name in configs
        if name in names and (target.name, name) not in done
    ]
    print(model.describe())
    needed = hours(model, targets, config, rows, left)
    print(f"{len(done)} inversions are there, {len(left)} to do: about {needed:.2g} CPU hours")
    if arguments.dry_run:
        return 0
    write_json(out / SETTINGS, settings)
    try:
        for target, other, name in tqdm(left, unit="inversion"):
            line = measured(model, target, other, name, configs[name], distance)
            rows = pd.concat([rows, pd.DataFrame([line])], ignore_index=True)
            write_text(out / RECORDS, csv(rows))
    except KeyboardInterrupt:
        print(f"interrupted; {len(rows)} inversions are kept, and the same command goes on", file=sys.stderr)
        return INTERRUPTED
    show(out)
    return 0


def show(out: Path) -> None:
    """Write the table from the records alone, and print it."""
    print(f"{write_table(out)}\n{shorten(out)}: {RECORDS}, {SETTINGS}, table.csv, table.md")


def records(out: Path, settings: dict[str, Any]) -> pd.DataFrame:
    """The inversions that the folder holds.

    Raises:
        ValueError: they were made by other settings; says which.
    """
    if not (out / RECORDS).is_file():
        return pd.DataFrame()
    with reading(out / SETTINGS):
        before = read_json(out / SETTINGS)
        differing = [name for name in settings if name not in MAY_DIFFER and before.get(name) != settings[name]]
    if differing:
        raise ValueError(f"{out} holds a comparison that differs in {', '.join(differing)}; use another --out")
    return read_records(out)


def measured(
    model: Model, target: Target, other: Target, variant: str, config: InversionConfig, distance: Distance
) -> dict[str, Any]:
    """One inversion's record.

    Raises:
        KeyboardInterrupt: it was interrupted; an inversion cut short is no record.
    """
    started = time.process_time()
    inversion = inverted(model, target, config, distance, other)
    if inversion.stopped == "interrupted":
        raise KeyboardInterrupt
    numbers = similarity(model, inversion.image, target.image, distance)
    return {
        "picture": target.name,
        "class": model.class_names[target.label],
        "variant": variant,
        **{name: numbers[key] for name, key in ((DISTANCE, DISTANCE), ("PSNR (dB)", "psnr"), ("SSIM", "ssim"))},
        "steps": len(inversion.losses),
        "CPU seconds": time.process_time() - started,
    }


def inverted(
    model: Model, target: Target, config: InversionConfig, distance: Distance, other: Target | None = None
) -> Inversion:
    return invert(
        model.generator, model.discriminator, target.image, config, distance, target.label,
        other=None if other is None else other.image,
    )  # fmt: skip


def hours(model: Model, targets: list[Target], config: InversionConfig, rows: pd.DataFrame, left: list) -> float:
    """CPU hours of what is left: by the records there are, or by two short inversions."""
    if not left:
        return 0.0
    if len(rows):
        return len(left) * rows["CPU seconds"].mean() / 3600
    seconds, few = [], (2, 8)
    for steps in few:
        started = time.process_time()
        inverted(model, targets[0], replace(config, steps=steps), efficientnet_distance())
        seconds.append(time.process_time() - started)
    a_step = max(seconds[1] - seconds[0], 0) / (few[1] - few[0])
    return len(left) * (seconds[0] + a_step * (config.steps - few[0])) / 3600


if __name__ == "__main__":
    sys.exit(main())
