"""The table of many inversions: one row each, and per source and method the mean with its spread."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from analysis.inversion.report import PLAIN_NAMES, TUNED
from sagan_base.files import atomic_write

TEXT = ("source", "picture", "method", "class", "true_class", "class_given")


def rows_of(numbers: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of one inversion's metrics: z alone, and a row of its own for a tuned generator."""
    row = {name: numbers[name] for name in TEXT}
    keep = [k for k, v in numbers.items() if isinstance(v, float) and not k.startswith("loss_")]
    rows = [row | {name: numbers[name] for name in keep}]
    if TUNED in numbers:
        rows.append(row | {"method": f"{numbers['method']}, {TUNED}"} | numbers[TUNED])
    return rows


def summaries(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per source and method: number of images, share of classes found, (mean, standard deviation) of each number."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["source"], row["method"]), []).append(row)
    result = []
    for (source, method), members in groups.items():
        searched = [row for row in members if row["true_class"] is not None and not row.get("class_given")]
        known = [row["class"] == row["true_class"] for row in searched]
        entry = {"source": source, "method": method, "images": len(members)}
        entry["class found"] = mean(known) if known else None
        for name in _measures(members):
            values = [row[name] for row in members if name in row]
            entry[name] = (mean(values), stdev(values) if len(values) > 1 else None)
        result.append(entry)
    return result


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a table.csv, as they were given to ``write_tables``."""
    with path.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    rows = []
    for line in lines:
        row: dict[str, Any] = {name: line.get(name) or None for name in TEXT}
        rows.append(row | {name: float(text) for name, text in line.items() if name not in TEXT and text})
    return rows


def summary_table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: per source and method the mean and standard deviation over images."""
    return _summary(summaries(rows), _measures(rows))


def _measures(rows: Sequence[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row if name not in TEXT))


def write_tables(rows: Sequence[dict[str, Any]], out: Path, heading: Sequence[str]) -> str:
    """Write table.csv (a row an image) and table.md (means and spread, then a row an image); returns the summary.

    Args:
        heading: lines of text above the tables: model, command, choice of the restart.
    """
    measures = _measures(rows)
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, [*TEXT, *measures], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    summary = summary_table(rows)
    columns = [*TEXT, *(PLAIN_NAMES.get(name, name) for name in measures)]
    each = _markdown(columns, [[row.get(name) for name in (*TEXT, *measures)] for row in rows])
    spread = "Mean ± standard deviation over images."
    lines = ["# Inversions", "", *heading, "", spread, "", summary, "", "## Each image", "", each, ""]
    for name, text in (("table.csv", buffer.getvalue()), ("table.md", "\n".join(lines))):
        with atomic_write(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return summary


def _summary(entries: list[dict[str, Any]], measures: list[str]) -> str:
    def shown(value: tuple[float, float | None] | None) -> str | None:
        if value is None:
            return None
        return _number(value[0]) + ("" if value[1] is None else f" ± {_number(value[1])}")

    with_class = any(entry["class found"] is not None for entry in entries)
    columns = ["source", "method", "images"] + ["class found"] * with_class + [PLAIN_NAMES.get(m, m) for m in measures]
    body = []
    for entry in entries:
        found = entry["class found"]
        row = [entry["source"], entry["method"], entry["images"]]
        row += [None if found is None else f"{found:.0%}"] * with_class
        body.append(row + [shown(entry.get(name)) for name in measures])
    return _markdown(columns, body)


def _number(value: float) -> str:
    return f"{value:.2f}" if abs(value) >= 10 else f"{value:.3f}"


def _markdown(columns: list[str], rows: list[list[Any]]) -> str:
    def cell(value: Any) -> str:
        text = "–" if value is None else _number(value) if isinstance(value, float) else str(value)
        return text.replace("|", "\\|")

    cells = [columns, *([cell(value) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    line = "| " + " | ".join("-" * width for width in widths) + " |"
    body = [
        "| " + " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    return "\n".join([body[0], line, *body[1:]])
