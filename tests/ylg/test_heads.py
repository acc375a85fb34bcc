"""Head masks: layouts, orders and alignments against their definition by loops, and against the published masks."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import ylg
from ylg.heads import ALIGNMENTS, LAYOUTS, head_steps, shown_order
from ylg.orders import ORDERS


def key_cell_of(query, query_grid, key_grid, alignment):
    """The key cell whose mask row a query uses, straight from the definitions."""
    (rows, cols), (key_rows, key_cols) = query_grid, key_grid
    r, c = divmod(query, cols)
    if alignment == "pool":
        return (r // (rows // key_rows)) * key_cols + c // (cols // key_cols)
    if alignment == "tile":
        return (r % key_rows) * key_cols + c % key_cols
    return query % (key_rows * key_cols)


def by_loops(step, cells, query_grid, key_grid, alignment):
    """One head's mask, entry by entry."""
    position = {cell: index for index, cell in enumerate(cells)}
    num_queries, num_keys = query_grid[0] * query_grid[1], key_grid[0] * key_grid[1]
    mask = np.zeros((num_queries, num_keys), dtype=bool)
    for query in range(num_queries):
        row = position[key_cell_of(query, query_grid, key_grid, alignment)]
        for key in range(num_keys):
            mask[query, key] = step[row, position[key]]
    return mask


@given(
    name=st.sampled_from(["ltr", "rtl", "strided", "fixed", "butterfly"]),
    key_grid=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    factors=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    order=st.sampled_from(sorted(ORDERS)),
    alignment=st.sampled_from(sorted(ALIGNMENTS)),
)
def test_masks_equal_their_definition_by_loops(name, key_grid, factors, order, alignment):
    query_grid = (key_grid[0] * factors[0], key_grid[1] * factors[1])
    arguments = (name, query_grid, key_grid, 2, order, alignment)
    dense, sparse = ylg.head_masks(*arguments), ylg.sparse_head_masks(*arguments)
    assert dense.dtype == torch.bool and len(sparse) == 2
    steps = ylg.step_masks(name, key_grid[0] * key_grid[1]).numpy()
    cells = ylg.grid_order(*key_grid, order).tolist()
    for head in range(2):
        expected = by_loops(steps[head], cells, query_grid, key_grid, alignment)
        assert (dense[head].numpy() == expected).all() and (sparse[head].toarray() == expected).all()
        assert sparse[head].dtype == bool and sparse[head].has_canonical_format


@pytest.mark.parametrize(("queries", "keys"), [((32, 32), (16, 16)), ((16, 16), (8, 8)), ((8, 8), (4, 4))])
@pytest.mark.parametrize("pattern", ["ltr_rtl", "ltr_rtl_original"])
def test_eight_heads_equal_the_published_stack_bit_for_bit(golden_folder, queries, keys, pattern):
    masks = ylg.head_masks(pattern, queries, keys, alignment="rows").numpy()
    with np.load(golden_folder / "masks.npz") as golden:
        packed = golden["get_grid_masks/q{}x{}_k{}x{}".format(*queries, *keys)]
    assert (np.packbits(masks, axis=-1) == packed).all()


CLASSES = {
    ("ltr_original", 0): "LeftFloorMask",
    ("ltr_original", 1): "LeftRepetitiveMask",
    ("rtl_original", 0): "RightFloorMask",
    ("rtl_original", 1): "RightRepetitiveMask",
    ("strided_original", 0): "StridedMask1",
    ("strided_original", 1): "StridedMask2",
}
SQUARES = [(3, 3), (4, 4), (8, 8), (16, 16), (4, 8), (8, 16), (16, 32)]


@pytest.mark.parametrize(("key_side", "query_side"), SQUARES)
@pytest.mark.parametrize(("pattern", "step"), CLASSES)
def test_grid_masks_equal_the_published_ones_bit_for_bit(golden_folder, pattern, step, key_side, query_side):
    name = f"grid/{CLASSES[pattern, step]}/k{key_side}x{key_side}_q{query_side}x{query_side}"
    with np.load(golden_folder / "masks.npz") as golden:
        expected = golden[name].astype(bool)
    mine = ylg.head_masks(pattern, (query_side,) * 2, (key_side,) * 2, num_heads=2, alignment="rows")
    assert (mine[step].numpy() == expected).all()


@pytest.mark.parametrize(("key_side", "query_side"), [(4, 4), (16, 16), (16, 32)])
@pytest.mark.parametrize(("pattern", "step"), [key for key in CLASSES if "strided" not in key[0]])
def test_hilbert_masks_equal_the_published_branch(golden_folder, pattern, step, key_side, query_side):
    name = f"grid_hilbert/{CLASSES[pattern, step]}/k{key_side}x{key_side}_q{query_side}x{query_side}"
    with np.load(golden_folder / "curves.npz") as golden:
        expected = golden[name].astype(bool)
    arguments = (pattern, (query_side,) * 2, (key_side,) * 2, 2, "hilbert", "rows")
    assert (ylg.head_masks(*arguments)[step].numpy() == expected).all()


def steps_of(pattern, num_heads):
    return " ".join(f"{chosen.name}{number + 1}" for chosen, number in head_steps(pattern, num_heads))


