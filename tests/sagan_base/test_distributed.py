"""Several processes compute what one does with the same global batch."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sagan_base.checkpoint import read_checkpoint
from sagan_base.distributed import Processes, processes
from sagan_base.run_folder import read_metrics
from sagan_base.training import train
from sagan_base.updates import LOSSES

SCRIPT = """
import json, os, pathlib, sys, torch
from sagan_base.config import RunConfig
from sagan_base.data import ImageData
from sagan_base.training import train
from sagan_base.updates import Updates

config = RunConfig.from_dict(json.loads(sys.argv[2]))
generator = torch.Generator().manual_seed(0)
images = torch.randint(256, (30, 1, 16, 16), generator=generator, dtype=torch.uint8)
data = ImageData("noise", images, torch.arange(30) % 3, ("zero", "one", "two"))
if "fail-once" in sys.argv and os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0":
    step = Updates.step
    def failing(self, number):
        if number == 4 and self.group.rank == 1:
            os._exit(3)
        return step(self, number)
    Updates.step = failing
def evaluate(generator, step):
    if "fail-evaluation" in sys.argv and os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0":
        raise RuntimeError("no space left")
    return {"rank": float(os.environ["RANK"])}

result = train(config, data, sys.argv[1], evaluate, progress=False)
said = {"resumed_from": result.resumed_from, "evaluated_by": result.metrics["rank"]}
pathlib.Path(__file__).with_name("rank-" + os.environ["RANK"] + ".json").write_text(json.dumps(said))
"""


def torchrun(tmp_path: Path, out: Path, config, *flags: str, restarts: int = 0) -> list[dict]:
    """Run the script in two gloo processes; returns what each of them says of its training."""
    # Each says it in a file of its own: on one standard output, two processes' lines may come out mixed.
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    launcher += [f"--max-restarts={restarts}", "--monitor-interval=0.2"]
    command = [*launcher, str(script), str(out), json.dumps(config.to_dict()), *flags]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in (0, 1)]


@pytest.fixture
def config(tiny_config):
    return tiny_config(steps=4, sync_batch_norm=True, log_every=1, accumulation=2, discriminator_steps=2)


@pytest.fixture
def alone(config, tiny_data, tmp_path):
    return train(config, tiny_data, tmp_path / "alone", lambda generator, step: {"rank": 0.0}, progress=False)


def assert_same_training(out: Path, alone) -> None:
    for ours, theirs in zip(read_metrics(out), read_metrics(alone.out), strict=True):
        assert [ours[name] for name in LOSSES] == pytest.approx([theirs[name] for name in LOSSES], abs=2e-5)
    together = read_checkpoint(out / "checkpoints" / alone.checkpoint.name).tensors
    for name, tensor in read_checkpoint(alone.checkpoint).tensors.items():
        if name.startswith(("generator.", "discriminator.", "ema.")):
            # Adam divides by the gradient's own size, so that rounding of a tiny gradient moves a weight by up to lr.
            torch.testing.assert_close(together[name], tensor, atol=4e-3, rtol=1e-3, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one_and_only_the_first_writes(tmp_path, config, alone):
    out = tmp_path / "together"
    said = torchrun(tmp_path, out, config)
    assert_same_training(out, alone)
    assert [each["evaluated_by"] for each in said] == [0.0, 0.0]  # evaluated in process 0, known in both
    assert len(list((out / "tensorboard").iterdir())) == 1
    (session,) = json.loads((out / "config.json").read_text())["sessions"]
    assert session["processes"] == 2


@pytest.mark.slow
def test_an_elastic_restart_goes_on_from_the_newest_checkpoint(tmp_path, config, alone):
    out = tmp_path / "restarted"
    said = torchrun(tmp_path, out, config, "fail-once", restarts=1)
    assert [each["resumed_from"] for each in said] == [2, 2]
    assert_same_training(out, alone)


def test_a_process_takes_an_equal_contiguous_share_of_the_batch():
    batch = torch.arange(12)
    shares = [Processes(rank, 3, torch.device("cpu")).part(batch) for rank in range(3)]
    assert [share.tolist() for share in shares] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_alone_every_exchange_is_the_identity():
    with processes("cpu") as group:
        assert (group.rank, group.count) == (0, 1)
        assert group.any(True) and not group.any(False)
        assert group.from_first({"a": 1}) == {"a": 1}
        assert torch.equal(group.mean(torch.ones(2)), torch.ones(2))
        group.wait()
    assert not torch.distributed.is_initialized()


@pytest.mark.slow
def test_two_processes_keep_the_steps_of_an_evaluation_that_fails_and_make_it_up(tmp_path, config, alone):
    out = tmp_path / "together"
    config = replace(config, training=replace(config.training, checkpoint_every=0))
    said = torchrun(tmp_path, out, config, "fail-evaluation", restarts=1)
    assert said == [{"resumed_from": 4, "evaluated_by": 0.0}] * 2
    assert_same_training(out, alone)
