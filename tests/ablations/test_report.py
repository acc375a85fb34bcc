"""The report of canned runs: its tables against the runs, and the page as a browser without network shows it."""

import base64
import csv
import io
import json
import os
import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from ablations import page as page_of_report
from ablations import report as report_command
from ablations.contrasts import FIRST_SEED
from ablations.curves import band, curve
from ablations.experiment import Experiment, Setting
from ablations.forest import forest
from ablations.masks import FORBIDDEN, mask_pictures
from ablations.paper import CAVEAT
from ablations.power import power_report
from ablations.presets import PRESETS
from ablations.records import read_records, write_record
from ablations.report import BEGIN, END, FILES, main, update_readme
from ablations.rows import ROWS
from ablations.summary import summarise
from sagan_base.pages import data_uri
from ylg import head_masks

DISTANCE = "FD (digits classifier)"


@pytest.fixture
def ablation(canned_run, tmp_path):
    """Three seeds: YLG clearly lower than SAGAN, with raster order no different; and uniform, which lacks a seed."""
    shifts = {"sagan_attending": 5.0, "ylg_attending": 2.0, "ylg_no_esa_attending": 5.2, "ylg_uniform": 6.0}
    for seed in range(3):
        for row, shift in shifts.items():
            if row == "ylg_uniform" and seed == 2:
                continue
            distance = shift * np.exp(0.05 * np.random.default_rng([seed, len(row)]).standard_normal())
            curve = tuple((step, distance * (1 + 1000 / step)) for step in (250, 500, 750, 1000))
            canned_run(row, seed, distance, curve=curve)
    return tmp_path


@pytest.fixture
def report(ablation, tmp_path, capsys):
    out = tmp_path / "report"
    assert main([str(ablation), "--out", str(out)]) == 0
    return out


def test_the_plot_leads_the_page_and_the_questions_follow_with_intervals_and_no_verdict_of_a_pilot(report, capsys):
    page = (report / "report.html").read_text()
    places = [page.index(words) for words in ("A pilot:", "difference in FD", "Questions and answers", "a line a row")]
    assert places == sorted(places)
    assert page.count("open: a verdict needs") == 3 and "Does ESA help" in page and "interlaced8" not in page
    lines = pd.read_csv(report / "report.csv").set_index("row")
    esa = lines.loc["ylg_no_esa_attending"]
    assert esa["log difference low"] < 0 < esa["log difference high"]
    assert lines.loc["ylg_attending", "log difference high"] < 0
    assert pd.isna(lines.loc["sagan_attending", "log difference"])


def test_the_plot_has_each_rows_interval_where_it_is_and_the_band_of_what_could_be_shown(ablation):
    summary = summarise(read_records(ablation)[0])
    svg = forest(summary)
    for name in ("ylg_attending", "ylg_no_esa_attending", "ylg_uniform"):
        assert f">{ROWS[name].title}</text>" in svg
    assert "against SAGAN, attending" in svg and "as published" not in svg
    found = summary.differences["ylg_attending"]
    assert found.low < found.estimate < found.high < 0 < found.detectable < 1


def test_rows_of_both_kinds_are_drawn_each_against_its_own_dense_row(canned_run, tmp_path):
    for seed in range(FIRST_SEED, FIRST_SEED + 2):
        for row, distance in (("sagan", 4.0), ("ylg", 2.0), ("sagan_attending", 1.0), ("ylg_attending", 2.0)):
            canned_run(row, seed, distance + 0.1 * seed)
    summary = summarise(read_records(tmp_path)[0])
    assert summary.differences["ylg"].estimate < 0 < summary.differences["ylg_attending"].estimate
    svg = forest(summary)
    assert svg.index("as published, against SAGAN:") < svg.index("attending, against SAGAN, attending:")


def test_without_a_dense_row_there_is_no_plot_and_the_page_says_why(canned_run, tmp_path, capsys):
    canned_run("ylg")
    assert main([str(tmp_path)]) == 0
    assert "the dense rows are missing" in (tmp_path / "report.html").read_text()
    assert not (tmp_path / "forest.svg").exists()


