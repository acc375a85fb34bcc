"""The report of canned runs: its tables against the runs, and the page as a browser without network shows it."""

import base64
import csv
import io
import json
import os
import re
import shlex
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ablations import page as page_of_report
from ablations import report as report_command
from ablations import run
from ablations.curves import band, curve
from ablations.experiment import Experiment, Setting
from ablations.masks import FORBIDDEN, mask_pictures
from ablations.page import command, page
from ablations.presets import PRESETS
from ablations.questions import answers
from ablations.records import read_records, write_record
from ablations.report import BEGIN, END, FILES, NOT_IN_LATEX, main
from ablations.rows import ROWS
from ablations.summary import compare, summarise
from sagan_base.config import AttentionConfig
from sagan_base.pages import data_uri
from ylg import head_masks

DISTANCE = "FD (digits classifier)"


@pytest.fixture
def ablation(canned_run, tmp_path):
    """Three seeds: YLG clearly lower than SAGAN, YLG without ESA no different; and butterfly, which lacks a seed."""
    for seed in range(3):
        base = np.random.default_rng(seed).standard_normal((200, 5))
        for row, shift in (("sagan", 1.0), ("ylg", 0.4), ("ylg_no_esa", 1.0), ("ylg_butterfly", 1.1)):
            if row == "ylg_butterfly" and seed == 2:
                continue
            own = np.random.default_rng([seed, len(row)]).standard_normal((200, 5))
            distance = 5 * shift**2 + 0.1 * np.random.default_rng([seed, len(row), 1]).standard_normal()
            curve = tuple((step, distance * (1 + 1000 / step)) for step in (250, 500, 750, 1000))
            canned_run(row, seed, distance, curve=curve, samples=0.9 * base + 0.4 * own + shift)
    return tmp_path


@pytest.fixture
def report(ablation, tmp_path, capsys):
    out = tmp_path / "report"
    assert main([str(ablation), "--out", str(out), "--resamples", "200"]) == 0
    return out


def test_a_difference_inside_its_interval_is_said_to_be_so(report):
    lines = pd.read_csv(report / "report.csv").set_index("row")
    assert lines.loc["ylg", "verdict"] == "lower"
    assert lines.loc["ylg_no_esa", "verdict"] == "no difference shown"
    assert lines.loc["ylg_no_esa", "difference low"] < 0 < lines.loc["ylg_no_esa", "difference high"]
    assert pd.isna(lines.loc["sagan", "difference"])
    page = (report / "report.html").read_text()
    assert "No difference to the dense row is shown for: YLG, no ESA; YLG, butterfly (" in page
    assert '<td class="yes">lower</td>' in page and "<td>no difference shown</td>" in page
    assert f"YLG-SAGAN: lower {DISTANCE} than SAGAN" in page


def test_a_pattern_unknown_to_this_process_costs_the_report_a_drawing_and_nothing_else(
    canned_run, tmp_path, monkeypatch, capsys
):
    def unknown(run):
        raise ValueError("unknown pattern 'halves'")

    monkeypatch.setattr(page_of_report, "mask_pictures", unknown)
    random = np.random.default_rng(0)
    for row in ("sagan", "ylg"):
        canned_run(row, 0, 5.0, samples=random.standard_normal((200, 5)))
    assert main([str(tmp_path), "--resamples", "100"]) == 0
    assert "no drawing: unknown pattern" in (tmp_path / "report.html").read_text()


def test_an_interval_of_a_single_seed_is_said_to_cover_its_samples_only(canned_run, tmp_path, capsys):
    random = np.random.default_rng(0)
    for row, shift in (("sagan", 1.0), ("ylg", 0.4)):
        canned_run(row, 0, 5 * shift**2, samples=random.standard_normal((200, 5)) + shift)
    assert main([str(tmp_path), "--resamples", "100"]) == 0
    assert "over the samples of one training each: another seed may differ" in (tmp_path / "report.html").read_text()


def test_latex_and_page_show_the_text_of_the_table(ablation, report):
    summary = summarise(read_records(ablation)[0], resamples=200)
    (line,) = summary.table[summary.table["row"] == "YLG-SAGAN"].to_dict("records")
    page, latex = (report / "report.html").read_text(), (report / "report.tex").read_text()
    assert all(f">{cell}</t" in page for cell in line.values())
    (in_latex,) = [text for text in latex.splitlines() if text.startswith("YLG-SAGAN &")]
    for column, cell in line.items():
        assert (cell.replace("±", r"$\pm$") in in_latex) or column in NOT_IN_LATEX
    assert latex.count("{") == latex.count("}")
    assert r"15.94" in in_latex and in_latex.endswith(r"\\")


