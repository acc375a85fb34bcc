"""Flow: the boolean product against networkx paths, the maximum flow against networkx, and figures known for 256."""

import math
import tracemalloc
from itertools import pairwise

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.sparse import coo_array, csr_array

import ylg
from ylg import flow_measures, mixing, reach
from ylg.orders import ORDERS

any_steps = st.tuples(st.integers(1, 3), st.integers(1, 7)).flatmap(
    lambda size: arrays(bool, (size[0], size[1], size[1]), elements=st.booleans())
)


@given(steps=any_steps)
def test_the_boolean_product_agrees_with_paths_in_the_graph(steps):
    p, n = len(steps), steps.shape[1]
    graph = ylg.information_flow_graph(steps)
    joined = {(i, j) for j in range(n) for i in range(n) if nx.has_path(graph, (0, j), (p, i))}
    report = ylg.flow_report(steps)
    assert ylg.has_full_information(steps) == report["full_information"] == (len(joined) == n * n)
    assert report["unreachable_pairs"] == n * n - len(joined)
    if report["unreachable_pair"] is not None:
        assert report["unreachable_pair"] not in joined
    else:
        assert len(joined) == n * n


@given(steps=any_steps)
def test_path_counts_and_congestion_agree_with_the_paths_themselves(steps):
    p, n = len(steps), steps.shape[1]
    graph = ylg.information_flow_graph(steps)
    paths = {(i, j): list(nx.all_simple_paths(graph, (0, j), (p, i), cutoff=p)) for i in range(n) for j in range(n)}
    counts = [len(between) for between in paths.values()]
    report = ylg.flow_report(steps)
    assert (report["min_paths"], report["max_paths"]) == (min(counts), max(counts))
    assert report["mean_paths"] == pytest.approx(np.mean(counts))
    middles = [vertex for between in paths.values() for path in between for vertex in path[1:-1]]
    busiest = max((middles.count(vertex) for vertex in set(middles)), default=0)
    assert report["congestion"] == pytest.approx(busiest / max(sum(counts), 1))


def flow_by_networkx(steps):
    """The maximum flow with unit vertices, as a function of inputs and outputs."""
    split = nx.DiGraph()
    for vertex in (graph := ylg.information_flow_graph(steps)):
        split.add_edge((vertex, "in"), (vertex, "out"), capacity=1)
    split.add_edges_from(((tail, "out"), (head, "in")) for tail, head in graph.edges)  # no capacity: unbounded
    split.add_nodes_from(["source", "target"])

    def flow(inputs, outputs):
        network = split.copy()
        network.add_edges_from(("source", ((0, j), "in")) for j in inputs)
        network.add_edges_from((((len(steps), i), "out"), "target") for i in outputs)
        return nx.maximum_flow_value(network, "source", "target")

    return flow


