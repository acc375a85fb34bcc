"""What sparse patterns carry: predictions from masks alone beside what a layer trained on small tasks can do.

A layer of ylg stands alone in a tiny network. *find*: every cell names the colour of one marked cell, so a path must
lead there. *swap*: every cell names the colour of another, so much must get through at once. *near*: every cell tells
the colours in the 5x5 cells round it. Part a: 8x8 cells, 15 patterns by name and 20 random ones. Part b: 16x16 cells,
the patterns by name. Predictions are written before the first run and never change afterwards. A run that is finished
is never repeated; the same command goes on where it was stopped.

About ten set-ups of network and tasks were tried on seeds 0 to 2, the last two because LTR + RTL fell short of its
prediction; so those seeds are no evidence, and the results begin with seed 3.

    python ablations/probes.py --part a           # the runs of part a that are missing, then the table and the picture
    python ablations/probes.py --table            # the table and the picture from the raw results
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from sagan_base.cli import Parser, command, usage_errors, whole

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.stats import rankdata
from tqdm import tqdm

from ablations.probe_rows import NAMED, RANDOM, ProbeRow, predictions
from ablations.probe_run import run
from ablations.probe_tasks import TASKS
from sagan_base import tables
from sagan_base.files import atomic_write, write_text
from ylg.orders import Grid

RESULTS = Path(__file__).parent / "results" / "probes"
PARTS: dict[str, tuple[Grid, tuple[ProbeRow, ...]]] = {"a": ((8, 8), NAMED + RANDOM), "b": ((16, 16), NAMED)}
SEEDS = (3, 4, 5)
PREDICTIONS = "predictions.csv"
KEY = ["part", "row", "task", "seed"]


def expected() -> pd.DataFrame:
    """Every prediction, of both parts."""
    return pd.concat(
        [predictions(rows, grid).assign(part=part) for part, (grid, rows) in PARTS.items()], ignore_index=True
    )[["part", "grid", "row", "task", "predicted"]]


def predicted(out: Path) -> pd.DataFrame:
    """The predictions of a folder, written there if it has none.

    Raises:
        ValueError: those in the folder are not what the masks give now, so results could not be compared.
    """
    path, now = out / PREDICTIONS, expected()
    if not path.exists():
        write_text(path, tables.csv(now))
    before = predictions_of(out)
    if not (before[KEY[:3]].equals(now[KEY[:3]]) and np.allclose(before["predicted"], now["predicted"], atol=2e-4)):
        raise ValueError(f"{path} holds other predictions than the masks give now; give another --out for new ones")
    return before


def predictions_of(out: Path) -> pd.DataFrame:
    """Those that a folder holds."""
    return tables.read_csv(out / PREDICTIONS, KEY[:3], ["predicted"])


def runs(out: Path) -> pd.DataFrame:
    """The finished runs of a folder."""
    path = out / "runs.csv"
    words, numbers = KEY[:3], [*KEY[3:], "score", "seconds"]
    return tables.read_csv(path, words, numbers) if path.exists() else pd.DataFrame(columns=[*words, *numbers])


def missing(options: argparse.Namespace, finished: pd.DataFrame) -> list[tuple]:
    """(part, row, task, seed) of what is still to run: dense attention first, which shows whether a task can be solved,
    then seed by seed and task by task, so that what is stopped early still compares all rows."""
    done = set(finished[KEY].itertuples(index=False, name=None))
    todo = [
        (part, row, task, seed)
        for part in options.part
        for seed in options.seeds
        for task in options.task
        for row in PARTS[part][1]
        if options.row is None or row.name in options.row
        if (part, row.name, task, seed) not in done
    ]
    return sorted(todo, key=lambda key: (key[0], key[1].name != "dense"))


def train(todo: list[tuple], out: Path, steps: int | None) -> None:
    """One run after the other, each kept as soon as it is finished."""
    for part, row, task, seed in (progress := tqdm(todo, unit="run")):
        progress.set_description(f"{part}: {row.name}, {task}")
        line = dict(zip(KEY, (part, row.name, task, seed), strict=True)) | run(row, task, PARTS[part][0], seed, steps)
        write_text(out / "runs.csv", pd.DataFrame([*runs(out).to_dict("records"), line]).to_csv(index=False))


def comparison(forecast: pd.DataFrame, finished: pd.DataFrame) -> pd.DataFrame:
    """One line for each part, row and task that was run: predicted, and the scores of the seeds."""
    scores = finished.groupby(KEY[:3], sort=False)["score"].agg(["mean", "min", "max", "count"]).reset_index()
    return forecast.merge(scores, on=KEY[:3])


def correlations(compared: pd.DataFrame, draws: int = 2000) -> pd.DataFrame:
    """Spearman's rank correlation of prediction and mean score over the rows, with a bootstrap interval over rows."""
    lines = []
    for (part, task), rows in compared.groupby(["part", "task"], sort=False):
        pair = rows[["predicted", "mean"]].to_numpy()
        random = np.random.default_rng(0)
        drawn = [rank_correlation(pair[random.integers(len(pair), size=len(pair))]) for _ in range(draws)]
        known = [value for value in drawn if not np.isnan(value)]
        low, high = np.quantile(known, [0.025, 0.975]) if known else (np.nan, np.nan)
        rank = rank_correlation(pair)
        gap = float(np.abs(pair[:, 0] - pair[:, 1]).mean())
        lines.append(
            {"part": part, "task": task, "rows": len(rows), "rank correlation": rank, "95% from": low, "to": high,
             "mean gap": gap, "dense, worst seed": rows.loc[rows["row"] == "dense", "min"].min()}
        )  # fmt: skip
    return pd.DataFrame(lines)


