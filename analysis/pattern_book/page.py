"""One self-contained HTML page from a study of patterns: pictures, measures, and a view to explore with the pointer.

page.html is the page without its contents. The masks travel inside it as CSR arrays in base64, over positions;
the page moves them onto cells by the order and the alignment, as heads.py does.
"""

import base64
import html
import json
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from analysis.pattern_book.drawings import STEP_COLOURS
from analysis.pattern_book.study import Study
from sagan_base.files import atomic_write

TEMPLATE = Path(__file__).with_name("page.html")
LARGEST_EMBEDDED = 400_000  # entries of a pattern: beyond, it stays out of the explorable view


@dataclass(frozen=True)
class Picture:
    """A drawn figure: its file's name without the suffix, its caption, and the SVG itself."""

    name: str
    caption: str
    svg: str


def write_page(study: Study, rows: list[dict[str, Any]], pictures: dict[str, list[Picture]], path: Path) -> None:
    """Write the page.

    Args:
        rows: of the comparison, one for each pattern and order.
        pictures: by section: masks, flow, orders, seen. Of the last, the page shows those of one order: the paper's
            if it is there.
    """
    first = "manhattan" if "manhattan" in study.orders else next(iter(study.orders))
    seen = [picture for picture in pictures["seen"] if picture.name.endswith(f"_{first}")]
    rows_of_first = [row for row in rows if row["order"] == first]
    contents = {
        "SUBTITLE": _subtitle(study),
        "MASKS": _gallery(pictures["masks"], _verdicts(rows_of_first)),
        "FLOW": _gallery(pictures["flow"], {}),
        "ORDERS": _gallery(pictures["orders"], {}),
        "SEEN": _gallery(seen, {}),
        "SEEN_ORDER": first,
        "PATTERN_TABLE": _pattern_table(rows_of_first),
        "ORDER_TABLE": _order_table(rows, study),
        "DISTANCE_TABLE": _distance_table(rows, study),
        "BOUND": f"{rows_of_first[0]['edge_bound']:,.0f}" if rows_of_first[0]["num_steps"] == 2 else "p n^(1+1/p)",
        "VERSIONS": f"Python {platform.python_version()}, "
        + ", ".join(f"{name} {version(name)}" for name in ("numpy", "scipy", "networkx", "matplotlib")),
        "DATA": json.dumps(_data(study), separators=(",", ":")).replace("</", "<\\/"),
    }
    page = TEMPLATE.read_text(encoding="utf-8")
    for key, value in contents.items():
        page = page.replace(f"__{key}__", value)
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _subtitle(study: Study) -> str:
    rows, cols = study.key_grid
    query_rows, query_cols = study.query_grid
    return (
        f"{len(study.patterns)} patterns over {study.positions} positions, a {rows}×{cols} grid of keys seen by "
        f"{query_rows}×{query_cols} queries, in blocks of {study.stride}"
    )


def _gallery(pictures: list[Picture], verdicts: dict[str, str]) -> str:
    return "\n".join(
        f'<figure class="card"><img src="data:image/svg+xml;base64,{_base64(picture.svg.encode())}" '
        f'alt="{html.escape(picture.name.replace("_", " "))}">'
        f"<figcaption>{html.escape(picture.caption)}{verdicts.get(picture.name, '')}</figcaption></figure>"
        for picture in pictures
    )


def _verdicts(rows: list[dict[str, Any]]) -> dict[str, str]:
    """Below each matrix: its edges, and whether everything reaches everything."""
    found = {}
    for row in rows:
        full, lost = row["full_information"], row["unreachable_pairs"]
        badge = '<b class="yes">full information</b>' if full else f'<b class="no">{lost:,} pairs unreachable</b>'
        found[f"masks_{row['pattern']}"] = f"<br>{row['edges']:,} edges · {badge}"
    return found


