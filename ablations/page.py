"""The report as one HTML page that needs no network and no file beside it."""

import base64
import html
import shlex
from collections.abc import Iterable
from pathlib import Path
from string import Template

import pandas as pd

from ablations.bootstrap import Difference
from ablations.curves import CurveOf, overlaid, small_multiples
from ablations.experiment import Experiment, Setting
from ablations.masks import mask_pictures
from ablations.presets import PRESETS
from ablations.published import anchor_rows
from ablations.questions import QUESTIONS, sentence
from ablations.records import Record
from ablations.rows import PAPER_ROWS, ROWS, row_of
from ablations.summary import by_row
from sagan_base.config import AttentionConfig

TEMPLATE = Path(__file__).with_name("report_template.html")


def page(
    records: list[Record],
    readable: pd.DataFrame,
    compared: dict[str, tuple[str, Difference]],
    answered: pd.DataFrame,
) -> str:
    """The whole page; every figure in it comes from ``records``.

    Args:
        readable: of summary.py. compared: row -> (its dense row, difference). answered: of questions.py.
    """
    groups = by_row(records)
    first = records[0]
    setting = first.setting
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=f"Your Local GAN, ablated on {html.escape(setting['data'])}",
        setting=html.escape(setting_text(records)),
        verdicts=_verdicts(groups, compared),
        questions=_questions(answered),
        table=_table(readable),
        table_note=html.escape(table_note(records, readable.columns)),
        curves=_curves(groups, first),
        sample_seed=min(record.seed for record in records),
        samples=_samples(groups),
        rows=_rows(groups),
        anchors=_table(pd.DataFrame(anchor_rows())),
        method=_method(records),
    )


def setting_text(records: list[Record]) -> str:
    """What was trained and where, in one line."""
    setting = records[0].setting
    seeds = sorted({record.seed for record in records})
    hours = sum(record.seconds for record in records) / 3600
    return (
        f"{_count(len(by_row(records)), 'row')}, {_count(len(seeds), 'seed')}, {_count(len(records), 'run')} of "
        f"{setting['steps']:,} steps at {setting['resolution']}x{setting['resolution']}, recipe {setting['recipe']}; "
        f"{hours:.1f} hours of training on {' and '.join(machines(records))}"
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number > 1)}"


def machines(records: list[Record]) -> list[str]:
    """The kinds of machine the runs were made on."""
    kinds = []
    for record in records:
        machine = record.provenance.get("machine", {})
        processor = machine.get("gpu") or f"{machine.get('cores', '?')} cores of {machine.get('cpu', 'a CPU')}"
        kinds.append(str(processor if isinstance(processor, str) else ", ".join(map(str, processor))))
    return list(dict.fromkeys(kinds))


def table_note(records: list[Record], columns: Iterable[str]) -> str:
    """What these columns of ``summary.readable`` mean."""
    first = records[0]
    key, shown = first.distance_key, set(columns)
    notes = [
        f"Mean ± sample standard deviation over n seeds. {key}: lower is better; {first.setting['samples']:,} samples "
        "of the EMA generator."
    ]
    if "best @ step" in shown:
        notes.append(
            "Best: lowest value on the curve, which draws fewer samples than the final measurement, and the median "
            "step it came at."
        )
    if "attention off" in shown:
        notes.append(f"Attention off: {key} of the same samples with the generator's residual gains set to 0.")
    if "gain sizes" in shown:
        notes.append("Gain sizes: of the discriminator's (D) and the generator's (G) attention; the sign is free.")
    notes.append(
        "The paper's FID and IS are of ImageNet at 128x128 in Inception features: compare the order of the rows, not "
        "the numbers. * not confirmed from a source at hand."
    )
    return " ".join(notes)


def _verdicts(groups: dict[str, list[Record]], compared: dict[str, tuple[str, Difference]]) -> str:
    if not compared:
        return "<p>No row can be compared: the dense row is missing, or has no seed in common with the others.</p>"
    key = next(iter(groups.values()))[0].distance_key
    sentences, none = [], []
    for row, (other, difference) in compared.items():
        title, dense = groups[row][0].title, groups[other][0].title
        if difference.verdict == "no difference shown" and difference.seeds > 1:
            none.append(title)
        else:
            sentences.append(sentence(title, dense, key, difference))
    if none:
        sentences.append(f"No difference to the dense row is shown for: {'; '.join(none)} (intervals: in the table).")
    return _list(sentences)