def test_a_pilot_tells_the_spread_and_what_seeds_would_show(ablation):
    text = power_report(ablation)
    spread = summarise(read_records(ablation)[0]).spread
    assert f"pooled over rows: {spread.deviation:.3f}" in text and "7 degrees of freedom" in text
    shown = [line.split()[1] for line in text.splitlines() if line.split()[1:2] and line.split()[1][:1] == "+"]
    assert len(shown) >= 5 and [float(word.strip("+%")) for word in shown] == sorted(
        (float(word.strip("+%")) for word in shown), reverse=True
    )


def test_a_pattern_unknown_to_this_process_costs_the_report_a_drawing_and_nothing_else(
    canned_run, tmp_path, monkeypatch, capsys
):
    def unknown(run):
        raise ValueError("unknown pattern 'halves'")

    monkeypatch.setattr(page_of_report, "mask_pictures", unknown)
    for row in ("sagan", "ylg"):
        canned_run(row)
    assert main([str(tmp_path)]) == 0
    assert "no drawing: unknown pattern" in (tmp_path / "report.html").read_text()


def test_an_interval_of_a_single_seed_is_said_to_cover_its_samples_only(canned_run, tmp_path, capsys):
    for row, distance in (("sagan", 5.0), ("ylg", 4.0)):
        canned_run(row, 0, distance, resampled=tuple(np.random.default_rng(len(row)).normal(0, 0.04, 200)))
    assert main([str(tmp_path)]) == 0
    assert "over the samples of one training each: another seed may differ" in (tmp_path / "report.html").read_text()
    found = summarise(read_records(tmp_path)[0]).differences["ylg"]
    assert found.over_samples and found.low < np.log(0.8) < found.high < 0


def test_latex_and_page_show_the_text_of_the_table(ablation, report):
    summary = summarise(read_records(ablation)[0])
    (line,) = summary.table[summary.table["row"] == "YLG-SAGAN, attending"].to_dict("records")
    page, latex = (report / "report.html").read_text(), (report / "report.tex").read_text()
    assert all(f">{cell}</t" in page for cell in line.values())
    (in_latex,) = [text for text in latex.splitlines() if text.startswith("YLG-SAGAN, attending &")]
    for cell in line.values():
        assert cell.replace("±", r"$\pm$").replace("%", r"\%") in in_latex
    assert latex.count("{") == latex.count("}") and in_latex.endswith(r"\\")
    assert page.index("real images, held out") < page.index(">SAGAN, attending</th>")  # the floor comes first
    assert CAVEAT.replace("'", "&#39;") in page


def test_no_string_of_a_merged_run_is_markup_a_command_or_mathematics(canned_run, tmp_path, capsys):
    """Results come from other machines: a title or a processor's name is only ever text."""
    title = r"$\frac{$ \input{/etc/passwd} <script>alert(1)</script> $x$ | a"
    for row in ("sagan", "ylg"):
        record = canned_run(row, curve=((500, 3.0), (1000, 2.0)))
        machine = replace(record.provenance.machine, cpu=r"\input{x} <b>")
        write_record(replace(record, title=title + row, provenance=replace(record.provenance, machine=machine)))
    readme = tmp_path / "README.md"
    readme.write_text(f"{BEGIN}\n{END}\n")
    assert main([str(tmp_path)]) == 0
    update_readme(readme, summarise(read_records(tmp_path)[0]), tmp_path)
    page, latex = (tmp_path / "report.html").read_text(), (tmp_path / "report.tex").read_text()
    assert "<script>alert" not in page and "<b>" not in page
    assert r"\input" not in latex and r"\frac" not in latex and r"\textbackslash{}input\{/etc/passwd\}" in latex
    rows = [line for line in readme.read_text().splitlines() if "frac" in line]
    assert len(rows) == 2 and all(len(re.findall(r"(?<!\\)\|", line)) == 12 for line in rows)


def test_a_link_in_a_runs_folder_is_neither_shown_nor_collected(canned_run, tmp_path, capsys):
    secret = tmp_path / "secret"
    secret.write_bytes(b"\x89PNG of somebody else")
    runs = [canned_run(row, root=tmp_path / "runs") for row in ("sagan", "ylg")]
    for name in ("samples.png",):
        (runs[1].folder / name).unlink(missing_ok=True)
        (runs[1].folder / name).symlink_to(secret)
    assert main([str(tmp_path / "runs")]) == 0
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


