"""RESULTS.md says what the raw results say."""

import runpy

import pytest

from ablations.report import FILES
from sagan_base.models import model_names
from sagan_base.tables import csv, markdown


@pytest.fixture(scope="module")
def results(repository):
    return runpy.run_path(str(repository / "results.py"))


@pytest.fixture(scope="module")
def summaries(results):
    return results["read_summaries"]()


@pytest.fixture(scope="module")
def page(results, summaries) -> str:
    """The text, made once: its bootstraps take seconds."""
    return results["page"](summaries)


def test_the_page_is_up_to_date(page, repository):
    assert page == (repository / "RESULTS.md").read_text(encoding="utf-8"), "RESULTS.md is stale: run make results"


def test_a_stale_page_is_noticed_and_left_alone(results, summaries, page, tmp_path, monkeypatch, capsys):
    stale = tmp_path / "RESULTS.md"
    stale.write_text("# Results\n\nFID 1.0\n")
    monkeypatch.setitem(results["page"].__globals__, "PAGE", stale)
    monkeypatch.setitem(results["page"].__globals__, "read_summaries", lambda: summaries)
    assert results["main"](["--check"]) == 1
    assert "is stale: run make results" in capsys.readouterr().out
    assert stale.read_text() == "# Results\n\nFID 1.0\n"
    stale.write_text(page)
    assert results["main"](["--check"]) == 0


def test_what_every_shipped_ablation_shows_is_what_its_runs_give_to_the_byte(summaries, repository):
    """On any machine: figures are rounded before they are written."""
    for folder, summary in summaries.items():
        assert csv(summary.figures) == (repository / folder / FILES[0]).read_text(encoding="utf-8")
        assert markdown(summary.table) in (repository / "RESULTS.md").read_text(encoding="utf-8")


def test_every_model_that_ships_is_on_the_page_with_its_figures(page):
    for name in model_names():
        assert f"### {name}\n" in page and f"(sagan_base/shipped/{name}.png)" in page
