"""Turn the runs of an ablation into its report: one HTML page, and the table as CSV and LaTeX.

    python ablations/report.py runs/ablation              page and tables from these runs
    python ablations/report.py --readme README.md         also bring the README's results section up to date
    python ablations/report.py runs/ablation --collect ablations/results/digits     keep the small files only

Everything is computed anew from the run folders. Without a folder, the results in the repository are used.
"""

import shutil
import sys
from pathlib import Path

from ablations.bootstrap import FEATURES
from ablations.page import page
from ablations.paper import ASTERISK
from ablations.records import RESULT, Record, read_records
from ablations.rows import PAPER_ROWS, ROWS
from ablations.summary import MAPS, Summary, summarise
from sagan_base.cli import Parser, command, usage_errors, writable_folder
from sagan_base.files import atomic_write, write_text
from sagan_base.run_folder import CONFIG_FILE, METRICS_FILE, SAMPLES_FILE
from sagan_base.tables import csv, latex, markdown, text

SHIPPED = Path(__file__).resolve().parent / "results" / "digits"
SMALL_FILES = (RESULT, CONFIG_FILE, "initial.json", METRICS_FILE, SAMPLES_FILE, FEATURES)
BEGIN, END = "<!-- ablation results: begin -->", "<!-- ablation results: end -->"
# Columns that the page and the CSV have, and a narrower place has not.
NOT_IN_LATEX = ("gain sizes", "parameters", "file MB", "minutes", "images/s")
NOT_IN_README = (*MAPS, "best @ step", "attention off", "gain sizes", "file MB", "images/s")
NOT_IN_TERMINAL = (*MAPS, "best @ step", "paper IS", *NOT_IN_LATEX, "attention off")


@command()
def main(argv: list[str] | None = None) -> int:
    parser = Parser("python ablations/report.py", __doc__)
    parser.add_argument("runs", nargs="?", type=Path, help="folder of runs (default: those in the repository)")
    parser.add_argument("--out", type=Path, help="where the report goes (default: the folder of runs)")
    parser.add_argument("--baseline", default="sagan", help="the row that others are compared with (default: sagan)")
    parser.add_argument("--resamples", type=int, default=500, help="bootstrap resamples (default: 500)")
    parser.add_argument("--readme", type=Path, help="file whose section between the two markers is replaced")
    parser.add_argument("--collect", type=Path, metavar="DIR", help="copy the runs' small files to DIR, and stop")
    options = parser.parse_args(argv)
    with usage_errors():
        if options.runs is None and not SHIPPED.is_dir():
            raise ValueError("no results lie beside this installation; give a folder of runs, the --out of run.py")
        runs = options.runs or SHIPPED
        records = checked_records(runs, options.baseline, options.resamples)
        if options.readme:
            readme_parts(options.readme)
        out = options.collect or options.out or runs
        writable_folder("--collect" if options.collect else "--out", out)
    if options.collect:
        collect(records, out)
        print(f"{len(records)} runs collected in {out}")
        return 0
    summary = summarise(records, options.baseline, options.resamples)
    write_report(summary, out)
    if options.readme:
        update_readme(options.readme, summary)
        print(f"updated: {options.readme}")
    print(text(summary.table.drop(columns=list(NOT_IN_TERMINAL), errors="ignore")))
    print(f"\n{summary.setting}\n\nwritten: {', '.join(str(out / name) for name in FILES)}")
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


FILES = ("report.csv", "report.tex", "report.html")


def write_report(summary: Summary, out: Path) -> None:
    """The figures as rounded numbers for programs, the table for a paper, and the page."""
    table = summary.table.drop(columns=list(NOT_IN_LATEX))
    caption = f"{summary.setting}. {summary.note(list(table))}"
    for name, content in zip(FILES, (csv(summary.figures), latex(table, caption), page(summary)), strict=True):
        write_text(out / name, content)


def collect(records: list[Record], to: Path) -> None:
    """Copy what a report needs of each run: everything but checkpoints, models and event files."""
    for record in records:
        for name in SMALL_FILES:
            if (source := record.file(name)) is not None:
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


def update_readme(readme: Path, summary: Summary) -> None:
    """Replace the results section: the paper's rows, or all where none of those was run."""
    before, after = readme_parts(readme)
    table = summary.table.drop(columns=list(NOT_IN_README), errors="ignore")
    in_paper = table["row"].isin([row.title for row in PAPER_ROWS])
    shown = table[in_paper] if in_paper.any() else table
    key = summary.records[0].distance_key
    what = (
        "FID is that of Inception's features, as in the paper."
        if key == "FID"
        else f"{key} is the Fréchet distance in features of the {key[4:-1]}: not the paper's FID."
    )
    parts = [
        f"{BEGIN}\n{summary.setting}. {what}",
        markdown(shown),
        "Mean ± sample standard deviation over n seeds; intervals by a paired bootstrap over seeds and samples, "
        f"widened to Student's t over the seeds. \\{ASTERISK}",
        *[f"Further rows in the report: {len(table) - len(shown)}."] * (len(shown) < len(table)),
    ]
    write_text(readme, before + "\n\n".join(parts) + f"\n{END}" + after)


if __name__ == "__main__":
    sys.exit(main())
