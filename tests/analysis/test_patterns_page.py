"""The command that draws patterns: what it writes, what the page holds, and what it says to a mistake."""

import base64
import csv
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

import ylg
from analysis import patterns
from analysis.pattern_book import drawings
from analysis.pattern_book import study as studies
from ylg import patterns as library
from ylg.orders import ORDERS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A small run: a 3x4 grid, a pattern of the user's own, a list of patterns over heads, three steps."""
    before = dict(library._REGISTRY)
    folder = tmp_path_factory.mktemp("patterns")
    mine = folder / "mine.py"
    mine.write_text("import ylg\nylg.register_pattern('mine', lambda n, s: ylg.step_masks('strided', n, s))\n")
    options = ["--pattern", "ltr_rtl", "mine", "butterfly3", "fixed,dense", "crossed", "ltr,rotated_blocks"]
    options += ["--grid", "3x4", "--order", "hilbert", "snake"]
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("YLG_PATTERNS", str(mine))
        patterns.main([*options, "--out", str(folder / "out")])
    yield folder / "out"
    library._REGISTRY.clear()
    library._REGISTRY.update(before)


@pytest.fixture(scope="module")
def data(drawn):
    """What the page's script computes with."""
    page = (drawn / "index.html").read_text(encoding="utf-8")
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


def test_every_picture_is_written_as_png_and_svg(drawn):
    names = {path.stem for path in drawn.iterdir()} - {"index", "comparison", "layouts"}
    singles = ["ltr", "rtl", "mine", "butterfly3", "fixed", "dense", "rotated_blocks", "crossed_bands"]
    layouts = ["ltr_rtl", "mine", "butterfly3", "fixed+dense", "ltr+rotated_blocks"]
    expected = {f"{kind}_{name}" for kind in ("masks", "flow") for name in singles}
    expected |= {f"order_{order}" for order in ("hilbert", "snake")}
    expected |= {f"seen_{layout}_{order}" for layout in layouts for order in ("hilbert", "snake")} | {"seen_crossed"}
    assert names == expected
    for name in names:
        with Image.open(drawn / f"{name}.png") as picture:
            assert len(set(picture.convert("RGB").resize((64, 64)).getdata())) > 3  # not a blank page
        assert ElementTree.parse(drawn / f"{name}.svg").getroot().tag.endswith("svg")


def test_the_table_holds_the_flow_report_of_every_pattern_and_order(drawn):
    with (drawn / "comparison.csv").open(newline="") as stream:
        rows = {(row["pattern"], row["order"]): row for row in csv.DictReader(stream)}
    assert len(rows) == 6 * 2 + 2  # patterns native to the grid have no order
    for (name, order), row in rows.items():
        assert (order == "-") == (name in ("rotated_blocks", "crossed_bands"))
        report = ylg.flow_report(ylg.step_masks(name, (3, 4)), (3, 4), "raster" if order == "-" else order)
        for key, value in report.items():
            values = value if isinstance(value, (list, tuple)) else [] if value is None else [value]
            shown = [part == "True" if part in ("True", "False") else float(part) for part in row[key].split()]
            assert shown == pytest.approx(values, rel=1e-4), (name, order, key)  # written with five digits


def test_the_page_stands_alone_and_has_no_gap_left(drawn):
    page = (drawn / "index.html").read_text(encoding="utf-8")
    assert not re.findall(r'(?:src|href)="(?!data:)', page) and "url(" not in page and "@import" not in page
    assert not re.findall(r"__[A-Z_]+__", page)
    assert page.count("data:image/svg+xml;base64,") == 8 + 8 + 2 + 6  # views of the first order only
    assert "full information" in page and "pairs unreachable" in page


