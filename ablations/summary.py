"""The summary of an ablation: one line a row, averaged over seeds, with the difference to dense attention.

``summarise`` computes it once, as rounded numbers (the CSV) and as the text that Markdown, LaTeX and the page share, so
that none of them can disagree.
"""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from ablations.bootstrap import Difference, paired_difference, read_features, resampled_distances
from ablations.paper import ASTERISK, paper_columns
from ablations.questions import QUESTIONS
from ablations.records import Record, by_row
from ablations.rows import ROWS
from ablations.table import run_table
from sagan_base.attention_health import UNIFORM
from sagan_base.tables import cell, rounded, signed, spread

MAPS = ("entropy", "from uniform", "between images", "mean map", "another's map")  # columns of how attention attends
WITHOUT_SPREAD = ("best at step", "parameters", "file MB", "minutes", "images/s")
Pair = tuple[str, str]  # a row, and the row it is compared with


@dataclass(frozen=True)
class Summary:
    """What a report says of its runs.

    Attributes:
        records: the runs, in table order; all of one setting.
        dense: row -> the dense row that the table compares it with, where both were run.
        differences: of every pair that the table or a question compares.
        figures: one line a row, as rounded numbers.
        table: the same, as a reader wants it.
    """

    records: list[Record]
    dense: dict[str, str]
    differences: dict[Pair, Difference]
    figures: pd.DataFrame
    table: pd.DataFrame

    @property
    def setting(self) -> str:
        """What was trained and where, in one line."""
        setting, records = self.records[0].setting, self.records
        machines = dict.fromkeys(record.provenance.machine.kind for record in records)
        counts = {"row": {r.row for r in records}, "seed": {r.seed for r in records}, "run": records}
        counted = ", ".join(f"{len(found)} {what}{'s' * (len(found) > 1)}" for what, found in counts.items())
        hours = sum(record.seconds for record in records) / 3600
        return (
            f"{counted} of {setting.steps:,} steps at {setting.resolution}x{setting.resolution}, recipe "
            f"{setting.recipe}; {hours:.1f} hours of training on {' and '.join(machines)}"
        )

    def note(self, columns: list[str]) -> str:
        """What these columns of ``table`` mean."""
        key = self.records[0].distance_key
        notes = {
            "n": f"Mean ± sample standard deviation over n seeds. {key}: lower is better; "
            f"{self.records[0].setting.samples:,} samples of the EMA generator.",
            "best @ step": "Best: lowest value on the curve, which draws fewer samples than the final measurement, and "
            "the mean step it came at.",
            "attention off": f"Attention off: {key} of the same samples with the generator's residual gains set to 0.",
            "entropy": "Entropy of the maps over its maximum, their total variation from uniform over the mask "
            f"({UNIFORM} and less is called uniform), and the share of their variation that lies between images.",
            "mean map": f"Mean map, another's map: {key} of the same samples where every map of the generator is "
            "replaced by its mean over samples, or by another sample's.",
            "gain sizes": "Gain sizes: of the discriminator's (D) and the generator's (G) attention; the sign is free.",
            "paper FID": "The paper's FID and IS are of ImageNet at 128x128 in Inception features: compare the order "
            f"of the rows, not the numbers. {ASTERISK}",
        }
        return " ".join(text for column, text in notes.items() if column in columns)


def summarise(records: list[Record], baseline: str = "sagan", resamples: int = 500) -> Summary:
    """Average over seeds and compare with the dense row, and as the questions ask.

    Args:
        baseline: the row that others are compared with, unless they have a dense row of their own that was run.
        resamples: of the bootstrap.
    """
    groups = by_row(records)
    dense = {}
    for name, runs in groups.items():
        own = runs[0].of_row.dense_row
        dense[name] = own if own in groups and own != "sagan" else baseline
    pairs = [*dense.items(), *(pair for question in QUESTIONS for pair in question.pairs)]
    differences = compare(records, pairs, resamples)
    dense = {row: other for row, other in dense.items() if (row, other) in differences}
    figures = _figures(records, dense, differences)
    table = pd.DataFrame([_readable(line, records[0], baseline) for line in figures.to_dict("records")])
    table = table.drop(columns=[name for name in MAPS if (table[name] == "-").all()])  # runs of before they were taken
    return Summary(records, dense, differences, figures, table)


