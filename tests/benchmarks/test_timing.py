"""Timing is fair: methods take turns, are compared round by round, and what they keep is counted once."""

import gc
import time

import numpy as np
import pytest
import torch

CPU = torch.device("cpu")


def test_methods_take_turns_and_another_comes_first_every_round(benchmark, monkeypatch):
    monkeypatch.setattr(benchmark, "seconds", lambda step, device, calls=1: step() or 1.0)
    called = []
    steps = {name: lambda name=name: called.append(name) for name in "abc"}
    times = benchmark.in_turns(steps, CPU, rounds=4)
    assert "".join(called) == "abcbcacababc"
    assert {len(taken) for taken in times.values()} == {4}


def test_a_method_stops_after_its_seconds_but_not_before_three_rounds_unless_one_takes_so_long(benchmark, monkeypatch):
    monkeypatch.setattr(benchmark, "seconds", lambda step, device, calls=1: step())
    times = benchmark.in_turns({"fast": lambda: 1.0, "slow": lambda: 100.0}, CPU, rounds=20, budget=10)
    assert len(times["fast"]) == 10 and len(times["slow"]) == 1
    times = benchmark.in_turns({"middling": lambda: 6.0}, CPU, rounds=20, budget=10)
    assert len(times["middling"]) == 3


def test_a_call_that_the_clock_cannot_see_still_takes_more_than_no_time(benchmark, monkeypatch):
    monkeypatch.setattr(time, "process_time", lambda: 3.0)
    assert 0 < benchmark.seconds(lambda: None, CPU) < 0.1


def test_a_short_call_is_repeated_until_the_clock_can_see_it(benchmark, monkeypatch):
    asked = []
    monkeypatch.setattr(benchmark, "seconds", lambda step, device, calls=1: asked.append(calls) or 1e-4)
    benchmark.in_turns({"short": lambda: None}, CPU, rounds=3)
    assert asked == [1, 200, 200]


def test_the_time_of_others_does_not_count(benchmark):
    assert benchmark.seconds(lambda: time.sleep(0.2), CPU) < 0.05


def test_a_busy_round_cancels_in_the_ratio(benchmark):
    assert benchmark.ratios([2.0, 20.0, 2.0, 2.0], [1.0, 10.0, 1.0]) == (2.0, 2.0, 2.0)
    assert benchmark.quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == (2.0, 3.0, 4.0)


def test_the_peak_is_that_of_everything_held_at_once(benchmark):
    def step():
        first = torch.ones(1000)
        del first
        return torch.ones(2000) + torch.ones(2000)

    assert benchmark.peak_bytes(step, CPU) == pytest.approx(3 * 8000, rel=0.02)


def test_what_a_method_keeps_is_counted_once_through_everything_it_refers_to(benchmark):
    mask = torch.ones(100)
    array = np.ones(10)

    class Plan:
        def __init__(self):
            self.kept = {"layout": [mask, mask[:50]], "arrays": (array, array[2:], torch.from_numpy(array))}

    plan = Plan()

    def method():
        return plan, method

    assert benchmark.held_bytes(method) == 400 + 80
    assert benchmark.held_bytes(lambda: gc) == 0


def test_a_copy_is_faster_than_a_megabyte_a_second(benchmark):
    assert benchmark.copy_bandwidth(CPU) > 1e6