def test_the_tables_of_the_page_hold_the_measures_of_their_pattern_and_order(drawn):
    page = (drawn / "index.html").read_text(encoding="utf-8")
    with (drawn / "comparison.csv").open(newline="") as stream:
        measured = {(row["pattern"], row["order"]): row for row in csv.DictReader(stream)}
    names = list(dict.fromkeys(name for name, _ in measured))

    def table_named(label):
        (table,) = re.findall(rf'aria-label="{label}">\s*<table>(.*?)</table>', page, re.DOTALL)
        lines = re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', table)
        return {name: re.findall(r"<td.*?>(.*?)</td>", cells) for name, cells in lines}

    of_patterns = table_named("what the patterns cost and carry")
    of_orders = table_named("what the orders do on the image")
    of_distances = table_named("mean distance from a cell to those it attends to")
    for name in names:
        row = measured.get((name, "hilbert")) or measured[name, "-"]
        assert f"{row['flow_forward']} · {row['flow_backward']}" in of_patterns[name]
        reached = "full information" if row["unreachable_pairs"] == "0" else "pairs unreachable"
        spoken = name.replace("_", " ")
        (caption,) = re.findall(rf'alt="masks {spoken}"><figcaption>(.*?)</figcaption>', page, re.DOTALL)
        assert reached in caption
    for order in ("hilbert", "snake"):
        assert of_orders[order][0] == f"{float(measured['ltr', order]['block_distance']):.2f}"
        laid = [name for name in names if (name, order) in measured]
        distances = [measured[name, order]["step_distance"].split() for name in laid]
        assert [text for text in of_distances[order] if text != "-"] == [
            " · ".join(f"{float(text):.1f}" for text in each) for each in distances
        ]
    assert of_distances["hilbert"] != of_distances["snake"]
    assert of_orders["hilbert"] != of_orders["snake"]