@settings(max_examples=50)
@given(steps=any_steps)
def test_the_half_to_half_flow_agrees_with_networkx(steps):
    flow, n = flow_by_networkx(steps), steps.shape[1]
    first, second = range(n // 2), range(n // 2, n)
    report = ylg.flow_report(steps)
    assert report["flow_forward"] == flow(first, second)
    assert report["flow_backward"] == flow(second, first)


@given(steps=any_steps)
def test_layers_until_full_agree_with_matrix_powers(steps):
    n = steps.shape[1]
    sequential = np.eye(n, dtype=bool)
    for step in steps:
        sequential = step.astype(int) @ sequential > 0
    report = ylg.flow_report(steps)
    for layer, key in ((sequential, "layers_sequential"), (steps.any(axis=0), "layers_parallel")):
        power, expected = layer, None
        for count in range(1, n * n + 2):  # Wielandt: a primitive matrix is full by the power n^2 - 2n + 2
            if power.all():
                expected = count
                break
            power = layer.astype(int) @ power > 0
        assert report[key] == expected


@given(steps=any_steps)
def test_degrees_and_edges_are_row_and_column_sums(steps):
    report = ylg.flow_report(steps)
    assert report["edges"] == steps.sum() and report["edges_per_step"] == steps.sum((1, 2)).tolist()
    assert report["max_row_degree"] == steps.sum(2).max(1).tolist()
    assert report["max_column_degree"] == steps.sum(1).max(1).tolist()
    assert report["mean_row_degree"] == pytest.approx(steps.sum(2).mean(1).tolist())
    assert report["max_degree"] == steps.sum(2).max()
    assert report["edge_bound"] == pytest.approx(len(steps) * steps.shape[1] ** (1 + 1 / len(steps)))


# n = 256, stride 16: edges, unreachable pairs, min and max paths, second eigenvalue, smallest share, congestion,
# flow from half to half and back. Strided is the published form.
KNOWN = {
    "ltr": (6512, 0, 1, 2, 0.059, 0.94, 0.061, 8, 8),
    "rtl": (6512, 0, 1, 2, 0.059, 0.94, 0.061, 8, 8),
    "fixed": (4352, 32640, 0, 1, 0.50, 0.0, 0.117, 8, 0),
    "strided_original": (8072, 1920, 0, 1, 0.031, 0.0, 0.004, 128, 128),
    "butterfly": (8192, 0, 1, 1, 0.000, 1.00, 0.004, 128, 128),
    "star": (1022, 0, 1, 2, 0.50, 0.50, 0.996, 1, 1),
}
KEYS = [
    "edges",
    "unreachable_pairs",
    "min_paths",
    "max_paths",
    "second_eigenvalue",
    "smallest_share",
    "congestion",
]


@pytest.mark.parametrize("name", KNOWN)
def test_the_report_reproduces_the_figures_known_for_256_positions(name):
    report = ylg.flow_report(ylg.step_masks(name, 256))
    found = [report[key] for key in [*KEYS, "flow_forward", "flow_backward"]]
    rounded = [
        *found[:4],
        *(round(value, digits) for value, digits in zip(found[4:7], (3, 2, 3), strict=True)),
    ]
    assert (*rounded, *found[7:]) == pytest.approx(KNOWN[name])
    assert report["full_information"] == (KNOWN[name][1] == 0)


def test_ltr_and_rtl_as_heads_of_one_layer_join_18_percent_of_256_squared_pairs_and_all_in_two_layers():
    heads = torch.cat([ylg.step_masks("rtl", 256), ylg.step_masks("ltr", 256)])
    assert ylg.flow_report(heads)["layers_parallel"] == 2
    assert heads.any(0).double().mean() == pytest.approx(0.18, abs=0.005)


# 16x16 grid, blocks of 16: mean distance inside a block, neighbours together, mean and largest relay distance of ltr.
ON_THE_GRID = {
    "raster": (5.67, 0.50, 7.50, 15.0),
    "manhattan": (5.41, 0.325, 1.93, 5.4),
    "hilbert": (2.14, 0.80, 1.86, 4.0),
    "morton": (2.14, 0.80, 1.80, 4.2),
    "snake": (5.67, 0.50, 3.64, 7.1),
}


@pytest.mark.parametrize("order", ORDERS)
def test_the_report_reproduces_the_figures_known_for_orders_of_a_16x16_grid(order):
    report = ylg.flow_report(ylg.step_masks("ltr", 256), (16, 16), order)
    keys = ["block_distance", "neighbours_together", "relay_distance", "max_relay_distance"]
    found = [round(report[key], digits) for key, digits in zip(keys, (2, 3, 2, 1), strict=True)]
    assert found == pytest.approx(ON_THE_GRID[order]) and report["relays"] == 16


@settings(max_examples=30)
@given(
    rows=st.integers(2, 5),
    cols=st.integers(2, 5),
    order=st.sampled_from(sorted(ORDERS)),
    name=st.sampled_from(["ltr", "rtl", "fixed", "strided", "star"]),
)
def test_the_measures_on_the_grid_equal_their_definition_by_loops(rows, cols, order, name):
    n = rows * cols
    stride = math.isqrt(n)
    steps = ylg.step_masks(name, n)
    place = [divmod(cell, cols) for cell in ylg.grid_order(rows, cols, order).tolist()]
    block = [i // stride for i in range(n)]
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    touching = [(i, j) for i, j in pairs if abs(place[i][0] - place[j][0]) + abs(place[i][1] - place[j][1]) == 1]
    relays = {j for i, j in pairs if steps[-1, i, j] and block[i] != block[j]}
    nearest = [min((math.dist(place[i], place[j]) for j in relays), default=None) for i in range(n)]
    report = ylg.flow_report(steps, (rows, cols), order)
    inside = [math.dist(place[i], place[j]) for i, j in pairs if block[i] == block[j]]
    assert report["block_distance"] == pytest.approx(np.mean(inside))
    assert report["neighbours_together"] == pytest.approx(np.mean([block[i] == block[j] for i, j in touching]))
    assert report["relays"] == len(relays)
    assert report["relay_distance"] == (pytest.approx(np.mean(nearest)) if relays else None)
    assert report["max_relay_distance"] == (pytest.approx(max(nearest)) if relays else None)
    for step, distance in zip(steps, report["step_distance"], strict=True):
        assert distance == pytest.approx(np.mean([math.dist(place[i], place[j]) for i, j in pairs if step[i, j]]))


grids_with_steps = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 2)).flatmap(
    lambda size: st.tuples(
        st.just(size[:2]),
        st.permutations(range(size[0] * size[1])),
        arrays(bool, (size[2], size[0] * size[1], size[0] * size[1]), elements=st.booleans()),
    )
)


