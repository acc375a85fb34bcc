"""benchmarks/training.py measures each case and says on what."""

import json
import subprocess
import sys

import pytest


def test_the_benchmark_reports_rates_and_shares_of_every_case(repository, tmp_path):
    out = tmp_path / "figures.json"
    size = ["--resolution", "16", "--width", "16", "--batch-size", "2", "--steps", "1", "--warmup", "0"]
    command = [sys.executable, repository / "benchmarks" / "training.py", *size, "--device", "cpu", "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    record = json.loads(out.read_text())
    assert len(record["rows"]) == 5 and record["settings"]["batch_size"] == 2 and record["machine"]["threads"] >= 1
    for row in record["rows"]:
        assert row["case"] in done.stdout
        assert row["images_per_second"] * row["milliseconds"] / 1e3 == pytest.approx(2)
    assert record["rows"][0]["share_of_attention"] == 0


def test_no_step_to_measure_is_refused(repository):
    command = [sys.executable, repository / "benchmarks" / "training.py", "--steps", "0", "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "measure at least one step" in done.stderr and done.stderr.count("\n") == 1
