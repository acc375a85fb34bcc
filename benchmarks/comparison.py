"""What the rows of attention.py come to: of every peer the fastest way to run it, as tables, growth and a plot.

A row is one way to compute attention in one case. Its ``kind`` says whose way, ``both_ms`` and the like are quartiles
over rounds, ``both_ratio`` those of its time over that of ours in the same round.
"""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd

from sagan_base.files import atomic_write
from sagan_base.tables import text

matplotlib.use("Agg")
import matplotlib.pyplot as plt

OURS, MASKED, DENSE, ONE_HEAD = "ours", "same masks", "dense heads", "one dense head"
KINDS = (OURS, MASKED, DENSE, ONE_HEAD)

Row = dict[str, Any]


def fastest(rows: list[Row], timed: str) -> list[Row]:
    """Of every case ours, for each pattern, and each peer, by the median ratio; what did not run only where all failed.

    ``timed`` is "forward" or "both".
    """
    chosen: dict[tuple, Row] = {}

    def ratio(row: Row) -> float:
        return row.get(f"{timed}_ratio", (0, np.inf))[1]

    for row in rows:
        key = row["case"], row["kind"], row["pattern"] if row["kind"] == OURS else None
        if key not in chosen or ratio(row) < ratio(chosen[key]):
            chosen[key] = row
    return list(chosen.values())


def summary(rows: list[Row], timed: str = "both") -> list[Row]:
    """A line for each of the fastest: how often the time of ours it takes, and its memory."""
    lines = []
    for row in fastest(rows, timed):
        line = {"case": row["case"], "batch": row["batch"], "what": row["kind"], "fastest way": row["method"]}
        if f"{timed}_ms" in row:
            low, ratio, high = row[f"{timed}_ratio"]
            line |= {"ms": row[f"{timed}_ms"][1], "times ours": ratio, "quartiles": f"{low:.2f} to {high:.2f}"}
            line |= {"peak MB": row[f"{timed}_peak_mb"], "kept MB": row["kept_mb"]}
        else:
            line["fastest way"] = row.get("left_out", "no backward here")
        lines.append(line)
    return lines


def table(rows: list[Row]) -> str:
    """Every way, for a terminal; times of CUDA graphs where there are any."""
    lines = []
    for row in rows:
        line = {"case": row["case"], "what": row["kind"], "way": row["method"]}
        for timed in ("forward", "both", "forward_graph", "both_graph"):
            if f"{timed}_ms" in row:
                line |= {f"{timed} ms": row[f"{timed}_ms"][1], "x ours " + timed: row[f"{timed}_ratio"][1]}
                line["GB/s " + timed] = row[f"{timed}_gb_per_s"]
        line["peak MB"] = row.get("both_peak_mb", row.get("forward_peak_mb"))
        line["kept MB"] = row.get("kept_mb")
        line |= {name: f"{row[name]:.0e}" for name in ("error", "gradient_error") if name in row}
        lines.append(line | {"left out": row.get("left_out", "")})
    return text(pd.DataFrame(lines).dropna(axis="columns", how="all"))


def growth(rows: list[Row], timed: str = "both") -> dict[str, tuple[list[int], list[float], float | None]]:
    """Of each kind: numbers of queries, milliseconds an image, and the slope of their logarithms.

    The slope is fitted over grids from 32, where fixed costs no longer hide the growth; None with fewer than two.
    """
    found = {}
    for kind in KINDS:
        points = sorted(
            (row["grid"] ** 2, row[f"{timed}_ms"][1] / row["batch"])
            for row in fastest(rows, timed)
            if row["case"] == f"grid-{row['grid']}" and row["kind"] == kind and f"{timed}_ms" in row
            if kind != OURS or row["pattern"] == row["patterns"][0]
        )
        if points:
            n, ms = map(list, zip(*points, strict=True))
            large = np.log([point for point in points if point[0] >= 32**2])
            found[kind] = n, ms, round(float(np.polyfit(*large.T, 1)[0]), 2) if len(large) > 1 else None
    return found


def plot(rows: list[Row], device: str, path: Path) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.4), sharey=True, layout="constrained")
    for axis, timed, title in zip(axes, ("forward", "both"), ("forward", "forward + backward"), strict=True):
        for kind, (n, ms, slope) in growth(rows, timed).items():
            label = kind if slope is None else f"{kind}: n^{slope:.2f}"
            width = 2.2 if kind == OURS else 1.3
            axis.plot(n, ms, "o-", label=label, color=f"C{KINDS.index(kind)}", linewidth=width)
        axis.set(xscale="log", yscale="log", xlabel="queries n (keys: n / 4)", title=title)
        sides = sorted({row["grid"] for row in rows if row["case"] == f"grid-{row['grid']}"})
        axis.set_xticks([side**2 for side in sides], [f"{side}\u00b2" for side in sides])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8, title="the fastest way to run each", title_fontsize=8)
    axes[0].set_ylabel("milliseconds an image")
    figure.suptitle(f"8 heads, LTR + RTL, float32, {device}", fontsize=10)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=130)
    plt.close(figure)
