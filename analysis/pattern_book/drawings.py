"""Figures of patterns, orders and head masks; each function turns masks into one matplotlib Figure.

Colours are the same everywhere: a colour for each step (after Okabe and Ito, safe for colour-blind readers), ink for
entries that several steps share. patterns.py decides what is drawn and where it goes.
"""

import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # pictures go to files; no display is needed

import networkx as nx
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from scipy.sparse import csr_array

from sagan_base.files import atomic_write
from ylg.orders import Grid

INK, SOFT, LINE, PAPER = "#1c1f24", "#5c6370", "#dddad3", "#ffffff"
STEP_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8f7a00", "#7a4fb5")
QUERY = "#d55e00"
POSITIONS = LinearSegmentedColormap.from_list("positions", ["#cfe6f5", "#56b4e9", "#0072b2", "#0b2f4d"])

STYLE = {
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.edgecolor": SOFT,
    "axes.linewidth": 0.8,
    "text.color": INK,
    "axes.labelcolor": SOFT,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "svg.hashsalt": "ylg",  # the same drawing gives the same file
}


def save(figure: Figure, stem: Path, dpi: int = 160) -> str:
    """Write ``stem``.png and ``stem``.svg; returns the SVG's text."""
    with matplotlib.rc_context(STYLE):
        with atomic_write(stem.with_suffix(".png")) as path:
            figure.savefig(path, dpi=dpi, facecolor=figure.get_facecolor())
        text = io.StringIO()
        figure.savefig(text, format="svg", dpi=dpi, facecolor=figure.get_facecolor(), metadata={"Date": None})
    with atomic_write(stem.with_suffix(".svg")) as path:
        path.write_text(text.getvalue(), encoding="utf-8")
    return text.getvalue()


def colour_of(step: int) -> str:
    """Of the step counted from 0."""
    return STEP_COLOURS[step % len(STEP_COLOURS)]


@matplotlib.rc_context(STYLE)
def masks_figure(steps: Sequence[csr_array], title: str, stride: int) -> Figure:
    """All steps of a pattern in one matrix, coloured by step (the paper's Figure 2)."""
    figure = Figure(figsize=(4.0, 4.4), layout="constrained", facecolor=PAPER)
    axes = figure.add_subplot()
    draw_masks(axes, steps, stride)
    axes.set_title(title)
    axes.set_xlabel("key position j")
    axes.set_ylabel("query position i")
    figure.legend(handles=step_legend(len(steps)), loc="outside lower left", ncols=4, frameon=False, fontsize=9)
    return figure


