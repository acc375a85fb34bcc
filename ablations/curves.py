"""Curves of an ablation against training steps, one line a row with a band over seeds: the paper's Figure 4.

Drawn as SVG text, so that the report stays sharp and needs no file beside it.
"""

from collections import defaultdict
from collections.abc import Sequence
from itertools import cycle

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ablations.forest import svg
from ablations.records import Record

# Okabe and Ito's colours: told apart with every common colour vision.
COLOURS = ("#000000", "#E69F00", "#0072B2", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")

Points = list[tuple[int, float]]
Runs = list[Record]  # of one row


def curve(record: Record, name: str) -> Points:
    """(step, value) of a metric, or of the size of a gain, whose sign is free."""
    return [(step, abs(value) if name.startswith("gain/") else value) for step, value in record.curve(name)]


def band(curves: Sequence[Points]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Steps that every seed measured, and the mean, lowest and highest value over seeds at each."""
    by_step = defaultdict(list)
    for points in curves:
        for step, value in dict(points).items():
            by_step[step].append(value)
    common = sorted(step for step, values in by_step.items() if len(values) == len(curves))
    values = np.array([by_step[step] for step in common], dtype=float).reshape(len(common), len(curves))
    return np.array(common), values.mean(axis=1), values.min(axis=1), values.max(axis=1)


def overlaid(rows: list[Runs], names: list[str]) -> str:
    """One panel a name of a metric or gain, all rows in each."""
    figure = Figure(figsize=(5.2 * len(names), 4.4), layout="constrained")
    axes = figure.subplots(1, len(names), squeeze=False)[0]
    for axis, name in zip(axes, names, strict=True):
        for runs, colour in zip(rows, cycle(COLOURS), strict=False):
            _draw(axis, runs, name, colour)
        _finish(axis, name)
    if axes[0].get_legend_handles_labels()[0]:
        for title in axes[0].legend(fontsize=8, frameon=False).get_texts():
            title.set_parse_math(False)
    return svg(figure)


def small_multiples(rows: list[Runs], references: list[Runs], name: str) -> str:
    """One small panel a row, each with its reference in grey behind it; many lines in one panel cannot be read."""
    columns = min(4, len(rows))
    lines = -(-len(rows) // columns)
    figure = Figure(figsize=(2.8 * columns, 2.3 * lines + 0.3), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    for axis in axes.flat[len(rows) :]:
        axis.set_visible(False)
    for axis, runs, reference in zip(axes.flat, rows, references, strict=False):
        _draw(axis, reference, name, "#999999")
        _draw(axis, runs, name, COLOURS[2])
        _finish(axis, name)
        axis.set_ylabel("")
        axis.set_title(runs[0].title, fontsize=8, parse_math=False)
    figure.supylabel(name, fontsize=9, parse_math=False)
    return svg(figure)


def _draw(axis: Axes, runs: Runs, name: str, colour: str) -> None:
    curves = [points for points in (curve(record, name) for record in runs) if points]
    if not curves:
        return
    steps, mean, low, high = band(curves)
    axis.plot(steps, mean, color=colour, linewidth=1.6, label=runs[0].title, marker="o" if len(steps) == 1 else None)
    if len(curves) > 1:
        axis.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)


def _finish(axis: Axes, name: str) -> None:
    if name.startswith("F"):  # a Fréchet distance falls by orders of magnitude
        axis.set_yscale("log")
    axis.set_xlabel("step", fontsize=9)
    label = f"gain size, {name.removeprefix('gain/')}" if name.startswith("gain/") else name
    axis.set_ylabel(label, fontsize=9, parse_math=False)
    axis.tick_params(labelsize=8)
    axis.grid(alpha=0.25, linewidth=0.5)
    axis.spines[["top", "right"]].set_visible(False)
