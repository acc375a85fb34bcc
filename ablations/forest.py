"""The forest plot: each row's difference to its dense row, with its interval and what so many seeds could show."""

import io
import math

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ablations.contrasts import ROWS_OF_CONTRASTS
from ablations.summary import Summary
from sagan_base.tables import percent

BLUE, GREY, BAND = "#0072B2", "#777777", "#f0e6cc"
TICKS = ((-0.1, -0.2, -0.3, -0.5, -0.75, -0.9), (0.1, 0.25, 0.5, 1, 2, 4, 9))  # from 0 outwards


def forest(summary: Summary) -> str:
    """SVG, a panel for the rows as published and one for the others; dense is at 0, left of it is better."""
    first = {record.row: record for record in reversed(summary.records)}
    panels: dict[str, list] = {}
    for name, difference in summary.differences.items():
        dense = first[name].of_row.dense_row
        title = "attending, against SAGAN, attending" if dense == "sagan_attending" else "as published, against SAGAN"
        panels.setdefault(title, []).append((first[name], difference))
    if not panels:
        return ""
    heights = [len(lines) for lines in panels.values()]
    figure = Figure(figsize=(8.6, 0.34 * sum(heights) + 1.0 + 0.35 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False, sharex=True, height_ratios=[n + 0.8 for n in heights])[:, 0]
    for axis, (title, lines) in zip(axes, panels.items(), strict=True):
        _panel(axis, lines)
        axis.set_title(f"{title}: one dense head", fontsize=9, loc="left")
    axes[-1].set_xlabel(f"difference in {summary.key} to dense attention: left is better", fontsize=9, parse_math=False)
    return svg(figure)


def _panel(axis: Axes, lines: list) -> None:
    for height, (record, difference) in enumerate(reversed(lines)):
        compared = record.row in ROWS_OF_CONTRASTS
        if not math.isnan(difference.detectable):
            axis.barh(height, 2 * difference.detectable, left=-difference.detectable, height=0.9, color=BAND, zorder=0)
        ends = [difference.low, difference.high] if not math.isnan(difference.low) else [difference.estimate] * 2
        axis.plot(ends, [height] * 2, color=BLUE if compared else GREY, linewidth=1.8)
        axis.plot(difference.estimate, height, "o", color=BLUE if compared else GREY, markersize=6,
                  markerfacecolor=BLUE if compared else "white")  # fmt: skip
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set_yticks(range(len(lines)), [record.title for record, _ in reversed(lines)], fontsize=9, parse_math=False)
    axis.set_ylim(-0.6, len(lines) - 0.4)
    ends = [abs(end) for _, d in lines for end in (d.low, d.high, d.estimate, d.detectable) if not math.isnan(end)]
    ticks = _ticks(max(ends))
    axis.set_xticks(ticks, [percent(tick) if tick else "0" for tick in ticks], fontsize=8)
    axis.tick_params(axis="y", length=0)
    axis.spines[["top", "right", "left"]].set_visible(False)


def _ticks(reach: float) -> list[float]:
    """Round shares as log differences, as many as stand apart."""
    shown = [0.0]
    for side in TICKS:
        last = 0.0
        for tick in np.log1p(side):
            if last + 0.12 * reach <= abs(tick) <= 1.05 * reach:
                shown.append(float(tick))
                last = abs(tick)
    return shown


def svg(figure: Figure) -> str:
    """A figure as text for a page or a file; equal data give equal text."""
    stream = io.StringIO()
    # Text stays text (searchable, selectable); a fixed salt makes equal data give equal names.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "ablation"}):
        figure.savefig(stream, format="svg", metadata={"Date": None}, facecolor="white")
    text = stream.getvalue()
    return text[text.index("<svg") :]
