"""The table against numbers worked by hand."""

import pandas as pd
import pytest

from ablations.records import read_records
from ablations.summary import summarise
from ablations.table import run_table, write_table

DISTANCE, SCORE = "FD (digits classifier)", "IS-style (digits classifier)"


def test_the_table_has_one_line_a_run_with_the_published_figures_beside_it(canned_run, tmp_path):
    canned_run("ylg_strided", distance=4.5, score=6.25, curve=((500, 3.5), (1000, 4.0)))
    canned_run("ylg", distance=3.0)
    canned_run("sagan", distance=5.0)
    records, unfinished = read_records(tmp_path)
    write_table(records, unfinished, tmp_path)
    table = pd.read_csv(tmp_path / "table.csv")
    assert table["row"].tolist() == ["SAGAN", "YLG-SAGAN", "YLG, strided"]  # the paper's order
    assert table[DISTANCE].tolist() == [5.0, 3.0, 4.5]
    assert table["heads"].tolist() == [1, 8, 8]
    assert table["order"].tolist() == ["-", "manhattan", "manhattan"]
    assert table["pattern"].tolist() == ["dense", "ltr_rtl", "strided_original"]
    assert table["paper FID"].tolist() == ["18.65", "15.94", "16.64*"]  # the asterisk: unconfirmed
    assert table["paper IS"].tolist() == ["52.52", "57.22", "55.21*"]
    assert table[f"best {DISTANCE}"].tolist() == [5.0, 3.0, 3.5]
    assert table["best at step"].tolist() == [1000, 1000, 500]
    assert table["parameters"].tolist() == [100_000] * 3
    assert table["file MB"].tolist() == [0.42] * 3
    assert table["minutes"].tolist() == [1.5] * 3


def test_a_row_that_repeats_nothing_published_shows_a_dash(canned_run):
    table = run_table([canned_run("ylg_pool")])
    assert table["paper FID"].tolist() == ["-"] and table["paper IS"].tolist() == ["-"]


def test_means_deviations_and_counts_over_seeds_are_those_worked_by_hand(canned_run, tmp_path):
    for seed, (distance, score, accuracy, best) in enumerate(
        [(4.0, 5.0, 0.9, 600), (7.0, 6.0, 0.8, 200), (10.0, 7.0, 1.0, 400)]
    ):
        canned_run("ylg", seed, distance, score, accuracy, curve=((best, distance - 1), (1000, distance)))
    canned_run("sagan", 0, 8.0)
    summary = summarise(read_records(tmp_path)[0]).figures.set_index("row")
    ylg = summary.loc["ylg"]
    assert (ylg["n"], ylg[DISTANCE], ylg[f"{DISTANCE} sd"]) == (3, 7.0, 3.0)  # squares 9 + 0 + 9, over n - 1 = 2
    assert (ylg[SCORE], ylg[f"{SCORE} sd"]) == (6.0, 1.0)
    assert ylg["class accuracy (SVM)"] == pytest.approx(0.9) and ylg["class accuracy (SVM) sd"] == pytest.approx(0.1)
    assert (ylg[f"best {DISTANCE}"], ylg["best at step"]) == (6.0, 400)
    assert summary.loc["sagan"]["n"] == 1 and pd.isna(summary.loc["sagan"][f"{DISTANCE} sd"])


def test_unfinished_runs_are_named_below_the_table(canned_run, tmp_path):
    canned_run("sagan")
    (tmp_path / "ylg-seed0").mkdir()
    (tmp_path / "ylg-seed0" / "config.json").write_text("{}")
    records, unfinished = read_records(tmp_path)
    write_table(records, unfinished, tmp_path)
    assert "Unfinished: ylg-seed0." in (tmp_path / "table.md").read_text()
