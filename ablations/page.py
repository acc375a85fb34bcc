"""The report as one HTML page that needs no network and no file beside it; templates/report.html is its text."""

import shlex

from ablations.curves import overlaid, small_multiples
from ablations.masks import MaskPicture, mask_pictures
from ablations.paper import ASTERISK, anchor_table
from ablations.presets import PRESETS
from ablations.questions import answers, sentence
from ablations.records import Record, by_row
from ablations.summary import Summary
from sagan_base.pages import data_uri, render
from sagan_base.run_folder import SAMPLES_FILE
from ylg.heads import shown_order

VERSIONS = ("python", "torch", "torch-fidelity")


def page(summary: Summary) -> str:
    """The whole page; every figure in it comes from the summary's records."""
    groups = by_row(summary.records)
    first = summary.records[0]
    versions = first.provenance.versions
    return render(
        "ablations",
        "report.html",
        title=f"Your Local GAN, ablated on {first.setting.data}",
        summary=summary,
        verdicts=verdicts(summary),
        answers=answers(summary.differences, first.distance_key),
        curves=curves(list(groups.values())),
        samples=[sample_sheet(min(runs, key=lambda run: run.seed)) for runs in groups.values()],
        rows=[(runs[0], command(runs[0]), *masks(runs[0])) for runs in groups.values()],
        anchors=anchor_table(),
        asterisk=ASTERISK,
        versions=[f"{name} {versions[name]}" for name in VERSIONS if name in versions],
        revisions=sorted({record.provenance.git.short for record in summary.records}),
    )


def verdicts(summary: Summary) -> list[str]:
    """What the comparisons with the dense row show, in sentences."""
    titles = {record.row: record.title for record in summary.records}
    sentences, none = [], []
    for row, other in summary.dense.items():
        difference = summary.differences[row, other]
        if difference.verdict == "no difference shown" and difference.seeds > 1:
            none.append(titles[row])
        else:
            sentences.append(sentence(titles[row], titles[other], summary.records[0].distance_key, difference))
    if none:
        sentences.append(f"No difference to the dense row is shown for: {'; '.join(none)} (intervals: in the table).")
    return sentences


def curves(groups: list[list[Record]]) -> list[tuple[str, str]]:
    """(SVG, caption): the paper's Figure 4, the further rows one by one, the residual gains."""
    key, score = groups[0][0].distance_key, groups[0][0].score_key
    main = [runs for runs in groups if runs[0].of_row.kind == "paper"] or groups
    figures = [
        (
            overlaid(main, [key, score]),
            "As the paper's Figure 4: lines are means over seeds, bands run from the lowest seed to the highest.",
        )
    ]
    if others := [runs for runs in groups if runs not in main]:
        caption = f"{key} of each further row (blue) over that of {main[0][0].title} (grey)."
        figures.append((small_multiples(others, main[0], key), caption))
    with_gains = [runs for runs in groups if runs[0].gains]
    if with_gains:
        shown = [runs for runs in with_gains if runs in main] or with_gains
        names = sorted({name for runs in with_gains for name in runs[0].gains})[:2]
        caption = "Size of the attention layers' residual gain: it starts at 0, where the layer does nothing."
        figures.append((overlaid(shown, names), caption))
    return figures


def sample_sheet(record: Record) -> tuple[str, str | None, str]:
    """Title, picture (None where the run has none of its own) and caption."""
    sheet = record.file(SAMPLES_FILE)
    caption = f"{record.title}: {record.distance_key} {record.distance:.2f}"
    return record.title, data_uri(sheet.read_bytes()) if sheet else None, caption


def masks(record: Record) -> tuple[list[MaskPicture], str]:
    """The pictures of a row's masks, and why there are none."""
    if record.config.model.attention is None:
        return [], "no attention, no masks"
    try:
        return mask_pictures(record.config.model), "too large to draw"
    except ValueError as error:  # a pattern or order of the user's that this process does not know
        return [], f"no drawing: {error}"


def command(record: Record) -> str:
    """What repeats this row."""
    setting, data, attention = record.setting, record.config.data, record.config.model.attention
    if record.of_row.kind == "asked":
        order = shown_order(attention.pattern, attention.order)
        parts = ["--pattern", attention.pattern, *(["--order", order] if order != "-" else [])]
        parts += ["--heads", attention.num_heads]
        parts += ["--alignment", attention.alignment, "--mode", attention.mode]
    else:
        parts = ["--rows", record.row]
    parts += ["--preset", setting.preset]
    if setting.preset not in PRESETS or PRESETS[setting.preset].data != data:
        parts += ["--data", data]
    parts += ["--recipe", setting.recipe, "--seed", record.seed, "--steps", setting.steps]
    return "python ablations/run.py " + shlex.join(map(str, parts))
