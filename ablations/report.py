"""Turn the runs of an ablation into its report: tables as CSV, Markdown and LaTeX, and one HTML page.

    python ablations/report.py runs/ablation              tables and page from these runs
    python ablations/report.py --readme README.md         also bring the README's results section up to date
    python ablations/report.py runs/ablation --collect ablations/results/digits     keep the small files only

Everything is computed anew from the run folders. Without a folder, the shipped results are used.
"""

import argparse
import shutil
import sys
from pathlib import Path

import pandas as pd

from ablations.bootstrap import FEATURES
from ablations.page import page, setting_text, table_note
from ablations.published import ASTERISK
from ablations.questions import QUESTIONS, answers
from ablations.records import RESULT, Record, read_records
from ablations.rows import PAPER_ROWS, ROWS
from ablations.summary import compare, dense_pairs, readable, summarise
from ablations.table import markdown
from sagan_base.cli import usage_errors, writable_folder
from sagan_base.files import atomic_write

SHIPPED = Path(__file__).resolve().parent / "results" / "digits"
SMALL_FILES = (RESULT, "config.json", "initial.json", "metrics.jsonl", "samples.png", FEATURES)
BEGIN, END = "<!-- ablation results: begin -->", "<!-- ablation results: end -->"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "runs", nargs="?", type=Path, default=SHIPPED, help="folder of runs (default: the shipped ones)"
    )
    parser.add_argument("--out", type=Path, help="where the report goes (default: the folder of runs)")
    parser.add_argument("--baseline", default="sagan", help="the row that others are compared with (default: sagan)")
    parser.add_argument("--resamples", type=int, default=500, help="bootstrap resamples (default: 500)")
    parser.add_argument("--readme", type=Path, help="file whose section between the two markers is replaced")
    parser.add_argument("--collect", type=Path, metavar="DIR", help="copy the runs' small files to DIR, and stop")
    options = parser.parse_args(argv)
    with usage_errors():
        records = checked_records(options.runs, options.baseline, options.resamples)
        if options.readme:
            readme_parts(options.readme)
        out = options.collect or options.out or options.runs
        writable_folder("--collect" if options.collect else "--out", out)
    if options.collect:
        collect(records, out)
        print(f"{len(records)} runs collected in {out}")
        return 0
    dense = dense_pairs(records, options.baseline)
    pairs = dense + [pair for question in QUESTIONS for pair in question.pairs]
    found = compare(records, pairs, options.resamples, progress=sys.stderr.isatty())
    compared = {row: (other, found[row, other]) for row, other in dense if (row, other) in found}
    answered = answers(records, found)
    summary = summarise(records, compared)
    first = records[0]
    text = readable(summary, first.distance_key, first.score_key)
    write_report(out, summary, text, answered, page(records, text, compared, answered), records)
    if options.readme:
        update_readme(options.readme, records, text)
        print(f"updated: {options.readme}")
    print(markdown(text[[column for column in text.columns if column not in ("gain sizes", "file MB", "images/s")]]))
    print(f"\n{setting_text(records)}\n\nwritten: {', '.join(str(out / name) for name in FILES)}")
    return 0


def checked_records(runs: Path, baseline: str, resamples: int) -> list[Record]:
    """Raises ValueError where there is nothing to report, or settings are mixed."""
    if not runs.is_dir():
        raise ValueError(f"{runs} is no folder; give the --out of ablations/run.py")
    if baseline not in ROWS:
        raise ValueError(f"no row is called {baseline!r}; the rows are {', '.join(ROWS)}")
    if resamples < 100:
        raise ValueError(f"--resamples {resamples} is too few for a 95% interval; give 100 or more")
    records, unfinished = read_records(runs)
    if unfinished:
        print(f"unfinished, not in the report: {', '.join(folder.name for folder in unfinished)}")
    if not records:
        raise ValueError(f"{runs} holds no finished run; give the --out of ablations/run.py")
    return records


FILES = ("report.csv", "report.md", "report.tex", "report.html", "questions.csv")


