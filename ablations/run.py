"""Train and measure rows of the ablation, and tabulate them with the published figures.

    python ablations/run.py --pattern ltr_rtl --esa          one row: the paper's YLG-SAGAN, on digits
    python ablations/run.py --all --seeds 3                  the paper's five rows, three seeds each
    python ablations/run.py --table                          the rows of the table, with the seeds its verdicts need
    python ablations/run.py --table --list                   what there is, what it costs
    torchrun --nproc-per-node 8 ablations/run.py --rows ylg --preset imagenet128 --data imagenet:PATH

DCGAN against SAGAN on CIFAR-10 after five epochs: --rows dcgan sagan_attending --preset cifar10-small.

Each run has a folder under --out. The same command goes on where it was stopped and skips what is finished; the table
is rebuilt from the folders, so results of several machines merge by copying folders. report.py makes the report.
"""

import argparse
import os
import sys
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from sagan_base.cli import INTERRUPTED, Parser, command, shared_option, usage_errors, whole

import torch

from ablations.contrasts import FIRST_SEED, OTHER_SEEDS, ROWS_OF_CONTRASTS, SEEDS
from ablations.experiment import Experiment, Setting, check, experiments
from ablations.presets import PRESETS, find_preset
from ablations.rows import PAPER_ROWS, ROWS, TABLE_ROWS, Row, attention, find_rows, row_of
from ablations.schedule import PILOT, listing, plan, slurm_script
from sagan_base.config import PRECISIONS, RECIPES
from sagan_base.metrics.names import FEATURES
from ylg import ALIGNMENTS, ORDERS
from ylg.heads import has_order
from ylg.layer import MODES


def parser() -> argparse.ArgumentParser:
    options = Parser("python ablations/run.py", __doc__)
    which = options.add_argument_group("which rows (one of --pattern, --rows, --all, --extended, --contrasts, --table)")
    which.add_argument("--pattern", metavar="NAME", help="one row: dense, ltr, ltr_rtl, strided, interlaced8, ...")
    order = which.add_mutually_exclusive_group()
    order.add_argument("--esa", action="store_true", help="enumerate cells by Manhattan distance (default: raster)")
    order.add_argument("--order", choices=list(ORDERS), help="another enumeration; --esa is --order manhattan")
    which.add_argument("--num-heads", "--heads", type=whole(1), metavar="N", help="of --pattern (default: 8)")
    which.add_argument("--alignment", choices=list(ALIGNMENTS), help="of --pattern (default: rows, as published)")
    which.add_argument("--mode", choices=MODES, help="of --pattern (default: parallel, as published)")
    which.add_argument("--qk-norm", action="store_true", help="of --pattern: normalised queries and keys, with a "
                       "learned temperature")  # fmt: skip
    which.add_argument("--all", action="store_true", help="the paper's five rows")
    which.add_argument("--extended", action="store_true", help=f"all {len(ROWS)} rows")
    which.add_argument("--rows", nargs="+", metavar="NAME", help="rows by name; --list shows the names")
    which.add_argument("--contrasts", action="store_true", help="the rows that verdicts compare (contrasts.py)")
    which.add_argument("--table", action="store_true", help=f"{len(TABLE_ROWS)} rows, seeds from {FIRST_SEED} on: "
                       f"{SEEDS} of the rows that verdicts compare, {OTHER_SEEDS} of the others")  # fmt: skip

    how = options.add_argument_group("how")
    how.add_argument("--preset", default="digits", metavar="NAME", help=f"{', '.join(PRESETS)} (default: digits)")
    shared_option(how, "--data", "digits, folder:PATH, ... (default: the preset's)")
    how.add_argument("--recipe", choices=RECIPES, help="losses and rates of the training (default: the preset's)")
    shared_option(how, "--steps", "generator updates (default: the preset's)")
    how.add_argument("--precision", choices=PRECISIONS, help="numbers of the training (default: the preset's)")
    seeds = how.add_mutually_exclusive_group()
    shared_option(seeds, "--seed", "of a single run per row (default: 0)")
    seeds.add_argument("--seeds", type=whole(1), metavar="N", help="seeds 0 ... N-1")
    how.add_argument("--features", nargs="+", choices=FEATURES, metavar="NAME", help=f"what distances are measured in, "
                     f"the first leads: {', '.join(FEATURES)} (default: the preset's)")  # fmt: skip
    shared_option(how, "--inception-weights", "torch-fidelity's Inception weights; adds --features inception")
    shared_option(how, "--device")
    shared_option(how, "--out", "folder of the runs (default: runs/ablation, with what differs from the default)")

    what = options.add_argument_group("instead of running")
    what.add_argument("--list", action="store_true", help="the rows, their questions, and how long they take")
    what.add_argument("--dry-run", action="store_true", help="every run: whether it is new, and its time")
    what.add_argument("--format", choices=("text", "slurm"), default="text", help="of --list: slurm is a job array")
    what.add_argument("--power", nargs="?", type=Path, const=PILOT, metavar="RUNS", help="what difference how many "
                      "seeds would show, from these runs (default: the pilot in the repository)")  # fmt: skip
    return options


@dataclass(frozen=True)
class Request:
    """A checked command line: the runs in their order, all of one setting, and where they go."""

    runs: list[Experiment]
    setting: Setting
    out: Path
    weights: dict[str, Path]  # of features that need a file