def compare(records: list[Record], pairs: list[Pair], resamples: int = 500) -> dict[Pair, Difference]:
    """The differences of final Fréchet distances, of those pairs of which both rows were run with a common seed."""
    groups = by_row(records)
    pairs = [pair for pair in dict.fromkeys(pairs) if pair[0] != pair[1] and {*pair} <= groups.keys()]
    measured = {name: {run.seed: run.distance for run in runs} for name, runs in groups.items()}
    resampled: dict[str, dict[int, Any]] = {name: {} for name in groups}
    for name in {name for pair in pairs for name in pair}:
        for run in groups[name]:
            if (features := read_features(run.folder)) is not None:
                resampled[name][run.seed] = resampled_distances(features, resamples, run.seed)
    found = {
        (row, other): paired_difference(measured[row], measured[other], resampled[row], resampled[other], resamples)
        for row, other in pairs
    }
    return {pair: difference for pair, difference in found.items() if difference is not None}


def _figures(records: list[Record], dense: dict[str, str], differences: dict[Pair, Difference]) -> pd.DataFrame:
    """A line a row: mean, sample standard deviation (NaN of one seed) and n of what table.py has for each run."""
    numbers = run_table(records).select_dtypes("number").drop(columns=["heads", "seed", "steps"])
    gains = [name for name in numbers if name.startswith("gain/")]
    numbers[gains] = numbers[gains].abs()  # the sign is free
    groups = numbers.groupby([record.row for record in records], sort=False)
    n, mean, deviation = groups.size(), groups.mean(), groups.std()
    titles = {record.row: record.title for record in records}
    lines = []
    for row in mean.index:
        line = {"row": row, "title": titles[row], "n": n[row]}
        for name in numbers:
            line |= {name: mean.loc[row, name], f"{name} sd": deviation.loc[row, name]}
        other = dense.get(row)
        if other is not None:
            found = differences[row, other]
            line |= {"compared with": titles[other], "difference": found.estimate, "verdict": found.verdict}
            line |= {"difference low": found.low, "difference high": found.high}
        lines.append(line | paper_columns(row))
    return rounded(pd.DataFrame(lines).drop(columns=[f"{name} sd" for name in WITHOUT_SPREAD]))


def _readable(line: dict[str, Any], first: Record, baseline: str) -> dict[str, str]:
    """The columns a reader wants, as text: "12.3 ± 0.4", "-1.2 [-2.0, -0.4]"."""

    def mean(name: str) -> str:
        return spread(line.get(name), line.get(f"{name} sd"))

    key, difference = first.distance_key, "-"
    if not pd.isna(line.get("difference")):
        difference = signed(line["difference"])
        if not pd.isna(line["difference low"]):
            difference += f" [{signed(line['difference low'])}, {signed(line['difference high'])}]"
        if line["compared with"] != ROWS[baseline].title:
            difference += f" (to {line['compared with']})"
    def layers(prefix: str) -> str:
        """One figure a layer: "D 0.12, G 0.31"."""
        names = [name for name in line if name.startswith(prefix) and not name.endswith(" sd")]
        shown = [f"{'D' if 'discriminator' in n else 'G'} {cell(line[n])}" for n in names if not pd.isna(line[n])]
        return ", ".join(shown) or "-"

    return {
        "row": line["title"],
        "n": cell(line["n"]),
        key: mean(key),
        "best @ step": f"{mean(f'best {key}')} @ {cell(round(line['best at step']))}",
        "difference to dense, 95% interval": difference,
        "verdict": cell(line.get("verdict")),
        first.score_key: mean(first.score_key),
        "class accuracy": mean("class accuracy (SVM)"),
        "paper FID": line["paper FID"],
        "paper IS": line["paper IS"],
        "entropy": layers("entropy/"),
        "from uniform": layers("variation/"),
        "between images": layers("between/"),
        "mean map": mean(f"{key}, mean map"),
        "another's map": mean(f"{key}, another image's map"),
        "attention off": mean(f"{key}, attention off"),
        "gain sizes": layers("gain/"),
        "parameters": cell(line["parameters"]),
        "file MB": cell(line["file MB"]),
        "minutes": cell(line["minutes"]),
        "images/s": cell(line["images/s"]),
    }
