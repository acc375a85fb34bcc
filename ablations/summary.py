"""The summary of an ablation: one line a row, averaged over seeds, with its difference to the dense row; the contrasts.

``summarise`` computes it once, as rounded numbers (the CSV) and as the tables that Markdown, LaTeX and the page share,
so that none of them can disagree. differences.py has the arithmetic.
"""

import math
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import pandas as pd

from ablations.contrasts import CONTRASTS, FIRST_SEED, LEVEL, SEEDS, Contrast
from ablations.crossings import crossing_table
from ablations.differences import Difference, Spread, resampled_difference
from ablations.paper import CAVEAT, paper_columns
from ablations.records import Record, by_row
from ablations.table import REAL, run_table
from sagan_base.attention_health import UNIFORM
from sagan_base.holm import holm
from sagan_base.metrics.names import is_distance
from sagan_base.tables import cell, percent, rounded

Groups = dict[str, list[Record]]  # row -> its runs


@dataclass(frozen=True)
class Summary:
    """What a report says of its runs.

    Attributes:
        records: the runs, in table order; all of one setting.
        differences: row -> its difference to its dense row, where both were run.
        figures: one line a row, as rounded numbers.
        table: the same, as a reader wants it; the first line is of real images.
        questions: one line a contrast of which a row was run.
        attention: one line a row with attention: whether it attends, and what the trained generator owes to it.
        crossings: how soon each row's distance fell below the preset's thresholds.
        spread: over seeds, of log distances.
    """

    records: list[Record]
    differences: dict[str, Difference]
    figures: pd.DataFrame
    table: pd.DataFrame
    questions: pd.DataFrame
    attention: pd.DataFrame
    crossings: pd.DataFrame
    spread: Spread

    @property
    def key(self) -> str:
        """The name of the distance that all is about."""
        return self.records[0].distance_key

    @property
    def setting(self) -> str:
        """What was trained and where, in one line."""
        setting, records = self.records[0].setting, self.records
        machines = dict.fromkeys(record.provenance.machine.kind for record in records)
        counts = {"row": {r.row for r in records}, "seed": {r.seed for r in records}, "run": records}
        counted = ", ".join(f"{len(found)} {what}{'s' * (len(found) > 1)}" for what, found in counts.items())
        hours = sum(record.seconds for record in records) / 3600
        return (
            f"{counted} of {setting.steps:,} steps at {setting.resolution}x{setting.resolution} in "
            f"{setting.precision}, recipe {setting.recipe}; {hours:.1f} hours of training on {' and '.join(machines)}"
        )

    @property
    def pilot(self) -> bool:
        """Whether the seeds are those that chose defaults and the number of seeds."""
        return any(record.seed < FIRST_SEED for record in self.records)

    @property
    def note(self) -> str:
        """What the table's columns mean."""
        setting = self.records[0].setting
        steps = f"steps {', '.join(f'{step:,}' for step in setting.measured)}"
        of_seeds = (
            f"One standard deviation of log distances over seeds, {self.spread.deviation:.2f}, is estimated from "
            f"all rows together ({self.spread.freedom} degrees of freedom)."
            if self.spread.freedom
            else "No row has two seeds, so the intervals are over the samples of one training each: another seed may "
            "differ by more."
        )
        return (
            f"{self.key}: lower is better; geometric mean over n seeds, and of each seed over {steps} "
            f"({setting.samples:,} samples of the EMA generator each), ± the standard deviation over seeds. "
            f"Differences are to the dense row of the same kind, with 95% intervals. {of_seeds} {CAVEAT}"
        )

    @property
    def attention_note(self) -> str:
        """What the columns of ``attention`` mean."""
        return (
            "D, G: discriminator and generator. Entropy of the maps over its maximum, their total variation from "
            f"uniform over the mask ({UNIFORM} and less is called uniform), the share of their variation that lies "
            "between images, and the size of the residual gain (its sign is free). Times: "
            f"{self.key} of the same samples over the trained generator's own, where every map is replaced by its mean "
            "over samples, or by another sample's, or the gains are set to 0. The last is co-adaptation, not benefit: "
            "a network trained with a layer needs it, whether or not one trained without would be better."
        )


def summarise(records: list[Record]) -> Summary:
    """Average over seeds, compare with the dense rows and as the contrasts ask."""
    groups = by_row(records)
    spread = Spread.of(log_distances(groups))
    dense = {name: runs[0].of_row.dense_row for name, runs in groups.items()}
    pairs = [(name, other) for name, other in dense.items() if name != other and other in groups]
    differences = {name: compare(groups, spread, name, other) for name, other in pairs}
    figures = _figures(groups, dense, differences)
    return Summary(
        records,
        differences,
        figures,
        _table(figures, records[0]),
        _questions(groups, spread),
        _attention(groups, figures),
        crossing_table(groups),
        spread,
    )


def log_distances(groups: Groups) -> dict[str, list[float]]:
    """Row -> the logarithm of each run's distance."""
    return {name: [math.log(record.distance) for record in runs] for name, runs in groups.items()}


def compare(groups: Groups, spread: Spread, row: str, other: str) -> Difference:
    """The difference of two rows that were run; of one run each, over their samples."""
    logs = log_distances({name: groups[name] for name in (row, other)})
    found = spread.difference(logs[row], logs[other])
    if spread.freedom:
        return found
    return resampled_difference(groups[row][0].resampled, groups[other][0].resampled, found.estimate)


