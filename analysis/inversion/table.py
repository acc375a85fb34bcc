"""The table of many inversions: one row each, and per source and method the mean with its spread."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.inversion.report import TUNED
from sagan_base.files import write_text
from sagan_base.pages import render
from sagan_base.tables import csv, markdown, read_csv, spread

PLAIN_NAMES = {"psnr": "PSNR (dB)", "ssim": "SSIM", "seconds": "time (s)"}
TEXT = ["source", "picture", "method", "class", "true_class", "class_given"]


def rows_of(numbers: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of one inversion's metrics: z alone, and a row of its own for a tuned generator."""
    row = {name: numbers[name] for name in TEXT}
    keep = [name for name, value in numbers.items() if isinstance(value, float) and not name.startswith("loss_")]
    rows = [row | {name: numbers[name] for name in keep}]
    if TUNED in numbers:
        rows.append(row | {"method": f"{numbers['method']}, {TUNED}"} | numbers[TUNED])
    return rows


def read_rows(path: Path) -> pd.DataFrame:
    """The rows of a table.csv."""
    frame = read_csv(path, TEXT[:-1], ())  # older tables do not say whether a class was given
    return frame.reindex(columns=_columns(frame))


def summaries(rows: pd.DataFrame) -> pd.DataFrame:
    """Per source and method: number of images, share of classes found where they were searched, and mean ± standard
    deviation of each number."""
    lines = []
    for (source, method), members in rows.groupby(["source", "method"], sort=False):
        searched = members[members["true_class"].notna() & members["class_given"].isna()]
        line = {"source": source, "method": method, "images": len(members), "class found": None}
        if len(searched):
            line["class found"] = f"{(searched['class'] == searched['true_class']).mean():.0%}"
        for name in members.columns.difference(TEXT, sort=False):
            line[PLAIN_NAMES.get(name, name)] = spread(members[name].mean(), members[name].std())
        lines.append(line)
    return pd.DataFrame(lines).dropna(axis="columns", how="all")


def write_tables(rows: Sequence[dict[str, Any]], out: Path, **made_by: Any) -> str:
    """Write table.csv (a row an image) and table.md (means and spread, then a row an image); returns the summary.

    Args:
        made_by: for templates/inversions.md: model, command, config, and the name of the distance.
    """
    frame = pd.DataFrame(rows)
    frame = frame.reindex(columns=_columns(frame))
    summary, each = summaries(frame), frame.rename(columns=PLAIN_NAMES)
    write_text(out / "table.csv", csv(frame))
    write_text(out / "table.md", render("analysis", "inversions.md", summary=summary, each=each, **made_by))
    return markdown(summary)


def _columns(frame: pd.DataFrame) -> list[str]:
    return [*TEXT, *frame.columns.difference(TEXT, sort=False)]
