"""What makes attention depend on the image: short trainings on digits, and how their attention then attends.

Each trial is LTR + RTL under ESA at ``pool`` with 4 channels a head, and changes what its name says. Measured on 512
images: entropy over its maximum, total variation from uniform, the share of the maps' variation between images, and
what counts: how FD and the discriminator's logits change when every map is replaced by its mean over images. The two
trials whose maps matter most, by the sum of their ranks in these two, then run at the preset's full length on seeds of
their own, where FD decides. Finished runs are not repeated; the same command goes on.

    python ablations/screening.py
    python ablations/screening.py --trials from8 from8-rate10 --seeds 1 2 3 4 5 6 7 8 --steps 2000   # finalists
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sagan_base.cli import Parser, command, usage_errors, whole, writable_file, writable_folder

import numpy as np
import pandas as pd
from scipy import stats

from ablations.contrasts import LEVEL
from ablations.differences import Spread
from ablations.execute import Measurement, finished, run_experiment
from ablations.experiment import Experiment, Setting
from ablations.presets import find_preset
from ablations.records import Record, read_record
from ablations.rows import Row, attending
from ablations.table import map_columns
from sagan_base import tables
from sagan_base.attention_health import MEASURES
from sagan_base.data import load_data
from sagan_base.distributed import processes
from sagan_base.files import write_text
from sagan_base.tables import cell

RESULTS = Path(__file__).parent / "results" / "screening.csv"
PRESET, SEED, STEPS, SAMPLES = find_preset("digits"), 100, 300, 500


@dataclass(frozen=True)
class Trial:
    """A way to give scores range: changes of the attention, the temperatures' learning rate, the maps' side."""

    changes: dict[str, Any] = field(default_factory=dict)
    lr_factor: float = 1.0
    side: int = 16

    def experiment(self, name: str, seed: int, steps: int) -> Experiment:
        layer = attending("ltr_rtl", **self.changes)
        row = Row(name, name, "does its attention depend on the image?", layer, "other")
        sides = {"generator_attention": (self.side,), "discriminator_attention": (self.side,)}
        paper = PRESET.recipe_changes["paper"] | {"temperature_lr_factor": self.lr_factor}
        preset = replace(
            PRESET, model=replace(PRESET.model, **sides), recipe_changes={"paper": paper}, metrics_every=0,
            samples=SAMPLES if steps < PRESET.steps else PRESET.samples,
        )  # fmt: skip
        return Experiment(row, Setting(preset, "paper", PRESET.data, steps, (PRESET.features,)), seed)


PUBLISHED, FREE = {"qk_norm": False}, {"spectral_projections": False}
TRIALS = {
    "published": Trial(PUBLISHED),
    "published-free": Trial(PUBLISHED | FREE),
    "published-8x8": Trial(PUBLISHED, side=8),
    "from2": Trial({"temperature": 2.0}),
    "from4": Trial(),
    "from8": Trial({"temperature": 8.0}),
    "from16": Trial({"temperature": 16.0}),
    "from4-rate10": Trial(lr_factor=10),
    "from8-rate10": Trial({"temperature": 8.0}, lr_factor=10),
    "from8-free": Trial({"temperature": 8.0} | FREE),
    "from8-8x8": Trial({"temperature": 8.0}, side=8),
}


def table(records: Sequence[Record]) -> pd.DataFrame:
    """One line a run: what was set, how its maps are (means over heads), and what they are worth."""
    lines = []
    for record in sorted(records, key=lambda one: (one.config.training.steps, list(TRIALS).index(one.title), one.seed)):
        model, recipe = record.config.model, record.config.recipe
        line = {
            "trial": record.title,
            "seed": record.seed,
            "steps": record.config.training.steps,
            "temperature": model.attention.temperature if model.attention.qk_norm else None,
            "rate factor": recipe.temperature_lr_factor,
            "spectral norm": model.attention.spectral_projections,
            "side": model.generator_attention[0],
            "FD": record.distance,
        }
        for key, value in map_columns(record).items():
            name, _, layer = key.partition("/")
            line[f"{layer[:1].upper()} {name}".strip()] = value
        lines.append(line)
    return pd.DataFrame(lines).round(4)


def read_table(path: Path) -> pd.DataFrame:
    """A file that the command wrote. Raises ValueError where it is none."""
    changes, whens = ["times, mean map", "D output change, mean map"], ("", "untrained ")
    measures = [f"{part} {when}{measure}" for part in "GD" for when in whens for measure in MEASURES]
    return tables.read_csv(path, ["trial"], ["seed", "steps", "FD", *changes, *measures])


def ranked(runs: pd.DataFrame) -> pd.DataFrame:
    """The trials of runs of one length, those first whose maps matter most: by the sum of the ranks of both changes."""
    means = runs.groupby("trial", sort=False).mean(numeric_only=True).assign(seeds=runs["trial"].value_counts())
    ranks = means[["D output change, mean map", "times, mean map"]].rank(ascending=False).sum(axis=1)
    return means.assign(ranks=ranks).sort_values("ranks", kind="stable").reset_index()


def health(runs: pd.DataFrame) -> pd.DataFrame:
    """A line for each length, trial and network: its maps beside those of the untrained network, means over seeds."""
    lines = []
    for steps, of_length in runs.groupby("steps", sort=False):
        for trial in ranked(of_length).to_dict("records"):
            changes = {
                "G": f"FD x {trial['times, mean map']:.2f}",
                "D": f"logits by {trial['D output change, mean map']:.3f} sd",
            }
            for part, change in changes.items():
                line = {name: trial[name] for name in ("trial", "seeds", "FD")} | {"steps": steps, "network": part}
                for name in MEASURES:
                    trained, untrained = trial[f"{part} {name}"], trial[f"{part} untrained {name}"]
                    line[f"{name} (untrained)"] = f"{cell(trained)} ({cell(untrained)})"
                lines.append(line | {"with mean maps": change})
    return pd.DataFrame(lines)


def finalists(runs: pd.DataFrame) -> pd.DataFrame:
    """A line for each length and trial of several seeds: the geometric mean of FD, and its ratio to the lowest's."""
    lines = []
    for steps, of_length in runs.groupby("steps"):
        logs = {name: np.log(of_trial["FD"]) for name, of_trial in of_length.groupby("trial") if len(of_trial) > 1}
        spread, names = Spread.of(logs), sorted(logs, key=lambda name: logs[name].mean())
        for name in names:
            half = stats.t.ppf(1 - LEVEL / 2, spread.freedom) * spread.deviation / math.sqrt(len(logs[name]))
            mean, low, high = (cell(math.exp(logs[name].mean() + shift)) for shift in (0, -half, half))
            line = {"trial": name, "steps": steps, "seeds": len(logs[name]), "FD [95%]": f"{mean} [{low}, {high}]"}
            against = "lowest" if name == names[0] else str(spread.difference(logs[name], logs[names[0]]))
            lines.append(line | {"against the lowest [95%]": against})
    return pd.DataFrame(lines)


