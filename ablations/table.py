"""The table of an ablation: one line a run, the published figures beside ours, as CSV and Markdown.

It is rebuilt from the run folders each time, so it cannot disagree with them. report.py averages it over seeds.
"""

from pathlib import Path
from typing import Any

import pandas as pd

from ablations.paper import ASTERISK, paper_columns
from ablations.records import Record
from sagan_base.attention_health import MEASURES
from sagan_base.files import write_text
from sagan_base.tables import csv, markdown, text
from ylg.heads import shown_order


def run_table(records: list[Record]) -> pd.DataFrame:
    """One line a run, in table order; columns that no run fills are left out."""
    return pd.DataFrame([_line(record) for record in records]).dropna(axis="columns", how="all")


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
        "class accuracy (SVM)": record.class_accuracy,
        f"{record.distance_key}, attention off": record.attention_off.get(record.distance_key),
        **paper_columns(record.row),
        **dict(sorted(record.gains.items())),
        **map_columns(record),
        "parameters": sum(record.parameters.values()),
        "file MB": record.file_bytes / 1e6,
        "minutes": record.seconds / 60,
        "images/s": record.images_per_second,
    }


def map_columns(record: Record) -> dict[str, float]:
    """How each layer attends, and did untrained, means over its heads; the distance with other maps than its own."""
    columns = {}
    for layer, values in sorted(record.attention_health.items()):
        for when, health in (("", values), ("untrained ", values["untrained"])):
            for measure in MEASURES:
                columns[f"{when}{measure}/{layer}"] = sum(health[measure]) / len(health[measure])
        for change, distance in values.get("distance", {}).items():
            columns[f"{record.distance_key}, {change}"] = distance
        for change, size in values["output changes"].items():
            columns[f"output change, {change}/{layer}"] = size
    return columns


def write_table(records: list[Record], unfinished: list[Path], out: Path) -> None:
    """Write ``table.csv`` (for programs) and ``table.md`` (for reading) into ``out``."""
    table, setting = run_table(records), records[0].setting
    parts = [
        f"# Ablation: {setting.data} at {setting.resolution}x{setting.resolution}, {setting.steps:,} steps",
        f"{setting.samples:,} samples of the EMA generator a run. The paper's FID and IS are of ImageNet 128x128 and "
        "Inception features: compare the order of the rows, not the numbers.",
        markdown(table),
        f"\\{ASTERISK}",
    ]
    if unfinished:
        parts.append(f"Unfinished: {', '.join(folder.name for folder in unfinished)}.")
    write_text(out / "table.csv", csv(table))
    write_text(out / "table.md", "\n\n".join(parts) + "\n")


def brief(records: list[Record]) -> str:
    """The columns that fit a terminal."""
    table = run_table(records)
    first = records[0]
    wanted = ["row", "seed", first.distance_key, first.score_key, "class accuracy (SVM)", "paper FID", "paper IS"]
    return text(table[[column for column in wanted if column in table]])
