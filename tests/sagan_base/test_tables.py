"""Tables read back as they were written, whatever their strings hold."""

import io
import re

import numpy as np
import pandas as pd
import pytest

from sagan_base.tables import cell, csv, latex, markdown, read_csv, right_aligned, rounded, spread, text


@pytest.mark.parametrize(
    ("value", "shown"),
    [(1797, "1,797"), (12.345, "12.35"), (257.12, "257.1"), (0.123456, "0.123"), (0.01234, "0.0123"), (None, "-"),
     (float("nan"), "-"), (-0.5, "-0.500"), ("16.64*", "16.64*"), (1.0, "1.00"), (0.0, "0.00"), (True, "True"),
     (np.int64(1797), "1,797"), (np.float32(0.5), "0.500"), (np.float64("nan"), "-"), (12345.6, "12,346")],
)  # fmt: skip
def test_numbers_are_shown_with_about_four_significant_digits(value, shown):
    assert cell(value) == shown


def test_a_spread_is_shown_where_there_is_one():
    assert spread(12.34, 0.4321) == "12.34 ± 0.432"
    assert spread(12.34, float("nan")) == "12.34" and spread(None, None) == "-"


def test_a_markdown_table_reads_back_as_it_was_written():
    table = markdown(pd.DataFrame({"row": ["a", "b"], "value": [1.5, 20.25]}))
    lines = [line.strip("| ") for line in table.splitlines()]
    back = pd.read_csv(io.StringIO("\n".join(lines[:1] + lines[2:])), sep=r"\s*\|\s*", engine="python")
    assert back.to_dict("list") == {"row": ["a", "b"], "value": [1.5, 20.25]}


@pytest.mark.parametrize("bad", ["a|b", "a\nb", "a\n\n# b", "|"])
def test_no_string_breaks_out_of_its_cell(bad):
    frame = pd.DataFrame({"row": [bad, "plain"], bad: ["x", bad]})
    lines = markdown(frame).splitlines() if "\n" not in bad else markdown(frame.rename(columns={bad: "c"})).splitlines()
    assert len(lines) == 4
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {3}
    assert len(text(frame[["row"]]).splitlines()) == 4


@pytest.mark.parametrize("word", ['=HYPERLINK("http://e.x")', "@SUM(1+1)", "+1+cmd|' /C calc'!A0", "-x", "\t=1"])
def test_no_string_is_a_formula_for_a_spreadsheet_and_reads_back_as_it_was(word, tmp_path):
    frame = pd.DataFrame({"row": [word, "'plain"], "n": [-1, 2], "share": ["-12%", "-"], "x": [-1e-9, 1.5]})
    (tmp_path / "t.csv").write_text(csv(frame))
    plain = pd.read_csv(tmp_path / "t.csv")
    assert plain["row"].tolist() == ["'" + word, "'plain"]
    assert plain.drop(columns="row").equals(frame.drop(columns="row"))
    assert read_csv(tmp_path / "t.csv", ["row"], ["n", "x"]).equals(frame)
    assert csv(frame.rename(columns={"n": word})).splitlines()[0].count("'" + word[0]) == 1


def test_a_table_without_lines_is_its_head():
    frame = pd.DataFrame(columns=["row", "value"])
    assert len(markdown(frame).splitlines()) == 2 and "row" in text(frame)
    assert right_aligned(frame) == [False, False]


def test_columns_of_numbers_stand_to_the_right_also_where_they_are_text():
    frame = pd.DataFrame(
        {"name": ["a", "2b"], "mean": ["1.5 ± 0.1", "-"], "paper": ["16.64*", "+3"], "by": ["-", "x"], "n": [1, 2]}
    )
    assert right_aligned(frame) == [False, True, True, False, True]


def test_figures_are_rounded_before_they_are_written_so_that_the_last_digits_of_a_machine_do_not_show():
    here, there = 1.2345678901234, 1.2345678901299
    frames = [
        pd.DataFrame({"row": ["a"], "n": [1234567], "x": [value], "y": [1e-9 * value]}) for value in (here, there)
    ]
    assert csv(frames[0]) == csv(frames[1]) == "row,n,x,y\na,1234567,1.23457,1.23457e-09\n"
    assert rounded(rounded(frames[0])).equals(rounded(frames[0]))
    assert np.isnan(rounded(pd.DataFrame({"x": [float("nan")]}))["x"][0])


NASTY = "\\input{/etc/passwd} 100% a_b #1 $x$ {~^} & \n\n<é>"


def test_no_string_is_a_command_in_latex():
    table = latex(pd.DataFrame({"row": [NASTY], NASTY: ["1 ± 2"]}), NASTY)
    commands = set(re.findall(r"\\[a-zA-Z]+", table))
    assert commands == {
        r"\begin", r"\end", r"\centering", r"\resizebox", r"\linewidth", r"\toprule", r"\midrule", r"\bottomrule",
        r"\caption", r"\textbackslash", r"\textasciitilde", r"\textasciicircum", r"\pm",
    }  # fmt: skip
    plain = re.sub(r"\\.", "", table)
    assert plain.count("{") == plain.count("}") and plain.count("$") == 2 * (3 * 2 + 1)
    assert "%" not in plain.replace("{%\n", "") and "#" not in plain and "_" not in plain
    assert "\n\n" not in table and r"1 $\pm$ 2 \\" in table