def rank_correlation(pair: np.ndarray) -> float:
    """Spearman's, of the two columns; NaN where one of them does not vary."""
    ranks = rankdata(pair, axis=0)
    return float(np.corrcoef(ranks.T)[0, 1]) if (np.ptp(ranks, axis=0) > 0).all() else float("nan")


def picture(compared: pd.DataFrame) -> Figure:
    """Predicted against measured: a panel for each task, whiskers over the seeds."""
    figure = Figure(figsize=(3.2 * len(TASKS), 3.6), layout="constrained")
    panels = figure.subplots(1, len(TASKS), sharey=True)
    for axes, task in zip(panels, TASKS, strict=True):
        of_task = compared[compared["task"] == task]
        axes.plot([0, 1], [0, 1], color="#dddad3", zorder=0)
        for (part, random), rows in of_task.groupby(["part", of_task["row"].str.startswith("random")]):
            axes.errorbar(
                rows["predicted"], rows["mean"], [rows["mean"] - rows["min"], rows["max"] - rows["mean"]], markersize=4,
                fmt="x" if random else "o", color={"a": "#0072b2", "b": "#e69f00"}[part],
                label=f"{part}, {'random' if random else 'named'}",
            )  # fmt: skip
        axes.set(title=task, xlabel="predicted", xlim=(-0.03, 1.03), ylim=(-0.1, 1.05))
    panels[0].set_ylabel("measured")
    if panels[0].get_legend_handles_labels()[0]:
        panels[0].legend(fontsize=8)
    return figure


def finished(compared: pd.DataFrame) -> str:
    """How many runs of each part's tasks a comparison rests on."""
    parts = []
    for part, rows in compared.groupby("part"):
        (side, _), of_part = PARTS[part]
        each = len(of_part) * len(SEEDS)
        done = rows.groupby("task", sort=False)["count"].sum()
        counts = ", ".join(f"{task} {count}" for task, count in done.items())
        told = f"all {each * len(TASKS)}" if done.sum() == each * len(TASKS) else f"of {each} each: {counts}"
        parts.append(f"part {part} ({side}x{side} cells), {told}")
    return "; ".join(parts)


def report(out: Path) -> str:
    """Write table.md and probes.png from the raw results; what the terminal is told."""
    compared = comparison(predicted(out), runs(out))
    if not len(compared):
        raise ValueError(f"{out} holds no finished run; leave --table out to run some")
    ranks = correlations(compared)
    written = (f"Runs: {finished(compared)}.", tables.markdown(ranks), tables.markdown(compared))
    write_text(out / "table.md", "\n\n".join(written) + "\n")
    with atomic_write(out / "probes.png") as path:
        picture(compared).savefig(path, dpi=140, format="png")
    return tables.text(ranks)


def parser() -> argparse.ArgumentParser:
    made = Parser("python ablations/probes.py", __doc__)
    add = made.add_argument
    add("--part", choices=list(PARTS), nargs="+", default=list(PARTS), help="default: both")
    add("--task", choices=list(TASKS), nargs="+", default=list(TASKS), help="default: all")
    add("--row", choices=[row.name for row in NAMED + RANDOM], nargs="+", metavar="NAME", help="default: all")
    seeds = " ".join(map(str, SEEDS))
    add("--seeds", type=whole(0), nargs="+", default=SEEDS, metavar="SEED", help=f"default: {seeds}")
    add("--steps", type=whole(1), metavar="N", help="of every run (default: the task's own)")
    add("--table", action="store_true", help="run nothing; table and picture from the raw results")
    add("--out", type=Path, default=RESULTS, metavar="DIR", help="default: ablations/results/probes")
    return made


@command()
def main(argv: Sequence[str] | None = None) -> None:
    options = parser().parse_args(argv)
    with usage_errors():
        if options.steps and options.out == RESULTS:
            raise ValueError("--steps makes other runs than those of the results; give an --out of their own")
        predicted(options.out)
        if options.table:
            print(report(options.out))
            return
        todo = missing(options, runs(options.out))
    train(todo, options.out, options.steps)
    print(report(options.out))


if __name__ == "__main__":
    main()