@command()
def main(argv: Sequence[str] | None = None) -> None:
    options = Parser("python ablations/screening.py", __doc__)
    add = options.add_argument
    add("--trials", nargs="+", choices=list(TRIALS), default=list(TRIALS), metavar="NAME", help="default: all")
    add("--seeds", nargs="+", type=whole(0), default=[SEED], metavar="SEED", help=f"default: {SEED}")
    add("--steps", type=whole(1), default=STEPS, metavar="N", help=f"default: {STEPS}")
    add("--out", type=Path, default=Path("runs/screening"), metavar="DIR", help="folder of the runs")
    add("--csv", type=Path, default=RESULTS, metavar="FILE", help="the table, which the finished runs of --out join")
    asked = options.parse_args(argv)
    with processes("cpu") as group:
        with usage_errors():
            writable_folder("--out", asked.out)
            writable_file("--csv", asked.csv)
            kept = [read_table(asked.csv)] if asked.csv.is_file() else []  # also of runs whose folders lie elsewhere
            data = load_data(PRESET.data, PRESET.model.resolution)
        for seed in asked.seeds:
            for name in asked.trials:
                run, place = TRIALS[name].experiment(name, seed, asked.steps), asked.out / str(asked.steps)
                if not finished(run, data, place, group):
                    measure = Measurement((PRESET.features,), run.setting.preset.samples)
                    run_experiment(run, data, None, place, measure, group)
                found = [record for folder in asked.out.glob("*/*") if (record := read_record(folder))]
                runs = table([record for record in found if record.title in TRIALS and record.attention_health])
                runs = pd.concat([*kept, runs]).drop_duplicates(["trial", "seed", "steps"], keep="last")
                write_text(asked.csv, tables.csv(runs))
    asked_for = runs[runs["steps"] == asked.steps]
    print(tables.text(health(asked_for)))
    if len(decided := finalists(asked_for)):
        print(f"\n{tables.text(decided)}")


if __name__ == "__main__":
    main()
