"""The summary of an ablation: one line a row, averaged over seeds, with the difference to dense attention.

``summarise`` computes it as numbers (the CSV); ``readable`` turns it into the text that Markdown, LaTeX and the page
share, so that the three cannot disagree.
"""

from collections.abc import Iterable
from statistics import fmean, median, stdev
from typing import Any

import pandas as pd
from tqdm import tqdm

from ablations.bootstrap import Difference, paired_difference, read_features, resampled_distances
from ablations.records import Record
from ablations.rows import ROWS
from ablations.table import cell


def by_row(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Row name -> its runs, in the order given."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.row, []).append(record)
    return groups


def compare(
    records: list[Record], pairs: Iterable[tuple[str, str]], resamples: int = 500, progress: bool = False
) -> dict[tuple[str, str], Difference]:
    """(row, the row it is compared with) -> difference of their final Fréchet distances, where both were run."""
    groups = by_row(records)
    pairs = [pair for pair in dict.fromkeys(pairs) if pair[0] in groups and pair[1] in groups]
    needed = {name for pair in pairs for name in pair}
    measured = {name: {r.seed: r.metrics[r.distance_key] for r in runs} for name, runs in groups.items()}
    resampled: dict[str, dict[int, Any]] = {name: {} for name in groups}
    for record in tqdm([r for r in records if r.row in needed], desc="bootstrap", disable=not progress, leave=False):
        features = read_features(record.folder)
        if features is not None:
            resampled[record.row][record.seed] = resampled_distances(features, resamples, record.seed)
    found = {}
    for row, other in pairs:
        difference = paired_difference(measured[row], measured[other], resampled[row], resampled[other], resamples)
        if difference is not None:
            found[row, other] = difference
    return found


def dense_pairs(records: list[Record], baseline: str) -> list[tuple[str, str]]:
    """Each row with its own dense row where that was run ("sagan_biggan" for "ylg_biggan"), else with ``baseline``."""
    groups = by_row(records)
    pairs = []
    for name in groups:
        own = ROWS[name].dense_row if name in ROWS else baseline
        other = own if own in groups and own != "sagan" else baseline
        if other != name:
            pairs.append((name, other))
    return pairs


def summarise(records: list[Record], compared: dict[str, tuple[str, Difference]]) -> pd.DataFrame:
    """One line a row: means, sample standard deviations and n over seeds; NaN where n = 1 leaves no spread."""
    lines = []
    for name, runs in by_row(records).items():
        first = runs[0]
        other, difference = compared.get(name, (None, None))
        published = ROWS[name].published if name in ROWS else None
        best = [record.best() for record in runs]
        line: dict[str, Any] = {"row": name, "title": first.title, "n": len(runs)}
        for key in first.metrics:
            _spread(line, key, [record.metrics[key] for record in runs])
        _spread(line, f"best {first.distance_key}", [value for value, _ in best])
        line["median step of best"] = median(step for _, step in best)
        if all(record.class_accuracy is not None for record in runs):
            _spread(line, "class accuracy (SVM)", [record.class_accuracy for record in runs])
        if all(first.distance_key in record.attention_off for record in runs):
            _spread(line, f"{first.distance_key}, attention off", [r.attention_off[r.distance_key] for r in runs])
        line |= {
            "compared with": ROWS[other].title if other in ROWS else other,
            "difference": difference.estimate if difference else None,
            "difference low": difference.low if difference else None,
            "difference high": difference.high if difference else None,
            "verdict": difference.verdict if difference else None,
            "paper FID": published.fid_text if published else "-",
            "paper IS": published.inception_score_text if published else "-",
        }
        for gain in sorted(first.attention_gains):
            _spread(
                line, f"gain size {gain}", [abs(record.attention_gains[gain]) for record in runs]
            )  # the sign is free
        line |= {
            "parameters": sum(first.parameters.values()),
            "file MB": first.file_bytes / 1e6,
            "minutes": fmean(record.seconds for record in runs) / 60,
            "images/s": fmean(record.images_per_second for record in runs),
        }
        lines.append(line)
    return pd.DataFrame(lines)


def _spread(line: dict[str, Any], key: str, values: list[float]) -> None:
    line[key] = fmean(values)
    line[f"{key} sd"] = stdev(values) if len(values) > 1 else float("nan")


def readable(summary: pd.DataFrame, distance_key: str, score_key: str) -> pd.DataFrame:
    """The columns a reader wants, as text: "12.3 ± 0.4", "-1.2 [-2.0, -0.4] lower"."""

    def difference(line: pd.Series) -> str:
        if line["difference"] is None or pd.isna(line["difference"]):
            return "-"
        if pd.isna(line["difference low"]):
            return f"{_signed(line['difference'])} ({line['verdict']})"
        interval = f"[{_signed(line['difference low'])}, {_signed(line['difference high'])}]"
        return f"{_signed(line['difference'])} {interval} {line['verdict']}"

    gains = [key for key in summary if key.startswith("gain size") and not key.endswith(" sd")]
    lines = []
    for _, line in summary.iterrows():
        compared = line["compared with"]
        elsewhere = isinstance(compared, str) and compared != summary["title"].iloc[0]
        lines.append(
            {
                "row": line["title"],
                "n": cell(int(line["n"])),
                distance_key: spread_text(line, distance_key),
                "best @ step": spread_text(line, f"best {distance_key}")
                + f" @ {cell(int(line['median step of best']))}",
                "difference to dense, 95% interval": difference(line) + f" (to {compared})" * elsewhere,
                score_key: spread_text(line, score_key),
                "class accuracy": spread_text(line, "class accuracy (SVM)"),
                "paper FID": line["paper FID"],
                "paper IS": line["paper IS"],
                "attention off": spread_text(line, f"{distance_key}, attention off"),
                "gain sizes": ", ".join(
                    f"{'D' if 'discriminator' in key else 'G'} {cell(line[key])}"
                    for key in gains
                    if not pd.isna(line[key])
                )
                or "-",
                "parameters": cell(int(line["parameters"])),
                "file MB": cell(line["file MB"]),
                "minutes": cell(line["minutes"]),
                "images/s": cell(line["images/s"]),
            }
        )
    return pd.DataFrame(lines)


def spread_text(line: pd.Series, key: str) -> str:
    """Mean and standard deviation of one column of ``summarise``: "12.3 ± 0.4", or "-" where there is none."""
    if key not in line or pd.isna(line[key]):
        return "-"
    deviation = line[f"{key} sd"]
    return cell(line[key]) + ("" if pd.isna(deviation) else f" ± {cell(deviation)}")


def _signed(value: float) -> str:
    return ("+" if value > 0 else "") + cell(value)