def write_report(
    out: Path, summary: pd.DataFrame, text: pd.DataFrame, answered: pd.DataFrame, html: str, records: list[Record]
) -> None:
    """The CSV files in full precision; ``report.md``, ``report.tex`` and ``report.html`` for reading."""
    caption = table_note(records, text.columns).replace("* not", r"\* not")
    contents = (
        summary.to_csv(index=False),
        f"{markdown(text)}\n\n{setting_text(records)}.\n\n{caption}\n",
        latex(text, records),
        html,
        answered.to_csv(index=False),
    )
    for name, content in zip(FILES, contents, strict=True):
        with atomic_write(out / name) as path:
            path.write_text(content, encoding="utf-8")


def latex(text: pd.DataFrame, records: list[Record]) -> str:
    """A booktabs table for a paper; needs ``\\usepackage{booktabs,graphicx}``."""
    columns = [c for c in text.columns if c not in ("gain sizes", "parameters", "file MB", "minutes", "images/s")]
    lines = [" & ".join(_escape(column) for column in columns)]
    lines += [" & ".join(_escape(str(value)) for value in line) for line in text[columns].itertuples(index=False)]
    rows = [f"{line} \\\\" for line in lines]
    return "\n".join(
        [
            f"% {setting_text(records)}",
            r"\begin{table}\centering",
            r"\resizebox{\linewidth}{!}{%",
            rf"\begin{{tabular}}{{l{'r' * (len(columns) - 1)}}}",
            r"\toprule",
            rows[0],
            r"\midrule",
            *rows[1:],
            r"\bottomrule",
            r"\end{tabular}}",
            rf"\caption{{{_escape(setting_text(records))}. {_escape(table_note(records, columns))}}}",
            r"\end{table}",
            "",
        ]
    )


def _escape(text: str) -> str:
    for plain, command in (("\\", r"\textbackslash "), ("%", r"\%"), ("&", r"\&"), ("_", r"\_"), ("#", r"\#")):
        text = text.replace(plain, command)
    return text.replace("±", r"$\pm$").replace("Fréchet", r"Fr\'echet")


def collect(records: list[Record], to: Path) -> None:
    """Copy what a report needs of each run: everything but checkpoints, models and event files."""
    for record in records:
        for name in SMALL_FILES:
            source = record.folder / name
            if source.is_file():
                with atomic_write(to / record.folder.name / name) as path:
                    shutil.copyfile(source, path)


def readme_parts(readme: Path) -> tuple[str, str]:
    """The text before and after the results section.

    Raises:
        ValueError: the file does not hold both markers, once and in order.
    """
    text = readme.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ValueError(f"{readme} must hold the lines {BEGIN} and {END} once each, in this order")
    return text[: text.index(BEGIN)], text[text.index(END) + len(END) :]


def _what_is(distance_key: str) -> str:
    if distance_key == "FID":
        return "FID is that of Inception's features, as in the paper."
    features = distance_key.removeprefix("FD (").removesuffix(")")
    return f"{distance_key} is the Fréchet distance in features of the {features}: not the paper's FID."


def update_readme(readme: Path, records: list[Record], text: pd.DataFrame) -> None:
    before, after = readme_parts(readme)
    columns = [
        c for c in text.columns if c not in ("best @ step", "attention off", "gain sizes", "file MB", "images/s")
    ]
    first = records[0]
    in_paper = text["row"].isin([row.title for row in PAPER_ROWS])
    shown = text[in_paper] if in_paper.any() else text
    section = [
        BEGIN,
        f"{setting_text(records)}. {_what_is(first.distance_key)}",
        "",
        markdown(shown[columns]),
        "",
        "Mean ± sample standard deviation over n seeds; intervals by a paired bootstrap over seeds and samples, "
        "widened to Student's t over the seeds. " + ASTERISK,
        *["", f"Further rows in the report: {len(text) - len(shown)}."] * (len(shown) < len(text)),
        END,
    ]
    with atomic_write(readme) as path:
        path.write_text(before + "\n".join(section) + after, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
