"""The table of an ablation: one line a run, the published figures beside ours, as CSV and Markdown.

It is rebuilt from the run folders each time, so it cannot disagree with them. report.py averages it over seeds.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ablations.published import ASTERISK
from ablations.records import Record
from ablations.rows import ROWS
from sagan_base.files import atomic_write


def run_table(records: list[Record]) -> pd.DataFrame:
    """One line a run, in table order; columns that no run fills are left out."""
    return pd.DataFrame([_line(record) for record in records]).dropna(axis="columns", how="all")


def _line(record: Record) -> dict[str, Any]:
    attention = record.config["model"]["attention"]
    dense = attention is not None and attention["pattern"] == "dense"
    published = ROWS[record.row].published if record.row in ROWS else None
    best, best_step = record.best()
    return {
        "row": record.title,
        "heads": attention["num_heads"] if attention else 0,
        "pattern": attention["pattern"] if attention else "-",
        "order": "-" if attention is None or dense else attention["order"],
        "alignment": "-" if attention is None or dense else attention["alignment"],
        "mode": attention["mode"] if attention else "-",
        "seed": record.seed,
        "steps": record.setting["steps"],
        **record.metrics,
        f"best {record.distance_key}": best,
        "best at step": best_step,
        f"initial {record.distance_key}": record.initial[record.distance_key],
        "class accuracy (SVM)": record.class_accuracy,
        "paper FID": published.fid_text if published else "-",
        "paper IS": published.inception_score_text if published else "-",
        **{f"gain {name}": value for name, value in sorted(record.attention_gains.items())},
        "parameters": sum(record.parameters.values()),
        "file MB": record.file_bytes / 1e6,
        "minutes": record.seconds / 60,
        "images/s": record.images_per_second,
    }


def write_table(records: list[Record], unfinished: list[Path], out: Path) -> None:
    """Write ``table.csv`` (full precision) and ``table.md`` (for reading) into ``out``."""
    table = run_table(records)
    with atomic_write(out / "table.csv") as path:
        table.to_csv(path, index=False)
    with atomic_write(out / "table.md") as path:
        path.write_text(_page(records, table, unfinished), encoding="utf-8")


def _page(records: list[Record], table: pd.DataFrame, unfinished: list[Path]) -> str:
    setting = records[0].setting
    lines = [
        f"# Ablation: {setting['data']} at {setting['resolution']}x{setting['resolution']}, {setting['steps']:,} steps",
        "",
        f"{setting['samples']:,} samples of the EMA generator a run. The paper's FID and IS are of ImageNet 128x128 "
        "and Inception features: compare the order of the rows, not the numbers.",
        "",
        markdown(table),
        "",
        ASTERISK,
    ]
    if unfinished:
        lines += ["", f"Unfinished: {', '.join(folder.name for folder in unfinished)}."]
    return "\n".join(lines) + "\n"


def brief(records: list[Record]) -> str:
    """The columns that fit a terminal."""
    table = run_table(records)
    first = records[0]
    wanted = ["row", "seed", first.distance_key, first.score_key, "class accuracy (SVM)", "paper FID", "paper IS"]
    return markdown(table[[column for column in wanted if column in table]])


def markdown(table: pd.DataFrame) -> str:
    """A Markdown table; numbers with four significant digits, text as it is."""
    cells = [[str(column) for column in table.columns]]
    cells += [[cell(value) for value in line] for line in table.itertuples(index=False)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(table.columns))]
    text = [table[column].dtype == object or pd.api.types.is_string_dtype(table[column]) for column in table.columns]
    rule = ["-" * width if left else "-" * (width - 1) + ":" for width, left in zip(widths, text, strict=True)]
    for line in cells:
        line[:] = [
            value.ljust(width) if left else value.rjust(width)
            for value, width, left in zip(line, widths, text, strict=True)
        ]
    return "\n".join("| " + " | ".join(line) + " |" for line in [cells[0], rule, *cells[1:]])


def cell(value: Any) -> str:
    """How a value is shown: integers whole, measured numbers with three or four digits, nothing as "-"."""
    if value is None or (isinstance(value, float) and pd.isna(value)):
        return "-"
    if isinstance(value, (bool, str)):
        return str(value)
    if isinstance(value, (int, np.integer)):
        return f"{value:,}"
    size = abs(float(value))
    digits = 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 1 or not size else 3 if size >= 0.1 else 4
    return f"{value:,.{digits}f}"
