"""Tables: how a number is shown, and a DataFrame as Markdown, as aligned text, as LaTeX and as CSV.

Every table of every command goes through here, so a figure looks the same wherever it stands. Pages draw theirs with
the same ``cell`` and ``right_aligned`` (templates/parts.html).
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tabulate import tabulate

from sagan_base.typed import reading

# What two machines compute from one raw result differs beyond the tenth digit; what is written must not.
DIGITS = 6
FORMULA = re.compile(r"[=@\t\r]|[-+](?![\d.e-]*%?$)")  # for a spreadsheet; numbers, shares and "-" are none
STARTS_AS_A_NUMBER = re.compile(r"[-+<]?\d|[-–]$")
LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
        "<": r"$<$",
        ">": r"$>$",
        **{character: f"\\{character}" for character in "%&_#${}"},
    }
)


def cell(value: Any) -> str:
    """How a value is shown: integers whole, measured numbers with three or four digits, nothing as "-"."""
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return "-"
    if isinstance(value, (bool, np.bool_, str)):
        return str(value)
    if isinstance(value, (int, np.integer)):
        return f"{value:,}"
    size = abs(float(value))
    digits = 0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 1 or not size else 3 if size >= 0.1 else 4
    return f"{value:,.{digits}f}"


def signed(value: float) -> str:
    """As ``cell``, with a plus before what is above 0."""
    return ("+" if value > 0 else "") + cell(value)


def percent(log_ratio: float) -> str:
    """A difference of logarithms as a reader takes it: "-12%", "+340%"."""
    if pd.isna(log_ratio):
        return cell(None)
    value = round(100 * float(np.expm1(log_ratio)), 1) + 0.0  # no minus before 0
    return f"{value:+.{0 if abs(value) >= 10 else 1}f}%"


def spread(mean: float | None, deviation: float | None) -> str:
    """ "12.3 ± 0.4"; the mean alone where there is no deviation, "-" where there is neither."""
    return cell(mean) if pd.isna(mean) or pd.isna(deviation) else f"{cell(mean)} ± {cell(deviation)}"


def rounded(frame: pd.DataFrame) -> pd.DataFrame:
    """The same table with its measured numbers to ``DIGITS`` significant digits."""
    measured = frame.select_dtypes("float").columns
    return frame.assign(**{name: [float(f"{value:.{DIGITS}g}") for value in frame[name]] for name in measured})


def csv(frame: pd.DataFrame) -> str:
    """Plain CSV of ``rounded`` numbers, for programs: nothing is shortened or grouped further.

    A spreadsheet would compute a text such as "=1+1": it gets a ' before, which ``read_csv`` takes away.
    """
    plain = rounded(frame).rename(columns=_no_formula).map(_no_formula)
    return plain.to_csv(index=False, lineterminator="\n")


def _no_formula(value: Any) -> Any:
    return f"'{value}" if isinstance(value, str) and FORMULA.match(value) else value


def _as_it_was(value: Any) -> Any:
    quoted = isinstance(value, str) and value.startswith("'") and FORMULA.match(value[1:])
    return value[1:] if quoted else value


def read_csv(path: Path, words: Iterable[str], numbers: Iterable[str]) -> pd.DataFrame:
    """A table that ``csv`` wrote, with these columns of words and of numbers among its own.

    Raises:
        ValueError: names the file; it is missing, no table, or not with these columns.
    """
    with reading(path):
        frame = pd.read_csv(path, dtype=dict.fromkeys(words, str))
        if missing := [name for name in (*words, *numbers) if name not in frame]:
            raise ValueError(f"it has no column {missing[0]!r}")
        frame.astype(dict.fromkeys(numbers, float))  # complains of words
        return frame.map(_as_it_was)


def markdown(frame: pd.DataFrame) -> str:
    """A Markdown table."""
    return _tabulated(frame, "pipe")


def text(frame: pd.DataFrame) -> str:
    """A table for a terminal."""
    return _tabulated(frame, "simple")


def latex(frame: pd.DataFrame, caption: str) -> str:
    """A table as wide as a line of a paper, its first column the row's name; needs ``booktabs`` and ``graphicx``.

    No string of the table or the caption is taken for a command.
    """
    cells = pd.DataFrame([[latex_text(cell(value)) for value in line] for line in _lines(frame)])
    cells.columns = [latex_text(name) for name in frame.columns]
    tabular = cells.to_latex(index=False, escape=False, column_format="l" + "r" * (len(cells.columns) - 1))
    return (
        f"\\begin{{table}}\\centering\n\\resizebox{{\\linewidth}}{{!}}{{%\n{tabular.rstrip()}}}\n"
        f"\\caption{{{latex_text(caption)}}}\n\\end{{table}}\n"
    )


def latex_text(value: str) -> str:
    """Text as LaTeX sets it: in one line, nothing in it a command."""
    return " ".join(str(value).split()).translate(LATEX)


def right_aligned(frame: pd.DataFrame) -> list[bool]:
    """Which columns stand to the right: those whose every cell starts as a number does."""
    columns = zip(*([cell(value) for value in line] for line in _lines(frame)), strict=True)
    return [all(map(STARTS_AS_A_NUMBER.match, column)) for column in columns] or [False] * len(frame.columns)


def _tabulated(frame: pd.DataFrame, form: str) -> str:
    bar = r"\|" if form == "pipe" else "|"
    cells = [[" ".join(cell(value).split()).replace("|", bar) for value in line] for line in _lines(frame)]
    headers = [str(name).replace("|", bar) for name in frame.columns]
    sides = tuple("right" if right else "left" for right in right_aligned(frame))
    # Cells are text already: a parser of numbers would take the separators of thousands away again.
    return tabulate(cells, headers, tablefmt=form, disable_numparse=True, colalign=sides if cells else None)


def _lines(frame: pd.DataFrame):
    return frame.itertuples(index=False, name=None)
