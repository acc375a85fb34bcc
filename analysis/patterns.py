"""Draw sparse attention patterns and compare them: masks, flow graphs, orders, and what a query sees on the image.

Writes PNG and SVG pictures, comparison.csv and one self-contained page, index.html, into a folder. Patterns are named
as everywhere (ltr, strided, butterfly3, ltr_rtl, ...); names joined by commas share the heads (ltr,dense). A pattern
of your own takes part in every command once YLG_PATTERNS names a file that registers it:

    # my_patterns.py
    import ylg
    ylg.register_pattern("mine", lambda n, stride: ylg.step_masks("ltr", n, stride) | ylg.step_masks("rtl", n, stride))

Examples:

    python analysis/patterns.py                                   # the paper's patterns on a 16x16 grid
    YLG_PATTERNS=my_patterns.py python analysis/patterns.py --pattern ltr mine --grid 12x20 --order hilbert
    YLG_PATTERNS=my_patterns.py python ablations/run.py --pattern mine --esa
    python analysis/patterns.py --overview docs/masks             # only the picture of the README
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from sagan_base.cli import Parser, command, shared_option, usage_errors, writable_file, writable_folder

from matplotlib.figure import Figure
from scipy.sparse import csr_array
from tqdm import tqdm

from analysis.pattern_book import drawings as draw
from analysis.pattern_book.page import Picture, write_page
from analysis.pattern_book.study import (
    DEFAULT_PATTERNS,
    NO_ORDER,
    Study,
    as_csv,
    comparison,
    heads_together,
    in_order,
    parse_stride,
    prepare,
)
from sagan_base import tables
from sagan_base.files import write_text
from ylg import ALIGNMENTS, LAYOUTS, ORDERS, grid_order, information_flow_graph, pattern_names, sparse_step_masks
from ylg.grid_flow import relays
from ylg.reach import unreachable_pair


class Drawing(NamedTuple):
    """A figure, not yet drawn: the section of the page it belongs to, its file's name and its caption."""

    section: str
    name: str
    caption: str
    figure: Callable[[], Figure]


def drawings(study: Study) -> Iterator[Drawing]:
    """Every figure, in the order of the page."""
    for name, chosen in study.patterns.items():
        block = study.key_grid[1] if chosen.on_grid else study.block  # native: the lines are the grid's rows
        figure = partial(draw.masks_figure, study.steps[name], name, block)
        yield Drawing("masks", f"masks_{name}", chosen.about, figure)
    for name in study.patterns:
        if (steps := _few_positions(study, name)) is not None:
            n, pair = steps[0].shape[0], unreachable_pair(steps)
            source = n // 3 if pair is None else pair[1]
            figure = partial(draw.flow_figure, information_flow_graph(steps), name, source)
            yield Drawing("flow", f"flow_{name}", f"{name} over {n} positions", figure)
    # Orders are drawn with the relays of the first pattern that has some but not everywhere.
    heard = {name: relays(study.steps[name], study.block) for name, one in study.patterns.items() if not one.on_grid}
    related = next((name for name, cells in heard.items() if 0 < cells.size < study.positions), None)
    for order, cells in study.orders.items():
        caption = f"dots: relays of {related}" if related else ""
        figure = partial(draw.order_figure, cells, study.key_grid, order, study.block, heard.get(related))
        yield Drawing("orders", f"order_{order}", caption, figure)
    for name in study.heads:
        for order in study.orders_of(name):
            stem = f"seen_{name.replace(',', '+')}" + ("" if order == NO_ORDER else f"_{order}")
            yield Drawing("seen", stem, "", partial(_seen, study, name, order))


def _few_positions(study: Study, name: str) -> tuple[csr_array, ...] | None:
    """The pattern over so few positions that its graph can be read; None where it is not defined for so few."""
    if study.positions <= 16:
        return study.steps[name]
    try:
        return sparse_step_masks(study.patterns[name], (4, 4))
    except ValueError as error:
        print(f"no flow graph of {name}, which has none for 16 positions: {error}", file=sys.stderr)
        return None


def _seen(study: Study, name: str, order: str) -> Figure:
    return draw.seen_figure(
        {kind: study.head_masks(name, order, study.query_grid, kind) for kind in study.alignments},
        [(f"{chosen.name}\nstep {step + 1}", step) for chosen, step in study.heads[name]],
        study.query_grid,
        study.key_grid,
        study.query,
        f"{name}{'' if order == NO_ORDER else f', {order} order'}: query {study.query}",
    )


def overview() -> Figure:
    """The picture of the README: LTR and RTL over an 8x8 grid in ESA order."""
    return draw.overview_figure(grid_order(8, 8).numpy(), 8, sparse_step_masks("ltr", 64), sparse_step_masks("rtl", 64))


def parser() -> argparse.ArgumentParser:
    made = Parser("python analysis/patterns.py", __doc__)
    patterns = ", ".join([*pattern_names(), "butterfly3", "butterfly4 and so on", *LAYOUTS])
    drawn = " ".join(DEFAULT_PATTERNS)
    add = made.add_argument
    add("--pattern", nargs="+", metavar="NAME", help=f"{patterns} (default: {drawn}, as far as the grid allows)")
    add(
        "--order",
        nargs="+",
        metavar="NAME",
        help=f"{', '.join(ORDERS)} (default: all); not of patterns native to grids",
    )
    add("--grid", default="16x16", metavar="ROWSxCOLS", help="the grid of the keys (default: 16x16)")
    add("--query-grid", metavar="ROWSxCOLS", help="that of the queries, a multiple of it (default: twice the keys')")
    add("--stride", metavar="S|ROWSxCOLS", help="size of the blocks; the side, or sides, of patterns native to grids")
    add("--alignment", nargs="+", default=tuple(ALIGNMENTS), metavar="NAME", help="pool, tile, rows (default: all)")
    add("--query", nargs=2, type=int, metavar=("ROW", "COL"), help="the query whose view is drawn, counted from 0")
    shared_option(made, "--out", "results (default: runs/patterns)", default=Path("runs/patterns"))
    add("--overview", type=Path, metavar="STEM", help="draw only the picture of the README, STEM.png and STEM.svg")
    return made


@command()
def main(argv: Sequence[str] | None = None) -> None:
    options = vars(parser().parse_args(argv))
    out, stem = options.pop("out"), options.pop("overview")
    if stem:
        with usage_errors():
            writable_file("--overview", stem.with_name(f"{stem.name}.svg"))
            draw.save(overview(), stem)
        print(f"wrote {stem}.png and {stem}.svg")
        return
    with usage_errors():
        if options["stride"]:
            options["stride"] = parse_stride(options["stride"])
        study = prepare(**options)
        writable_folder("--out", out)
    rows = comparison(study)
    write_text(out / "comparison.csv", as_csv(rows))
    together = heads_together(study, rows)
    write_text(out / "layouts.csv", tables.csv(together))
    planned = list(drawings(study))
    pictures: dict[str, list[Picture]] = defaultdict(list)
    for section, name, caption, figure in tqdm(planned, unit="picture"):
        pictures[section].append(Picture(name, caption, draw.save(figure(), out / name)))
    write_page(study, rows, together, pictures, out / "index.html")
    print(f"{tables.text(in_order(together, study.first_order))}\n")
    print(
        f"{out / 'index.html'}: {len(planned)} pictures, also as PNG and SVG; comparison.csv: {len(rows)} rows; "
        f"layouts.csv: {len(together)} rows"
    )


if __name__ == "__main__":
    main()
