"""Patterns native to a grid: equal to their definitions by slow loops, full information, and the figures known."""

import time
from itertools import product

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ylg
from ylg import patterns
from ylg.grid_steps import default_block
from ylg.heads import head_steps, heads_needed

PAIRS = {  # the formulae of the two labels, and by how many half blocks the pair is moved (down, right)
    "rotated_blocks": ("B", "ROT", 0, 0),
    "turned_blocks": ("B", "TURN", 0, 0),
    "halved_blocks": ("B", "HALF", 1, 1),
    "rotated_blocks_right": ("B", "ROT", 0, 1),
    "rotated_blocks_down": ("B", "ROT", 1, 0),
    "crossed_bands": ("ROWS", "COLUMNS", 0, 0),
}
LAYOUTS = {"interlaced4": 4, "interlaced8": 8, "crossed": 4}
GRIDS = st.tuples(st.integers(1, 9), st.integers(1, 9))


def run_lengths(side, count):
    return [sum(i * count // side == run for i in range(side)) for run in range(count)]


def label(kind, x, y, grid, runs):
    """The label of cell (x, y), straight from the formulae."""
    lengths = [run_lengths(side, count) for side, count in zip(grid, runs, strict=True)]
    shortest, narrowest = map(min, lengths)
    b, d = x * runs[0] // grid[0], y * runs[1] // grid[1]
    o, p = x - sum(lengths[0][:b]), y - sum(lengths[1][:d])
    odd = (b + d) % 2
    turned = (lengths[0][b] - 1 - o, lengths[1][d] - 1 - p) if odd else (o, p)
    return {
        "B": (b, d),
        "ROT": ((x - b) % shortest, (y - d) % narrowest),
        "TURN": (turned[0] % shortest, turned[1] % narrowest),
        "HALF": ((o + odd * (shortest // 2)) % shortest, (p + odd * (narrowest // 2)) % narrowest),
        "ROWS": (b, (y - d) % narrowest),
        "COLUMNS": ((x - b) % shortest, d),
    }[kind]


def pair_by_loops(name, grid, block):
    first, second, down, right = PAIRS[name]
    runs = [-(-side // longest) for side, longest in zip(grid, block, strict=True)]
    move = [
        half * (min(run_lengths(side, count)) // 2) for half, side, count in zip((down, right), grid, runs, strict=True)
    ]
    moved = [((x + move[0]) % grid[0], (y + move[1]) % grid[1]) for x, y in product(range(grid[0]), range(grid[1]))]
    labels = [[label(kind, x, y, grid, runs) for x, y in moved] for kind in (first, second)]
    return np.array([[[one == other for other in kind] for one in kind] for kind in labels])


def window_by_loops(grid, block):
    """A cell is heard in the window round it, which is moved inside the grid; then the lattice."""
    cells = list(product(range(grid[0]), range(grid[1])))

    def hears(listener, heard):
        for k, j, side, width in zip(listener, heard, grid, block, strict=True):
            first = min(max(j - width // 2, 0), side - width)
            if k not in range(first, first + width):
                return False
        return True

    def congruent(one, other):
        return all((a - b) % width == 0 for a, b, width in zip(one, other, block, strict=True))

    return np.array([[[rule(i, j) for j in cells] for i in cells] for rule in (hears, congruent)])


def spread_by_loops(grid):
    relays = [0, 3, 5, 10, 12, 15]
    cells = list(product(range(grid[0]), range(grid[1])))
    across = grid[1] // 4

    def block(cell):
        return cell[0] // 4 * across + cell[1] // 4

    def offset(cell):
        return cell[0] % 4 * 4 + cell[1] % 4

    def gathers(i, j):
        if offset(i) in relays:
            return block(i) == block(j)
        return i[0] // 2 == j[0] // 2 and i[1] // 2 == j[1] // 2

    def spreads(i, j):
        return i == j or offset(j) == relays[(offset(i) + block(i) + block(j)) % 6]

    return np.array([[[rule(i, j) for j in cells] for i in cells] for rule in (gathers, spreads)])


def joined(steps):
    """The pairs (output, input) that networkx finds a path between."""
    graph = nx.DiGraph()
    n = steps.shape[1]
    graph.add_nodes_from(product(range(len(steps) + 1), range(n)))
    graph.add_edges_from(((t, j), (t + 1, i)) for t, step in enumerate(steps) for i, j in np.argwhere(step).tolist())
    return sum(len({i for t, i in nx.descendants(graph, (0, j)) if t == len(steps)}) for j in range(n))


def draw_block(data, grid):
    return data.draw(st.tuples(st.integers(1, grid[0]), st.integers(1, grid[1])), label="block")


@settings(deadline=None)
@given(name=st.sampled_from(sorted(PAIRS)), grid=GRIDS, data=st.data())
def test_orthogonal_pairs_equal_their_formulae_on_every_rectangle_and_for_every_block(name, grid, data):
    block = draw_block(data, grid)
    steps = ylg.step_masks(name, grid, block)
    assert steps.dtype == torch.bool and (steps.numpy() == pair_by_loops(name, grid, block)).all()


@settings(deadline=None)
@given(grid=GRIDS, data=st.data())
def test_the_window_and_the_lattice_equal_their_definition_on_every_rectangle(grid, data):
    block = draw_block(data, grid)
    assert (ylg.step_masks("window_lattice", grid, block).numpy() == window_by_loops(grid, block)).all()


@pytest.mark.parametrize("grid", [(4, 4), (4, 12), (8, 8), (12, 8), (16, 16)])
def test_the_spread_relays_equal_their_definition(grid):
    assert (ylg.step_masks("spread_relays", grid).numpy() == spread_by_loops(grid)).all()


@settings(deadline=None)
@given(name=st.sampled_from([*sorted(PAIRS), "window_lattice"]), grid=GRIDS, data=st.data())
def test_every_input_reaches_every_output_by_a_path_on_every_rectangle(name, grid, data):
    steps = ylg.step_masks(name, grid, data.draw(st.none() | st.just(draw_block(data, grid)))).numpy()
    assert joined(steps) == steps.shape[1] ** 2 and ylg.has_full_information(steps)


@pytest.mark.parametrize("grid", [(4, 4), (4, 8), (8, 4), (8, 12)])
def test_spread_relays_join_every_input_with_every_output(grid):
    steps = ylg.step_masks("spread_relays", grid).numpy()
    assert joined(steps) == steps.shape[1] ** 2


@settings(deadline=None)
@given(name=st.sampled_from(sorted(PAIRS)), grid=GRIDS, data=st.data())
def test_every_class_of_one_partition_meets_every_class_of_the_other(name, grid, data):
    first, second = ylg.step_masks(name, grid, draw_block(data, grid)).numpy()
    assert all((step == step.T).all() and step.diagonal().all() for step in (first, second))
    assert ((first.astype(int) @ second) > 0).all()


@pytest.mark.parametrize("name", sorted(PAIRS))
def test_between_equal_blocks_there_is_exactly_one_path_so_every_entry_counts(name):
    first, second = ylg.step_masks(name, (6, 8), (3, 2)).numpy()
    assert (second.astype(int) @ first == 1).all()


# Edges of a pair, 3x3 and 5x5 covered by all heads, mean number of keys seen by all heads.
FIGURES = {
    ((16, 16), "rotated_blocks"): (8192, 0.864, 0.614, 31),
    ((16, 16), "window_lattice"): (8192, 1.00, None, None),
    ((16, 16), "spread_relays"): (6507, 0.603, None, None),
    ((16, 16), "crossed"): (8192, 1.00, 0.702, 49),
    ((16, 16), "interlaced4"): (8192, 1.00, 0.930, 51),
    ((16, 16), "interlaced8"): (8192, 1.00, 1.00, 76),
    ((32, 32), "rotated_blocks"): (65536, 0.879, 0.673, None),
    ((32, 32), "crossed"): (65536, 1.00, 0.754, None),
    ((32, 32), "interlaced4"): (65536, 1.00, 0.930, None),
    ((32, 32), "interlaced8"): (65536, 1.00, 1.00, None),
    ((12, 20), "rotated_blocks"): (7440, 0.854, 0.584, None),
    ((12, 20), "crossed"): (7440, 1.00, 0.678, None),
    ((12, 20), "interlaced4"): (7440, 0.951, 0.816, None),
    ((12, 20), "interlaced8"): (7440, 1.00, 0.894, None),
}


def covered(union, grid, reach):
    """Share of the cells of every neighbourhood, oneself among them, that lie in the grid and are seen."""
    rows, cols = grid
    seen = total = 0
    for r, c in product(range(rows), range(cols)):
        for dr, dc in product(range(-reach, reach + 1), repeat=2):
            if 0 <= r + dr < rows and 0 <= c + dc < cols:
                total += 1
                seen += union[r * cols + c, (r + dr) * cols + c + dc]
    return seen / total


@pytest.mark.parametrize(("grid", "name"), FIGURES)
def test_edges_coverage_and_keys_seen_are_those_that_were_measured_before(grid, name):
    masks = ylg.head_masks(name, grid, num_heads=heads_needed(name)).numpy()
    edges, three, five, keys = FIGURES[grid, name]
    union = masks.any(0)
    assert masks[:2].sum() == edges
    assert round(covered(union, grid, 1), 3) == three
    if five is not None:
        assert round(covered(union, grid, 2), 3) == five
    if keys is not None:
        assert union.sum(1).mean() == keys


def flow(steps, inputs, outputs):
    """Vertex-disjoint paths by networkx."""
    network = nx.DiGraph()
    p, n = len(steps), steps.shape[1]
    for t, v in product(range(p + 1), range(n)):
        network.add_edge((t, v, "in"), (t, v, "out"), capacity=1)
    for t, step in enumerate(steps):
        network.add_edges_from(((t, j, "out"), (t + 1, i, "in")) for i, j in np.argwhere(step).tolist())
    network.add_edges_from(("source", (0, j, "in")) for j in inputs)
    network.add_edges_from(((p, i, "out"), "target") for i in outputs)
    return nx.maximum_flow_value(network, "source", "target", flow_func=nx.algorithms.flow.dinitz)


def pairs_of(layout, grid):
    masks = ylg.head_masks(layout, grid, num_heads=LAYOUTS[layout]).numpy()
    return masks.reshape(-1, 2, *masks.shape[1:])


@pytest.mark.parametrize("grid", [(8, 8), (6, 10), (7, 9)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_pair_of_a_layout_carries_half_of_the_grid_to_the_other_half_on_both_axes(layout, grid):
    row, col = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    for steps in pairs_of(layout, grid):
        for first in (row < grid[0] // 2, col < grid[1] // 2):
            ends = np.flatnonzero(first), np.flatnonzero(~first)
            assert flow(steps, *ends) == flow(steps, *ends[::-1]) == first.sum()


@pytest.mark.parametrize("grid", [(8, 8), (16, 16), (32, 32), (12, 20)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_relay_of_a_layout_carries_more_than_its_equal_share(layout, grid):
    for steps in pairs_of(layout, grid):
        through = steps[0].sum(1) * steps[1].sum(0)
        assert through.max() == through.min() and (2 * len(through) / steps.sum()) ** 2 <= 1 / len(through)
    assert grid != (16, 16) or steps.sum() == 2 * 256**1.5  # edges >= 2 n / sqrt(congestion), here met


def test_the_layouts_are_pairs_of_steps_in_this_order():
    assert {name: patterns.LAYOUTS[name] for name in LAYOUTS} == {
        "interlaced4": ("turned_blocks", "halved_blocks"),
        "interlaced8": ("turned_blocks", "halved_blocks", "rotated_blocks_right", "rotated_blocks_down"),
        "crossed": ("rotated_blocks", "crossed_bands"),
    }


BLOCKS = {(16, 16): (4, 4), (32, 32): (4, 8), (12, 20): (3, 5), (8, 8): (2, 4), (1, 25): (1, 5), (2, 50): (2, 5)}


def test_the_block_where_none_is_chosen_is_that_of_the_figures():
    assert {grid: default_block(grid) for grid in BLOCKS} == BLOCKS


@pytest.mark.parametrize("grid", [(8, 8), (1, 25), (2, 50), (7, 11), (5, 3)])
def test_the_block_where_none_is_chosen_has_the_fewest_edges_of_those_nearly_square(grid):
    edges = {}
    for high, wide in product(range(1, grid[0] + 1), range(1, grid[1] + 1)):
        if max(high / wide, wide / high) <= 2 * max(1, (grid[0] * grid[1]) ** 0.5 / min(grid) ** 2):
            edges[high, wide] = int(ylg.step_masks("rotated_blocks", grid, (high, wide)).sum())
    assert default_block(grid) == min(edges, key=lambda block: (edges[block], block))


@pytest.mark.parametrize("name", ["rotated_blocks", "window_lattice", *LAYOUTS])
def test_an_order_changes_nothing_and_a_stride_is_the_side_or_the_sides_of_a_block(name):
    heads = heads_needed(name)
    plain = ylg.head_masks(name, (8, 12), (4, 6), heads)
    for order in ("raster", "hilbert", list(range(23, -1, -1))):
        assert torch.equal(plain, ylg.head_masks(name, (8, 12), (4, 6), heads, order))
    square = ylg.head_masks(name, (6, 6), num_heads=heads, stride=3)
    assert torch.equal(square, ylg.head_masks(name, (6, 6), num_heads=heads, stride=(3, 3)))
    assert not torch.equal(square, ylg.head_masks(name, (6, 6), num_heads=heads, stride=(2, 3)))


@given(
    name=st.sampled_from([*LAYOUTS, "rotated_blocks", "window_lattice"]),
    key_grid=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    factors=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
def test_the_alignments_give_each_query_the_row_of_its_key_cell(name, key_grid, factors):
    heads = heads_needed(name)
    rows, cols = key_grid[0] * factors[0], key_grid[1] * factors[1]
    steps = [ylg.step_masks(chosen, key_grid).numpy()[number] for chosen, number in head_steps(name, heads)]
    cell_of = {
        "pool": lambda r, c: r // factors[0] * key_grid[1] + c // factors[1],
        "tile": lambda r, c: r % key_grid[0] * key_grid[1] + c % key_grid[1],
        "rows": lambda r, c: (r * cols + c) % (key_grid[0] * key_grid[1]),
    }
    for alignment, cell in cell_of.items():
        masks = ylg.sparse_head_masks(name, (rows, cols), key_grid, heads, alignment=alignment)
        for mask, step in zip(masks, steps, strict=True):
            dense = mask.toarray()
            assert all((dense[r * cols + c] == step[cell(r, c)]).all() for r in range(rows) for c in range(cols))


def test_masks_of_large_grids_are_built_sparse_and_at_once():
    start = time.process_time()
    for layout in LAYOUTS:
        masks = ylg.sparse_head_masks(layout, (128, 128), (64, 64))
        assert masks[0].shape == (16384, 4096) and masks[0].dtype == bool and masks[0].has_canonical_format
    assert time.process_time() - start < 3.0


def test_a_pattern_over_positions_takes_a_grid_for_its_number_of_cells():
    assert torch.equal(ylg.step_masks("ltr", (3, 5)), ylg.step_masks("ltr", 15))
    assert torch.equal(ylg.step_masks("strided", (4, 4), 2), ylg.step_masks("strided", 16, 2))


def test_a_pattern_of_ones_own_can_be_native_to_the_grid(monkeypatch):
    monkeypatch.setattr(patterns, "_REGISTRY", dict(patterns._REGISTRY))

    def rows_then_columns(grid, block):
        cell = torch.arange(grid[0] * grid[1])
        row, col = cell // grid[1], cell % grid[1]
        return torch.stack([row[:, None] == row, col[:, None] == col])

    made = ylg.register_pattern("axial", rows_then_columns, on_grid=True)
    assert made.on_grid and "axial" in patterns.pattern_names()
    masks = ylg.head_masks("axial", (3, 4), num_heads=2)
    assert torch.equal(masks, ylg.step_masks("axial", (3, 4))) and int(masks[0].sum()) == 3 * 16
    with pytest.raises(ValueError, match="claims full information, but with grid="):
        ylg.register_pattern("rows", lambda grid, block: rows_then_columns(grid, block)[:1], on_grid=True)
    with pytest.raises(ValueError, match=r"cannot be built for grid = \(4, 4\), \(3, 6\), \(6, 6\) or \(8, 8\)"):
        ylg.register_pattern("odd", lambda grid, block: ylg.step_masks("spread_relays", (5, 5)), on_grid=True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("rotated_blocks", 256),
            r"'rotated_blocks' lies on a grid, and n=256 .* give \(rows, cols\), such as \(16, 16\)",
        ),
        (("window_lattice", 15), r"such as \(3, 5\)"),
        (("spread_relays", 16), "lies on a grid"),
        (("rotated_blocks", 0), "n=0 must be a whole number"),
        (("rotated_blocks", (4, 0)), r"grid=\(4, 0\) must be"),
        (("rotated_blocks", (4, 4), 5), r"stride=5: a block of 5x5 is larger than the grid \(4, 4\); .*\(2, 2\)"),
        (("rotated_blocks", (2, 50), 4), r"a block of 4x4 is larger than the grid \(2, 50\)"),
        (("rotated_blocks", (4, 4), 0), r"stride=\(0, 0\) must be"),
        (("rotated_blocks", (4, 4), (2, 2, 2)), r"stride=\(2, 2, 2\) must be"),
        (("ltr", (4, 4), (2, 2)), r"stride=\(2, 2\) must be between 1 and n=16"),
        (("spread_relays", (6, 8)), r"the grid \(6, 8\) is not: use sides that are multiples of 4, such as \(8, 8\)"),
        (("spread_relays", (8, 8), 2), "blocks of spread_relays are 4x4, not 2x2; leave stride out"),
        (("interlaced4", (8, 8)), "'interlaced4' is a layout over heads"),
    ],
)
def test_what_a_grid_pattern_cannot_do_is_refused_by_value_and_remedy(arguments, words):
    with pytest.raises(ValueError, match=words):
        ylg.step_masks(*arguments)


@pytest.mark.parametrize(("layout", "wrong"), [("interlaced4", 6), ("interlaced8", 4), ("crossed", 2)])
def test_heads_that_are_no_multiple_of_a_layouts_steps_are_refused(layout, wrong):
    with pytest.raises(ValueError, match=f"num_heads={wrong} is not a multiple of {LAYOUTS[layout]}"):
        ylg.head_masks(layout, (8, 8), num_heads=wrong)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mode", ["parallel", "sequential"])
def test_a_layer_runs_every_layout_in_both_modes(layout, mode):
    layer = ylg.SparseAttention2d(16, (8, 12), layout, mode=mode)
    images, attention = layer(torch.randn(1, 16, 8, 12), return_attention=True)
    assert images.shape == (1, 16, 8, 12)
    assert (attention > 0).all() == (mode == "sequential")  # the product of two steps joins everything
