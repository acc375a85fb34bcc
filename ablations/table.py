"""The table of an ablation: one line a run, the published figures beside ours, as CSV and Markdown.

It is rebuilt from the run folders each time, so it cannot disagree with them. report.py averages it over seeds.
"""

from pathlib import Path
from typing import Any

import pandas as pd

from ablations.paper import ANCHORS, ASTERISK, CAVEAT, paper_columns
from ablations.records import Record
from sagan_base.files import write_text
from sagan_base.tables import csv, markdown, text
from ylg.heads import shown_order

REAL = "real images, held out"  # what the first line of every table is called


def run_table(records: list[Record]) -> pd.DataFrame:
    """One line a run, in table order; columns that no run fills are left out."""
    return pd.DataFrame([_line(record) for record in records]).dropna(axis="columns", how="all")


def with_real(records: list[Record]) -> pd.DataFrame:
    """``run_table`` below a line of the real images that were not trained on."""
    table = run_table(records)
    table = table.astype({name: "Int64" for name in table.select_dtypes("int")})  # which the line of real images lacks
    real = pd.DataFrame([{"row": REAL} | records[0].real]) if records[0].real else table[:0]
    return pd.concat([real, table])[table.columns]


def anchor_table() -> pd.DataFrame:
    """The published figures to keep beside the table; they belong to none of its rows."""
    return pd.DataFrame([{"what": what, **f.columns(), "on": f.where, "by": f.source} for what, f in ANCHORS])


def _line(record: Record) -> dict[str, Any]:
    attention = record.config.model.attention
    ordered = attention is not None and attention.pattern != "dense"
    best, best_step = record.best()
    return {
        "row": record.title,
        "heads": attention.num_heads if attention else 0,
        "pattern": attention.pattern if attention else "-",
        "order": shown_order(attention.pattern, attention.order) if ordered else "-",
        "alignment": attention.alignment if ordered else "-",
        "mode": attention.mode if attention else "-",
        "seed": record.seed,
        "steps": record.setting.steps,
        **record.metrics,
        f"best {record.distance_key}": best,
        "best at step": best_step,
        f"initial {record.distance_key}": record.initial[record.distance_key],
        **paper_columns(record.row),
        **dict(sorted(record.gains.items())),
        **map_columns(record),
        "times, gains at 0": record.attention_off,
        "parameters": sum(record.parameters.values()),
        "file MB": record.file_bytes / 1e6,
        "minutes": record.seconds / 60,
        "images/s": record.images_per_second,
    }


def map_columns(record: Record) -> dict[str, float]:
    """How each layer attends, and did untrained, means over its heads; and what other maps than its own do."""
    columns = {}
    for layer, trained in sorted(record.attention_health.items()):
        for when, health in (("", trained), ("untrained ", trained.untrained)):
            columns |= {f"{when}{measure}/{layer}": mean for measure, mean in health.means().items()}
        for change, times in trained.distance.items():
            columns[f"times, {change}"] = times
        for change, size in trained.output_changes.items():
            columns[f"output change, {change}/{layer}"] = size
    return columns


def write_table(records: list[Record], unfinished: list[Path], out: Path) -> None:
    """Write ``table.csv`` (for programs) and ``table.md`` (for reading) into ``out``."""
    table, setting = with_real(records), records[0].setting
    parts = [
        f"# Ablation: {setting.data} at {setting.resolution}x{setting.resolution}, {setting.steps:,} steps",
        f"{setting.samples:,} samples of the EMA generator at each of the steps "
        f"{', '.join(f'{step:,}' for step in setting.measured)}. {CAVEAT}",
        markdown(table),
        f"\\{ASTERISK}",
    ]
    if unfinished:
        parts.append(f"Unfinished: {', '.join(folder.name for folder in unfinished)}.")
    write_text(out / "table.csv", csv(table))
    write_text(out / "table.md", "\n\n".join(parts) + "\n")


def brief(records: list[Record]) -> str:
    """The columns that fit a terminal."""
    table, key = with_real(records), records[0].distance_key
    others = [name for name in records[0].metrics if name.startswith(("precision", "recall"))][:2]
    return text(table[["row", "seed", key, *others, "paper FID", "paper IS"]])