def request(options: argparse.Namespace) -> Request:
    """Check the options and settle their defaults.

    Raises:
        ValueError: something is unknown, out of range or contradictory.
    """
    preset = find_preset(options.preset)
    features = tuple(dict.fromkeys(options.features or (preset.features,)))
    weights = {}
    if options.inception_weights is not None:
        weights["inception"] = options.inception_weights
        features = (*(name for name in features if name != "inception"), "inception")
    setting = Setting(
        preset, options.recipe or preset.default_recipe, options.data or preset.data, options.steps or preset.steps,
        features, options.precision or preset.precision,
    )  # fmt: skip
    if options.table and (options.seed is not None or options.seeds):
        raise ValueError("--table has seeds of its own; leave --seed and --seeds out, or choose rows by name")
    seeds = tuple(range(options.seeds)) if options.seeds else (options.seed or 0,)
    rows = chosen_rows(options)
    runs = whole_table(setting) if options.table else experiments(rows, setting, seeds)
    return Request(runs, setting, options.out or default_out(setting), weights)


def chosen_rows(options: argparse.Namespace) -> tuple[Row, ...]:
    """Raises ValueError unless exactly one way of choosing was used."""
    ways = {
        "--pattern": options.pattern,
        "--rows": options.rows,
        "--all": options.all or options.extended,
        "--contrasts": options.contrasts,
        "--table": options.table,
    }
    ways = [name for name, given in ways.items() if given]
    if len(ways) > 1:
        raise ValueError(f"{' and '.join(ways)} exclude each other; give one of them")
    single = ("num_heads", "alignment", "mode", "order", "esa", "qk_norm")
    if ways != ["--pattern"] and (
        given := [f"--{name.replace('_', '-')}" for name in single if getattr(options, name)]
    ):
        raise ValueError(f"{', '.join(given)} describe the single row of --pattern; add --pattern NAME")
    if options.pattern:
        if (options.esa or options.order) and not has_order(options.pattern):
            given = "--esa" if options.esa else f"--order {options.order}"
            raise ValueError(f"{options.pattern} lies on the grid itself and takes no order; leave {given} out")
        order = options.order or ("manhattan" if options.esa else "raster")
        changes = {name: getattr(options, name) for name in ("alignment", "mode", "qk_norm") if getattr(options, name)}
        return (row_of(attention(options.pattern, order, options.num_heads or 8, **changes)),)
    if options.rows:
        return find_rows(options.rows)
    if options.contrasts:
        return find_rows(list(ROWS_OF_CONTRASTS))
    if options.all and not options.extended:
        return PAPER_ROWS
    if options.table:
        return TABLE_ROWS
    if options.extended or options.list:
        return tuple(ROWS.values())
    raise ValueError("nothing to run; give --pattern ltr_rtl --esa, --all, or --rows NAME (see --list)")


def whole_table(setting: Setting) -> list[Experiment]:
    """The rows of the table, a seed after the other: the rows that verdicts compare have the more seeds."""
    runs = experiments(TABLE_ROWS, setting, tuple(range(FIRST_SEED, FIRST_SEED + SEEDS)))
    return [run for run in runs if run.row.name in ROWS_OF_CONTRASTS or run.seed < FIRST_SEED + OTHER_SEEDS]


def default_out(setting: Setting) -> Path:
    """``runs/ablation``, with whatever differs from the default command, so that settings do not meet in one folder."""
    usual = PRESETS["digits"]
    preset, parts = setting.preset, ["ablation"]
    parts += [preset.name] * (preset is not usual)
    parts += [setting.recipe] * (setting.recipe != preset.default_recipe)
    parts += ["on", Path(setting.data.partition(":")[2]).name or setting.data] * (setting.data != preset.data)
    parts += [f"{setting.steps}-steps"] * (setting.steps != preset.steps)
    parts += [setting.precision] * (setting.precision != preset.precision)
    parts += list(setting.features) * (setting.features != (preset.features,))
    return Path("runs") / "-".join(parts)


@command()
def main(argv: list[str] | None = None) -> int:
    with usage_errors():
        options = parser().parse_args(argv)
        if options.power:
            from ablations.power import power_report

            print(power_report(options.power))
            return 0
        wanted = request(options)
        if options.format == "slurm" and not options.list:
            raise ValueError("--format slurm is a form of --list; add --list")
        if options.format == "slurm":
            print(slurm_script(wanted.runs, wanted.out, options), end="")
            return 0
        if options.list:
            print(listing(wanted.runs))
            return 0
        if options.dry_run:
            print(plan(wanted.runs, wanted.out))
            return 0
        if wanted.setting.data == "imagenet":
            raise ValueError(f"preset {options.preset} needs images; give --data imagenet:PATH (it holds train/)")
        check(wanted.runs)
    from ablations.series import load, run_series  # what trains and measures takes seconds to import
    from sagan_base.distributed import processes
    from sagan_base.training import TrainingInterrupted

    with ExitStack() as stack:
        with usage_errors():
            group = stack.enter_context(processes(options.device))
            if (threads := wanted.setting.preset.cpu_threads) and "OMP_NUM_THREADS" not in os.environ:
                torch.set_num_threads(threads)
            series = load(wanted.runs, wanted.out, wanted.weights, group)
        try:
            return run_series(series)
        except TrainingInterrupted as stop:
            print(f"\n{stop}", file=sys.stderr)
            return stop.exit_code
        except KeyboardInterrupt:
            print("\ninterrupted while measuring; the training is kept: the same command measures again",
                  file=sys.stderr)  # fmt: skip
            return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
