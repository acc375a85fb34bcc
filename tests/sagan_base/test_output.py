"""Output that nobody takes, or that cannot be written, ends no work."""

import io
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sagan_base import models
from sagan_base.checkpoint import checkpoint_files
from sagan_base.output import unfailing_output

TRAINING = [
    sys.executable, "-m", "sagan_base.train", "--data", "digits", "--resolution", "16", "--generator-width", "8",
    "--discriminator-width", "8", "--batch-size", "4", "--num-heads", "4", "--log-every", "1", "--steps", "100000",
]  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_training_whose_reader_is_gone_writes_its_checkpoint_when_asked_to_stop(number, tmp_path: Path):
    """As in ``train ... 2>&1 | tee log``: Ctrl-C ends tee too; and a closed terminal sends SIGHUP."""
    process = subprocess.Popen([*TRAINING, "--out", tmp_path], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    log = tmp_path / "metrics.jsonl"
    while not (log.is_file() and log.stat().st_size) and process.poll() is None:
        time.sleep(0.05)
    process.stdout.close()
    process.send_signal(number)
    assert process.wait(timeout=60) == 128 + number
    assert len(checkpoint_files(tmp_path / "checkpoints")) == 1


def test_a_command_whose_output_nobody_reads_ends_well():
    """As in ``python -m sagan_base.models | head -1``."""
    process = subprocess.Popen(
        [sys.executable, "-m", "sagan_base.models"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    assert (process.stderr.read(), process.wait()) == (b"", 0)
    process.stderr.close()


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_full_and_missing_streams_take_everything(name, monkeypatch, capsys):
    for stream in (open("/dev/full", "w"), None):  # noqa: SIM115 (closing it would fail once more)
        monkeypatch.setattr(sys, name, stream)
        with unfailing_output():
            print("lost" * 10_000, file=getattr(sys, name), flush=True)
            models.main(["digits"])
        assert getattr(sys, name) is stream
        if stream is not None:
            stream.close()  # what it could not write went nowhere


@pytest.mark.parametrize(("error", "told"), [(OSError("full"), ""), (KeyError("a bug"), "KeyError: 'a bug'\n")])
def test_what_a_thread_could_not_write_is_left_to_its_owner_to_say(error, told, capsys):
    """As TensorBoard's thread on a full disk, whose error ends the training in one line."""

    def fail():
        raise error

    with unfailing_output():
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
    shown = capsys.readouterr().err
    assert shown.endswith(told) and bool(shown) == bool(told)


def test_what_a_terminal_has_no_letters_for_is_shown_in_others(monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    monkeypatch.setattr(sys, "stdout", terminal)
    with unfailing_output():
        print(os.fsdecode(b"gr\xf6sser"), "größer")
    assert terminal.buffer.getvalue() == b"gr\\udcf6sser gr\\xf6\\xdfer\n"
