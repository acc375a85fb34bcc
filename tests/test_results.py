"""RESULTS.md says what the raw results say."""

import math
import runpy

import pandas as pd
import pytest

from ablations.records import read_records
from ablations.summary import summarise
from sagan_base.models import model_names


@pytest.fixture(scope="module")
def results(repository):
    return runpy.run_path(str(repository / "results.py"))


def test_the_page_is_up_to_date(results, repository):
    stored = (repository / "RESULTS.md").read_text(encoding="utf-8")
    assert results["page"]() == stored, "RESULTS.md is stale: run make results"


def test_a_stale_page_is_noticed_and_left_alone(results, tmp_path, monkeypatch, capsys):
    stale = tmp_path / "RESULTS.md"
    stale.write_text("# Results\n\nFID 1.0\n")
    monkeypatch.setitem(results["main"].__globals__, "PAGE", stale)
    assert results["main"](["--check"]) == 1
    assert "is stale: run make results" in capsys.readouterr().out
    assert stale.read_text() == "# Results\n\nFID 1.0\n"
    assert results["main"]([]) == 0
    assert results["main"](["--check"]) == 0


def test_the_tables_of_every_shipped_ablation_are_those_of_its_runs(repository):
    folders = [path.parent for path in (repository / "ablations" / "results").glob("*/report.csv")]
    assert folders
    for folder in folders:
        records, unfinished = read_records(folder)
        assert not unfinished
        computed = summarise(records, {}).set_index("row")
        stored = pd.read_csv(folder / "report.csv").set_index("row")
        assert list(stored.index) == list(computed.index)
        numbers = computed.select_dtypes("number").columns.difference(
            ["difference", "difference low", "difference high"]
        )
        for row in stored.index:
            for name in numbers:
                here, there = float(computed.loc[row, name]), float(stored.loc[row, name])
                assert math.isclose(here, there, rel_tol=1e-9) or (math.isnan(here) and math.isnan(there)), (row, name)


def test_every_model_that_ships_is_on_the_page_with_its_figures(results):
    text = results["page"]()
    for name in model_names():
        assert f"### {name}\n" in text and f"(sagan_base/shipped/{name}.png)" in text
