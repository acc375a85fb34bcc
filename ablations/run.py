"""Train and measure rows of the ablation, and tabulate them with the published figures.

    python ablations/run.py --pattern ltr_rtl --esa          one row: the paper's YLG-SAGAN, on digits
    python ablations/run.py --all --seeds 3                  the paper's five rows, three seeds each
    python ablations/run.py --all --extended --list          what there is, what it costs
    torchrun --nproc-per-node 8 ablations/run.py --rows ylg --preset imagenet128 --data imagenet:PATH

Each run has a folder under --out. The same command goes on where it was stopped and skips what is finished; the table
is rebuilt from the folders, so results of several machines merge by copying folders. report.py makes the report.
"""

import argparse
import os
import shlex
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from ablations.execute import Measurement, finished, run_experiment
from ablations.experiment import Experiment, Setting, experiments
from ablations.presets import PRESETS, find_preset
from ablations.records import Record, read_records, require_runs_belong
from ablations.rows import (
    PAPER_ROWS,
    ROWS,
    Row,
    attention,
    find_rows,
    partner_of,
    row_of,
)
from ablations.schedule import listing, plan, slurm_script
from ablations.sizes import require_equal_sizes
from ablations.table import brief, write_table
from sagan_base.attention_health import verdict
from sagan_base.checkpoint import newest_step
from sagan_base.cli import INTERRUPTED, Parser, command, usage_errors, writable_folder
from sagan_base.config import RECIPES
from sagan_base.data import ImageData, load_data
from sagan_base.distributed import Processes, processes
from sagan_base.metrics.evaluate import check_evaluation
from sagan_base.metrics.features import FEATURES
from sagan_base.run_folder import CHECKPOINT_FOLDER, CONFIG_FILE
from sagan_base.training import TrainingInterrupted, TrainingStopped, check_data, folder_problem
from ylg import ALIGNMENTS, ORDERS
from ylg.heads import has_order
from ylg.layer import MODES


def parser() -> argparse.ArgumentParser:
    options = Parser("ablations/run.py", __doc__)
    which = options.add_argument_group("which rows (one of --pattern, --rows, --all)")
    which.add_argument("--pattern", help="one row: dense, fixed, ltr, ltr_rtl, strided, interlaced8, ...")
    order = which.add_mutually_exclusive_group()
    order.add_argument("--esa", action="store_true", help="enumerate cells by Manhattan distance (default: raster)")
    order.add_argument("--order", choices=list(ORDERS), help="another enumeration; --esa is --order manhattan")
    which.add_argument("--heads", type=int, help="attention heads of --pattern (default: 8)")
    which.add_argument("--alignment", choices=list(ALIGNMENTS), help="of --pattern (default: rows, as published)")
    which.add_argument("--mode", choices=MODES, help="of --pattern (default: parallel, as published)")
    which.add_argument("--qk-norm", action="store_true", help="of --pattern: normalised queries and keys, with a "
                       "learned temperature")  # fmt: skip
    which.add_argument("--all", action="store_true", help="the paper's five rows")
    which.add_argument("--extended", action="store_true", help=f"all {len(ROWS)} rows")
    which.add_argument("--rows", nargs="+", metavar="NAME", help="rows by name; --list shows the names")

    how = options.add_argument_group("how")
    how.add_argument("--preset", default="digits", metavar="NAME", help=f"{', '.join(PRESETS)} (default: digits)")
    how.add_argument("--data", metavar="NAME|folder:PATH", help="other images than the preset's")
    how.add_argument("--recipe", default="paper", metavar="NAME", help=f"{' or '.join(RECIPES)} (default: paper)")
    how.add_argument("--steps", type=int, help="generator updates (default: the preset's)")
    seeds = how.add_mutually_exclusive_group()
    seeds.add_argument("--seed", type=int, help="the seed of a single run per row (default: 0)")
    seeds.add_argument("--seeds", type=int, metavar="N", help="seeds 0 ... N-1")
    how.add_argument("--features", nargs="+", choices=FEATURES, help="what distances are measured in; the first leads")
    how.add_argument(
        "--inception-weights", type=Path, metavar="FILE", help="adds Inception's FID and IS from this file"
    )
    how.add_argument("--device", help="cpu or cuda (default: a GPU where there is one)")
    how.add_argument(
        "--out", type=Path, metavar="DIR", help="default: runs/ablation, with what differs from the default"
    )

    what = options.add_argument_group("instead of running")
    what.add_argument("--list", action="store_true", help="the rows, their questions, and how long they take")
    what.add_argument("--dry-run", action="store_true", help="every run: whether it is new, and its time")
    what.add_argument("--format", choices=("text", "slurm"), default="text", help="of --list: slurm is a job array")
    return options


