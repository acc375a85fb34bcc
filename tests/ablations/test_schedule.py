"""What would run: listings, plans and the Slurm script, which is executed here without Slurm."""

import os
import subprocess
from pathlib import Path

import pytest

from ablations import cost, run, schedule
from ablations.cost import Cost, duration, estimate
from ablations.experiment import Experiment, Setting
from ablations.presets import PRESETS
from ablations.rows import ROWS
from sagan_base.checkpoint import checkpoint_path


@pytest.fixture
def quick(monkeypatch):
    """Costs without timing anything: 100 seconds a run."""
    monkeypatch.setattr(schedule, "estimate", lambda config: Cost(100.0, 2e9))


def test_the_list_names_every_row_with_its_question_figures_and_cost(quick, capsys):
    assert run.main(["--list"]) == 0
    text = capsys.readouterr().out
    assert all(f"{row.name} " in text and row.question in text for row in ROWS.values())
    assert "FID 16.64*, IS 55.21*" in text and "* not confirmed" in text
    assert "about 2 min, 2.0 GB a run" in text
    assert f"{len(ROWS)} rows x 1 seed = {len(ROWS)} runs, about 32 min" in text


def test_a_dry_run_tells_finished_started_and_new_runs_apart_and_writes_nothing(
    quick, canned_run, tmp_path, monkeypatch, capsys
):
    canned_run("sagan", steps=PRESETS["digits"].steps)
    started = checkpoint_path(tmp_path / "ylg-seed0" / "checkpoints", PRESETS["digits"].steps // 4)
    started.parent.mkdir(parents=True)
    started.touch()
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(run, "run_experiment", lambda *_: pytest.fail("it ran"))
    assert run.main(["--rows", "sagan", "ylg", "ylg_pool", "--dry-run", "--out", str(tmp_path)]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if "seed0" in line}
    assert lines["sagan-seed0"].split()[1] == "finished" and lines["ylg_pool-seed0"].split()[1] == "new"
    assert f"goes on at {PRESETS['digits'].steps // 4}" in lines["ylg-seed0"]
    assert sorted(tmp_path.rglob("*")) == before


def test_each_task_of_the_slurm_array_is_one_run(quick, tmp_path, monkeypatch, capsys):
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
        runs += [experiment.name for experiment in request.experiments]
    assert runs == ["sagan-seed0", "ylg-seed0", "sagan-seed1", "ylg-seed1"]


def test_an_estimate_grows_with_steps_and_its_memory_holds_the_weights():
    def of(steps: int) -> Cost:
        return estimate(Experiment(ROWS["ylg"], Setting(PRESETS["digits"], "paper", "digits", steps, ()), 0).config())

    once, tenfold = of(10), of(100)
    assert tenfold.seconds == pytest.approx(10 * once.seconds) and once.seconds > 0
    assert tenfold.bytes == once.bytes


def test_operations_are_those_of_the_convolutions_counted_by_hand():
    """A DCGAN at 16x16 without classes: three matrix products and their two gradients each are all it computes."""
    from dataclasses import replace

    model = Experiment(ROWS["dcgan"], Setting(PRESETS["digits"], "paper", "digits", 1, ()), 0).model()
    model = replace(model, resolution=16, num_classes=1, generator_attention=None, discriminator_attention=None)
    z, g, d = model.latent_dim, model.generator_channels, model.discriminator_channels
    forward = [
        2 * z * 16 * g(8),  # to 4x4
        2 * 4 * 4 * 16 * g(8) * g(8),  # transposed 4x4 convolution: each input cell meets 16 weights
        2 * 8 * 8 * 16 * g(8) * g(16),
        2 * 16 * 16 * 9 * g(16) * model.image_channels,
        2 * 8 * 8 * 16 * model.image_channels * d(8),
        2 * 4 * 4 * 16 * d(8) * d(4),
        2 * d(4),
    ]
    # Backward costs twice the forward pass, but for the gradient to z, which nobody asks for. Each spectral norm adds
    # a few matrix-vector products.
    operations, _ = cost._per_image(model)
    assert operations == pytest.approx(3 * sum(forward) - forward[0], rel=0.1)


@pytest.mark.parametrize(
    ("seconds", "text"), [(5, "5 s"), (100, "2 min"), (7200, "2.0 h"), (864_000, "10 days"), (86_400_000, "1,000 days")]
)
def test_durations_are_shown_in_the_unit_that_fits(seconds, text):
    assert duration(seconds) == text