def test_the_csv_is_readable_without_pandas_and_counts_the_seeds(report):
    with (report / "report.csv").open() as file:
        lines = {line["row"]: line for line in csv.DictReader(file)}
    assert {name: line["n"] for name, line in lines.items()} == {
        "sagan_attending": "3", "ylg_attending": "3", "ylg_no_esa_attending": "3", "ylg_uniform": "2",
    }  # fmt: skip


def test_the_page_needs_no_file_beside_it_and_no_network(report):
    page = (report / "report.html").read_text()
    references = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"')\s>]+)""", page)
    assert references and all(ref.startswith(("data:image/png;base64,", "#")) for ref in references)
    assert len(page.encode()) < 3_000_000


def test_the_report_is_made_again_from_collected_small_files(ablation, report, tmp_path, capsys):
    small = tmp_path / "small"
    assert main([str(ablation), "--collect", str(small)]) == 0
    assert main([str(small)]) == 0
    for name in FILES:
        assert (small / name).read_bytes() == (report / name).read_bytes()


def test_the_readme_section_is_replaced_and_nothing_else(ablation, report, tmp_path, capsys):
    readme = tmp_path / "README.md"
    readme.write_text(f"# Title\n\n{BEGIN}\nold figures\n{END}\n\nThe end.\n")
    update_readme(readme, summarise(read_records(ablation)[0]), report)
    text = readme.read_text()
    assert text.startswith(f"# Title\n\n{BEGIN}\n") and text.endswith(f"{END}\n\nThe end.\n")
    assert "old figures" not in text and "| YLG-SAGAN, attending" in text and "A pilot" in text
    assert "2 cores of Test CPU" in text and CAVEAT in text and "hours of training" in text
    assert "](report/forest.svg)" in text
    update_readme(readme, summarise(read_records(ablation)[0]), report)
    assert readme.read_text() == text


def test_a_file_without_the_markers_is_left_alone(ablation, tmp_path):
    plain = tmp_path / "plain.md"
    plain.write_text("no markers\n")
    with pytest.raises(ValueError, match="must hold the lines"):
        update_readme(plain, summarise(read_records(ablation)[0]), tmp_path)
    assert plain.read_text() == "no markers\n"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["{}/nowhere"], "nowhere is no folder; give the --out of ablations/run.py"),
        (["{}/empty"], "holds no finished run"),
        (["{}", "--baseline", "sagan"], "there is no option --baseline"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(canned_run, tmp_path, capsys, options, words):
    canned_run("sagan")
    (tmp_path / "empty").mkdir()
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
    text: [...document.querySelectorAll("#table + .scroll tbody th")].map(cell => cell.textContent).slice(0, 4),
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
    assert probe["plots"] == [True] * 4
    titles = [ROWS[name].title for name in ("sagan_attending", "ylg_attending", "ylg_no_esa_attending")]
    assert probe["text"] == ["real images, held out", *titles]
    assert not probe["overflow"]


def test_gains_are_drawn_as_sizes(canned_run):
    record = canned_run("ylg", curve=((500, 3.0), (1000, 2.0)))
    assert curve(record, "gain/discriminator.attention.16") == [(500, 0.2), (1000, 0.2)]


def test_a_band_runs_from_the_lowest_seed_to_the_highest_where_all_seeds_measured():
    curves = [[(100, 2.0), (200, 8.0), (300, 1.0)], [(200, 4.0), (100, 3.0)], [(100, 7.0), (200, 6.0), (400, 1.0)]]
    assert [part.tolist() for part in band(curves)] == [[100, 200], [4, 6], [2, 4], [7, 8]]


@pytest.mark.parametrize("row", ["ylg", "ylg_attending"])
def test_the_pictures_of_masks_show_the_rows_own_masks_and_the_keys_of_the_query_in_the_middle(row):
    def allowed(uri: str) -> np.ndarray:
        png = base64.b64decode(uri.partition(",")[2])
        return (np.array(Image.open(io.BytesIO(png)).convert("RGB")) != FORBIDDEN).any(axis=-1)

    pictures = mask_pictures(Experiment(ROWS[row], Setting(PRESETS["digits"], "paper", "digits", 100, ()), 0).model())
    alignment = {"ylg": "rows", "ylg_attending": "pool"}[row]
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
    text = page_of_report.page(summarise(runs))
    assert data_uri((runs[1].folder / "samples.png").read_bytes()) in text
    assert text.count('<img alt="samples of') == 1 and f"YLG-SAGAN: {DISTANCE} 3.00" in text