def _questions(answered: pd.DataFrame) -> str:
    blocks = []
    for question in QUESTIONS if len(answered) else ():
        lines = answered[answered["question"] == question.text]
        if len(lines):
            found = f'<p class="note">Found before: {html.escape(question.found)}.</p>'
            blocks.append(f"<h3>{html.escape(question.text)}</h3>{_list(lines['answer'])}{found}")
    return "".join(blocks) or '<p class="note">The rows that would answer one were not run.</p>'


def _list(sentences: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{html.escape(text)}</li>" for text in sentences) + "</ul>"


def _table(frame: pd.DataFrame) -> str:
    head = "".join(f"<th>{html.escape(str(column))}</th>" for column in frame.columns)
    body = []
    for line in frame.itertuples(index=False):
        cells = []
        for column, value in zip(frame.columns, line, strict=True):
            kind = ""
            if column.startswith("difference"):
                verdicts = [word for word in ("lower", "higher") if f"] {word}" in value]
                kind = f' class="{" ".join(["difference", *verdicts])}"'
            cells.append(f"<td{kind}>{html.escape(str(value))}</td>")
        body.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def _curves(groups: dict[str, list[Record]], first: Record) -> str:
    distance, score = first.distance_key, first.score_key
    paper = {row.name for row in PAPER_ROWS}
    main = {runs[0].title: runs for name, runs in groups.items() if name in paper} or {
        runs[0].title: runs for runs in groups.values()
    }
    figures = [
        _figure(
            overlaid(main, {distance: lambda r: r.curve(distance), score: lambda r: r.curve(score)}),
            "As the paper's Figure 4: lines are means over seeds, bands run from the lowest seed to the highest.",
        )
    ]
    others = {runs[0].title: runs for name, runs in groups.items() if name not in paper and runs[0].title not in main}
    if others:
        reference = next(iter(main.items()))
        figures.append(
            _figure(
                small_multiples(others, reference, distance, lambda r: r.curve(distance)),
                f"{distance} of each further row (blue) over that of {reference[0]} (grey).",
            )
        )
    gains = {runs[0].title: runs for runs in groups.values() if runs[0].attention_gains}
    if gains:
        names = sorted({name for runs in gains.values() for name in runs[0].attention_gains})
        main_gains = {title: runs for title, runs in gains.items() if title in main} or gains
        panels = {f"gain size, {name}": _gain_curve(name) for name in names[:2]}
        figures.append(
            _figure(
                overlaid(main_gains, panels),
                "Size of the attention layers' residual gain: it starts at 0, where the layer does nothing.",
            )
        )
    return "\n".join(figures)


def _gain_curve(name: str) -> CurveOf:
    """Of the layer called "generator 16", logged as "gain/generator.attention.16"."""
    key = f"gain/{name.replace(' ', '.attention.')}"
    return lambda record: [(step, abs(value)) for step, value in record.curve(key)]  # its sign is free


def _figure(svg: str, caption: str) -> str:
    return f'<figure><div class="plot">{svg}</div><figcaption>{html.escape(caption)}</figcaption></figure>'


def _samples(groups: dict[str, list[Record]]) -> str:
    figures = []
    for runs in groups.values():
        record = min(runs, key=lambda r: r.seed)
        path = record.folder / "samples.png"
        picture = (
            f'<img alt="samples of {html.escape(record.title)}" src="{data_uri(path.read_bytes())}">'
            if path.is_file()
            else '<p class="note">no sample sheet in the run\'s folder</p>'
        )
        caption = f"{record.title}: {record.distance_key} {record.metrics[record.distance_key]:.2f}"
        figures.append(f"<figure>{picture}<figcaption>{html.escape(caption)}</figcaption></figure>")
    return "\n".join(figures)


def _rows(groups: dict[str, list[Record]]) -> str:
    blocks = []
    for name, runs in groups.items():
        row, record = ROWS.get(name), runs[0]
        question = row.question if row else "asked for on the command line"
        found = row.found if row else "nothing published"
        blocks.append(
            f'<div class="row"><div><h3>{html.escape(record.title)}</h3>'
            f"<p>{html.escape(question[:1].upper() + question[1:])}</p>"
            f'<p class="note">Found before: {html.escape(found)}.</p>'
            f"<p><code>{html.escape(command(record))}</code></p></div>"
            f'<div class="masks">{_masks(record)}</div></div>'
        )
    return "\n".join(blocks)


def command(record: Record) -> str:
    """What repeats this row."""
    setting = record.setting
    if record.row in ROWS:
        parts = ["--rows", record.row]
    else:
        of_row = record.config["model"]["attention"]
        parts = ["--pattern", of_row["pattern"], "--order", of_row["order"], "--heads", of_row["num_heads"]]
        parts += ["--alignment", of_row["alignment"], "--mode", of_row["mode"]]
    parts += ["--preset", setting["preset"]]
    preset = PRESETS.get(setting["preset"])
    if preset is None or preset.data != record.config["data"]:
        parts += ["--data", record.config["data"]]
    parts += ["--recipe", setting["recipe"], "--seed", record.seed, "--steps", setting["steps"]]
    return "python ablations/run.py " + shlex.join(map(str, parts))


def _masks(record: Record) -> str:
    run = _experiment(record)
    try:
        pictures = mask_pictures(run) if run else []
    except ValueError as error:  # a pattern or order of the user's that this process does not know
        return f'<p class="note">no drawing: {html.escape(str(error))}</p>'
    if not pictures:
        return '<p class="note">no attention, no masks</p>' if record.config["model"]["attention"] is None else ""
    figures = []
    for picture in pictures:
        heads = f"head{'s' * (',' in picture.heads)} {picture.heads}: {picture.share:.1%} allowed"
        figures.append(
            f'<figure><img class="matrix" alt="mask of {heads}" src="{data_uri(picture.matrix)}">'
            f'<img class="seen" alt="keys the middle query sees" src="{data_uri(picture.seen)}">'
            f"<figcaption>{heads}</figcaption></figure>"
        )
    return "\n".join(figures)


def _experiment(record: Record) -> Experiment | None:
    """The experiment of a record, where its preset is still known here; None without attention."""
    preset, row = PRESETS.get(record.setting["preset"]), ROWS.get(record.row)
    if row is None and record.config["model"]["attention"] is not None:
        row = row_of(AttentionConfig(**record.config["model"]["attention"]))
    if preset is None or row is None:
        return None
    setting = record.setting
    return Experiment(row, Setting(preset, setting["recipe"], preset.data, setting["steps"], ()), record.seed)


def _method(records: list[Record]) -> str:
    first = records[0]
    revisions = sorted({str(r.provenance.get("git", {}).get("revision", "unknown"))[:12] for r in records})
    versions = first.provenance.get("versions", {})
    shown = ", ".join(
        f"{name} {versions[name]}" for name in ("python", "torch", "torch-fidelity") if versions.get(name)
    )
    paragraphs = [
        f"Data: {first.setting['data']}, fingerprint {first.setting['data_fingerprint'][:12]}. Metrics by "
        "torch-fidelity in the features that each column names; only Inception's are called FID.",
        "Intervals: paired bootstrap over seeds and, within each seed, over samples; row and dense row share the "
        "seeds, the order of the data, and z and label of every sample. A bootstrap cannot show more variation than "
        "its seeds did, so the interval is widened to Student's t over the seeds wherever that is wider. Each interval "
        "is for its own comparison: of twenty, one is expected to miss.",
        "Class accuracy: share of 500 samples that a support vector machine trained on the real images gives the class "
        "asked for.",
        f"Made by {shown} at revision {', '.join(revisions)}.",
    ]
    return "\n".join(f"<p>{html.escape(text)}</p>" for text in paragraphs)


def data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
