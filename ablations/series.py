"""A series of runs: what must hold before its first step, one run after the other, the table after each."""

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from sagan_base.cli import writable_folder

from ablations.execute import Measurement, finished, run_experiment
from ablations.experiment import Experiment
from ablations.paper import CAVEAT
from ablations.records import Record, read_records, require_runs_belong
from ablations.rows import partner_of
from ablations.table import brief, write_table
from sagan_base.attention_health import verdict
from sagan_base.data import ImageData, load_data
from sagan_base.distributed import Processes
from sagan_base.metrics.evaluate import check_evaluation
from sagan_base.run_state import read_run
from sagan_base.training import TrainingStopped, check_data


@dataclass(frozen=True)
class Series:
    """Runs of one setting, with all that they need.

    Attributes:
        held_out: real images that were not trained on, where the data has some.
        out: the folder of the runs' folders.
    """

    runs: list[Experiment]
    data: ImageData
    held_out: ImageData | None
    out: Path
    measure: Measurement
    group: Processes


def load(runs: list[Experiment], out: Path, weights: dict[str, Path], group: Processes) -> Series:
    """Load the data and refuse whatever can be refused before the first step.

    Raises:
        ValueError: an --out that cannot be written, networks that do not fit the data, features that cannot be had, or
            folders that hold something else.
    """
    setting = runs[0].setting
    resolution = setting.preset.model.resolution
    with group.first_before_others():  # it decodes and caches what the others then read
        data = load_data(setting.data, resolution)
    measure = Measurement(setting.features, setting.preset.samples, weights)
    series = Series(runs, data, _held_out(setting.data, data) if group.is_first else None, out, measure, group)
    if group.is_first:
        _check(series)
        print(data.describe(), flush=True)
    group.wait()
    return series


def _held_out(spec: str, data: ImageData) -> ImageData | None:
    """The test split; None, with a line that says why, where there is none."""
    try:
        return load_data(spec, data.resolution, data.channels, split="test")
    except ValueError as error:
        print(f"no real images stand in the table: {error}")
        return None


def _check(series: Series) -> None:
    setting, out = series.runs[0].setting, series.out
    writable_folder("--out", out)
    for run in series.runs:
        config = run.config(series.data)
        check_data(config, series.data)
        if problem := read_run(out / run.name, config, series.data)[0]:
            raise ValueError(problem)
    require_runs_belong(out, {run.name for run in series.runs}, setting.conditions(series.data))
    for name in setting.features:
        check_evaluation(series.data, name, weights=series.measure.weights.get(name), device=series.group.device)


def run_series(series: Series) -> int:
    """Run what is not finished; returns the exit code, 1 where a run failed (the others go on)."""
    failed, out, group = [], series.out, series.group
    say = print if group.is_first else (lambda *_, **__: None)
    for number, run in enumerate(series.runs, 1):
        say(f"\n[{number}/{len(series.runs)}] {run.row.title}, seed {run.seed}: {run.row.question}", flush=True)
        if finished(run, series.data, out, group):
            say(f"  finished before: {out / run.name}")
            continue
        try:
            record = run_experiment(run, series.data, series.held_out, out, series.measure, group)
        except TrainingStopped as error:
            failed.append(run.name)
            say(f"{run.name} failed: {error}", file=sys.stderr, flush=True)
            continue
        if record is not None:
            say(result_text(record))
            tabulate(out)
    if group.is_first and (records := tabulate(out)):
        print(f"\n{brief(records)}\n{CAVEAT}\n\nwritten: {out / 'table.csv'}, {out / 'table.md'}")
        print(f"report:  python ablations/report.py {shlex.quote(str(out))}")
    if failed:
        say(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def tabulate(out: Path) -> list[Record]:
    """Rebuild the table from all run folders, whoever made them."""
    records, unfinished = read_records(out)
    if records:
        write_table(records, unfinished, out)
    return records


def result_text(record: Record) -> str:
    """What the run shows, in a few lines; all of it is in its ``result.json``."""
    key = record.distance_key
    before, after = record.initial[key], record.distance
    change = f"{before / after:.1f} times lower" if after <= before else f"{after / before:.1f} times higher"
    lines = [f"{key}: {before:.4g} at initialisation, {after:.4g} at the end: {change}"]
    if key in record.real:
        lines.append(f"{record.real['images']:,.0f} real images that were not trained on: {record.real[key]:.4g}")
    if record.attention_health:
        lines.append(verdict(record.attention_health))
    if partner := partner_of(record.of_row):
        command = f"python ablations/run.py --rows {partner.name}"
        lines.append(f"its partner, whose attention can depend on the image: {command}")
    gains = ", ".join(f"{name} {value:+.3f}" for name, value in record.gains.items()) or "no attention"
    lines.append(f"{gains}; {record.seconds / 60:.1f} minutes, {record.images_per_second:.0f} images/s")
    return "\n".join(f"  {line}" for line in [*lines, f"folder: {record.folder}"])
