"""One self-contained HTML page from a study of patterns: pictures, measures, and a view to explore with the pointer.

templates/patterns.html shows it. The masks travel inside as CSR arrays in base64, over positions (or over cells, of
patterns native to the grid); the page's script moves them onto cells by the order and the alignment, as heads.py does.
"""

import base64
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.pattern_book.drawings import STEP_COLOURS
from analysis.pattern_book.study import NO_ORDER, Study
from sagan_base.files import write_text
from sagan_base.pages import data_uri, render
from sagan_base.tables import cell

LARGEST_EMBEDDED = 400_000  # entries of a pattern: beyond, it stays out of the explorable view


@dataclass(frozen=True)
class Picture:
    """A drawn figure: its file's name without the suffix, its caption, and the SVG itself."""

    name: str
    caption: str
    svg: str

    @property
    def source(self) -> str:
        return data_uri(self.svg.encode(), "image/svg+xml")


def write_page(
    study: Study, rows: list[dict[str, Any]], together: pd.DataFrame, pictures: dict[str, list[Picture]], path: Path
) -> None:
    """Write the page.

    Args:
        rows: of the comparison, one for each pattern and order.
        together: what the heads of a layer see side by side.
        pictures: by section: masks, flow, orders, seen. Of the last, the page shows those of one order: the paper's
            if it is there.
    """
    first = study.first_order
    others = tuple(f"_{order}" for order in study.orders if order != first)
    seen = [picture for picture in pictures["seen"] if not picture.name.endswith(others or "/")]
    of_first = [row for row in rows if row["order"] in (first, NO_ORDER)]
    (keys, queries) = (f"{rows}×{cols}" for rows, cols in (study.key_grid, study.query_grid))
    page = render(
        "analysis",
        "patterns.html",
        title="Sparse attention patterns",
        subtitle=f"{len(study.patterns)} patterns over {study.positions} positions, a {keys} grid of keys seen by "
        f"{queries} queries, in blocks of {study.block}",
        pictures=pictures | {"seen": seen},
        verdicts={f"masks_{row['pattern']}": row for row in of_first},
        order=first,
        bound=f"{of_first[0]['edge_bound']:,.0f}" if of_first[0]["num_steps"] == 2 else "p n^(1+1/p)",
        together=together,
        of_patterns=_of_patterns(of_first),
        wrong={"unreachable": {row["unreachable_pairs"]: "no" for row in of_first if row["unreachable_pairs"]}},
        of_orders=_of_orders(rows, study),
        of_distances=_of_distances(rows, study),
        versions=", ".join(
            [f"Python {platform.python_version()}"]
            + [f"{name} {version(name)}" for name in ("numpy", "scipy", "networkx", "matplotlib")]
        ),
        data=_data(study),
    )
    write_text(path, page)


def _of_patterns(rows: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "pattern": row["pattern"],
            "steps": row["num_steps"],
            "edges": row["edges"],
            "row degree": _each(row["max_row_degree"]),
            "column degree": _each(row["max_column_degree"]),
            "unreachable": row["unreachable_pairs"],
            "paths": _each([row["min_paths"], row["mean_paths"], row["max_paths"]]),
            "layers ∥": _or_never(row["layers_parallel"]),
            "layers →": _or_never(row["layers_sequential"]),
            "flow": _each([row["flow_forward"], row["flow_backward"]]),
            "congestion": row["congestion"],
            "σ₂": row["second_singular_value"],
            "|λ₂|": row["second_eigenvalue"],
            "share": row["smallest_share"],
        }
        for row in rows
    )


def _of_orders(rows: list[dict[str, Any]], study: Study) -> pd.DataFrame:
    """A row for each order; a column for each pattern whose relays are some positions, not all."""
    lines: dict[str, dict[str, Any]] = {}
    for row in [row for row in rows if row["order"] != NO_ORDER]:
        order = row["order"]
        line = lines.setdefault(
            order,
            {
                "order": order,
                "inside a block": row["block_distance"],
                "neighbours together": f"{row['neighbours_together']:.1%}",
            },
        )
        if 0 < row["relays"] < study.positions:
            line[f"to a relay of {row['pattern']}"] = f"{row['relay_distance']:.2f} · {row['max_relay_distance']:.1f}"
    return pd.DataFrame(lines.values())


def _of_distances(rows: list[dict[str, Any]], study: Study) -> pd.DataFrame:
    """A row for each order, a column for each pattern: how far the cells attended to are."""
    lines = {order: {"order": order} for order in dict.fromkeys(row["order"] for row in rows)}
    for row in rows:
        lines[row["order"]][row["pattern"]] = " · ".join(f"{distance:.1f}" for distance in row["step_distance"])
    return pd.DataFrame(lines.values())


def _each(values: Any) -> str:
    """Numbers side by side, as a step has one each."""
    return " · ".join(map(cell, values)) if isinstance(values, (list, tuple)) else cell(values)


def _or_never(layers: int | None) -> int | str:
    return "never" if layers is None else layers


def _data(study: Study) -> dict[str, Any]:
    """What the explorable view computes with."""
    small = {name for name, steps in study.steps.items() if sum(step.nnz for step in steps) <= LARGEST_EMBEDDED}
    return {
        "keys": study.key_grid,
        "queries": study.query_grid,
        "query": study.query,
        "colours": STEP_COLOURS,
        "alignments": study.alignments,
        "orders": {name: _integers(cells) for name, cells in study.orders.items()},
        "native": [name for name, chosen in study.patterns.items() if chosen.on_grid],
        "layouts": {
            name: [[chosen.name, step] for chosen, step in heads]
            for name, heads in study.heads.items()
            if all(chosen.name in small for chosen, _ in heads)
        },
        "steps": {
            name: [[_integers(step.indptr), _integers(step.indices)] for step in steps]
            for name, steps in study.steps.items()
            if name in small
        },
    }


def _integers(values: np.ndarray) -> str:
    return base64.b64encode(values.astype("<u4").tobytes()).decode("ascii")
