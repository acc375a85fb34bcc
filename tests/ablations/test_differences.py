"""Intervals and tests against SciPy's own, their promises by simulation, Holm's method against a table by hand."""

import math

import numpy as np
import pytest
from scipy import stats

from ablations.contrasts import CONTRASTS, LEVEL
from ablations.differences import Spread, resampled_difference
from sagan_base.holm import holm

ROWS = ("sagan_attending", "ylg_attending", "ylg_uniform", "ylg_no_esa_attending", "interlaced8", "no_attention")


def drawn(seed: int, n: int, shifts: dict[str, float] | None = None, deviation: float = 0.2) -> dict[str, list[float]]:
    random = np.random.default_rng(seed)
    return {row: list(random.normal((shifts or {}).get(row, 0.0), deviation, n)) for row in ROWS}


def test_of_two_rows_the_interval_and_p_are_those_of_scipys_t_test():
    row, other = [0.1, 0.5, 0.3, 0.2], [0.4, 0.9, 0.6]
    found = Spread.of({"a": row, "b": other}).difference(row, other)
    theirs = stats.ttest_ind(row, other)
    assert found.p == pytest.approx(theirs.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(theirs.confidence_interval(0.95)))
    assert found.seeds == (4, 3)


def test_of_several_rows_the_statistics_are_those_of_dunnetts_test():
    groups = drawn(1, 5, {"ylg_attending": 0.4})
    control, others = groups[ROWS[0]], [groups[row] for row in ROWS[1:]]
    spread = Spread.of(groups)
    errors = spread.deviation * math.sqrt(2 / 5)
    ours = [spread.difference(row, control).estimate / errors for row in others]
    assert ours == pytest.approx(list(stats.dunnett(*others, control=control).statistic))
    assert spread.freedom == 24


@pytest.mark.parametrize("n", [2, 3, 11])
def test_an_interval_holds_the_true_difference_as_often_as_it_says(n):
    held = []
    for seed in range(1000):
        groups = drawn(seed, n, {"ylg_attending": -0.1})
        spread = Spread.of(groups)
        found = spread.difference(groups["ylg_attending"], groups["sagan_attending"])
        low, high = spread.interval()
        held.append((found.low <= -0.1 <= found.high, low <= 0.2 <= high))
    for share in np.mean(held, axis=0):
        assert abs(share - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 1000)


def rejected(seed: int, n: int, shifts: dict[str, float]) -> list[bool]:
    """What Holm's method says of the five contrasts."""
    groups = drawn(seed, n, shifts)
    spread = Spread.of(groups)
    return [p < LEVEL for p in holm([spread.difference(groups[c.row], groups[c.other]).p for c in CONTRASTS])]


def test_where_no_row_differs_a_verdict_is_wrong_in_one_table_of_twenty_at_most():
    wrong = np.mean([any(rejected(seed, 5, {})) for seed in range(1000)])
    assert 0.015 < wrong < LEVEL + 3 * math.sqrt(LEVEL * (1 - LEVEL) / 1000)


def test_the_smallest_difference_shown_is_found_as_often_as_it_says():
    n = 8
    smallest = Spread(0.2, len(ROWS) * (n - 1)).detectable((n, n), len(ROWS) * (n - 1))
    first = [rejected(seed, n, {"no_attention": smallest})[-1] for seed in range(500)]
    assert abs(np.mean(first) - 0.8) < 4 * math.sqrt(0.8 * 0.2 / 500)


def test_the_smallest_difference_shown_falls_with_seeds_and_is_finite_for_two_runs_in_all():
    spread = Spread(0.2, 10)
    shown = [spread.detectable((n, n), 6 * (n - 1)) for n in (2, 3, 8, 30)]
    assert shown == sorted(shown, reverse=True)
    assert 1 < Spread(0.2, 1).detectable((2, 1), 1) < 100


def test_without_a_second_run_of_any_row_nothing_is_said_of_seeds():
    found = Spread.of({"a": [0.1], "b": [0.4]}).difference([0.1], [0.4])
    assert found.estimate == pytest.approx(-0.3) and all(map(math.isnan, (found.low, found.high, found.p)))
    assert str(found) == "-26%"


def test_of_single_runs_the_interval_is_that_of_their_samples_in_pairs():
    moves = np.random.default_rng(0).normal(0, 0.04, 2000)
    found = resampled_difference(moves + 0.001, moves, 0.2)
    assert found.over_samples and (found.low, found.high) == pytest.approx((0.201, 0.201))
    apart = resampled_difference(moves, moves[::-1], 0.2)
    assert apart.high - apart.low == pytest.approx(2 * 1.96 * 0.04 * math.sqrt(2), rel=0.1)


def test_a_difference_is_shown_as_percent():
    values = [math.log(1.1), math.log(1.3)]
    found = Spread.of({"a": values, "b": [0.0, 0.0]}).difference(values, [0.0, 0.0])
    assert str(found).startswith("+20% [") and str(found).endswith("%]")
