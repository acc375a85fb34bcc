"""A run that is killed at any moment and started again ends with the same bits as one that was never stopped."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import sagan_base.train
from sagan_base.checkpoint import checkpoint_files, checkpoint_path, read_checkpoint
from sagan_base.run_folder import read_metrics
from sagan_base.training import train

STEPS = 8
# A training of the fixtures' run that is killed as -9 does, at a moment that argv[2] names.
SCRIPT = """
import os, signal, sys, time
import safetensors.torch
import torch
import sagan_base.files, sagan_base.tensors, sagan_base.training
from sagan_base.config import RunConfig
from sagan_base.data import ImageData
from sagan_base.updates import Updates

out, moment = sys.argv[1:3]
config = RunConfig.from_dict(eval(sys.argv[3]))
generator = torch.Generator().manual_seed(0)
images = torch.randint(256, (30, 1, 16, 16), generator=generator, dtype=torch.uint8)
data = ImageData("noise", images, torch.arange(30) % 3, ("zero", "one", "two"))
die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
step, replace, save_file = Updates.step, os.replace, safetensors.torch.save_file

def step_and_die(self, number):
    if moment == "inside step 5" and number == 5:
        self._update_discriminator(number, 0)
        die()
    if moment == "from outside":
        time.sleep(0.1)
    return step(self, number)