def test_no_string_of_a_merged_run_is_markup_a_command_or_mathematics(canned_run, tmp_path, capsys):
    """Results come from other machines: a title or a processor's name is only ever text."""
    title = r"$\frac{$ \input{/etc/passwd} <script>alert(1)</script> $x$ | a"
    for row in ("sagan", "ylg"):
        record = canned_run(row, curve=((500, 3.0), (1000, 2.0)))
        machine = replace(record.provenance.machine, cpu=r"\input{x} <b>")
        write_record(replace(record, title=title + row, provenance=replace(record.provenance, machine=machine)))
    readme = tmp_path / "README.md"
    readme.write_text(f"{BEGIN}\n{END}\n")
    assert main([str(tmp_path), "--resamples", "100", "--readme", str(readme)]) == 0
    page, latex = (tmp_path / "report.html").read_text(), (tmp_path / "report.tex").read_text()
    assert "<script>alert" not in page and "<b>" not in page
    assert r"\input" not in latex and r"\frac" not in latex and r"\textbackslash{}input\{/etc/passwd\}" in latex
    rows = [line for line in readme.read_text().splitlines() if "frac" in line]
    assert len(rows) == 2 and all(len(re.findall(r"(?<!\\)\|", line)) == 12 for line in rows)


def test_a_link_in_a_runs_folder_is_neither_shown_nor_collected(canned_run, tmp_path, capsys):
    secret = tmp_path / "secret"
    secret.write_bytes(b"\x89PNG of somebody else")
    runs = [canned_run(row, root=tmp_path / "runs") for row in ("sagan", "ylg")]
    for name in ("samples.png", "initial.json"):
        (runs[1].folder / name).unlink(missing_ok=True)
        (runs[1].folder / name).symlink_to(secret)
    assert main([str(tmp_path / "runs"), "--resamples", "100"]) == 0
    page = (tmp_path / "runs" / "report.html").read_text()
    assert data_uri(secret.read_bytes()) not in page and "no sample sheet in the run's folder" in page
    assert main([str(tmp_path / "runs"), "--collect", str(tmp_path / "kept")]) == 0
    assert (tmp_path / "kept" / "sagan-seed0" / "samples.png").is_file()
    assert {path.name for path in (tmp_path / "kept" / "ylg-seed0").iterdir()} == {
        "result.json", "config.json", "metrics.jsonl",
    }  # fmt: skip


def test_without_results_beside_the_installation_a_folder_is_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(report_command, "SHIPPED", tmp_path / "absent")
    with pytest.raises(SystemExit) as stop:
        main([])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and "give a folder of runs" in said and said.count("\n") == 1


def test_the_questions_whose_rows_were_run_are_answered_and_the_others_left_out(ablation, report):
    summary = summarise(read_records(ablation)[0], resamples=200)
    found = [text for _, sentences in answers(summary.differences, DISTANCE) for text in sentences]
    assert [text.split(" (")[0] for text in found] == [
        "YLG-SAGAN: lower FD", "YLG-SAGAN: lower FD", "YLG, butterfly: higher FD",
    ]  # fmt: skip
    assert [text.rpartition("; ")[2] for text in found] == ["3 seeds).", "3 seeds).", "2 seeds)."]
    distance = summary.figures.set_index("row")[DISTANCE]
    difference = summary.differences["ylg", "ylg_no_esa"].estimate
    assert difference == pytest.approx(distance["ylg"] - distance["ylg_no_esa"], rel=1e-4)
    page = (report / "report.html").read_text()
    assert "does ESA help?" in page and f"YLG-SAGAN: lower {DISTANCE} than YLG, no ESA" in page
    assert "pool or tile" not in page


def test_the_distance_with_attention_off_stands_in_the_table(report):
    line = pd.read_csv(report / "report.csv").set_index("row").loc["ylg"]
    assert line[f"{DISTANCE}, attention off"] == pytest.approx(2 * line[DISTANCE], rel=1e-5)
    assert '<th scope="col" class="number">attention off</th>' in (report / "report.html").read_text()


