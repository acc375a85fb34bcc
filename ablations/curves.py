"""Curves of an ablation against training steps, one line a row with a band over seeds: the paper's Figure 4.

Drawn as SVG text, so that the report stays sharp and needs no file beside it.
"""

import io
from collections import defaultdict
from collections.abc import Callable, Sequence

import matplotlib
import numpy as np

from ablations.records import Record

matplotlib.use("Agg")
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's colours: told apart with every common colour vision.
COLOURS = ("#000000", "#E69F00", "#0072B2", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")

Points = list[tuple[int, float]]
CurveOf = Callable[[Record], Points]


def band(curves: Sequence[Points]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Steps that every seed measured, and the mean, lowest and highest value over seeds at each."""
    by_step = defaultdict(list)
    for points in curves:
        for step, value in dict(points).items():
            by_step[step].append(value)
    common = sorted(step for step, values in by_step.items() if len(values) == len(curves))
    values = np.array([by_step[step] for step in common], dtype=float).reshape(len(common), len(curves))
    return np.array(common), values.mean(axis=1), values.min(axis=1), values.max(axis=1)


def overlaid(groups: dict[str, list[Record]], panels: dict[str, CurveOf], log: bool = True) -> str:
    """One panel a metric, all rows in each; ``groups`` maps a row's title to its runs."""
    figure = Figure(figsize=(5.2 * len(panels), 3.9), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (label, curve_of) in zip(axes, panels.items(), strict=True):
        for (title, records), colour in zip(groups.items(), _cycle(COLOURS), strict=False):
            _draw(axis, [curve_of(record) for record in records], colour, title)
        _finish(axis, label, log and label.startswith("F"))
    if axes[0].get_legend_handles_labels()[0]:
        axes[0].legend(fontsize=8, frameon=False)
    return _svg(figure)


def small_multiples(
    groups: dict[str, list[Record]], reference: tuple[str, list[Record]], label: str, curve_of: CurveOf
) -> str:
    """One small panel a row, each with the reference row in grey behind it; many lines in one panel cannot be read."""
    columns = min(4, len(groups))
    lines = -(-len(groups) // columns)
    figure = Figure(figsize=(2.8 * columns, 2.3 * lines + 0.3), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    for axis in axes.flat[len(groups) :]:
        axis.set_visible(False)
    for axis, (title, records) in zip(axes.flat, groups.items(), strict=False):
        _draw(axis, [curve_of(record) for record in reference[1]], "#999999", reference[0])
        _draw(axis, [curve_of(record) for record in records], COLOURS[2], title)
        _finish(axis, "", label.startswith("F"))
        axis.set_title(title, fontsize=9)
    figure.supylabel(label, fontsize=9)
    return _svg(figure)


def _draw(axis: Axes, curves: list[Points], colour: str, title: str) -> None:
    curves = [points for points in curves if points]
    if not curves:
        return
    steps, mean, low, high = band(curves)
    axis.plot(steps, mean, color=colour, linewidth=1.6, label=title, marker="o" if len(steps) == 1 else None)
    if len(curves) > 1:
        axis.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)


def _finish(axis: Axes, label: str, log: bool) -> None:
    if log:
        axis.set_yscale("log")
    axis.set_xlabel("step", fontsize=9)
    axis.set_ylabel(label, fontsize=9)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25, linewidth=0.5)
    for side in ("top", "right"):
        axis.spines[side].set_visible(False)


def _cycle(colours: Sequence[str]):
    while True:
        yield from colours


def _svg(figure: Figure) -> str:
    stream = io.StringIO()
    # Text stays text (searchable, selectable); a fixed salt makes equal data give equal files.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "ablation"}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    text = stream.getvalue()
    return text[text.index("<svg") :]
