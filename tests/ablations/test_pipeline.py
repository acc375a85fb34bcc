"""A miniature of the whole ablation: two rows, two seeds, a kill -9, a merge, and the report of what came out.

The networks are tiny and so is the classifier whose features are compared: the pipeline is tested, not its figures.
"""

import json
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

from ablations import execute
from ablations.bootstrap import read_features, write_features
from ablations.execute import Measurement, finished
from ablations.experiment import Experiment, Setting
from ablations.presets import Preset
from ablations.records import read_record
from ablations.rows import ROWS
from sagan_base.config import ModelConfig
from sagan_base.data import load_data
from sagan_base.distributed import Processes
from sagan_base.generator import Generator
from sagan_base.metrics import features
from sagan_base.metrics.classifier import ClassifierConfig, classifier_for
from sagan_base.metrics.evaluate import Evaluation, RealStatistics
from sagan_base.sampling import class_frequency_labels

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
    steps=24, metrics_every=8, curve_samples=20, final_samples=30, checkpoint_every=2, log_every=2,
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
    assert "SAGAN" in merged["table"] and merged["runs_at_kill"].__len__() == len(merged["table"].splitlines()) - 1


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
    table = pd.read_csv(merged["all"] / "table.csv")
    assert list(zip(table["row"], table["seed"], strict=True)) == [
        ("SAGAN", 0), ("SAGAN", 1), ("YLG-SAGAN", 0), ("YLG-SAGAN", 1),
    ]  # fmt: skip
    assert table["paper FID"].tolist() == [18.65, 18.65, 15.94, 15.94]


def test_the_command_itself_prints_class_accuracy_and_how_far_the_distance_fell(merged):
    result = json.loads((merged["all"] / "sagan-seed1" / "result.json").read_text())
    assert f"gives {result['class_accuracy']:.1%} of 500 samples the class asked for" in merged["last"]
    key = "FD (digits classifier)"
    before, after = result["initial"][key], result["metrics"][key]
    change = f"{before / after:.1f} times lower" if after <= before else f"{after / before:.1f} times higher"
    assert f"{before:.4g} at initialisation, {after:.4g} at the end: {change}" in merged["last"]


def test_the_last_measurement_is_repeated_with_the_gains_at_0(tmp_path, monkeypatch):
    gains, counts = [], []

    class Recording(Measurement):
        def __call__(self, generator, *arguments, **options):
            counts.append(arguments[1])
            gains.append([layer.gain.item() for layer in generator.attention_layers().values()])
            real = RealStatistics(torch.zeros(2), torch.eye(2), torch.zeros(3, 2))
            values = {"FD (tiny)": float(len(gains)), "IS-style (tiny)": 1.0}
            return Evaluation(values, torch.full((3, 2), float(len(gains))), torch.zeros(3).long(), real)

    model = ModelConfig(16, image_channels=1, num_classes=10, latent_dim=4, generator_width=4, discriminator_width=4)
    recipe = {"paper": {"batch_size": 4, "ema_decay": 0.0}}
    preset = Preset("tiny", "for tests", "digits", model, 3, 0, 20, 30, recipe_changes=recipe)
    run = Experiment(ROWS["ylg"], Setting(preset, "paper", "digits", 3, ("tiny",)), 0)
    data = load_data("digits", 16)
    record = execute.run_experiment(
        run, data, tmp_path, Recording(("tiny",)), Processes(0, 1, torch.device("cpu")), progress=False
    )
    before, _, trained, off, *replaced = gains
    assert before == off == [0]  # before the first step, and switched off
    assert trained == [record.gains["gain/generator.attention.8"]] != [0]
    assert replaced == [trained] * 2  # its maps by their mean, and by another sample's
    assert read_features(record.folder).samples[0, 0] == 3  # of the measurement with the gains as trained
    assert record.metrics["FD (tiny)"] == 3
    assert record.attention_off == {"FD (tiny)": 4.0, "IS-style (tiny)": 1.0}
    health = record.attention_health
    assert list(health) == ["generator.attention.8", "discriminator.attention.8"]
    assert health["generator.attention.8"]["distance"] == {"mean map": 5.0, "another image's map": 6.0}
    assert counts == [30, 20, 30, 30, 30, 30]  # fewer samples for the curve


def test_the_samples_kept_for_the_bootstrap_are_those_that_were_measured(tmp_path, monkeypatch):
    small = ClassifierConfig(width=4, min_steps=10, max_steps=10)
    monkeypatch.setattr(
        features, "classifier_for", lambda data, cache: classifier_for(data, cache, small, progress=False)
    )
    torch.manual_seed(0)
    generator = Generator(resolution=16, image_channels=1, num_classes=10, generator_width=4, attention=None)
    data, measure = load_data("digits", 16), Measurement(("classifier",), cache=tmp_path / "cache")
    measured = measure(generator, data, 100, progress=False)
    assert torch.equal(measured.labels.bincount(), class_frequency_labels(data, 100, 0).bincount())
    write_features(tmp_path, measured.features.numpy(), measured.real.mean.numpy(), measured.real.covariance.numpy())
    kept = read_features(tmp_path)
    assert kept.samples.shape == (100, 64)
    distance, _ = kept.distance_and_influence()
    assert distance == pytest.approx(measured.values["FD (digits classifier)"], rel=2e-3)


def test_the_report_of_the_merged_runs_has_both_rows_with_two_seeds_each(merged, tmp_path, capsys):
    from ablations.report import FILES, main

    assert main([str(merged["all"]), "--out", str(tmp_path), "--resamples", "100"]) == 0
    report = pd.read_csv(tmp_path / "report.csv").set_index("row")
    assert report["n"].to_dict() == {"sagan": 2, "ylg": 2}
    runs = [json.loads((merged["all"] / f"ylg-seed{s}" / "result.json").read_text()) for s in (0, 1)]
    mean = sum(run["metrics"]["FD (digits classifier)"] for run in runs) / 2
    assert report.loc["ylg", "FD (digits classifier)"] == pytest.approx(mean, rel=1e-5)
    assert (
        report.loc["ylg", "difference low"] <= report.loc["ylg", "difference"] <= report.loc["ylg", "difference high"]
    )
    assert {path.name for path in tmp_path.iterdir()} == set(FILES)


def test_another_number_of_steps_does_not_join_a_folder_of_other_runs(run, merged):
    refused = run("--rows", "ylg_pool", "--steps", 30, "--out", merged["all"])
    assert refused.returncode == 2
    assert "cannot stand in one table: steps 24 against 30" in refused.stderr and refused.stderr.count("\n") == 1
    assert not (merged["all"] / "ylg_pool-seed0").exists()


def test_fewer_steps_than_a_run_has_are_refused_and_the_dry_run_says_so(run, merged):
    refused = run("--rows", "ylg", "--seed", 1, "--steps", 10, "--out", merged["b"])
    assert refused.returncode == 2 and "holds 24 steps, more than --steps 10" in refused.stderr
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
    kept = json.loads((merged["b"] / "ylg-seed1" / "initial.json").read_text())
    assert kept["features"] == ["classifier"] and kept["metrics"] == record.initial
