"""benchmarks/training.py measures each case and says on what."""

import json
import runpy
import subprocess
import sys

import pytest


def test_the_benchmark_reports_rates_and_shares_of_every_case(repository, tmp_path):
    out = tmp_path / "figures.json"
    size = ["--resolution", "16", "--width", "16", "--batch-size", "2", "--steps", "2", "--warmup", "0"]
    command = [sys.executable, repository / "benchmarks" / "training.py", *size, "--device", "cpu", "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    record = json.loads(out.read_text())
    assert len(record["rows"]) == 5 and record["settings"]["batch_size"] == 2 and record["machine"]["threads"] >= 1
    for row in record["rows"]:
        assert row["case"] in done.stdout
        assert row["images_per_second"] * row["milliseconds"] / 1e3 == pytest.approx(2)
    assert record["rows"][0]["share_of_attention"] == 0


def test_a_share_compares_the_steps_of_each_round_so_that_a_busy_moment_cancels(repository):
    row = runpy.run_path(str(repository / "benchmarks" / "training.py"))["row"]
    found = row("sparse", [2.0, 20.0, 2.0, 2.0, 4.0], [1.5, 15.0, 1.5, 1.5, 1.0], batch_size=4)
    assert found["share_of_attention"] == 0.25 and found["share_quartiles"] == [0.25, 0.25]
    assert found["milliseconds"] == 2000 and found["images_per_second"] == 2


def test_fewer_than_two_steps_are_refused(repository):
    command = [sys.executable, repository / "benchmarks" / "training.py", "--steps", "1", "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "measure at least two steps" in done.stderr and done.stderr.count("\n") == 1