def _pattern_table(rows: list[dict[str, Any]]) -> str:
    heading = (
        ("pattern", "", ""),
        ("steps", "", "num_steps"),
        ("edges", "True entries of all steps", "edges"),
        ("row degree", "fullest row of each step", "max_row_degree"),
        ("column degree", "fullest column of each step", "max_column_degree"),
        ("unreachable", "pairs that no path joins; 0 is full information", "unreachable_pairs"),
        ("paths", "between a pair: fewest, mean, most", ""),
        ("layers ∥", "layers until all pairs are joined, the steps as parallel heads", "layers_parallel"),
        ("layers →", "the same, the steps in sequence", "layers_sequential"),
        ("flow", "most vertex-disjoint paths from the first half to the second, and back", ""),
        ("congestion", "largest share of all paths through one vertex", "congestion"),
        ("σ₂", "second singular value of the averaging product", "second_singular_value"),
        ("|λ₂|", "its second eigenvalue", "second_eigenvalue"),
        ("share", "n × the smallest weight of an input in an output", "smallest_share"),
    )
    body = []
    for row in rows:
        cells = [f'<th scope="row">{html.escape(row["pattern"])}</th>']
        for title, _, key in heading[1:]:
            if title == "paths":
                shown = f"{row['min_paths']} · {row['mean_paths']:.2f} · {row['max_paths']}"
            elif title == "flow":
                shown = f"{row['flow_forward']} · {row['flow_backward']}"
            else:
                shown = _shown(row[key])
            wrong = ' class="no"' if title == "unreachable" and row[key] else ""
            cells.append(f"<td{wrong}>{shown}</td>")
        body.append(f"<tr>{''.join(cells)}</tr>")
    return _table([f'<th scope="col" title="{tip}">{title}</th>' for title, tip, _ in heading], body)


def _order_table(rows: list[dict[str, Any]], study: Study) -> str:
    """A row for each order; a column for each pattern whose relays are some positions, not all."""
    relayed = [name for name in study.patterns if 0 < _row(rows, name, None)["relays"] < study.positions]
    heading = ["order", "inside a block", "neighbours together", *(f"to a relay of {name}" for name in relayed)]
    body = []
    for order in study.orders:
        of_order = _row(rows, None, order)
        cells = [f"{of_order['block_distance']:.2f}", f"{of_order['neighbours_together']:.1%}"]
        for row in (_row(rows, name, order) for name in relayed):
            cells.append(f"{row['relay_distance']:.2f} · {row['max_relay_distance']:.1f}")
        body.append(_line(order, cells))
    return _table([f'<th scope="col">{html.escape(title)}</th>' for title in heading], body)


def _distance_table(rows: list[dict[str, Any]], study: Study) -> str:
    """A row for each order, a column for each pattern: how far the cells attended to are."""
    body = []
    for order in study.orders:
        distances = [_row(rows, name, order)["step_distance"] for name in study.patterns]
        body.append(_line(order, [" · ".join(f"{distance:.1f}" for distance in each) for each in distances]))
    return _table([f'<th scope="col">{html.escape(title)}</th>' for title in ("order", *study.patterns)], body)


def _row(rows: list[dict[str, Any]], pattern: str | None, order: str | None) -> dict[str, Any]:
    """The first row of that pattern and order; None matches any."""
    return next(row for row in rows if pattern in (None, row["pattern"]) and order in (None, row["order"]))


def _line(name: str, cells: list[str]) -> str:
    return f'<tr><th scope="row">{html.escape(name)}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'


def _table(heading: list[str], body: list[str]) -> str:
    return f"<table><thead><tr>{''.join(heading)}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def _shown(value: Any) -> str:
    if value is None:
        return "never"
    if isinstance(value, list):
        return " · ".join(map(_shown, value))
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


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
        "layouts": {
            name: [[chosen.name, step] for chosen, step in heads]
            for name, heads in study.heads.items()
            if all(chosen.name in small for chosen, _ in heads)
        },
        "steps": {
            name: [[_integers(step.indptr), _integers(step.indices)] for step in study.steps[name]]
            for name in study.steps
            if name in small
        },
    }


def _integers(values: np.ndarray) -> str:
    return _base64(values.astype("<u4").tobytes())


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
