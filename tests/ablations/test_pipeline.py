"""A miniature of the whole ablation: two rows, two seeds, a kill -9, a merge, and the report of what came out.

The networks are tiny and so is the classifier whose features are compared: the pipeline is tested, not its figures.
"""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from ablations.execute import Measurement, finished, plateau, run_experiment
from ablations.experiment import Experiment, Setting
from ablations.paper import CAVEAT
from ablations.presets import Preset
from ablations.records import read_record
from ablations.report import SMALL_FILES
from ablations.rows import ROWS
from ablations.table import REAL
from sagan_base.config import ModelConfig
from sagan_base.data import load_data
from sagan_base.distributed import Processes
from sagan_base.metrics.evaluate import Evaluation, RealStatistics
from sagan_base.run_folder import read_metrics
from sagan_base.training import TrainingStopped

pytestmark = pytest.mark.slow
DISTANCE = "FD (digits classifier)"
MINIATURE = """
import sys, torch
torch.set_num_threads(1)
from ablations.presets import PRESETS, Preset
from sagan_base.config import ModelConfig
from sagan_base.metrics import classifier, features
small = classifier.ClassifierConfig(width=4, min_steps=10, max_steps=10)
features.classifier_for = lambda data, cache: classifier.classifier_for(data, cache, small, progress=False)
PRESETS["tiny"] = Preset(
    "tiny", "for tests", "digits",
    ModelConfig(16, image_channels=1, num_classes=10, latent_dim=4, generator_width=4, discriminator_width=4),
    steps=24, metrics_every=8, plateau=2, thresholds=(300.0,), samples=30, checkpoint_every=2, log_every=2,
    recipe_changes={"paper": {"batch_size": 4}},
)
from ablations.run import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Start the miniature command; ``wait=False`` returns the process."""
    environment = os.environ | {"YLG_CACHE": str(tmp_path_factory.mktemp("cache")), "OMP_NUM_THREADS": "1"}

    def start(*options: object, wait: bool = True):
        command = [sys.executable, "-c", MINIATURE, "--preset", "tiny", *map(str, options)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
        if not wait:
            return subprocess.Popen(command, **pipes)
        return subprocess.run(command, **pipes, timeout=300)

    return start


@pytest.fixture(scope="module")
def merged(run, tmp_path_factory) -> dict[str, Path | str]:
    """Machine a runs seed 0 of both rows and is killed on the way; machine b runs two seeds of one row."""
    a, b = tmp_path_factory.mktemp("a"), tmp_path_factory.mktemp("b")
    killed = run("--rows", "sagan", "ylg", "--seed", 0, "--out", a, wait=False)
    deadline = time.monotonic() + 240
    while not list(a.glob("ylg-seed0/checkpoints/step_*.safetensors")) and time.monotonic() < deadline:
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    at_kill = sorted(path.name for path in a.glob("*/result.json"))
    table_at_kill = (a / "table.csv").read_text()
    sagan = (a / "sagan-seed0" / "result.json").stat().st_mtime_ns
    resumed = run("--rows", "sagan", "ylg", "--seed", 0, "--out", a)
    assert resumed.returncode == 0, resumed.stderr
    assert (a / "sagan-seed0" / "result.json").stat().st_mtime_ns == sagan
    other = run("--rows", "ylg", "--seeds", 2, "--out", b)
    assert other.returncode == 0, other.stderr
    together = tmp_path_factory.mktemp("merged")
    for name in ("sagan-seed0", "ylg-seed0"):
        shutil.copytree(a / name, together / name)
    shutil.copytree(b / "ylg-seed1", together / "ylg-seed1")
    last = run("--rows", "sagan", "ylg", "--seeds", 2, "--out", together)
    assert last.returncode == 0, last.stderr
    return {
        "a": a, "b": b, "all": together, "resumed": resumed.stdout, "last": last.stdout, "table": table_at_kill,
        "runs_at_kill": at_kill,
    }  # fmt: skip


def test_a_killed_command_leaves_the_finished_rows_in_the_table(merged):
    assert "SAGAN" in merged["table"] and len(merged["runs_at_kill"]) == len(merged["table"].splitlines()) - 2


def test_the_same_command_skips_what_is_finished_and_goes_on_with_the_rest(merged):
    assert "finished before" in merged["resumed"].split("[2/2]")[0]
    sessions = json.loads((merged["a"] / "ylg-seed0" / "config.json").read_text())["sessions"]
    assert [session["from_step"] > 0 for session in sessions] == [False, True]


def test_a_killed_and_resumed_run_is_bit_for_bit_the_undisturbed_one(merged):
    there, here = (load_file(merged[m] / "ylg-seed0" / "model.safetensors") for m in ("a", "b"))
    assert there.keys() == here.keys() and all((there[name] == here[name]).all() for name in there)
    results = [json.loads((merged[m] / "ylg-seed0" / "result.json").read_text()) for m in ("a", "b")]
    assert results[0]["metrics"] == results[1]["metrics"] and results[0]["config"] == results[1]["config"]


def test_folders_of_two_machines_merge_by_copying_and_only_what_is_missing_is_run(merged):
    assert merged["last"].count("finished before") == 3
    table = pd.read_csv(merged["all"] / "table.csv")[1:]
    assert list(zip(table["row"], table["seed"], strict=True)) == [
        ("SAGAN", 0), ("SAGAN", 1), ("YLG-SAGAN", 0), ("YLG-SAGAN", 1),
    ]  # fmt: skip
    assert table["paper FID"].tolist() == [18.65, 18.65, 15.94, 15.94]


def test_the_command_itself_prints_how_far_the_distance_fell_what_real_images_have_and_the_caveat(merged):
    result = json.loads((merged["all"] / "sagan-seed1" / "result.json").read_text())
    before, after = result["initial"][DISTANCE], result["metrics"][DISTANCE]
    change = f"{before / after:.1f} times lower" if after <= before else f"{after / before:.1f} times higher"
    assert f"{before:.4g} at initialisation, {after:.4g} at the end: {change}" in merged["last"]
    assert f"355 real images that were not trained on: {result['real'][DISTANCE]:.4g}" in merged["last"]
    assert CAVEAT in merged["last"] and REAL in merged["last"]


def test_a_result_is_the_geometric_mean_of_the_last_measurements_and_its_files_are_small(merged):
    folder = merged["all"] / "ylg-seed0"
    result = json.loads((folder / "result.json").read_text())
    logged = {line["step"]: line for line in read_metrics(folder) if DISTANCE in line}
    assert list(logged) == [8, 16, 24] and result["setting"]["measured"] == [16, 24]
    mean = (logged[16][DISTANCE] * logged[24][DISTANCE]) ** 0.5
    assert result["metrics"][DISTANCE] == pytest.approx(mean, rel=1e-9)
    assert len(result["resampled"]) == 200 and 0 < max(result["resampled"]) < 1
    assert sum((folder / name).stat().st_size for name in SMALL_FILES if name != "samples.png") < 40_000


def test_a_log_that_lacks_a_measurement_is_refused():
    lines = [{"step": 8, DISTANCE: 4.0, "precision (x)": 0.4}, {"step": 16, DISTANCE: 9.0, "precision (x)": 0.6}]
    assert plateau(lines, (8, 16), [DISTANCE, "precision (x)"]) == pytest.approx({DISTANCE: 6.0, "precision (x)": 0.5})
    with pytest.raises(TrainingStopped, match=r"lacks the measurements of steps \[24\]"):
        plateau(lines, (16, 24), [DISTANCE])


def test_the_last_measurement_is_repeated_with_the_gains_at_0_and_with_other_maps(tmp_path):
    gains = []

    class Recording(Measurement):
        def __call__(self, generator, data, features=None):
            gains.append([layer.gain.item() for layer in generator.attention_layers().values()])
            real = RealStatistics(torch.zeros(2), torch.eye(2), torch.zeros(3, 2))
            samples = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 2.0]])
            return Evaluation({"FD (tiny)": float(len(gains))}, samples, torch.zeros(3).long(), real)

    model = ModelConfig(16, image_channels=1, num_classes=10, latent_dim=4, generator_width=4, discriminator_width=4)
    recipe = {"paper": {"batch_size": 4, "ema_decay": 0.0}}
    preset = Preset("tiny", "for tests", "digits", model, 3, 0, 30, recipe_changes=recipe)
    run = Experiment(ROWS["ylg"], Setting(preset, "paper", "digits", 3, ("tiny",)), 0)
    data, alone = load_data("digits", 16), Processes(0, 1, torch.device("cpu"))
    record = run_experiment(run, data, None, tmp_path, Recording(("tiny",), 30), alone, progress=False)
    trained, before, off, *replaced = gains  # the last step is measured once, in training
    assert before == off == [0]  # the untrained network, and switched off
    assert trained == [record.gains["gain/generator.attention.8"]] != [0]
    assert replaced == [trained] * 2  # its maps by their mean, and by another sample's
    assert record.metrics == {"FD (tiny)": 1.0} and record.initial == {"FD (tiny)": 2.0} and record.real == {}
    assert record.attention_off == 3.0
    health = record.attention_health
    assert list(health) == ["generator.attention.8", "discriminator.attention.8"]
    assert health["generator.attention.8"].distance == {"mean map": 4.0, "another image's map": 5.0}
    kept = read_record(record.folder)
    assert replace(kept, attention_health=health) == record and kept.attention_health.keys() == health.keys()


