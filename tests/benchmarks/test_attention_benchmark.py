"""The shipped figures of the attention benchmark can be drawn and tabulated again without measuring anything."""

import runpy
import shutil

import pytest
from PIL import Image


@pytest.fixture(scope="module")
def benchmark(repository):
    return runpy.run_path(str(repository / "benchmarks" / "attention.py"))


def test_a_stored_result_is_drawn_again(benchmark, repository, tmp_path, capsys):
    stored = repository / "benchmarks" / "results" / "attention-cpu.json"
    copy = shutil.copy(stored, tmp_path / "attention-cpu.json")
    benchmark["main"](["--redraw", str(copy)])
    with Image.open(tmp_path / "attention-cpu.png") as again, Image.open(stored.with_suffix(".png")) as shipped:
        assert again.size == shipped.size
    assert "ours (tiles)" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["{}", "[]", "no JSON", '{"rows": [{}], "device": "CPU"}'])
def test_a_file_that_holds_no_results_is_refused_by_name(benchmark, tmp_path, capsys, content):
    (tmp_path / "other.json").write_text(content)
    with pytest.raises(SystemExit) as stopped:
        benchmark["main"](["--redraw", str(tmp_path / "other.json")])
    said = capsys.readouterr().err
    assert stopped.value.code == 2 and "other.json holds no results" in said and said.count("\n") == 1


def test_a_missing_result_is_refused_by_name(benchmark, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        benchmark["main"](["--redraw", str(tmp_path / "none.json")])
    assert stopped.value.code == 2 and "none.json" in capsys.readouterr().err
