"""Orders are permutations with the shape that their name promises, on any rectangle."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ylg
from ylg.orders import ORDERS

sides = st.integers(1, 24)


def places(rows, cols, order):
    """The (row, column) at each position, as a list of pairs."""
    return [divmod(cell, cols) for cell in ylg.grid_order(rows, cols, order).tolist()]


@given(rows=sides, cols=sides, order=st.sampled_from(sorted(ORDERS)))
def test_every_order_visits_every_cell_once_and_starts_in_the_corner(rows, cols, order):
    cells = ylg.grid_order(rows, cols, order)
    assert cells.dtype == torch.int64 and cells[0] == 0
    assert sorted(cells.tolist()) == list(range(rows * cols))


@given(rows=sides, cols=sides, order=st.sampled_from(["hilbert", "snake"]))
def test_hilbert_and_snake_step_only_to_a_neighbour_on_every_rectangle(rows, cols, order):
    path = places(rows, cols, order)
    assert all(abs(a - c) + abs(b - d) == 1 for (a, b), (c, d) in pairwise(path))


@given(rows=sides, cols=sides)
def test_manhattan_sorts_by_distance_from_the_corner_with_ties_row_major(rows, cols):
    assert places(rows, cols, "manhattan") == sorted(
        ((r, c) for r in range(rows) for c in range(cols)), key=lambda place: (sum(place), place)
    )


def interleaved(place):
    row, column = (f"{number:08b}" for number in place)
    return "".join(a + b for a, b in zip(row, column, strict=True))


@given(rows=sides, cols=sides)
def test_morton_sorts_by_the_interleaved_bits_of_row_and_column(rows, cols):
    cells = [(r, c) for r in range(rows) for c in range(cols)]
    assert places(rows, cols, "morton") == sorted(cells, key=interleaved)


def test_raster_is_reading_order_and_snake_turns_every_second_row():
    assert ylg.grid_order(2, 3, "raster").tolist() == [0, 1, 2, 3, 4, 5]
    assert ylg.grid_order(3, 3, "snake").tolist() == [0, 1, 2, 5, 4, 3, 6, 7, 8]


@pytest.mark.parametrize("side", [2, 4, 8, 16])
def test_hilbert_keeps_aligned_squares_together_at_every_scale(side):
    path = np.array(places(side, side, "hilbert"))
    for size in (2**k for k in range(1, side.bit_length())):
        squares = path.reshape(-1, size * size, 2) // size
        assert (squares == squares[:, :1]).all()


@pytest.mark.parametrize("side", [4, 8, 16, 32])
@pytest.mark.parametrize(("order", "name"), [("manhattan", "manhattan"), ("hilbert", "hilbert_p_log2")])
def test_orders_equal_the_published_enumerations(golden_folder, side, order, name):
    with np.load(golden_folder / "curves.npz") as curves:
        expected = curves[f"{name}/{side}x{side}"]
    assert (np.array(places(side, side, order)) == expected).all()


@pytest.mark.parametrize("rows, cols", [(3, 5), (5, 3), (3, 3)])
def test_manhattan_equals_the_published_enumeration_of_rectangles(golden_folder, rows, cols):
    with np.load(golden_folder / "masks.npz") as masks:
        expected = masks[f"enum/manhattan/{rows}x{cols}"]
    assert (np.array(places(rows, cols, "manhattan")) == expected).all()


@settings(max_examples=20)
@given(permutation=st.permutations(range(12)))
def test_a_permutation_of_the_users_own_is_an_order(permutation):
    for form in (list(permutation), tuple(permutation), np.array(permutation), torch.tensor(permutation)):
        assert ylg.grid_order(3, 4, form).tolist() == list(permutation)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0, 4, "raster"), r"grid=\(0, 4\) must be \(rows, cols\)"),
        ((4, -1, "raster"), r"grid=\(4, -1\)"),
        ((4, 2.0, "raster"), r"grid=\(4, 2.0\)"),
        ((4, True, "raster"), r"grid=\(4, True\)"),
        ((4, 4, "peano"), r"unknown order 'peano'; use one of raster, manhattan, hilbert, morton, snake"),
        ((2, 2, [0, 1, 2]), r"2x2 grid must hold 4 integers, got shape \(3,\)"),
        ((2, 2, [0.0, 1.0, 2.0, 3.0]), r"float64; pass a permutation of range\(4\)"),
        ((2, 2, [0, 1, 2, 2]), r"cell 3 is missing"),
        ((2, 2, [0, 1, 2, 4]), r"cell 3 is missing"),
    ],
)
def test_a_bad_order_is_refused_by_value_and_remedy(arguments, words):
    with pytest.raises(ValueError, match=words):
        ylg.grid_order(*arguments)