def test_the_report_of_the_merged_runs_has_both_rows_with_two_seeds_each(merged, tmp_path, capsys):
    from ablations.report import FILES, main

    assert main([str(merged["all"]), "--out", str(tmp_path)]) == 0
    report = pd.read_csv(tmp_path / "report.csv").set_index("row")
    assert report["n"].to_dict() == {"sagan": 2, "ylg": 2}
    logs = [math.log(read_record(merged["all"] / f"ylg-seed{seed}").distance) for seed in (0, 1)]
    assert report.loc["ylg", DISTANCE] == pytest.approx(math.exp(sum(logs) / 2), rel=1e-5)
    assert report.loc["ylg", "log difference low"] < report.loc["ylg", "log difference"]
    assert {path.name for path in tmp_path.iterdir()} == set(FILES)


def test_another_number_of_steps_does_not_join_a_folder_of_other_runs(run, merged):
    refused = run("--rows", "interlaced8", "--steps", 30, "--out", merged["all"])
    assert refused.returncode == 2
    assert "cannot stand in one table: steps 24 against 30" in refused.stderr and refused.stderr.count("\n") == 1
    assert not (merged["all"] / "interlaced8-seed0").exists()


def test_fewer_steps_than_a_run_has_are_refused_and_the_dry_run_says_so(run, merged):
    refused = run("--rows", "ylg", "--seed", 1, "--steps", 10, "--out", merged["b"])
    assert refused.returncode == 2 and "holds 24 steps, more than --steps 10" in refused.stderr
    assert refused.stderr.count("\n") == 1
    (merged["b"] / "ylg-seed1" / "config.json").unlink()  # another run is known by its checkpoints alone, too
    refused = run("--rows", "ylg", "--seed", 1, "--recipe", "biggan", "--out", merged["b"])
    assert refused.returncode == 2 and "recipe.name ('paper' there, 'biggan' here)" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert "has 24 steps" in run("--rows", "ylg", "--seed", 1, "--steps", 10, "--out", merged["b"], "--dry-run").stdout


def test_a_run_measured_in_other_features_is_not_finished(merged):
    record = read_record(merged["b"] / "ylg-seed1")

    def wanted(features):
        setting = SimpleNamespace(conditions=lambda data: replace(record.setting, features=features))
        return SimpleNamespace(name="ylg-seed1", config=lambda data: record.config, setting=setting)

    alone = Processes(0, 1, torch.device("cpu"))
    assert finished(wanted(("classifier",)), None, merged["b"], alone) == record
    assert finished(wanted(("classifier", "efficientnet")), None, merged["b"], alone) is None
