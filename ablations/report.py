"""Turn the runs of an ablation into its report: one HTML page, and the table as CSV and LaTeX.

    python ablations/report.py runs/ablation              page and tables from these runs
    python ablations/report.py runs/ablation --collect ablations/results/digits     keep the small files only

Everything is computed anew from the run folders. Without a folder, the results in the repository are used.
"""

import os
import shutil
import sys
from pathlib import Path

from sagan_base.cli import Parser, command, shared_option, usage_errors, writable_folder

from ablations.forest import forest
from ablations.page import page
from ablations.paper import ASTERISK
from ablations.records import RESULT, Record, read_records
from ablations.schedule import PILOT
from ablations.summary import Summary, summarise
from sagan_base.files import atomic_write, write_text
from sagan_base.run_folder import CONFIG_FILE, METRICS_FILE, SAMPLES_FILE
from sagan_base.tables import csv, latex, markdown, text

SHIPPED = PILOT  # until the table's own runs are made
SMALL_FILES = (RESULT, CONFIG_FILE, METRICS_FILE, SAMPLES_FILE)
BEGIN, END = "<!-- ablation results: begin -->", "<!-- ablation results: end -->"
FILES = ("report.csv", "report.tex", "report.html", "forest.svg")
IN_TERMINAL = ("question", "answer", "difference", "seeds", "smallest shown")


@command()
def main(argv: list[str] | None = None) -> int:
    parser = Parser("python ablations/report.py", __doc__)
    parser.add_argument("runs", nargs="?", type=Path, metavar="RUNS", help="folder of runs (default: those in the "
                        "repository)")  # fmt: skip
    shared_option(parser, "--out", "where the report goes (default: the folder of runs)")
    parser.add_argument("--collect", type=Path, metavar="DIR", help="copy the runs' small files to DIR, and stop")
    options = parser.parse_args(argv)
    with usage_errors():
        if options.runs is None and not SHIPPED.is_dir():
            raise ValueError("no results lie beside this installation; give a folder of runs, the --out of run.py")
        runs = options.runs or SHIPPED
        records = checked_records(runs)
        out = options.collect or options.out or runs
        writable_folder("--collect" if options.collect else "--out", out)
    if options.collect:
        collect(records, out)
        print(f"{len(records)} runs collected in {out}")
        return 0
    with usage_errors():  # it reads the runs' logs
        summary = summarise(records)
    write_report(summary, out)
    print(text(summary.table))
    if len(summary.questions):
        print(f"\n{text(summary.questions[list(IN_TERMINAL)])}")
    print(f"\n{summary.note}\n\n{summary.setting}\n\nwritten: {', '.join(str(out / name) for name in FILES)}")
    return 0


def checked_records(runs: Path) -> list[Record]:
    """Raises ValueError where there is nothing to report, or settings are mixed."""
    if not runs.is_dir():
        raise ValueError(f"{runs} is no folder; give the --out of ablations/run.py")
    records, unfinished = read_records(runs)
    if unfinished:
        print(f"unfinished, not in the report: {', '.join(folder.name for folder in unfinished)}")
    if not records:
        raise ValueError(f"{runs} holds no finished run; give the --out of ablations/run.py")
    return records


def write_report(summary: Summary, out: Path) -> None:
    """The figures as rounded numbers for programs, the table for a paper, the page, and its first plot."""
    caption = f"{summary.setting}. {summary.note} {ASTERISK}"
    contents = (csv(summary.figures), latex(summary.table, caption), page(summary), forest(summary))
    for name, content in zip(FILES, contents, strict=True):
        if content:  # no plot where no row has a dense one beside it
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


def update_readme(readme: Path, summary: Summary, report: Path) -> None:
    """Replace the results section by the plot, the questions and the rows."""
    before, after = readme_parts(readme)
    folder = Path(os.path.relpath(report, readme.parent)).as_posix()
    pilot = "**A pilot: it shows the machinery and gives no verdict.** " * summary.pilot
    parts = [f"{BEGIN}\n{pilot}{summary.setting}."]
    if summary.differences:
        parts.append(f"![Differences to dense attention, with intervals]({folder}/forest.svg)")
    if len(summary.questions):
        parts.append(markdown(summary.questions[list(IN_TERMINAL)]))
    parts += [markdown(summary.table), f"{summary.note} \\{ASTERISK}"]
    write_text(readme, before + "\n\n".join(parts) + f"\n{END}" + after)


if __name__ == "__main__":
    sys.exit(main())