def test_the_csv_is_readable_without_pandas_and_counts_the_seeds(report):
    with (report / "report.csv").open() as file:
        lines = {line["row"]: line for line in csv.DictReader(file)}
    assert {name: line["n"] for name, line in lines.items()} == {
        "sagan": "3", "ylg": "3", "ylg_no_esa": "3", "ylg_butterfly": "2",
    }  # fmt: skip


def test_the_page_needs_no_file_beside_it_and_no_network(report):
    page = (report / "report.html").read_text()
    references = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"')\s>]+)""", page)
    assert references and all(ref.startswith(("data:image/png;base64,", "#")) for ref in references)
    assert len(page.encode()) < 3_000_000


def test_the_report_is_made_again_from_collected_small_files(ablation, report, tmp_path, capsys):
    small = tmp_path / "small"
    assert main([str(ablation), "--collect", str(small)]) == 0
    assert main([str(small), "--resamples", "200"]) == 0
    for name in FILES:
        assert (small / name).read_bytes() == (report / name).read_bytes()


def test_the_readme_section_is_replaced_and_nothing_else(ablation, report, tmp_path, capsys):
    readme = tmp_path / "README.md"
    readme.write_text(f"# Title\n\n{BEGIN}\nold figures\n{END}\n\nThe end.\n")
    assert main([str(ablation), "--out", str(report), "--resamples", "200", "--readme", str(readme)]) == 0
    text = readme.read_text()
    assert text.startswith(f"# Title\n\n{BEGIN}\n") and text.endswith(f"{END}\n\nThe end.\n")
    assert "old figures" not in text and "| YLG-SAGAN" in text
    assert "YLG, butterfly" not in text and "Further rows in the report: 1." in text
    assert "2 cores of Test CPU" in text and "not the paper's FID" in text and "hours of training" in text
    assert main([str(ablation), "--out", str(report), "--resamples", "200", "--readme", str(readme)]) == 0
    assert readme.read_text() == text


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["{}/nowhere"], "nowhere is no folder; give the --out of ablations/run.py"),
        (["{}/empty"], "holds no finished run"),
        (["{}", "--baseline", "sagn"], "no row is called 'sagn'; the rows are"),
        (["{}", "--resamples", "5"], "--resamples 5 is too few"),
        (["{}", "--readme", "{}/plain.md"], "must hold the lines"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(canned_run, tmp_path, capsys, options, words):
    canned_run("sagan")
    (tmp_path / "empty").mkdir()
    (tmp_path / "plain.md").write_text("no markers\n")
    with pytest.raises(SystemExit) as stop:
        main([option.replace("{}", str(tmp_path)) for option in options])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and words in said and said.count("\n") == 1


PROBE = """
<script>
addEventListener("load", () => {
  const images = [...document.images];
  document.body.insertAdjacentHTML("beforeend", "<pre id=probe>" + JSON.stringify({
    images: images.length,
    loaded: images.filter(image => image.complete && image.naturalWidth > 0).length,
    plots: [...document.querySelectorAll(".plot svg")].map(svg => svg.getBoundingClientRect().height > 100),
    text: [...document.querySelectorAll("#result ~ .scroll tbody th")].map(cell => cell.textContent).slice(0, 4),
    overflow: document.documentElement.scrollWidth > innerWidth,
  }) + "</pre>");
});
</script>
"""


def test_a_browser_without_network_shows_all_text_and_images(report, tmp_path):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no chromium here to open the page with")
    page = tmp_path / "probe.html"
    page.write_text((report / "report.html").read_text().replace("</body>", PROBE + "</body>"))
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    command += ["--window-size=1000,800", "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=5000"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", page.as_uri()]
    shown = subprocess.run(
        command, capture_output=True, text=True, timeout=120, env=os.environ | {"HOME": str(tmp_path)}
    )
    found = re.search(r"<pre id=\"probe\">(.*?)</pre>", shown.stdout)
    assert found, shown.stderr[-2000:]
    probe = json.loads(found.group(1))
    assert probe["images"] == probe["loaded"] > 10
    assert probe["plots"] == [True] * 3
    assert probe["text"] == ["SAGAN", "YLG-SAGAN", "YLG, no ESA", "YLG, butterfly"]
    assert not probe["overflow"]


def test_the_command_of_a_row_is_one_that_makes_this_run(canned_run):
    named = canned_run("ylg")
    single = replace(named, row="ltr_hilbert_4-heads_pool")
    model = replace(single.config.model, attention=AttentionConfig("ltr", 4, "hilbert", "pool"))
    single = replace(single, config=replace(single.config, model=model))
    for record, name in ((named, "ylg"), (single, "ltr_hilbert_4-heads_pool")):
        record = replace(record, setting=replace(record.setting, recipe="biggan"))
        words = shlex.split(command(record))
        assert words[:2] == ["python", "ablations/run.py"]
        asked = run.request(run.parser().parse_args(words[2:]))
        (experiment,) = asked.experiments
        assert (experiment.row.name, experiment.seed, asked.setting.recipe) == (name, 0, "biggan")
        assert asked.setting.steps == record.setting.steps


def test_gains_are_drawn_as_sizes_and_notes_speak_of_the_columns_shown(canned_run):
    record = canned_run("ylg", curve=((500, 3.0), (1000, 2.0)))
    assert curve(record, "gain/discriminator.attention.16") == [(500, 0.2), (1000, 0.2)]
    note = summarise([record]).note
    assert "Best:" in note(["row", "best @ step"])
    assert "Best:" not in note(["row"]) and "Attention off" not in note(["row"])


def test_rows_are_compared_on_the_same_resampled_samples(canned_run):
    samples = np.random.default_rng(0).standard_normal((100, 4))
    records = [canned_run(row, 0, distance, samples=samples) for row, distance in (("sagan", 5.0), ("ylg", 3.0))]
    (found,) = compare(records, [("ylg", "sagan")], resamples=100).values()
    assert found.over_samples and (found.estimate, found.low, found.high) == (-2, -2, -2)  # equal samples: no doubt


def test_a_row_is_compared_with_the_dense_row_of_its_own_recipe_and_else_with_the_baseline_asked_for(
    canned_run, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("ablations.report.page", lambda _: "")  # its drawings take seconds
    for row in ("sagan", "sagan_8", "ylg", "sagan_biggan", "ylg_biggan"):
        canned_run(row)
    assert main([str(tmp_path), "--baseline", "sagan_8", "--resamples", "100"]) == 0
    against = pd.read_csv(tmp_path / "report.csv").set_index("row")["compared with"].dropna().to_dict()
    assert against == {row: ROWS["sagan_8"].title for row in ("sagan", "ylg", "sagan_biggan")} | {
        "ylg_biggan": ROWS["sagan_biggan"].title
    }


def test_a_band_runs_from_the_lowest_seed_to_the_highest_where_all_seeds_measured():
    curves = [[(100, 2.0), (200, 8.0), (300, 1.0)], [(200, 4.0), (100, 3.0)], [(100, 7.0), (200, 6.0), (400, 1.0)]]
    assert [part.tolist() for part in band(curves)] == [[100, 200], [4, 6], [2, 4], [7, 8]]


@pytest.mark.parametrize("row", ["ylg", "ylg_pool"])
def test_the_pictures_of_masks_show_the_rows_own_masks_and_the_keys_of_the_query_in_the_middle(row):
    def allowed(uri: str) -> np.ndarray:
        png = base64.b64decode(uri.partition(",")[2])
        return (np.array(Image.open(io.BytesIO(png)).convert("RGB")) != FORBIDDEN).any(axis=-1)

    pictures = mask_pictures(Experiment(ROWS[row], Setting(PRESETS["digits"], "paper", "digits", 100, ()), 0).model())
    alignment = {"ylg": "rows", "ylg_pool": "pool"}[row]
    masks = head_masks("ltr_rtl", (16, 16), (8, 8), 8, "manhattan", alignment).numpy()
    heads = [int(head) for picture in pictures for head in picture.heads.split(", ")]
    assert sorted(heads) == list(range(8)) and len(pictures) > 1
    for picture in pictures:
        for head in map(int, picture.heads.split(", ")):
            assert (allowed(picture.matrix) == masks[head]).all()
            assert (allowed(picture.seen) == masks[head].reshape(16, 16, 8, 8)[8, 8]).all()


def test_the_sample_sheet_shown_of_a_row_is_that_of_its_first_seed(canned_run):
    runs = [canned_run("ylg", seed, distance=3.0 + seed) for seed in (2, 0, 1)]
    for record in runs:
        Image.new("L", (4, 4), record.seed).save(record.folder / "samples.png")
    summary = summarise(runs, resamples=100)
    text = page(summary)
    assert data_uri((runs[1].folder / "samples.png").read_bytes()) in text
    assert text.count('<img alt="samples of') == 1 and f"YLG-SAGAN: {DISTANCE} 3.00" in text
