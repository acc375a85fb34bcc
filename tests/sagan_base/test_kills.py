"""A run killed by ``kill -9`` at random moments, again and again, ends as one that nothing disturbed, bit for bit.

``YLG_KILLS=30 pytest tests/sagan_base/test_kills.py -s`` does it thirty times, and counts.
"""

import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest

from sagan_base.checkpoint import read_checkpoint
from sagan_base.run_folder import log_lines
from sagan_base.training import train

pytestmark = pytest.mark.slow
KILLS = int(os.environ.get("YLG_KILLS", "3"))
TIMED = {"images_per_second", "seconds"}
SERVER = multiprocessing.get_context("forkserver")  # its processes begin with everything imported, and nothing run
SERVER.set_forkserver_preload(["sagan_base.training", "torch.utils.tensorboard"])


def started(config, data, out: Path):
    process = SERVER.Process(target=train, args=(config, data, out), kwargs={"progress": False})
    process.start()
    return process


def contents(out: Path) -> dict[str, object]:
    """All that a run leaves, but for times, origin and what TensorBoard reads."""
    files = {str(path.relative_to(out)): path for path in out.rglob("*") if path.is_file()}
    kept: dict[str, object] = {}
    for name, path in files.items():
        if name.endswith(".safetensors"):
            tensors = read_checkpoint(path).tensors
            kept[name] = {key: tensor.contiguous().numpy().tobytes() for key, tensor in tensors.items()}
        elif name == "metrics.jsonl":
            kept[name] = [{key: line[key] for key in line.keys() - TIMED} for line in log_lines(out)]
        elif not name.startswith("tensorboard") and name != "config.json":
            kept[name] = path.read_bytes()
    return kept


def test_runs_killed_at_random_moments_end_as_one_that_nothing_disturbed(tiny_config, tiny_data, tmp_path):
    config = tiny_config(steps=12, checkpoint_every=2, log_every=3, sample_every=4, flip=True)
    started(config, tiny_data, tmp_path / "warm").join()
    begun = time.monotonic()
    whole = started(config, tiny_data, tmp_path / "whole")
    whole.join()
    duration, expected = time.monotonic() - begun, contents(tmp_path / "whole")
    assert whole.exitcode == 0 and len(expected) > 5
    dice, kills, ends = random.Random(0), 0, 0
    out = tmp_path / "killed-0"
    while kills < KILLS or out.exists():
        process = started(config, tiny_data, out)
        process.join(dice.uniform(0, duration) if kills < KILLS else None)
        if process.is_alive():
            process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        kills += process.exitcode != 0
        if process.exitcode == 0:
            assert contents(out) == expected
            ends += 1
            out = tmp_path / f"killed-{ends}"
    print(f"{kills} kills in {ends} runs, each equal to the undisturbed one")
    assert kills == KILLS and ends


def test_what_is_compared_tells_runs_apart(tiny_config, tiny_data, tmp_path):
    for seed in (0, 1):
        train(tiny_config(steps=2, seed=seed), tiny_data, tmp_path / str(seed), progress=False)
    assert contents(tmp_path / "0") != contents(tmp_path / "1")
