"""benchmarks/training.py measures each case and says on what."""

import json

import pytest


def test_rates_and_shares_of_every_case_are_measured_in_every_precision(benchmark, tmp_path, capsys):
    size = ["--resolution", "16", "--width", "16", "--batch-size", "2", "--steps", "2", "--warmup", "1"]
    precisions = ["--precision", "float32", "bfloat16"]
    benchmark.main([*size, *precisions, "--device", "cpu", "--out", str(tmp_path / "figures.json")])
    record, shown = json.loads((tmp_path / "figures.json").read_text()), capsys.readouterr().out
    assert len(record["rows"]) == 10 and record["settings"]["batch_size"] == 2 and record["machine"]["threads"] == 1
    for row in record["rows"]:
        assert row["case"] in shown and row["precision"] in shown
        assert row["images_per_second"] * row["milliseconds"] / 1e3 == pytest.approx(2)
    assert [row["share_of_attention"] for row in record["rows"] if row["case"] == "no attention"] == [0, 0]


def test_a_share_compares_the_steps_of_each_round_so_that_a_busy_moment_cancels(benchmark):
    found = benchmark.figures([2.0, 20.0, 2.0, 2.0, 4.0], [1.5, 15.0, 1.5, 1.5, 1.0], batch_size=4)
    assert found["share_of_attention"] == 0.25 and found["share_quartiles"] == [0.25, 0.25]
    assert found["milliseconds"] == 2000 and found["images_per_second"] == 2


@pytest.mark.parametrize("options", [["--steps", "1"], ["--warmup", "0"]])
def test_fewer_than_two_steps_after_one_are_refused(benchmark, capsys, options):
    with pytest.raises(SystemExit) as stopped:
        benchmark.main([*options, "--device", "cpu"])
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and "use at least two steps after one" in said and said.count("\n") == 1


def test_a_precision_that_does_not_exist_is_refused(benchmark, capsys):
    with pytest.raises(SystemExit) as stopped:
        benchmark.main(["--precision", "float32", "int8", "--device", "cpu"])
    assert stopped.value.code == 2 and "precision='int8' is unknown" in capsys.readouterr().err