@settings(max_examples=20, deadline=None)
@given(case=grids_with_steps)
def test_the_flow_of_the_plane_agrees_with_networkx(case):
    (rows, cols), order, steps = case
    flow = flow_by_networkx(steps)
    place = [divmod(cell, cols) for cell in order]
    report = ylg.flow_report(steps, (rows, cols), order)

    def among(test):
        return [i for i, (r, c) in enumerate(place) if test(r, c)]

    top, bottom = among(lambda r, c: r < rows // 2), among(lambda r, c: r >= rows // 2)
    left, right = among(lambda r, c: c < cols // 2), among(lambda r, c: c >= cols // 2)
    assert [report[f"flow_{way}"] for way in ("down", "up", "right", "left")] == [
        flow(top, bottom),
        flow(bottom, top),
        flow(left, right),
        flow(right, left),
    ]
    high, wide = math.ceil(rows / 4), math.ceil(cols / 4)
    corner = {
        (down, across): among(
            lambda r, c, down=down, across=across: (
                (r >= rows - high if down else r < high) and (c >= cols - wide if across else c < wide)
            )
        )
        for down in (False, True)
        for across in (False, True)
    }
    assert report["flow_corners"] == [
        flow(corner[False, False], corner[True, True]),
        flow(corner[True, True], corner[False, False]),
        flow(corner[False, True], corner[True, False]),
        flow(corner[True, False], corner[False, True]),
    ]


@settings(max_examples=60, deadline=None)
@given(case=grids_with_steps)
def test_what_one_layer_covers_and_joins_equals_its_definition_by_loops(case):
    (rows, cols), order, steps = case
    union = steps.any(0)
    report = ylg.flow_report(steps, (rows, cols), order)
    assert report["joined_by_one_layer"] == pytest.approx(union.mean())
    for width in (3, 5):
        near = [
            union[i, j]
            for i in range(rows * cols)
            for j in range(rows * cols)
            if all(
                abs(a - b) <= width // 2 for a, b in zip(divmod(order[i], cols), divmod(order[j], cols), strict=True)
            )
        ]
        assert report[f"covered_{width}x{width}"] == pytest.approx(np.mean(near))
    edges = steps.sum()
    expected = (2 * rows * cols / edges) ** 2 if len(steps) == 2 and edges else None
    assert report["congestion_bound"] == (None if expected is None else pytest.approx(expected))


@settings(max_examples=40, deadline=None)
@given(steps=any_steps)
def test_mixing_time_and_fidelity_equal_matrix_powers(steps):
    steps = steps | np.eye(steps.shape[1], dtype=bool)  # every row averages something
    n, walk = steps.shape[1], np.eye(steps.shape[1])
    for step in steps:
        walk = step / step.sum(1, keepdims=True) @ walk
    powers = [np.linalg.matrix_power(walk, t) for t in range(80)]
    settled = np.full(n, 1 / n) @ np.linalg.matrix_power(walk, 4096)
    times = [t for t, power in enumerate(powers) if (np.abs(power - settled).sum(1) / 2 <= 1 / 4 + 1e-9).all()]
    assert mixing.mixing_time(csr_steps(steps)) == (times[0] if times else None)
    assert mixing.minimax_fidelity(csr_steps(steps)) == pytest.approx(np.max(powers[1:], axis=0).min(), abs=1e-6)


def csr_steps(steps):
    return [csr_array(step) for step in steps]


# 16x16: flow down, to the right, corner to corner, 3x3 covered, 5x5 covered, largest share of paths, its bound.
ON_THE_PLANE = {
    ("ltr", "manhattan"): (42, 66, 2, 0.358, None, 0.061, 0.006),
    ("rtl", "manhattan"): (58, 36, 2, 0.358, None, 0.061, 0.006),
    ("strided", "manhattan"): (128, 128, 16, 0.519, 0.370, 0.008, 0.004),
    ("butterfly", "hilbert"): (128, 128, 16, 0.777, 0.589, 0.004, 0.004),
    ("spread_relays", "raster"): (48, 48, 6, 0.603, None, 0.011, 0.006),
    ("rotated_blocks", "raster"): (128, 128, 16, 0.864, 0.614, 0.004, 0.004),
    ("window_lattice", "raster"): (128, 128, 16, 1.0, None, 0.009, 0.004),
}
MEAN_STEP_DISTANCE = {"ltr": 5.41, "rtl": 5.41, "strided": 5.21, "butterfly": 2.14}
MEAN_STEP_DISTANCE |= {"spread_relays": 1.99, "rotated_blocks": 2.14, "window_lattice": 1.81}


@pytest.mark.parametrize(("name", "order"), ON_THE_PLANE)
def test_the_report_reproduces_the_figures_known_for_the_plane_of_a_16x16_grid(name, order):
    report = ylg.flow_report(ylg.sparse_step_masks(name, (16, 16)), (16, 16), order)
    down, right, corner, three, five, busiest, bound = ON_THE_PLANE[name, order]
    assert (report["flow_down"], report["flow_right"], report["flow_corners"][0]) == (down, right, corner)
    assert round(report["covered_3x3"], 3) == three and five in (None, round(report["covered_5x5"], 3))
    assert (round(report["congestion"], 3), round(report["congestion_bound"], 3)) == (busiest, bound)
    assert round(report["step_distance"][0], 2) == MEAN_STEP_DISTANCE[name]


def test_read_from_attending_to_attended_ltr_would_lack_full_information_and_fixed_would_look_ahead():
    n = 16
    for name in ("ltr", "rtl"):
        first, second = ylg.step_masks(name, n).numpy().astype(int)
        assert (second @ first > 0).all()  # what the layer computes
        assert not (first @ second > 0).all()  # the paper's drawing, followed along its arrows from V_0
    first, second = ylg.step_masks("fixed", n).numpy().astype(int)
    hears, drawn = second @ first > 0, first @ second > 0  # [output, input]; [start, end]
    late, early = 9, 3
    assert not hears[early, late] and drawn[late, early]  # from a late input to an early output: no path, and a path
    assert hears[late, early] and not drawn[early, late]


def test_a_layers_output_depends_on_exactly_the_inputs_that_our_reading_joins():
    steps = ylg.step_masks("ltr", 9).double()
    inputs = torch.randn(9, dtype=torch.double)
    averages = [step / step.sum(1, keepdim=True) for step in steps]
    jacobian = torch.autograd.functional.jacobian(lambda x: averages[1] @ (averages[0] @ x), inputs)
    assert (jacobian > 0).all()


@pytest.mark.parametrize("name", ["ltr", "strided_original", "star", "butterfly", "butterfly3"])
def test_spectral_measures_agree_with_dense_linear_algebra_beyond_the_size_of_dense_matrices(name, monkeypatch):
    steps = ylg.sparse_step_masks(name, 144)
    product = np.eye(144)
    for step in steps:
        product = (step / step.sum(axis=1)[:, None]).toarray() @ product
    monkeypatch.setattr(mixing, "DENSE_UP_TO", 0)
    singular, eigen = (
        np.linalg.svd(product, compute_uv=False)[1],
        np.sort(np.abs(np.linalg.eigvals(product)))[-2],
    )
    assert mixing.second_singular_value(steps) == pytest.approx(singular, abs=1e-7)
    assert mixing.second_eigenvalue(steps) == pytest.approx(eigen, abs=1e-7)
    assert mixing.smallest_share(steps) == pytest.approx(144 * product.min())


def test_a_cycle_never_mixes_and_its_report_ends(monkeypatch):
    monkeypatch.setattr(mixing, "DENSE_UP_TO", 0)  # iterations do not converge on it
    report = ylg.flow_report(torch.eye(60, dtype=torch.bool).roll(1, 0)[None])
    assert report["second_eigenvalue"] == pytest.approx(1) == report["second_singular_value"]
    assert report["layers_sequential"] is None and report["layers_parallel"] is None


@pytest.mark.parametrize("n", [1, 5, 63, 64, 65, 130])
def test_bits_agree_with_the_dense_product_however_small_the_pieces(n, monkeypatch):
    random = np.random.default_rng(n)
    steps = [csr_array(random.random((n, n)) < 0.1) for _ in range(3)]  # some rows are empty
    expected = np.eye(n)
    for step in steps:
        expected = (step.toarray() @ expected > 0).astype(float)
    for budget in (1, 100, 1 << 20):
        monkeypatch.setattr(reach, "_BUDGET", budget)
        bits = reach.reached(steps)
        assert (np.unpackbits(bits.view(np.uint8), axis=1, count=n) == expected).all()
        assert reach.count_pairs(bits) == expected.sum() and reach.is_full(bits) == expected.all()
        assert (bits == reach.reached(steps[1:], before=reach.reached(steps[:1]))).all()


def test_the_graph_carries_what_is_needed_to_draw_it():
    graph = ylg.information_flow_graph(ylg.step_masks("ltr", 9))
    assert graph.graph == {"num_steps": 2, "num_positions": 9}
    assert set(graph) == {(layer, position) for layer in range(3) for position in range(9)}
    assert graph.nodes[2, 4] == {"layer": 2, "position": 4, "pos": (2.0, -4.0)}
    assert graph.has_edge((0, 3), (1, 4)) and not graph.has_edge((0, 4), (1, 3))
    assert all(data == {"step": head[0]} and tail[0] == head[0] - 1 for tail, head, data in graph.edges(data=True))
    assert all(nx.has_path(graph, (0, j), (2, i)) for i in range(9) for j in range(9))


def test_one_entry_of_a_mask_decides():
    steps = ylg.step_masks("butterfly", 16)  # one path between any two positions, so every entry counts
    for step, i, j in torch.nonzero(steps).tolist():
        mutated = steps.clone()
        mutated[step, i, j] = False
        assert ylg.has_full_information(steps) and not ylg.has_full_information(mutated)


def test_all_forms_of_masks_give_one_answer():
    dense = ylg.step_masks("strided", 30)
    forms = [
        dense,
        dense.numpy(),
        list(dense),
        list(dense.numpy()),
        list(ylg.sparse_step_masks("strided", 30)),
    ]
    reports = [ylg.flow_report(form, grid=(5, 6)) for form in forms]
    assert all(one == other for one, other in pairwise(reports))


def test_stored_zeros_and_doubled_entries_of_sparse_masks_are_no_edges():
    dense = ylg.step_masks("strided_original", 16)
    rows, columns = np.indices((16, 16)).reshape(2, -1)
    stored = [coo_array((step.numpy().ravel(), (rows, columns)), shape=(16, 16)).tocsr() for step in dense]
    doubled = []
    for step in ylg.sparse_step_masks("strided_original", 16):
        indices = np.repeat(step.indices, 2)
        doubled.append(csr_array((np.ones(len(indices), dtype=bool), indices, 2 * step.indptr), shape=(16, 16)))
    assert stored[0].nnz == 256 and doubled[0].nnz == 2 * dense[0].sum()
    assert ylg.flow_report(stored) == ylg.flow_report(doubled) == ylg.flow_report(dense)
    assert stored[0].nnz == 256 and doubled[0].nnz == 2 * dense[0].sum()  # the caller's arrays stay as they were


@pytest.mark.parametrize(
    ("masks", "words"),
    [
        (torch.ones(2, 4, 4), "step 1 is of float32; masks are bool"),
        (torch.ones(2, 4, 4, dtype=torch.bfloat16), "step 1 is of bfloat16; masks are bool"),
        (torch.ones(2, 4, 4, dtype=torch.bool).to_sparse(), "to_dense"),
        (None, "got NoneType"),
        (torch.ones(4, 4, dtype=torch.bool), r"shape \(4, 4\) must be \[num_steps, n, n\]"),
        (torch.ones(2, 4, 5, dtype=torch.bool), r"step 1 has shape \(4, 5\)"),
        (torch.ones(0, 4, 4, dtype=torch.bool), "masks holds no step"),
        (torch.ones(1, 0, 0, dtype=torch.bool), r"step 1 has shape \(0, 0\)"),
        ([torch.ones(4, 4, dtype=torch.bool), torch.ones(5, 5, dtype=torch.bool)], "different sizes"),
    ],
)
@pytest.mark.parametrize("function", [ylg.has_full_information, ylg.information_flow_graph, ylg.flow_report])
def test_masks_that_are_not_steps_are_refused_by_value_and_remedy(function, masks, words):
    with pytest.raises(ValueError, match=words):
        function(masks)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (dict(grid=(3, 5)), r"grid=\(3, 5\) has 15 cells, but the masks have n=16"),
        (dict(grid=16), "grid=16 must be"),
        (dict(stride=0), "stride=0 must be between 1 and n=16; leave it out for 4"),
        (dict(grid=(4, 4), order="spiral"), "unknown order 'spiral'"),
        (dict(order="spiral"), "unknown order 'spiral'"),
    ],
)
def test_a_report_on_an_impossible_grid_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        ylg.flow_report(ylg.step_masks("ltr", 16), **arguments)