def test_the_script_of_the_page_is_given_the_masks_that_attention_uses(data):
    def integers(text):
        return np.frombuffer(base64.b64decode(text), dtype="<u4")

    assert data["keys"] == [3, 4] and data["queries"] == [6, 8]
    for order, cells in data["orders"].items():
        assert integers(cells).tolist() == ylg.grid_order(3, 4, order).tolist()
    for layout, heads in data["layouts"].items():
        pattern = layout.split(",") if "," in layout else layout
        for order in data["orders"]:
            masks = ylg.head_masks(pattern, (6, 8), (3, 4), len(heads), order).numpy()
            for (name, step), mask in zip(heads, masks, strict=True):
                indptr, indices = map(integers, data["steps"][name][step])
                cells = np.arange(12) if name in data["native"] else integers(data["orders"][order])
                for position, cell in enumerate(cells):
                    query = (cell // 4) * 2 * 8 + cell % 4 * 2  # the first query pooled into the cell
                    seen = cells[indices[indptr[position] : indptr[position + 1]]]
                    assert sorted(seen) == np.flatnonzero(mask[query]).tolist()


def test_the_matrix_shows_each_entry_in_the_colour_of_its_step():
    steps = ylg.sparse_step_masks("ltr", 9)
    figure = drawings.masks_figure(steps, "ltr", 3)
    picture = figure.axes[0].images[0].get_array()
    first, second = (step.toarray() for step in steps)
    colours = [drawings.to_rgb(colour) for colour in drawings.STEP_COLOURS[:2]]
    assert (picture[first & ~second] == colours[0]).all() and (picture[second & ~first] == colours[1]).all()
    assert (picture[first & second] == drawings.to_rgb(drawings.INK)).all()
    assert (picture[~first & ~second] == 1).all()


def test_the_view_of_a_query_shows_the_keys_that_its_row_allows():
    study = studies.prepare(["strided"], ["raster"], "4x4", alignment=["pool", "rows"], query=(5, 2))
    _, name, _, make = next(each for each in patterns.drawings(study) if each.section == "seen")
    shown = [axes.images[0].get_array() for axes in make().axes]
    assert name == "seen_strided_raster" and len(shown) == 4  # 2 heads x 2 alignments, an alignment to a row
    for picture, (alignment, head) in zip(shown, [("pool", 0), ("pool", 1), ("rows", 0), ("rows", 1)], strict=True):
        mask = ylg.head_masks("strided", (8, 8), (4, 4), 2, "raster", alignment)[head, 5 * 8 + 2].numpy().reshape(4, 4)
        assert ((picture == drawings.to_rgb(drawings.colour_of(head))).all(-1) == mask).all()


def test_the_ring_lies_where_the_query_is_on_the_image():
    study = studies.prepare(["dense"], ["raster"], "4x4", alignment=["rows"], query=(5, 2))
    make = next(each.figure for each in patterns.drawings(study) if each.section == "seen")
    for ring in make().axes[0].collections:
        assert ring.get_offsets().tolist() == [[1.25, 2.75]]  # (x, y), two queries to a cell


def test_an_order_is_drawn_with_its_positions_borders_and_relays_in_their_cells():
    cells = np.random.default_rng(0).permutation(12)
    relays = np.array([3, 7, 8])
    axes = drawings.order_figure(cells, (3, 4), "mixed", 4, relays).axes[0]
    position = {(int(cell) // 4, int(cell) % 4): number for number, cell in enumerate(cells)}
    assert {place: axes.images[0].get_array()[place] for place in position} == position
    lines, dots = axes.collections
    across = {((c + 1, r), (c + 1, r + 1)): ((r, c), (r, c + 1)) for r in range(3) for c in range(3)}
    down = {((c, r + 1), (c + 1, r + 1)): ((r, c), (r + 1, c)) for r in range(2) for c in range(4)}
    drawn = {tuple(map(tuple, segment.astype(int).tolist())) for segment in lines.get_segments()}
    assert drawn == {line for line, (a, b) in (across | down).items() if position[a] // 4 != position[b] // 4}
    assert dots.get_offsets().tolist() == [[cells[i] % 4 + 0.5, cells[i] // 4 + 0.5] for i in relays]


def test_the_flow_of_an_input_is_drawn_strong_and_its_title_counts_what_it_misses():
    steps = ylg.step_masks("strided_original", 9)
    first, second = (np.asarray(step, dtype=bool) for step in steps)  # [query, key]
    source = next(j for j in range(9) if not (second.astype(int) @ first)[:, j].all())
    figure = drawings.flow_figure(ylg.information_flow_graph(steps), "strided", source)
    axes = figure.axes[0]
    reached = first[:, source]
    missed = 9 - (second.astype(int) @ first > 0)[:, source].sum()
    assert axes.get_title("left") == f"strided: input {source} reaches all but {missed} of the 9 outputs"
    expected = {((source, 0), (i, -1)) for i in np.flatnonzero(reached)}
    expected |= {((j, -1), (i, -2)) for j in np.flatnonzero(reached) for i in np.flatnonzero(second[:, j])}
    strong = axes.collections[1].get_segments()
    assert {tuple(map(tuple, segment.astype(int).tolist())) for segment in strong} == expected


def test_blocks_of_another_size_reach_masks_views_and_measures():
    study = studies.prepare(["ltr"], ["raster"], "4x4", stride=2, alignment=["pool"])
    expected = ylg.step_masks("ltr", 16, 2)
    for ours, theirs in zip(study.steps["ltr"], expected, strict=True):
        assert np.array_equal(ours.toarray(), theirs)
    views = study.head_masks("ltr", "raster", (8, 8))
    for cell in range(16):
        query = cell // 4 * 2 * 8 + cell % 4 * 2  # the first query pooled into the cell
        for view, step in zip(views, expected, strict=True):
            assert np.array_equal(view.toarray()[query], step[cell])
    (row,) = studies.comparison(study).to_dict("records")
    assert row["block_distance"] == ylg.flow_report(expected, (4, 4), "raster", 2)["block_distance"]
    assert row["block_distance"] != ylg.flow_report(expected, (4, 4), "raster", 4)["block_distance"]


def test_the_default_study_covers_the_patterns_of_the_paper_and_every_order():
    study = studies.prepare()
    assert {"ltr", "rtl", "strided", "strided_original", "fixed", "butterfly", "star", "dense"} <= set(study.patterns)
    assert {"spread_relays", "rotated_blocks", "window_lattice", "crossed", "interlaced4", "interlaced8"} <= set(
        study.heads
    )
    assert list(study.orders) == list(ORDERS) and study.positions == 256 and study.block == 16
    assert "spread_relays" not in studies.prepare(grid="6x8").heads  # which has no 4x4 blocks


def test_the_table_of_layouts_is_that_of_their_heads_side_by_side():
    study = studies.prepare(["ltr_rtl", "crossed", "interlaced4"], ["manhattan"], "16x16")
    table = studies.heads_together(study, studies.comparison(study)).set_index("layout")
    figures = ["edges of a pattern", "flow ↓", "flow →", "corner to corner", "keys seen"]
    assert table.loc["ltr_rtl", figures].tolist() == [6512, 42, 36, 2, 46]
    assert table.loc["crossed", figures].tolist() == [8192, 128, 128, 16, 49]
    assert table.loc["interlaced4", figures].tolist() == [8192, 128, 128, 16, 51]
    shares = table[["3x3 covered", "5x5 covered", "congestion", "its bound"]].astype(float).round(3).T
    assert shares["ltr_rtl"].tolist() == [0.552, 0.404, 0.061, 0.006]
    assert shares["interlaced4"].tolist() == [1.0, 0.930, 0.004, 0.004]
    assert table["scores per edge"].round(2).tolist() == [1.89, 1.0, 1.0]
    assert table["order"].tolist() == ["manhattan", "-", "-"]


def test_sides_of_a_block_reach_the_patterns_native_to_the_grid():
    study = studies.prepare(["rotated_blocks"], None, "4x6", stride=studies.parse_stride("4x2"))
    for ours, theirs in zip(
        study.steps["rotated_blocks"], ylg.step_masks("rotated_blocks", (4, 6), (4, 2)), strict=True
    ):
        assert np.array_equal(ours.toarray(), theirs)


def test_the_picture_of_the_readme_is_written(tmp_path):
    patterns.main(["--overview", str(tmp_path / "docs" / "masks")])
    with Image.open(tmp_path / "docs" / "masks.png") as picture:
        assert picture.width > 1500 and picture.getpixel((0, 0)) == (255, 255, 255, 255)  # dark text on dark pages too
    assert (tmp_path / "docs" / "masks.svg").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--pattern", "lrt"], "unknown pattern 'lrt'"),
        (["--order", "zigzag"], "unknown order 'zigzag'; use one of raster"),
        (["--alignment", "middle"], "unknown alignment 'middle'; use one of pool"),
        (["--grid", "16"], "a grid is written ROWSxCOLS, such as 16x16; got '16'"),
        (["--grid", "0x4"], "must be (rows, cols)"),
        (["--grid", "65x64"], "4160 positions; pictures are drawn of up to 4096"),
        (["--grid", "4x4", "--query-grid", "6x8"], "is not a multiple of key_grid=(4, 4)"),
        (["--stride", "257"], "stride=257 must be between 1 and n=256"),
        (["--stride", "0"], "stride=0 must be between 1"),
        (["--stride", "two"], "a grid is written ROWSxCOLS"),
        (["--pattern", "ltr", "--stride", "2x4"], "stride=(2, 4) must be between 1 and n=256"),
        (["--pattern", "crossed", "rotated_blocks", "--order", "raster"], "takes no order; leave --order out"),
        (["--pattern", "spread_relays", "--grid", "6x8"], "sides that are multiples of 4, such as (8, 8)"),
        (["--query", "32", "0"], "query (32, 0) is outside the query grid (32, 32)"),
    ],
)
def test_a_mistake_is_told_in_one_line_with_exit_code_2_before_anything_is_written(options, words, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit:
        patterns.main([*options, "--out", str(tmp_path / "out")])
    error = capsys.readouterr().err
    assert exit.value.code == 2 and words in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_command_runs_as_a_script(repository, tmp_path):
    command = [sys.executable, "analysis/patterns.py", "--help"]
    told = subprocess.run(command, cwd=repository, check=True, capture_output=True, text=True).stdout
    for option in ("--pattern", "--order", "--grid", "--stride", "--alignment", "strided_original"):
        assert option in told