def write_half_and_die(tensors, path, metadata):
    save_file(tensors, path, metadata)
    if "step_00000006" in str(path):
        os.truncate(path, os.path.getsize(path) // 2)
        die()

def die_before_rename(source, target):
    if "step_00000006" in str(target):
        die()
    replace(source, target)

Updates.step = step_and_die
if moment == "half of a checkpoint written":
    sagan_base.tensors.save_file = write_half_and_die
if moment == "a checkpoint written but not named":
    os.replace = die_before_rename
sagan_base.training.train(config, data, out, progress=False)
"""


@pytest.fixture
def config(tiny_config):
    # A log window of 3 steps straddles the checkpoints of every 2.
    return tiny_config(steps=STEPS, checkpoint_every=2, log_every=3, sample_every=4, discriminator_steps=2, flip=True)


@pytest.fixture
def uninterrupted(config, tiny_data, tmp_path):
    return train(config, tiny_data, tmp_path / "whole", progress=False)


def start(out: Path, moment: str, config) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.Popen([sys.executable, "-c", SCRIPT, out, moment, repr(config.to_dict())], env=environment)


def assert_same_run(resumed, uninterrupted) -> None:
    ours, theirs = read_checkpoint(resumed.checkpoint).tensors, read_checkpoint(uninterrupted.checkpoint).tensors
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    timed = ("images_per_second", "seconds")
    lines = [
        [{name: value for name, value in line.items() if name not in timed} for line in read_metrics(run.out)]
        for run in (resumed, uninterrupted)
    ]
    assert lines[0] == lines[1]
    for name in ("samples.png", "samples/step_00000004.png"):
        assert (resumed.out / name).read_bytes() == (uninterrupted.out / name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "left_at"),
    [("inside step 5", 4), ("half of a checkpoint written", 4), ("a checkpoint written but not named", 4)],
)
def test_a_run_killed_at_a_bad_moment_goes_on_bit_for_bit(config, tiny_data, tmp_path, uninterrupted, moment, left_at):
    out = tmp_path / "killed"
    assert start(out, moment, config).wait(timeout=120) == -signal.SIGKILL
    assert checkpoint_files(out / "checkpoints")[0] == checkpoint_path(out / "checkpoints", left_at)
    resumed = train(config, tiny_data, out, progress=False)
    assert resumed.resumed_from == left_at
    assert_same_run(resumed, uninterrupted)
    assert not list((out / "checkpoints").glob(".*"))  # nothing is left of the write that was killed


def test_a_run_killed_from_outside_goes_on_bit_for_bit(config, tiny_data, tmp_path, uninterrupted):
    out = tmp_path / "killed"
    process = start(out, "from outside", config)
    deadline = time.monotonic() + 120
    while not checkpoint_files(out / "checkpoints") and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    resumed = train(config, tiny_data, out, progress=False)
    assert 2 <= resumed.resumed_from < STEPS
    assert_same_run(resumed, uninterrupted)


@pytest.mark.parametrize("damage", ["truncated", "corrupted"])
def test_a_run_with_a_damaged_newest_checkpoint_goes_on_from_the_one_before(
    config, tiny_data, tmp_path, uninterrupted, capsys, damage
):
    out = uninterrupted.out
    # Clones, because tensors that were read map the file, which is damaged next.
    whole = {name: t.clone() for name, t in read_checkpoint(uninterrupted.checkpoint).tensors.items()}
    newest = uninterrupted.checkpoint
    content = newest.read_bytes()
    newest.write_bytes(content[:-1000] if damage == "truncated" else content[:-1000] + bytes(1000))
    resumed = train(config, tiny_data, out, progress=False)
    assert resumed.resumed_from == 6
    assert "step_00000008.safetensors" in capsys.readouterr().out
    again = read_checkpoint(resumed.checkpoint).tensors
    assert all(torch.equal(again[name], whole[name]) for name in whole)
    assert [line["step"] for line in read_metrics(out)] == [3, 6, 8]


def test_a_longer_run_continues_a_finished_one_as_if_it_had_been_asked_for_at_once(
    tiny_config, tiny_data, tmp_path, uninterrupted, config
):
    out = tmp_path / "longer"
    first = train(tiny_config(**_options(config, steps=4)), tiny_data, out, progress=False)
    assert first.steps == 4
    longer = train(config, tiny_data, out, progress=False)
    assert longer.resumed_from == 4
    ours, theirs = read_checkpoint(longer.checkpoint).tensors, read_checkpoint(uninterrupted.checkpoint).tensors
    assert [name for name in ours if not name.startswith("window") and not torch.equal(ours[name], theirs[name])] == []
    assert read_checkpoint(longer.model).info["step"] == STEPS
    sessions = json.loads((out / "config.json").read_text())["sessions"]
    assert [session["from_step"] for session in sessions] == [0, 4]


def _options(config, **changed) -> dict[str, object]:
    recipe = {"discriminator_steps": config.recipe.discriminator_steps, "flip": config.recipe.flip}
    training = {"checkpoint_every": 2, "log_every": 3, "sample_every": 4}
    return {**recipe, **training, **changed}


def test_log_lines_after_the_resumed_step_and_a_line_cut_short_are_dropped(config, tiny_data, tmp_path, uninterrupted):
    out = uninterrupted.out
    before = read_metrics(out)
    uninterrupted.checkpoint.unlink()  # the newest left is that of step 6
    log = out / "metrics.jsonl"
    log.write_text(log.read_text() + '{"step": 99, "discriminator_loss": 1.0}\n{"step": 100, "discrim')
    train(config, tiny_data, out, progress=False)
    steps = [json.loads(line)["step"] for line in log.read_text().splitlines()]
    assert steps == [line["step"] for line in before] == [3, 6, 8]


def test_a_full_disk_is_one_line_and_the_same_command_goes_on_bit_for_bit(tmp_path, capsys):
    """The limit of a process's files stands for the disk's: logs still fit, checkpoints do not."""
    command = [
        "--resolution", "16", "--generator-width", "8", "--discriminator-width", "8", "--batch-size", "4",
        "--num-heads", "4", "--steps", "3", "--checkpoint-every", "2",
    ]  # fmt: skip
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(SystemExit) as stop:
            sagan_base.train.main([*command, "--out", str(tmp_path / "full")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    last = capsys.readouterr().err.splitlines()[-1]
    assert stop.value.code == 1 and "step_00000002.safetensors cannot be written" in last and "File too large" in last
    for out in ("full", "whole"):
        assert sagan_base.train.main([*command, "--out", str(tmp_path / out)]) == 0
    full, whole = (read_checkpoint(tmp_path / out / "model.safetensors").tensors for out in ("full", "whole"))
    assert full.keys() == whole.keys() and all(torch.equal(full[name], whole[name]) for name in full)
    assert not list(tmp_path.rglob(".*"))
