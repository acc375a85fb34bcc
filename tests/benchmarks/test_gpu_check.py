"""The first command on a GPU says what is missing where there is none."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("variable", "words"),
    [("0", "PyTorch sees no CUDA device; without one, run"), ("1", "TRITON_INTERPRET is set, so no kernel would run")],
)
def test_a_machine_on_which_nothing_can_be_checked_is_told_so(repository, monkeypatch, variable, words):
    monkeypatch.setenv("TRITON_INTERPRET", variable)
    done = subprocess.run([sys.executable, repository / "benchmarks" / "gpu_check.py"], capture_output=True, text=True)
    assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1


def test_tests_come_before_timings_and_a_failed_one_shows_in_the_exit_code(benchmark, monkeypatch):
    done = []
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    monkeypatch.setattr(benchmark.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(benchmark.pytest, "main", lambda arguments: done.append(arguments) or len(done) - 1)
    monkeypatch.setattr(benchmark.attention, "main", lambda arguments: done.append(arguments))
    monkeypatch.setattr(sys, "argv", ["gpu_check.py"])
    assert benchmark.main() == 0
    tests, timings = done
    assert all((benchmark.TESTS / name).is_file() for name in tests if name.endswith(".py"))
    assert set(timings[3:]) <= set(benchmark.attention.CASES)
    assert benchmark.main() == 1