def test_counts_of_paths_are_exact_ints_or_say_by_their_type_that_they_are_not():
    dense = torch.ones(1, 32, 32, dtype=torch.bool)
    exact, rounded, endless = (ylg.flow_report(dense.expand(p, -1, -1)) for p in (11, 14, 300))
    assert exact["min_paths"] == exact["max_paths"] == 32**10 and isinstance(exact["min_paths"], int)
    assert isinstance(rounded["min_paths"], float) and rounded["max_paths"] == pytest.approx(32**13, rel=1e-12)
    assert endless["max_paths"] == float("inf")
    assert [report["congestion"] for report in (exact, rounded, endless)] == pytest.approx([1 / 32] * 3)


def test_a_pattern_that_spreads_slowly_is_measured_in_little_memory():
    i = np.arange(600)
    window = csr_array(np.abs(i[:, None] - i) <= 1)
    tracemalloc.start()
    assert flow_measures.layers_until_full([window]) == 599
    assert tracemalloc.get_traced_memory()[1] < 10e6  # 27 MB if every state were kept
    tracemalloc.stop()


def test_a_report_made_slice_by_slice_is_that_made_at_once(monkeypatch):
    steps = ylg.step_masks("ltr", 10)
    whole = ylg.flow_report(steps, (2, 5))
    monkeypatch.setattr(flow_measures, "ENTRIES_AT_ONCE", 40)  # four rows, four rows, two rows
    assert ylg.flow_report(steps, (2, 5)) == whole
