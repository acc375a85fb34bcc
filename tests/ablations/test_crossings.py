"""Steps until a threshold: what counts as crossing, what censoring does, and the estimate by hand."""

import math

import numpy as np

from ablations.crossings import crossing, crossing_table, median_time
from ablations.records import by_row

FALLING = ((250, 20.0), (500, 9.0), (750, 5.0), (1000, 3.0))


def test_a_run_crosses_at_the_first_measured_step_below(canned_run):
    record = canned_run("ylg", curve=((250, 20.0), (500, 9.0), (750, 12.0), (1000, 3.0)))
    assert [crossing(record, threshold) for threshold in (10.0, 9.0, 4.0, 2.0)] == [500, 1000, 1000, None]


def test_half_of_the_runs_have_crossed_by_the_median_and_those_that_never_do_count_as_later():
    assert median_time([100, 200, 300])[0] == 200
    assert median_time([100, math.inf, math.inf])[0] == math.inf
    assert median_time([100, 300, 500, math.inf, 400])[0] == 400
    assert math.isnan(median_time([100, 200, 300])[1])  # three runs: no interval of 95%


def test_the_interval_of_the_median_is_that_of_the_sign_test():
    """Of eleven, the second and the tenth: outside lie 2 (1 + 11) / 2^11 = 1.2%; the third would leave 6.5%."""
    assert median_time([float(t) for t in range(1, 12)]) == (6, 2, 10)
    assert median_time([1, 2, 3, 4, 5, 6, 7, 8, 9, math.inf, math.inf]) == (6, 2, math.inf)


def test_the_interval_holds_the_true_median_as_often_as_it_says():
    random = np.random.default_rng(0)
    held = 0
    for _ in range(500):
        times = np.exp(random.normal(0, 0.3, 11))
        _, low, high = median_time(np.where(times > 1.4, math.inf, times).tolist())  # censored at 1.4
        held += low <= 1 <= high
    assert held / 500 > 0.95


def test_the_table_has_a_line_a_threshold_and_row_with_steps_seconds_and_the_gain_on_dense(canned_run):
    runs = [canned_run("sagan", seed, curve=FALLING) for seed in (0, 1)]
    runs += [canned_run("ylg", seed, curve=((250, 9.0), (500, 3.0), (750, 2.5), (1000, 1.0))) for seed in (0, 1)]
    runs += [canned_run("ylg_no_esa", 0, curve=((250, 20.0), (500, 15.0), (750, 12.0), (1000, 11.0)))]
    table = crossing_table(by_row(runs)).set_index(["row", "below"])
    ylg, late = table.loc["YLG-SAGAN", 4.0], table.loc["YLG, no ESA", 10.0]
    assert ylg["runs"] == "2 of 2" and ylg["steps"] == "500"
    assert ylg["seconds"] == "45"  # of 90 seconds for 1,000 steps
    assert ylg["steps against dense"].startswith("-50%")
    assert late["runs"] == "0 of 1" and late["steps"] == "later" and late["steps against dense"] == "-"
    assert table.loc["YLG-SAGAN", 2.0]["steps against dense"] == "-"  # SAGAN never gets there


def test_ties_in_every_seed_leave_no_spread_and_no_error(canned_run):
    runs = [canned_run(row, seed, curve=FALLING) for row in ("sagan", "ylg") for seed in (0, 1)]
    table = crossing_table(by_row(runs)).set_index(["row", "below"])
    assert table.loc["YLG-SAGAN", 4.0]["steps against dense"] == "+0.0% [+0.0%, +0.0%]"