def _questions(groups: Groups, spread: Spread) -> pd.DataFrame:
    asked = [contrast for contrast in CONTRASTS if {contrast.row, contrast.other} <= groups.keys()]
    found = [compare(groups, spread, contrast.row, contrast.other) for contrast in asked]
    missing = [1.0] * (len(CONTRASTS) - len(asked))  # all five are tested together, whenever the others are run
    adjusted = holm([difference.p for difference in found] + missing)[: len(asked)]
    return pd.DataFrame(
        [
            {
                "question": contrast.question,
                "answer": _answer(contrast, groups, difference, p),
                "difference": str(difference),
                "p (Holm)": "-" if math.isnan(difference.p) else f"{p:.3f}" if p >= 0.0005 else "<0.001",
                "seeds": " and ".join(map(str, difference.seeds)),
                "smallest shown": f"{percent(-difference.detectable)} or {percent(difference.detectable)}",
                "compared": " - ".join(groups[name][0].title for name in (contrast.row, contrast.other)),
                "found before": contrast.found,
            }
            for contrast, difference, p in zip(asked, found, adjusted, strict=True)
        ]
    )


def _answer(contrast: Contrast, groups: Groups, difference: Difference, p: float) -> str:
    """A verdict where the seeds that were fixed beforehand are there."""
    fixed = range(FIRST_SEED, FIRST_SEED + SEEDS)
    if any({run.seed for run in groups[name]} != {*fixed} for name in (contrast.row, contrast.other)):
        return f"open: a verdict needs the seeds {fixed[0]} to {fixed[-1]} of both rows"
    if p >= LEVEL:
        return "no difference shown"
    return contrast.yes if difference.estimate < 0 else contrast.no


def _figures(groups: Groups, dense: dict[str, str], differences: dict[str, Difference]) -> pd.DataFrame:
    """A line a row: the mean over seeds of what table.py has for each run, of distances the geometric one."""
    lines = []
    for row, runs in groups.items():
        key = runs[0].distance_key
        numbers = run_table(runs).select_dtypes("number").drop(columns=["heads", "seed", "steps"])
        line: dict[str, Any] = {"row": row, "title": runs[0].title, "n": len(runs)}
        for name, values in numbers.items():
            values = [abs(value) if name.startswith("gain/") else value for value in values]  # the sign is free
            line[name] = math.exp(fmean(map(math.log, values))) if is_distance(name) else fmean(values)
        logs = log_distances({row: runs})[row]
        line[f"log {key} sd"] = stdev(logs) if len(logs) > 1 else math.nan
        if row in differences:
            found = differences[row]
            line |= {"compared with": dense[row], "log difference": found.estimate}
            line |= {"log difference low": found.low, "log difference high": found.high}
        lines.append(line | paper_columns(row))
    return rounded(pd.DataFrame(lines))


def _table(figures: pd.DataFrame, first: Record) -> pd.DataFrame:
    """The columns a reader wants, as text. Scores in which samples may exceed real images stay in the CSV."""
    key = first.distance_key
    others = [next(column for column in figures if column.startswith(name)) for name in ("precision (", "recall (")]
    lines = []
    if first.real:
        blank = dict.fromkeys(("n", key, "difference to dense", "95% interval"))
        lines.append({"row": REAL} | blank | {name: first.real[name] for name in (key, *others)})
    for line in figures.to_dict("records"):
        deviation = line[f"log {key} sd"]
        around = "" if pd.isna(deviation) else f" ±{percent(deviation)[1:]}"
        low, high = line.get("log difference low"), line.get("log difference high")
        lines.append(
            {
                "row": line["title"],
                "n": str(line["n"]),
                key: cell(line[key]) + around,
                "difference to dense": percent(line.get("log difference", math.nan)),
                "95% interval": "-" if pd.isna(low) else f"[{percent(low)}, {percent(high)}]",
                **{name: line[name] for name in others},
                "parameters": cell(line["parameters"]),
                "minutes": line["minutes"],
                "paper FID": line["paper FID"],
                "paper IS": line["paper IS"],
            }
        )
    return pd.DataFrame(lines).map(cell)


def _attention(groups: Groups, figures: pd.DataFrame) -> pd.DataFrame:
    """Health of the maps, size of the gains, and the distance without them or with others."""
    lines = [line for line in figures.to_dict("records") if groups[line["row"]][0].attention_off is not None]
    return pd.DataFrame(
        [
            {
                "row": line["title"],
                "entropy": _layers(line, "entropy/"),
                "from uniform": _layers(line, "variation/"),
                "between images": _layers(line, "between/"),
                "gain": _layers(line, "gain/"),
                "times, mean map": cell(line.get("times, mean map")),
                "times, another's map": cell(line.get("times, another image's map")),
                "times, gains at 0": cell(line["times, gains at 0"]),
            }
            for line in lines
        ]
    )


def _layers(line: dict[str, Any], prefix: str) -> str:
    """One figure a layer: "D 0.12, G 0.31"."""
    names = sorted(name for name in line if name.startswith(prefix) and not pd.isna(line[name]))
    return ", ".join(f"{'D' if 'discriminator' in name else 'G'} {cell(line[name])}" for name in names)
