"""Write RESULTS.md: the models, tables, answers and speeds that the raw results in this repository hold.

    python results.py            after raw results were added or changed
    python results.py --check    exit code 1 where RESULTS.md is not what the raw results say

Nothing is trained or measured here, and no figure is typed in: models come from their cards, the ablation from
ablations/results, inversions from analysis/results, speeds from benchmarks/results. ``make results`` runs report.py
first, which computes the ablation's tables from its runs.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from ablations.page import setting_text, table_note
from ablations.published import ASTERISK, anchor_rows
from ablations.questions import QUESTIONS
from ablations.records import Record, read_records
from ablations.summary import readable, spread_text
from ablations.table import cell, markdown
from analysis.inversion.table import read_rows, summary_table
from sagan_base.files import atomic_write
from sagan_base.models import model_card, model_names

ROOT = Path(__file__).resolve().parent
PAGE = ROOT / "RESULTS.md"
WIDE = ("best @ step", "attention off", "gain", "IS-style", "paper IS", "file MB", "minutes", "images/s")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "results.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where RESULTS.md is stale")
    options = parser.parse_args(argv)
    text = page()
    if options.check:
        fresh = PAGE.is_file() and PAGE.read_text(encoding="utf-8") == text
        print("RESULTS.md is up to date" if fresh else "RESULTS.md is stale: run make results")
        return 0 if fresh else 1
    with atomic_write(PAGE) as path:
        path.write_text(text, encoding="utf-8")
    print(f"written: {PAGE.name}")
    return 0


def page() -> str:
    """The whole text of RESULTS.md."""
    sections = [
        "# Results",
        "Written by `make results` from the raw results in this repository; no figure is typed in. Every raw result "
        "holds its seed, configuration, package versions, git revision and command. Metrics are named after their "
        "features: only a Fréchet distance in Inception's features is called FID.",
        *models(),
    ]
    folders = sorted(path.parent for path in (ROOT / "ablations" / "results").glob("*/report.csv"))
    for folder in folders:
        if len(pd.read_csv(folder / "report.csv")) > 1:  # a single row is the run of a model that ships
            sections += ablation(folder)
    sections += [*attention_of_models(), *published(), *inversions(), *speed(), *origin(folders)]
    return "\n\n".join(sections) + "\n"


def models() -> Iterator[str]:
    """The models that ship, from their cards."""
    yield "## Models that ship"
    for name in model_names():
        card = model_card(name)
        chance = 1 / len(card.classes)
        recognised = next((value for key, value in card.metrics.items() if key.startswith("class accuracy")), None)
        yield f"### {name}"
        yield f"![{name}: samples, a row per class](sagan_base/shipped/{name}.png)"
        yield (
            f"{card.resolution}x{card.resolution}, {len(card.classes)} classes ({', '.join(card.classes)}), trained on "
            f"{card.data}. {card.network}. {card.steps:,} steps, seed {card.seed}, {card.seconds / 60:.0f} minutes on "
            f"{card.hardware}; {card.bytes / 1e6:.1f} MB. `{card.command}`"
        )
        yield markdown(pd.DataFrame({"metric": list(card.metrics), "value": [cell(v) for v in card.metrics.values()]}))
        if recognised is not None:
            yield (
                f"A support vector machine that saw only real images gives {recognised:.1%} of the samples the class "
                f"asked for; chance is {chance:.0%}."
            )
    yield (
        "Full cards: `sagan_base/shipped/NAME.md`, or `python -m sagan_base.models`. Curves and raw figures of their "
        "runs: below `ablations/results`."
    )


def ablation(folder: Path) -> Iterator[str]:
    """One setting of the ablation: its table, and the answers that it gives."""
    records, _ = read_records(folder)
    first = records[0]
    summary = pd.read_csv(folder / "report.csv")
    table = readable(summary, first.distance_key, first.score_key)
    shown = [column for column in table if not column.startswith(WIDE)]
    yield f"## The paper's ablation on {first.setting['data']}"
    yield f"{setting_text(records)}."
    yield markdown(table[shown])
    yield table_note(records, shown).replace("* not", r"\* not")
    where = folder.relative_to(ROOT)
    yield f"Curves, sample sheets, masks: `{where}/report.html`, one page that needs no network. Raw runs: `{where}`."
    yield f"## What a reader asks, answered on {first.setting['data']}"
    yield (
        "Intervals hold the true difference of one comparison in 95% of cases (paired bootstrap over seeds and "
        "samples, widened to Student's t over the seeds). Few seeds make them wide: *no difference is shown* means "
        "just that."
    )
    answered = pd.read_csv(folder / "questions.csv")
    for question in QUESTIONS:
        lines = answered.loc[answered["question"] == question.text, "answer"]
        if len(lines):
            yield f"**{question.text}**"
            yield "\n".join(f"- {line}" for line in lines)
            yield f"Found before: {question.found}.".replace("*", r"\*")
    yield from gains(records, summary)


def gains(records: list[Record], summary: pd.DataFrame) -> Iterator[str]:
    """Whether the attention layers are used at all."""
    used = [record for record in records if record.attention_gains]
    if not used:
        return
    key = used[0].distance_key
    last = [abs(value) for record in used for value in record.attention_gains.values()]
    yield "**Does the residual gain leave 0, and what happens with attention off?**"
    text = (
        f"It starts at 0. Over {len(used)} runs its size at the end is {min(last):.3f} to {max(last):.3f} (median "
        f"{pd.Series(last).median():.3f})."
    )
    off = [record for record in used if key in record.attention_off]
    if off:
        ratios = pd.Series([record.attention_off[key] / record.metrics[key] for record in off])
        text += (
            f" With the generator's gain set to 0 the same samples have {ratios.median():.2f} times the {key} (median "
            f"over {len(off)} runs; {ratios.min():.2f} to {ratios.max():.2f}): above 1, the layer is used."
        )
    yield text
    wanted = [name for name in summary if name.startswith("gain size") and not name.endswith(" sd")]
    columns = [*wanted, key, *[f"{key}, attention off"] * bool(off)]
    lines = []
    for _, line in summary.iterrows():
        if line[wanted].notna().any():
            values = {name: spread_text(line, name) for name in columns if name in line}
            lines.append({"row": line["title"]} | values)
    yield markdown(pd.DataFrame(lines))


def published() -> Iterator[str]:
    """How far all this is from published figures, and why it cannot be compared with them."""
    yield "## How far from the best published figures"
    yield markdown(pd.DataFrame(anchor_rows()))
    yield (
        "None of the figures above this section can be set beside these. Theirs are distances in the features of "
        "Inception, on ImageNet, CIFAR-10 or CelebA, of networks trained for days. Ours are distances in the features "
        "of a small classifier trained on the very data set, which are on another scale, on grey images of 32x32, of "
        "networks trained for minutes. What can be compared is the order of the rows, and here the seeds move a row "
        "by as much as the rows differ. `python ablations/run.py --preset imagenet128 --data imagenet:PATH` is the "
        "paper's setting; FID itself needs `--inception-weights FILE`. " + ASTERISK
    )


def attention_of_models() -> Iterator[str]:
    """What the attention layers of the shipped models do, from ``analysis/attention_maps.py``."""
    yield "## What the attention of the shipped models does"
    rows = []
    for name in model_names():
        stored = json.loads((ROOT / "analysis" / "results" / f"attention_{name}.json").read_text(encoding="utf-8"))
        line = {"model": name}
        for what, value in stored["comparison"].items():
            shown = value.values() if isinstance(value, dict) else [value]
            line[what] = ", ".join(f"{number:+.3f}" if "PSNR" not in what else cell(number) for number in shown)
        rows.append(line)
    yield markdown(pd.DataFrame(rows))
    yield (
        "`python analysis/attention_maps.py --model NAME`: over 64 generated images, compared with the same z and the "
        "gains set to 0; pixels are in a range of 1. The maps of the fashion-mnist model:"
    )
    yield "![saliency of every head, and one query's attention](analysis/results/attention_fashion-mnist.png)"


def inversions() -> Iterator[str]:
    """Tables of ``analysis/invert.py``."""
    yield "## Inversion"
    for path in sorted((ROOT / "analysis" / "results").glob("inversion_*.csv")):
        heading = path.with_suffix(".md").read_text(encoding="utf-8").split("Mean ±")[0].splitlines()[1:]
        yield "\n".join(heading).strip()
        yield summary_table(read_rows(path))
        yield f"Mean ± standard deviation over images; each image: `{path.with_suffix('.md').relative_to(ROOT)}`."


def speed() -> Iterator[str]:
    """Benchmarks, a section for each machine that they were run on."""
    yield "## Speed"
    results = ROOT / "benchmarks" / "results"
    found = {path: json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json"))}
    for path, result in found.items():
        if path.stem.startswith("attention"):
            yield from attention_speed(path, result)
        elif path.stem.startswith("training"):
            yield from training_speed(result)
        elif path.stem.startswith("masks"):
            yield from masks_speed(result)
    if all(_on_cpu(result) for result in found.values()):
        yield (
            "**Not measured:** anything on a GPU. The Triton kernels agree with float64 in the interpreter and compile "
            "for Hopper; `python benchmarks/gpu_check.py` and `python benchmarks/attention.py` are the first commands "
            "for a machine that has one."
        )


def _on_cpu(result: dict[str, Any]) -> bool:
    return result["device"].lower().startswith("cpu")


def attention_speed(path: Path, result: dict[str, Any]) -> Iterator[str]:
    """One attention layer: ours against each peer, as times and as a ratio."""
    yield f"### Attention, {result['device']}"
    yield f"`{result['command']}`; torch {result['versions']['torch']}; forward and backward, milliseconds."
    cases = dict.fromkeys(row["case"] for row in result["rows"])
    lines = []
    for case in cases:
        rows = {row["method"]: row for row in result["rows"] if row["case"] == case}
        (ours,) = [row for method, row in rows.items() if method.startswith("ours")]
        line = {"case": case, "batch": ours["batch"], "ours": cell(ours.get("both_ms"))}
        for method, row in rows.items():
            if row is ours or not {"both_ms", "left_out"} & row.keys():
                continue
            if "left_out" in row:
                line[method] = row["left_out"]
                continue
            line[method] = f"{cell(row['both_ms'])} ({row['both_ms'] / ours['both_ms']:.1f}x)"
        lines.append(line | {"largest error": f"{ours['error']:.0e}"})
    yield markdown(pd.DataFrame(lines))
    if exponents := result["exponents_forward_backward"]:
        slopes = ", ".join(f"{method} n^{slope}" for method, slope in exponents.items())
        yield f"Growth with the number of queries n: {slopes}."
    if path.with_suffix(".png").is_file():
        yield f"![time against the number of queries]({path.with_suffix('.png').relative_to(ROOT)})"


def training_speed(result: dict[str, Any]) -> Iterator[str]:
    """A whole training step."""
    settings = result["settings"]
    machine = result["machine"]
    device = result["device"] if not _on_cpu(result) else f"CPU, {machine['threads']} thread(s), {machine['cpu']}"
    yield f"### A training step, {device}"
    yield (
        f"`{result['command']}`: {settings['resolution']}x{settings['resolution']}, width {settings['width']}, batch "
        f"{settings['batch_size']}, {settings['precision']}. The share compares the steps of each round, which ran one "
        "after the other."
    )
    rows = [
        {
            "network": row["case"],
            "milliseconds": cell(row["milliseconds"]),
            "images/s": cell(row["images_per_second"]),
            "attention's share (quartiles)": f"{row['share_of_attention']:.0%} "
            f"({' to '.join(f'{share:.0%}' for share in row['share_quartiles'])})",
        }
        for row in result["rows"]
    ]
    yield markdown(pd.DataFrame(rows))


def masks_speed(result: dict[str, Any]) -> Iterator[str]:
    """Building the masks."""
    yield f"### Building the masks of {result['num_heads']} heads, {result['machine']['cpu']}"
    yield f"`{result['command']}`. Loops over pairs of cells are what the paper's program does."
    rows = []
    for row in result["rows"]:
        side, ratio = row["key_side"], row["against_loops"]
        rows.append(
            {
                "queries over keys": f"{2 * side}x{2 * side} over {side}x{side}",
                "masks": row["version"],
                "seconds": cell(row["seconds"]),
                "MiB": cell(row["mib"]),
                "faster than loops": "-" if ratio is None else f"{ratio:.3g}x",
            }
        )
    yield markdown(pd.DataFrame(rows))


def origin(folders: list[Path]) -> Iterator[str]:
    """The commands that made the raw results, and those that make this page."""
    yield "## Made by"
    lines = ["- this page, and the tables and reports it draws on: `make results`; pictures: `make figures`"]
    for folder in folders:
        runs, _ = read_records(folder)
        revisions = dict.fromkeys(str(record.provenance["git"]["revision"])[:12] for record in runs)
        rows = dict.fromkeys(record.row for record in runs)
        seeds = sorted({record.seed for record in runs})
        lines.append(
            f"- `{folder.relative_to(ROOT)}`: row(s) {', '.join(rows)}; seed(s) {', '.join(map(str, seeds))}; measured "
            f"at {', '.join(revisions)}; each run's own command is in its `result.json`"
        )
    yield "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
