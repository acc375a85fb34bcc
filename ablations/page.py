"""The report as one HTML page that needs no network and no file beside it; templates/report.html is its text."""

from ablations.curves import overlaid, small_multiples
from ablations.forest import forest
from ablations.masks import MaskPicture, mask_pictures
from ablations.paper import ASTERISK, CAVEAT
from ablations.records import Record, by_row
from ablations.summary import Summary
from ablations.table import anchor_table
from sagan_base.pages import data_uri, render
from sagan_base.run_folder import SAMPLES_FILE

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
        forest=forest(summary),
        curves=curves(groups, summary.key),
        samples=[sample_sheet(min(runs, key=lambda run: run.seed)) for runs in groups.values()],
        rows=[(runs[0], *masks(runs[0])) for runs in groups.values()],
        anchors=anchor_table(),
        asterisk=ASTERISK,
        caveat=CAVEAT,
        versions=[f"{name} {versions[name]}" for name in VERSIONS if name in versions],
        revisions=sorted({record.provenance.git.short for record in summary.records}),
    )


def curves(groups: dict[str, list[Record]], key: str) -> list[tuple[str, str]]:
    """(SVG, caption): the distance against steps, row by row, and the residual gains."""
    rows = list(groups.values())
    dense = [groups.get(runs[0].of_row.dense_row, []) for runs in rows]
    shown = [runs for runs in rows if runs[0].of_row.kind == "paper"] or rows
    score = next((name for name in rows[0][0].metrics if name.startswith("IS")), key)
    figures = [
        (
            overlaid(shown, list(dict.fromkeys((key, score)))),
            "As the paper's Figure 4: lines are means over seeds, bands run from the lowest seed to the highest.",
        ),
        (
            small_multiples(rows, dense, key),
            f"{key} of each row (blue) over that of its dense row (grey).",
        ),
    ]
    if with_gains := [runs for runs in rows if runs[0].gains]:
        names = sorted({name for runs in with_gains for name in runs[0].gains})[:2]
        caption = "Size of the attention layers' residual gain: it starts at 0, where the layer does nothing."
        figures.append((overlaid([runs for runs in shown if runs in with_gains] or with_gains, names), caption))
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