def draw_masks(axes: Axes, steps: Sequence[csr_array], stride: int) -> None:
    """The matrix itself: row = position that attends, column = position attended to."""
    n = steps[0].shape[0]
    picture = np.ones((n, n, 3))
    times = np.zeros((n, n), dtype=np.int8)
    for number, step in enumerate(steps):
        rows, columns = step.nonzero()
        picture[rows, columns] = to_rgb(colour_of(number))
        times[rows, columns] += 1
    picture[times > 1] = to_rgb(INK)
    # A picture of more entries than dots must average them, or single columns would vanish.
    axes.imshow(picture, interpolation="none" if n <= 300 else "antialiased", extent=(0, n, n, 0))
    lines = np.arange(1, n) if n <= 64 else np.empty(0)
    blocks = np.arange(stride, n, stride) if n <= 300 else np.empty(0)
    for places, width in ((lines, 0.3), (blocks, 0.7)):
        axes.hlines(places, 0, n, color=LINE, linewidth=width)
        axes.vlines(places, 0, n, color=LINE, linewidth=width)
    axes.set(xlim=(0, n), ylim=(n, 0), aspect="equal")
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    ticks = np.arange(0, n + 1, stride * max(1, n // stride // 4))
    axes.set_xticks(ticks)
    axes.set_yticks(ticks)


def step_legend(num_steps: int) -> list[Patch]:
    steps = [Patch(color=colour_of(step), label=f"step {step + 1}") for step in range(num_steps)]
    return steps + [Patch(color=INK, label="both" if num_steps == 2 else "several")] * (num_steps > 1)


@matplotlib.rc_context(STYLE)
def flow_figure(graph: nx.DiGraph, title: str, source: int) -> Figure:
    """The information flow graph, layers from top to bottom; what input ``source`` reaches is drawn strong."""
    p, n = graph.graph["num_steps"], graph.graph["num_positions"]
    from_source = set(nx.descendants(graph, (0, source))) | {(0, source)}
    figure = Figure(figsize=(max(6.4, 0.32 * n), 1.5 + 1.15 * p), layout="constrained", facecolor=PAPER)
    axes = figure.add_subplot()
    for strong in (False, True):
        edges = [edge for edge in graph.edges(data="step") if (edge[0] in from_source) == strong]
        axes.add_collection(
            LineCollection(
                [[(j, -t), (i, -t - 1)] for (t, j), (_, i), _ in edges],
                colors=[colour_of(step - 1) for _, _, step in edges],
                linewidths=2.0 if strong else 0.6,
                alpha=1.0 if strong else 0.22,
                zorder=2 if strong else 1,
            )
        )
    for reached, colour, edge in ((False, PAPER, SOFT), (True, INK, INK)):
        places = [(x, -t) for t, x in graph.nodes if ((t, x) in from_source) == reached]
        xs, ys = zip(*places, strict=True) if places else ((), ())
        axes.scatter(xs, ys, s=44, color=colour, edgecolors=edge, linewidths=1.0, zorder=3)
    axes.scatter([source], [0], s=90, color=QUERY, edgecolors=QUERY, zorder=4)
    missed = n - sum((p, i) in from_source for i in range(n))
    told = "every output" if not missed else f"all but {missed} of the {n} outputs"
    axes.set_title(f"{title}: input {source} reaches {told}")
    axes.set(xlim=(-0.8, n - 0.2), ylim=(-p - 0.2, 0.3), yticks=[-t for t in range(p + 1)])
    axes.set_yticklabels([f"$V_{{{t}}}$" for t in range(p + 1)])
    axes.set_xticks(range(0, n, max(1, n // 16)))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


@matplotlib.rc_context(STYLE)
def order_figure(cells: np.ndarray, grid: Grid, title: str, stride: int, relays: np.ndarray) -> Figure:
    """An order on the grid (the paper's Figure 3): position as shade, path, block borders, and relays."""
    rows, cols = grid
    figure = Figure(figsize=(4.4, 4.4 * min(max(rows / cols, 0.4), 2.0) + 0.5), layout="constrained", facecolor=PAPER)
    axes = figure.add_subplot()
    draw_order(axes, cells, grid, stride, relays)
    axes.set_title(title)
    return figure


def draw_order(axes: Axes, cells: np.ndarray, grid: Grid, stride: int, relays: np.ndarray | None = None) -> None:
    rows, cols = grid
    n = rows * cols
    position = np.empty(n, dtype=np.int64)
    position[cells] = np.arange(n)
    position = position.reshape(grid)
    axes.imshow(position, cmap=POSITIONS, interpolation="none", extent=(0, cols, rows, 0))
    place_rows, place_cols = np.divmod(cells, cols)
    numbered = max(grid) <= 9
    axes.plot(place_cols + 0.5, place_rows + 0.5, color="white", linewidth=0.9, alpha=0.4 if numbered else 0.75)
    block = position // stride
    borders = [[(c, r), (c + 1, r)] for r in range(1, rows) for c in range(cols) if block[r, c] != block[r - 1, c]]
    borders += [[(c, r), (c, r + 1)] for r in range(rows) for c in range(1, cols) if block[r, c] != block[r, c - 1]]
    axes.add_collection(LineCollection(borders, colors=INK, linewidths=1.0))
    if relays is not None:
        axes.scatter(place_cols[relays] + 0.5, place_rows[relays] + 0.5, s=26, color=STEP_COLOURS[1], zorder=3)
    if numbered:
        for (r, c), number in np.ndenumerate(position):
            shade = "white" if number > 0.45 * n else INK
            axes.text(c + 0.5, r + 0.52, number, ha="center", va="center", color=shade, fontsize=9)
    axes.set(xticks=[], yticks=[], aspect="equal")


@matplotlib.rc_context(STYLE)
def seen_figure(
    views: dict[str, list[csr_array]],
    heads: Sequence[tuple[str, int]],
    query_grid: Grid,
    key_grid: Grid,
    query: tuple[int, int],
    title: str,
) -> Figure:
    """What one query sees on the key grid, for every head and alignment.

    Args:
        views: alignment -> masks of the heads, [num_queries, num_keys].
        heads: of each, its caption and its step counted from 0.
        query: (row, column) on the query grid; a ring marks where it lies on the image.
    """
    cell = query[0] * query_grid[1] + query[1]
    where = ((query[1] + 0.5) * key_grid[1] / query_grid[1], (query[0] + 0.5) * key_grid[0] / query_grid[0])
    heads_across = len(views) <= len(heads) <= 4  # the longer side lies across, as the title does, if it can be read
    shape = (len(views), len(heads)) if heads_across else (len(heads), len(views))
    size = (max(5.6, 0.6 + 1.55 * shape[1]), 0.8 + 1.65 * shape[0] * key_grid[0] / key_grid[1])
    figure = Figure(figsize=size, layout="constrained", facecolor=PAPER)
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=11)
    table = figure.subplots(*shape, squeeze=False)
    for index, (alignment, masks) in enumerate(views.items()):
        for head, (mask, (label, step)) in enumerate(zip(masks, heads, strict=True)):
            axes = table[index, head] if heads_across else table[head, index]
            keys = mask.indices[mask.indptr[cell] : mask.indptr[cell + 1]]
            picture = np.full((*key_grid, 3), to_rgb("#efece6"))
            picture[np.divmod(keys, key_grid[1])] = to_rgb(colour_of(step))
            axes.imshow(picture, interpolation="none", extent=(0, key_grid[1], key_grid[0], 0))
            for colour, width in ((PAPER, 3.2), (QUERY, 1.7)):
                axes.scatter(*where, s=46, facecolors="none", edgecolors=colour, linewidths=width)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_color(LINE)
            across, down = (label, alignment) if heads_across else (alignment, label)
            if axes in table[0]:
                axes.set_title(across, fontsize=9, fontweight="normal", loc="center")
            if axes in table[:, 0]:
                axes.set_ylabel(down, fontsize=9, color=INK)
    return figure


@matplotlib.rc_context(STYLE)
def overview_figure(cells: np.ndarray, side: int, ltr: Sequence[csr_array], rtl: Sequence[csr_array]) -> Figure:
    """The picture of the README: the ESA order, and the two patterns it carries."""
    figure = Figure(figsize=(12.4, 5.4), layout="constrained", facecolor=PAPER)
    figure.get_layout_engine().set(w_pad=0.25, h_pad=0.15)
    order, *patterns = figure.subplots(1, 3)
    draw_order(order, cells, (side, side), side)
    for r, c in zip(*np.divmod(cells[side - 1 :: side], side), strict=True):
        order.add_patch(Rectangle((c, r), 1, 1, fill=False, edgecolor=STEP_COLOURS[1], linewidth=2.6, zorder=5))
    for axes, steps in zip(patterns, (ltr, rtl), strict=True):
        draw_masks(axes, steps, side)
        axes.set(xticks=[], yticks=[])
    for axes, title, line in (
        (order, "ESA order", "by distance from the corner, blocks of 8;\nframed: the last cell of every block"),
        (patterns[0], "LTR", "row i attends to column j\n"),
        (patterns[1], "RTL", "the same, turned round\n"),
    ):
        axes.set_title(f"{title}\n\n", fontsize=17)
        axes.set_anchor("S")
        axes.annotate(line, (0, 1), (0, 6), "axes fraction", "offset points", fontsize=11.5, color=SOFT, va="bottom")
    meanings = ("step 1: inside the block", "step 2: one cell of every block", "both: oneself")
    handles = [Patch(color=c, label=text) for c, text in zip((*STEP_COLOURS[:2], INK), meanings, strict=True)]
    figure.legend(handles=handles, loc="outside lower right", ncols=3, frameon=False, fontsize=11.5)
    return figure
