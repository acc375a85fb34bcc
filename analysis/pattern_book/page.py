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
from analysis.pattern_book.study import NO_ORDER, Study, in_order
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
    study: Study, rows: pd.DataFrame, together: pd.DataFrame, pictures: dict[str, list[Picture]], path: Path
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
    of_first = in_order(rows, first)
    lost = of_first["unreachable_pairs"]
    (keys, queries) = (f"{rows}×{cols}" for rows, cols in (study.key_grid, study.query_grid))
    page = render(
        "analysis",
        "patterns.html",
        title="Sparse attention patterns",
        subtitle=f"{len(study.patterns)} patterns over {study.positions} positions, a {keys} grid of keys seen by "
        f"{queries} queries, in blocks of {study.block}",
        pictures=pictures | {"seen": seen},
        verdicts={f"masks_{row['pattern']}": row for row in of_first.to_dict("records")},
        order=first,
        bound=f"{of_first['edge_bound'].iloc[0]:,.0f}" if of_first["num_steps"].iloc[0] == 2 else "p n^(1+1/p)",
        together=together,
        of_patterns=_of_patterns(of_first),
        wrong={"unreachable": dict.fromkeys(lost[lost > 0], "no")},
        of_orders=_of_orders(rows, study),
        of_distances=_by_order(rows, rows["step_distance"].map(lambda each: " · ".join(f"{d:.1f}" for d in each))),
        versions=", ".join(
            [f"Python {platform.python_version()}"]
            + [f"{name} {version(name)}" for name in ("numpy", "scipy", "networkx", "matplotlib")]
        ),
        data=_data(study),
    )
    write_text(path, page)


COLUMNS = {  # of the table of patterns -> the measures that stand in it side by side
    "pattern": "pattern",
    "steps": "num_steps",
    "edges": "edges",
    "row degree": "max_row_degree",
    "column degree": "max_column_degree",
    "unreachable": "unreachable_pairs",
    "paths": ["min_paths", "mean_paths", "max_paths"],
    "layers ∥": "layers_parallel",
    "layers →": "layers_sequential",
    "flow": ["flow_forward", "flow_backward"],
    "congestion": "congestion",
    "σ₂": "second_singular_value",
    "|λ₂|": "second_eigenvalue",
    "share": "smallest_share",
}


def _of_patterns(rows: pd.DataFrame) -> pd.DataFrame:
    def shown(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return " · ".join(map(cell, value))
        return "never" if value is pd.NA else value

    lines = rows.to_dict("records")
    return pd.DataFrame(
        {
            title: [shown([line[n] for n in names] if isinstance(names, list) else line[names]) for line in lines]
            for title, names in COLUMNS.items()
        }
    )


def _of_orders(rows: pd.DataFrame, study: Study) -> pd.DataFrame:
    """A row for each order; a column for each pattern whose relays are some positions, not all."""
    rows = rows[rows["order"] != NO_ORDER]
    frame = rows.drop_duplicates("order")[["order", "block_distance", "neighbours_together"]].set_index("order")
    frame = frame.assign(neighbours_together=frame["neighbours_together"].map("{:.1%}".format))
    frame = frame.rename(columns={"block_distance": "inside a block", "neighbours_together": "neighbours together"})
    some = rows[(rows["relays"] > 0) & (rows["relays"] < study.positions)]
    both = [f"{d:.2f} · {m:.1f}" for d, m in zip(some["relay_distance"], some["max_relay_distance"], strict=True)]
    relays = _by_order(some, pd.Series(both, some.index, dtype=object)).set_index("order").add_prefix("to a relay of ")
    return frame.join(relays).reset_index()


def _by_order(rows: pd.DataFrame, values: pd.Series) -> pd.DataFrame:
    """A row for each order, a column for each pattern."""
    wide = rows.assign(value=values).pivot(index="order", columns="pattern", values="value")
    return wide.reindex(rows["order"].unique())[rows["pattern"].unique()].rename_axis(columns=None).reset_index()


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
