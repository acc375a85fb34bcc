"""The benchmark of attention: every way to run it gives the right result, and the fastest way of each peer is named."""

import copy
import importlib
import json

import numpy as np
import pytest
import torch
from PIL import Image

OURS, MASKED, DENSE, ONE_HEAD = KINDS = ["ours", "same masks", "dense heads", "one dense head"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def rows(benchmark):
    case = benchmark.Case(8, 2, ("ltr_rtl", "butterfly"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(benchmark.CASES, "small", case)
        methods = importlib.import_module("methods")
        patch.setattr(methods, "sparse_attention", without_flex(methods.sparse_attention))
        return benchmark.measure("small", case, CPU, rounds=3, budget=1, limit=60, memory=1e9)


def without_flex(attend):
    def run(*inputs, backend):
        if backend == "flex":
            raise RuntimeError("no compiler\nand more lines")
        return attend(*inputs, backend=backend)

    return run


def test_every_way_is_measured_against_ours(benchmark, rows):
    measured = [row for row in rows if "left_out" not in row]
    assert {row["kind"] for row in measured} == set(KINDS) and len(measured) == 15
    assert all(row["error"] < 1e-5 and row["gradient_error"] < 1e-5 and row["both_rounds"] == 3 for row in measured)
    assert measured[0]["both_ratio"] == (1, 1, 1) and measured[0]["method"] == "ours (tiles), ltr_rtl"


def test_what_does_not_run_here_is_left_out_with_its_reason_in_a_line(rows):
    (flex,) = (row for row in rows if row["method"].startswith("Flex"))
    assert flex["left_out"] == "does not run here: no compiler"


def test_of_every_peer_the_fastest_way_is_named(benchmark, rows):
    rows = copy.deepcopy(rows)
    for number, row in enumerate(rows):
        row["both_ratio"] = (1, 2 if row["method"] == "SDPA, padded, mask to add" else 10 + number, 100)
    lines = benchmark.summary(rows)
    assert [line["what"] for line in lines] == [OURS, *KINDS]
    masked = lines[2]
    assert masked["fastest way"] == "SDPA, padded, mask to add" and masked["times ours"] == 2
    assert masked["kept MB"] == pytest.approx(4 * 8 * 64 * 16 / 1e6)


def test_a_method_that_needs_too_much_memory_is_left_out_by_arithmetic(benchmark, capsys):
    case = benchmark.CASES["grid-256"]
    needs = {way.name: way.needs for way in benchmark.candidates(case, CPU) if way.kind == MASKED}
    entries = 8 * 256**2 * 128**2
    assert needs["SDPA, padded, mask of 4 axes"] == 5 * entries  # of bool, and as numbers
    assert needs["SDPA, unpadded, mask of 3 axes"] == 13 * entries
    rows = benchmark.measure("grid-16", benchmark.CASES["grid-16"], CPU, rounds=1, budget=1, limit=60, memory=0)
    assert [row["method"] for row in rows if "both_ms" in row and row["kind"] != OURS] == ["SDPA, padded"] * 2
    assert "would need 0 GB" in benchmark.table(rows)


def test_a_method_that_takes_too_long_is_left_out(benchmark):
    rows = benchmark.measure("small", benchmark.Case(8, 1), CPU, rounds=1, budget=1, limit=0, memory=1e9)
    assert {row["kind"] for row in rows if "both_ms" in row} == {OURS}
    assert all(row["left_out"].endswith(" s a call") for row in rows if row["kind"] != OURS)


def test_what_an_earlier_case_predicts_to_take_too_long_is_not_run(benchmark, rows, monkeypatch):
    before = [dict(row, both_ms=(1e3, 1e3, 1e3)) for row in rows if row["kind"] != OURS and "both_ms" in row]
    for row in before:
        if row["method"] == "keys gathered by query":
            row["both_ms"] = (1, 1, 1)
    monkeypatch.setattr(importlib.import_module("methods"), "sdpa", lambda *_: pytest.fail("it was run"))
    case = benchmark.Case(8, 8, ("ltr_rtl",))  # four times the images
    found = benchmark.measure("more", case, CPU, rounds=1, budget=1, limit=3, memory=1e9, before=before)
    assert all(row["left_out"] == "predicted 4 s a call, not run" for row in found if row["method"].startswith("SDPA"))
    monkeypatch.undo()
    masked = [row for row in benchmark.measure("more", case, CPU, 1, 1, 60, 1e9, before) if row["kind"] == MASKED]
    assert [row["method"] for row in masked if "both_ms" in row] == ["keys gathered by query"]  # others are hopeless


def test_a_wrong_result_stops_the_benchmark(benchmark, monkeypatch):
    wrong = lambda padded, mask=None: lambda q, k, v: 1.01 * v.mean() + 0 * q @ k.mT @ v  # noqa: E731
    monkeypatch.setattr(importlib.import_module("methods"), "sdpa", wrong)
    with pytest.raises(AssertionError, match="SDPA, padded, mask of 4 axes is wrong by"):
        benchmark.measure("grid-16", benchmark.Case(8, 1), CPU, rounds=1, budget=1, limit=60, memory=1e9)


def test_a_neighbourhood_is_the_nearest_square_of_cells(benchmark):
    mask = importlib.import_module("cases").neighbourhood(9).toarray().reshape(9, 9, 9, 9)
    assert (mask.sum((2, 3)) == 49).all()
    assert mask[4, 5, 1:8, 2:9].all() and mask[0, 8, :7, 2:].all()
    assert np.array_equal(mask, mask.transpose(1, 0, 3, 2))


def test_the_command_prints_and_stores_what_it_measured(benchmark, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(benchmark.CASES, "small", benchmark.Case(8, 1))
    options = ["--device", "cpu", "--rounds", "1", "--memory", "0.00001", "--out", str(tmp_path)]
    assert benchmark.main(["--cases", "small", *options]) == 0
    record, shown = json.loads((tmp_path / "attention-cpu.json").read_text()), capsys.readouterr().out
    assert record["device"].startswith("CPU, 1 thread, ") and {"versions", "git", "machine", "command"} <= record.keys()
    assert [line["what"] for line in record["summary"]] == KINDS
    assert all(line["fastest way"] in shown for line in record["summary"]) and "ours (tiles), ltr_rtl" in shown


def test_a_stored_result_is_drawn_again(benchmark, rows, tmp_path, capsys):
    stored = {"device": "CPU", "rows": [dict(row, case="grid-32", grid=32) for row in rows]}
    stored["rows"] += [dict(row, case="grid-64", grid=64) for row in rows]
    benchmark.write(stored, tmp_path / "attention-cpu")
    before = (tmp_path / "attention-cpu.json").read_text()
    (tmp_path / "attention-cpu.png").unlink()
    benchmark.main(["--redraw", str(tmp_path / "attention-cpu.json")])
    with Image.open(tmp_path / "attention-cpu.png") as again:
        assert again.size[0] > again.size[1] > 400
    assert (tmp_path / "attention-cpu.json").read_text() == before and "ours (tiles)" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["{}", "[]", "no JSON", "[" * 10**5, '{"rows": [{}]}', '{"rows": 5}'])
def test_a_file_that_holds_no_results_is_refused_by_name(benchmark, tmp_path, capsys, content):
    (tmp_path / "other.json").write_text(content)
    with pytest.raises(SystemExit) as stopped:
        benchmark.main(["--redraw", str(tmp_path / "other.json")])
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and "other.json is damaged, or no file" in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--redraw", "none.json"], "none.json"),
        (["--cases", "grid-33"], "unknown case 'grid-33'; use some of grid-16, "),
        (["--rounds", "0"], "--rounds 0 --seconds 2 --limit 25 --memory 6: each must be above 0"),
        (["--rounds", "many"], "argument --rounds: invalid int value"),
    ],
)
def test_a_mistake_is_one_line(benchmark, capsys, options, words):
    with pytest.raises(SystemExit) as stopped:
        benchmark.main(options)
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and words in said and said.count("\n") == 1
