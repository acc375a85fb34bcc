"""What would run: the list of rows, the plan of single runs, and a Slurm job array that runs them."""

import argparse
import shlex
from functools import lru_cache
from pathlib import Path
from statistics import fmean

from ablations.experiment import Experiment, Setting, check
from ablations.paper import ASTERISK, CAVEAT, PUBLISHED
from ablations.records import Record, read_record
from ablations.rows import ROWS
from ablations.sizes import described, parameter_counts
from sagan_base.checkpoint import newest_step
from sagan_base.run_folder import CHECKPOINT_FOLDER

RESULTS = Path(__file__).with_name("results")
PILOT = RESULTS / "digits-pilot"  # the runs that chose how many seeds a verdict needs


@lru_cache(maxsize=1)
def measured_runs() -> list[Record]:
    """The runs that lie in the repository."""
    return [record for folder in sorted(RESULTS.glob("*/*/")) if (record := read_record(folder))]


def expected_seconds(run: Experiment) -> float | None:
    """What training takes by measured runs of the preset, of this row if there are any; None where there are none."""
    runs = [record for record in measured_runs() if record.setting.preset == run.setting.preset.name]
    runs = [record for record in runs if record.row == run.row.name] or runs
    return fmean(r.seconds / r.setting.steps for r in runs) * run.setting.steps if runs else None


def duration(seconds: float) -> str:
    """ "3 min", "5.2 h", "12 days"."""
    for limit, unit, size in ((90, "s", 1), (5400, "min", 60), (172_800, "h", 3600)):
        if seconds < limit:
            value = seconds / size
            return f"{value:.1f} {unit}" if unit == "h" else f"{value:.0f} {unit}"
    return f"{seconds / 86_400:,.0f} days"


def _about(seconds: float | None) -> str:
    return "time unknown" if seconds is None else f"about {duration(seconds)}"


def _total(preset: str, seconds: list[float | None]) -> str:
    """The sum, and where it was measured."""
    if None in seconds:
        return f"time unknown, because no run of preset {preset} lies in {RESULTS.parent.name}/{RESULTS.name}"
    machines = {r.provenance.machine.kind for r in measured_runs() if r.setting.preset == preset}
    total = _about(sum(seconds))
    return f"{total} one after the other, without evaluations, as measured on {', '.join(sorted(machines))}"


def listing(runs: list[Experiment]) -> str:
    """One paragraph a row: name, question, what was found, size and expected time; and what all runs come to."""
    setting, blocks = runs[0].setting, []
    of_row = {run.row.name: run for run in runs}
    width = max(22, 2 + max(map(len, of_row)))
    for name, run in of_row.items():
        published = PUBLISHED[name].columns() if name in PUBLISHED else {}
        found = "; ".join([run.row.found, *[", ".join(map(" ".join, published.items()))] * bool(published)])
        model = run.model()
        blocks.append(
            "\n".join(
                [
                    f"{name:<{width}}{described(model)}",
                    f"    asks:  {run.row.question}",
                    f"    found: {found}",
                    f"    costs: {sum(parameter_counts(model)) / 1e6:.2f}M parameters; "
                    f"{_about(expected_seconds(run))} a run",
                ]
            )
        )
    head = f"preset {setting.preset.name}: {setting.preset.description}\n{_setting(setting)}"
    many = f"{len(of_row)} row{'s' * (len(of_row) > 1)}, {len(runs)} run{'s' * (len(runs) > 1)}"
    total = _total(setting.preset.name, [expected_seconds(run) for run in runs])
    return "\n\n".join([head, *blocks, f"{many}: {total}\n{ASTERISK} {CAVEAT}"])


def plan(runs: list[Experiment], out: Path) -> str:
    """One line a run: whether it is finished, goes on, or is new; how long it takes; where it goes."""
    check(runs)
    setting, left = runs[0].setting, []
    lines = [_setting(setting), ""]
    width = max(30, 2 + max(len(run.name) for run in runs))
    for run in runs:
        seconds = expected_seconds(run)
        state, share = _state(run, out / run.name)
        left.append(None if seconds is None and share else (seconds or 0) * share)
        lines.append(f"{run.name:<{width}}{state:<18}{_about(seconds):<16} ->  {out / run.name}")
    return "\n".join([*lines, "", f"{len(runs)} runs; left: {_total(setting.preset.name, left)}"])


def _state(run: Experiment, folder: Path) -> tuple[str, float]:
    """What would happen to this run, and the share of its steps still to do."""
    steps = run.setting.steps
    record = read_record(folder)
    if record is not None and record.setting.steps == steps:
        same = (record.setting.features, record.setting.measured) == (run.setting.features, run.setting.measured)
        return ("finished" if same else "measured again"), 0.0
    done = newest_step(folder / CHECKPOINT_FOLDER)
    if not done:
        return "new", 1.0
    if done > steps:
        return f"has {done:,} steps", 0.0
    return f"goes on at {done:,}", max(0.0, 1 - done / steps)


def _setting(setting: Setting) -> str:
    recipe = setting.preset.recipe(setting.recipe)
    return (
        f"data {setting.data}, {setting.steps:,} steps in {setting.precision}, recipe {setting.recipe}: batch "
        f"{recipe.batch_size}, learning rates {recipe.generator_lr:g} and {recipe.discriminator_lr:g}, betas "
        f"{recipe.betas}, EMA {recipe.ema_decay:g}"
    )


def slurm_script(runs: list[Experiment], out: Path, options: argparse.Namespace) -> str:
    """A job array with one task a run; rows that ran out of time go on when it is submitted again."""
    same = ["--preset", options.preset, "--recipe", runs[0].setting.recipe, "--out", str(out.absolute())]
    for name in ("data", "steps", "precision", "inception_weights", "device"):
        if (value := getattr(options, name)) is not None:
            same += [f"--{name.replace('_', '-')}", str(value)]
    if options.features:
        same += ["--features", *options.features]
    if runs[0].row.name not in ROWS:
        raise ValueError("--format slurm writes rows by name; this combination has none, so give --rows or --all")
    from sagan_base.pages import render  # takes long to import, and a list shall come at once

    places = {"here": Path.cwd(), "script": Path(__file__).resolve().with_name("run.py")}
    quoted = {name: shlex.quote(str(place)) for name, place in places.items()}
    return render("ablations", "array.sh", runs=runs, options=shlex.join(same), **quoted)