@dataclass(frozen=True)
class Request:
    """A checked command line."""

    rows: tuple[Row, ...]
    setting: Setting
    seeds: tuple[int, ...]
    out: Path
    measurement: Measurement

    @property
    def experiments(self) -> list[Experiment]:
        return list(experiments(self.rows, self.setting, self.seeds))


def request(options: argparse.Namespace) -> Request:
    """Check the options and settle their defaults.

    Raises:
        ValueError: something is unknown, out of range or contradictory.
    """
    preset = find_preset(options.preset)
    preset.recipe(options.recipe)
    for name, least in (("steps", 1), ("seed", 0), ("seeds", 1), ("heads", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise ValueError(f"--{name} {value} is too small; give {least} or more")
    features = tuple(dict.fromkeys(options.features or (preset.features,)))
    weights = {}
    if options.inception_weights is not None:
        weights["inception"] = options.inception_weights
        features = (*(name for name in features if name != "inception"), "inception")
    setting = Setting(preset, options.recipe, options.data or preset.data, options.steps or preset.steps, features)
    seeds = tuple(range(options.seeds)) if options.seeds else (options.seed or 0,)
    out = options.out or default_out(setting)
    return Request(chosen_rows(options), setting, seeds, out, Measurement(features, weights))


def chosen_rows(options: argparse.Namespace) -> tuple[Row, ...]:
    """Raises ValueError unless exactly one way of choosing was used."""
    suite = options.all or options.extended
    ways = [
        name for name, given in (("--pattern", options.pattern), ("--rows", options.rows), ("--all", suite)) if given
    ]
    if len(ways) > 1:
        raise ValueError(f"{' and '.join(ways)} exclude each other; give one of them")
    single = ("heads", "alignment", "mode", "order", "esa", "qk_norm")
    if ways != ["--pattern"] and (
        given := [f"--{name.replace('_', '-')}" for name in single if getattr(options, name)]
    ):
        raise ValueError(f"{', '.join(given)} describe the single row of --pattern; add --pattern NAME")
    if options.pattern:
        if (options.esa or options.order) and not has_order(options.pattern):
            asked = "--esa" if options.esa else f"--order {options.order}"
            raise ValueError(f"{options.pattern} lies on the grid itself and takes no order; leave {asked} out")
        order = options.order or ("manhattan" if options.esa else "raster")
        changes = {name: getattr(options, name) for name in ("alignment", "mode", "qk_norm") if getattr(options, name)}
        return (row_of(attention(options.pattern, order, options.heads or 8, **changes)),)
    if options.rows:
        return find_rows(options.rows)
    if suite:
        return tuple(ROWS.values()) if options.extended else PAPER_ROWS
    if options.list:
        return tuple(ROWS.values())
    raise ValueError("nothing to run; give --pattern ltr_rtl --esa, --all, or --rows NAME (see --list)")


def default_out(setting: Setting) -> Path:
    """``runs/ablation``, with whatever differs from the default command, so that settings do not meet in one folder."""
    usual = PRESETS["digits"]
    preset, parts = setting.preset, ["ablation"]
    parts += [preset.name] * (preset is not usual)
    parts += [setting.recipe] * (setting.recipe != "paper")
    parts += ["on", Path(setting.data.partition(":")[2]).name or setting.data] * (setting.data != preset.data)
    parts += [f"{setting.steps}-steps"] * (setting.steps != preset.steps)
    parts += list(setting.features) * (setting.features != (preset.features,))
    return Path("runs") / "-".join(parts)


def check(asked: Request, data: ImageData) -> None:
    """Everything that can be refused before the first step, now that the data is known.

    Raises:
        ValueError: an --out that cannot be written, networks that cannot be built, unequal sizes where the paper
            compares equal ones, features that cannot be had, or folders that hold something else.
    """
    for name in asked.setting.features:
        check_evaluation(data, name, weights=asked.measurement.weights.get(name))
    runs = asked.experiments
    require_equal_sizes(runs, data)
    writable_folder("--out", asked.out)
    for run in runs:
        config = run.config(data)
        check_data(config, data)
        if problem := folder_problem(asked.out / run.name / CONFIG_FILE, config, data):
            raise ValueError(problem)
        done, steps = newest_step(asked.out / run.name / CHECKPOINT_FOLDER), run.setting.steps
        if done > steps:
            raise ValueError(
                f"{asked.out / run.name} holds {done} steps, more than --steps {steps}; give {done} or more, or "
                "another --out"
            )
    require_runs_belong(asked.out, {run.name for run in runs}, asked.setting.conditions(data))


def run_all(asked: Request, data: ImageData, group: Processes) -> int:
    """Run what is not finished; returns the exit code, 1 where a run failed (the others go on)."""
    failed = []
    runs = asked.experiments
    for number, run in enumerate(runs, 1):
        say = print if group.is_first else (lambda *_, **__: None)
        say(f"\n[{number}/{len(runs)}] {run.row.title}, seed {run.seed}: {run.row.question}", flush=True)
        if finished(run, data, asked.out, group):
            say(f"  finished before: {asked.out / run.name}")
            continue
        try:
            record = run_experiment(run, data, asked.out, asked.measurement, group)
        except TrainingStopped as error:
            failed.append(run.name)
            say(f"{run.name} failed: {error}", file=sys.stderr, flush=True)
            continue
        if record is not None:
            say(result_text(record))
            tabulate(asked.out)
    if group.is_first:
        finish(asked, failed)
    return 1 if failed else 0


def tabulate(out: Path) -> list[Record]:
    """Rebuild the table from all run folders, whoever made them."""
    records, unfinished = read_records(out)
    if records:
        write_table(records, unfinished, out)
    return records


def finish(asked: Request, failed: list[str]) -> None:
    records = tabulate(asked.out)
    if records:
        print(f"\n{brief(records)}\n\nwritten: {asked.out / 'table.csv'}, {asked.out / 'table.md'}")
        print(f"report:  python ablations/report.py {shlex.quote(str(asked.out))}")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)


def result_text(record: Record) -> str:
    """What the run shows, in three lines; all of it is in its ``result.json``."""
    key = record.distance_key
    before, after = record.initial[key], record.distance
    change = f"{before / after:.1f} times lower" if after <= before else f"{after / before:.1f} times higher"
    lines = [f"{key}: {before:.4g} at initialisation, {after:.4g} at the end: {change}"]
    if record.class_accuracy is not None:
        lines.append(
            f"class accuracy: a support vector machine trained on the real images gives {record.class_accuracy:.1%} "
            "of 500 samples the class asked for"
        )
    gains = ", ".join(f"{name} {value:+.3f}" for name, value in record.gains.items()) or "no attention"
    if record.attention_health:
        lines.append(verdict(record.attention_health))
    if partner := partner_of(record.of_row):
        command = f"python ablations/run.py --rows {partner.name}"
        lines.append(f"its partner, whose attention can depend on the image: {command}")
    lines.append(f"{gains}; {record.seconds / 60:.1f} minutes, {record.images_per_second:.0f} images/s")
    return "\n".join(f"  {line}" for line in [*lines, f"folder: {record.folder}"])


@command()
def main(argv: list[str] | None = None) -> int:
    with usage_errors():
        options = parser().parse_args(argv)
        asked = request(options)
        if options.format == "slurm" and not options.list:
            raise ValueError("--format slurm is a form of --list; add --list")
        if options.format == "slurm":
            print(slurm_script(asked.experiments, asked.out, options))
            return 0
        if options.list:
            print(listing(asked.rows, asked.setting, asked.seeds))
            return 0
        if options.dry_run:
            print(plan(asked.experiments, asked.out))
            return 0
    with ExitStack() as stack:
        with usage_errors():
            if asked.setting.data == "imagenet":
                raise ValueError(f"preset {options.preset} needs images; give --data imagenet:PATH (it holds train/)")
            require_equal_sizes(asked.experiments)
            group = stack.enter_context(processes(options.device))
            if (threads := asked.setting.preset.cpu_threads) and "OMP_NUM_THREADS" not in os.environ:
                torch.set_num_threads(threads)
            with group.first_before_others():  # it decodes and caches what the others then read
                data = load_data(asked.setting.data, asked.setting.preset.model.resolution)
            if group.is_first:
                check(asked, data)
            group.wait()
        if group.is_first:
            print(data.describe(), flush=True)
        try:
            return run_all(asked, data, group)
        except TrainingInterrupted as stop:
            print(f"\n{stop}", file=sys.stderr)
            return stop.exit_code
        except KeyboardInterrupt:
            print("\ninterrupted while measuring; the training is kept: the same command measures again",
                  file=sys.stderr)  # fmt: skip
            return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
