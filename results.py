"""Write the results of this repository anew: each ablation's report, the README's section, and RESULTS.md.

    python results.py            after raw results were added or changed
    python results.py --check    exit code 1 where RESULTS.md is not what the raw results say

Nothing is trained or measured here, and no figure is typed in: models come from their cards, the ablation from
ablations/results, inversions from analysis/results, speeds from benchmarks/results. docs/RESULTS.md.jinja is the text.
"""

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sagan_base.cli import Parser, command, usage_errors

import pandas as pd
from jinja2 import FileSystemLoader

from ablations import probes, screening
from ablations.paper import ASTERISK
from ablations.records import RESULT, read_records
from ablations.report import IN_TERMINAL, SHIPPED, update_readme, write_report
from ablations.summary import Summary, summarise
from ablations.table import anchor_table
from analysis.inversion.comparison import read_comparison
from analysis.inversion.table import read_rows
from analysis.inversion.table import summaries as inversion_summaries
from sagan_base.files import write_text
from sagan_base.models import model_card, model_names
from sagan_base.pages import environment
from sagan_base.provenance import Machine
from sagan_base.tables import cell
from sagan_base.typed import read_json, read_typed, reading

ROOT = Path(__file__).resolve().parent
PAGE = ROOT / "RESULTS.md"
MEASURED = ROOT / "ablations" / "results"  # of the repository, whichever package is installed


@command()
def main(argv: list[str] | None = None) -> int:
    parser = Parser("python results.py", __doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where RESULTS.md is stale")
    options = parser.parse_args(argv)
    with usage_errors():
        summaries = read_summaries()
        text = page(summaries)
    if options.check:
        fresh = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text
        print("RESULTS.md is up to date" if fresh else "RESULTS.md is stale: run make results")
        return 0 if fresh else 1
    for folder, summary in summaries.items():
        write_report(summary, ROOT / folder)
    if shown := summaries.get(SHIPPED.relative_to(ROOT).as_posix()):
        update_readme(ROOT / "README.md", shown, SHIPPED)
    write_text(PAGE, text)
    print(f"written: README.md, {', '.join([PAGE.name, *summaries])}")
    return 0


def read_summaries() -> dict[str, Summary]:
    """Folder -> what its runs show, for every folder of runs in the repository."""
    folders = sorted({path.parents[1] for path in (ROOT / "ablations" / "results").glob(f"*/*/{RESULT}")})
    return {path.relative_to(ROOT).as_posix(): summarise(read_records(path)[0]) for path in folders}


def page(summaries: dict[str, Summary]) -> str:
    """The whole text of RESULTS.md."""
    speeds = {kind: read_speeds(kind) for kind in ("attention", "masks", "training")}
    screened = screening.read_table(MEASURED / "screening.csv")
    return (
        environment(FileSystemLoader(ROOT / "docs"))
        .get_template("RESULTS.md.jinja")
        .render(
            cards=[model_card(name) for name in model_names()],
            ablations=summaries,
            questions=list(IN_TERMINAL),
            held_out=held_out_figures(),
            curves=[name for name in model_names() if (ROOT / "analysis" / "results" / f"curves_{name}.png").is_file()],
            attention_of_models=attention_of_models(),
            anchors=anchor_table(),
            asterisk=ASTERISK,
            health=screening.health(screened),
            finalists=screening.finalists(screened),
            trials=len(screening.TRIALS),
            probes=probes,
            compared=probes.comparison(probes.predictions_of(MEASURED / "probes"), probes.runs(MEASURED / "probes")),
            inversions=inversions(),
            comparisons=comparisons(),
            attention_speeds=speeds["attention"],
            masks_speeds=speeds["masks"],
            training_speeds=speeds["training"],
            on_cpu_only=all(s.device.lower().startswith("cpu") for found in speeds.values() for s in found),
        )
        .rstrip()
        + "\n"
    )


def held_out_figures() -> dict[str, pd.DataFrame]:
    """Of each model measured by ``python -m sagan_base.metrics MODEL --held-out --json``: samples beside real images.

    Raises:
        ValueError: the record is of other weights than those that ship.
    """
    tables = {}
    for path in sorted((ROOT / "analysis" / "results").glob("held_out_*.json")):
        name = path.stem.removeprefix("held_out_")
        with reading(path):
            found = read_json(path)
            weights, columns = found["weights"], {"samples": found["trained"], "real images": found["real"]}
        if weights != model_card(name).sha256:
            raise ValueError(f"{path} is of other weights than {name} has; measure them with --held-out --json")
        tables[name] = pd.DataFrame(columns).rename_axis("metric").reset_index()
    return tables


def attention_of_models() -> pd.DataFrame:
    """What the attention layers of the shipped models do, from ``analysis/attention_maps.py``."""
    rows = []
    for name in model_names():
        path, line = ROOT / "analysis" / "results" / f"attention_{name}.json", {"model": name}
        with reading(path):
            for what, value in read_json(path)["comparison"].items():
                shown = value.values() if isinstance(value, dict) else [value]
                line[what] = ", ".join(f"{number:+.3f}" if "PSNR" not in what else cell(number) for number in shown)
        rows.append(line)
    return pd.DataFrame(rows)


def inversions() -> list[tuple[str, pd.DataFrame, str]]:
    """Of each stored table of ``analysis/invert.py``: its model, its summary, and the page of its images."""
    paths = sorted((ROOT / "analysis" / "results").glob("inversion_*.csv"))
    pages = [path.with_suffix(".md").relative_to(ROOT).as_posix() for path in paths]
    tables = [inversion_summaries(read_rows(path)) for path in paths]
    return list(zip((path.stem.removeprefix("inversion_") for path in paths), tables, pages, strict=True))


def comparisons() -> list[str]:
    """Of each stored comparison of what an inversion minimises, its text."""
    folders = sorted((ROOT / "analysis" / "results").glob("comparison_*"))
    return [read_comparison(folder, level=3)[1].rstrip() for folder in folders]


@dataclass(frozen=True)
class Speed:
    """What is shown of a stored benchmark.

    Attributes:
        picture: the name of the one beside it, "" where it has none.
    """

    device: str
    command: str
    versions: dict[str, str]
    machine: Machine
    summary: tuple[dict[str, Any], ...]
    growth: dict[str, float] = field(default_factory=dict)
    num_heads: int = 0
    settings: dict[str, Any] = field(default_factory=dict)
    picture: str = ""

    @property
    def table(self) -> pd.DataFrame:
        """Its ``summary`` as a table."""
        return pd.DataFrame(list(self.summary))


def read_speeds(kind: str) -> list[Speed]:
    """The stored runs of one benchmark."""
    found = []
    for path in sorted((ROOT / "benchmarks" / "results").glob(f"{kind}*.json")):
        picture = path.with_suffix(".png")
        shown = picture.relative_to(ROOT).as_posix() if picture.is_file() else ""
        found.append(replace(read_typed(Speed, path), picture=shown))
    return found


if __name__ == "__main__":
    sys.exit(main())