@pytest.mark.parametrize(
    ("pattern", "num_heads", "expected"),
    [
        ("ltr_rtl", 8, "rtl1 rtl2 rtl1 rtl2 ltr1 ltr2 ltr1 ltr2"),
        ("ltr_rtl", 4, "rtl1 rtl2 ltr1 ltr2"),
        ("ltr_rtl_original", 4, "rtl_original1 rtl_original2 ltr_original1 ltr_original2"),
        ("ltr", 4, "ltr1 ltr2 ltr1 ltr2"),
        ("dense", 3, "dense1 dense1 dense1"),
        ("none", 2, "dense1 dense1"),
        (["ltr", "rtl"], 4, "ltr1 ltr2 rtl1 rtl2"),
        (("ltr", "dense"), 4, "ltr1 ltr2 dense1 dense1"),
        (["dense", "ltr_rtl"], 8, "dense1 dense1 dense1 dense1 rtl1 rtl2 ltr1 ltr2"),
        (
            ["butterfly3", "strided"],
            12,
            " ".join(["butterfly31 butterfly32 butterfly33"] * 2 + ["strided1 strided2"] * 3),
        ),
        (ylg.pattern("strided"), 2, "strided1 strided2"),
    ],
)
def test_layouts_give_every_head_its_step(pattern, num_heads, expected):
    assert steps_of(pattern, num_heads) == expected
    masks = ylg.sparse_head_masks(pattern, (4, 4), num_heads=num_heads)
    for mask, name in zip(masks, expected.split(), strict=True):
        alone = ylg.sparse_head_masks(name[:-1], (4, 4), num_heads=ylg.pattern(name[:-1]).num_steps)
        assert (mask != alone[int(name[-1]) - 1]).nnz == 0


def test_heads_with_the_same_step_share_one_mask():
    masks = ylg.sparse_head_masks("ltr_rtl", (8, 8), num_heads=8)
    assert len({id(mask) for mask in masks}) == 4


def test_none_and_dense_hide_nothing():
    for pattern in ("none", "dense"):
        assert ylg.head_masks(pattern, (4, 6), (2, 3), num_heads=5).all()


@given(permutation=st.permutations(range(9)))
def test_a_users_permutation_moves_the_positions_onto_its_cells(permutation):
    mask = ylg.head_masks("ltr", (3, 3), num_heads=2, order=permutation)
    step = ylg.step_masks("ltr", 9)
    assert torch.equal(mask[:, permutation][:, :, permutation], step)


def test_an_explicit_stride_reaches_the_steps():
    masks = ylg.head_masks("ltr", (4, 4), num_heads=2, order="raster", stride=2)
    assert torch.equal(masks, ylg.step_masks("ltr", 16, 2))


def test_large_grids_stay_sparse():
    masks = ylg.sparse_head_masks("ltr_rtl", (128, 128), (64, 64))
    assert len(masks) == 8 and masks[0].shape == (16384, 4096)
    assert max(mask.nnz for mask in masks) < 0.016 * 16384 * 4096


@pytest.mark.parametrize("num_heads", [0, -4, 1, 2, 3, 6, 2.0])
def test_heads_that_do_not_divide_among_the_steps_are_refused(num_heads):
    with pytest.raises(ValueError, match=rf"num_heads={num_heads!r} is not a multiple of 4, .*'ltr_rtl' .*use 4, 8"):
        ylg.head_masks("ltr_rtl", (4, 4), num_heads=num_heads)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            dict(pattern="lrt"),
            "unknown pattern 'lrt'; use one of dense, .*over heads also none, ltr_rtl, .*crossed or a list",
        ),
        (dict(pattern=[]), "list of patterns is empty"),
        (dict(pattern=["ltr", 5]), "unknown pattern 5"),
        (
            dict(key_grid=(3, 4)),
            r"query_grid=\(8, 8\) is not a multiple of key_grid=\(3, 4\).* such as \(9, 8\)",
        ),
        (dict(key_grid=(16, 16)), r"not a multiple of key_grid=\(16, 16\).* such as \(16, 16\)"),
        (dict(key_grid=(0, 4)), r"key_grid=\(0, 4\) must be"),
        (dict(query_grid=64), r"query_grid=64 must be \(rows, cols\)"),
        (dict(query_grid=(8, 8, 8)), r"query_grid=\(8, 8, 8\)"),
        (dict(alignment="nearest"), "unknown alignment 'nearest'; use one of pool, tile, rows"),
        (dict(order="zigzag"), "unknown order 'zigzag'"),
        (dict(order=[0, 1]), r"8x8 grid must hold 64 integers"),
        (dict(stride=65), "stride=65 must be between 1 and n=64"),
    ],
)
@pytest.mark.parametrize("function", [ylg.head_masks, ylg.sparse_head_masks])
def test_bad_input_is_refused_by_value_and_remedy(function, arguments, words):
    with pytest.raises(ValueError, match=words):
        function(**{"pattern": "ltr_rtl", "query_grid": (8, 8), **arguments})


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_is_not_the_name_of_a_pattern(layout):
    with pytest.raises(ValueError, match=f"'{layout}' is a layout over heads"):
        ylg.pattern(layout)


def test_an_order_is_shown_only_where_it_means_something():
    assert shown_order("ltr_rtl", "hilbert") == shown_order(["ltr", "crossed"], "hilbert") == "hilbert"
    assert shown_order("interlaced8", "hilbert") == shown_order(["crossed", "window_lattice"], "raster") == "-"
    assert shown_order("of_somebody_else", "raster") == "raster"
