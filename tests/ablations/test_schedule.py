"""What would run: listings, plans and the Slurm script, which is executed here without Slurm."""

import os
import subprocess
from pathlib import Path

import pytest

from ablations import run, schedule
from ablations.presets import PRESETS
from ablations.rows import ROWS
from ablations.schedule import duration
from sagan_base.checkpoint import checkpoint_path


@pytest.fixture
def measured(canned_run, tmp_path, monkeypatch):
    """Two measured runs of 90 seconds for 900 and 450 steps: a row of its own, and all the others."""
    runs = [canned_run(row, steps=steps, root=tmp_path / "measured") for row, steps in (("sagan", 900), ("ylg", 450))]
    monkeypatch.setattr(schedule, "measured_runs", lambda: runs)


def test_the_list_names_every_row_with_its_question_figures_and_time(measured, capsys):
    assert run.main(["--list", "--steps", "1000"]) == 0
    text = capsys.readouterr().out
    assert all(f"{row.name} " in text and row.question in text for row in ROWS.values())
    assert "FID 16.64*, IS 55.21*" in text and "* not confirmed" in text
    assert "0.34M parameters; about 2 min a run" in text
    seconds = 100 + 200 + 150 * (len(ROWS) - 2)  # 0.1 and 0.2 seconds a step, and their mean
    assert f"{len(ROWS)} rows, {len(ROWS)} runs: about {duration(seconds)} one after the other" in text
    assert "as measured on 2 cores of Test CPU" in text


def test_what_no_measured_run_tells_is_said_to_be_unknown(measured, capsys):
    assert run.main(["--rows", "sagan", "--preset", "imagenet128", "--list"]) == 0
    text = capsys.readouterr().out
    assert "81.54M parameters; time unknown a run" in text
    assert "time unknown, because no run of preset imagenet128 lies in ablations/results" in text


def test_a_dry_run_tells_finished_started_and_new_runs_apart_and_writes_nothing(
    measured, canned_run, tmp_path, monkeypatch, capsys
):
    canned_run("sagan", steps=PRESETS["digits"].steps)
    started = checkpoint_path(tmp_path / "ylg-seed0" / "checkpoints", PRESETS["digits"].steps // 4)
    started.parent.mkdir(parents=True)
    started.touch()
    before = sorted(tmp_path.rglob("*"))
    assert run.main(["--rows", "sagan", "ylg", "interlaced8", "--dry-run", "--out", str(tmp_path)]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if "seed0" in line}
    assert lines["sagan-seed0"].split()[1] == "finished" and lines["interlaced8-seed0"].split()[1] == "new"
    assert f"goes on at {PRESETS['digits'].steps // 4}" in lines["ylg-seed0"]
    assert sorted(tmp_path.rglob("*")) == before


def test_each_task_of_the_slurm_array_is_one_run(measured, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = ["--rows", "sagan", "ylg", "--seeds", "2", "--steps", "9", "--data", "folder:my images"]
    options += ["--features", "efficientnet", "classifier", "--inception-weights", "my weights.pth", "--device", "cpu"]
    assert run.main([*options, "--list", "--format", "slurm"]) == 0
    script = tmp_path / "array.sh"
    script.write_text(capsys.readouterr().out)
    assert "#SBATCH --array=0-3" in script.read_text()
    stub = tmp_path / "bin" / "python"
    stub.parent.mkdir()
    stub.write_text('#!/bin/sh\nfor word in "$@"; do echo "$word"; done\n')
    stub.chmod(0o755)
    runs = []
    for task in range(4):
        environment = os.environ | {"PATH": f"{stub.parent}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_ID": str(task)}
        words = subprocess.run(["bash", script], env=environment, capture_output=True, text=True, check=True).stdout
        command = words.splitlines()
        assert Path(command[0]) == Path(run.__file__)  # wherever the script was written from
        asked = run.parser().parse_args(command[1:])
        assert (asked.inception_weights, asked.device) == (Path("my weights.pth"), "cpu")
        request = run.request(asked)
        assert request.setting.features == ("efficientnet", "classifier", "inception")
        assert request.setting.data == "folder:my images" and request.setting.steps == 9
        assert request.out == tmp_path / "runs" / f"ablation-on-my images-9-steps-{'-'.join(request.setting.features)}"
        runs += [experiment.name for experiment in request.runs]
    assert runs == ["sagan-seed0", "ylg-seed0", "sagan-seed1", "ylg-seed1"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(5, "5 s"), (100, "2 min"), (7200, "2.0 h"), (864_000, "10 days"), (86_400_000, "1,000 days")]
)
def test_durations_are_shown_in_the_unit_that_fits(seconds, text):
    assert duration(seconds) == text
