"""A folder is the place of one training at a time."""

import subprocess
import sys

import pytest
import torch

from sagan_base.distributed import Processes
from sagan_base.run_state import alone_in
from sagan_base.training import TrainingRun, train

ALONE = Processes(0, 1, torch.device("cpu"))
HOLDER = """
import sys, time
from pathlib import Path
from sagan_base.run_state import alone_in
with alone_in(Path(sys.argv[1])):
    print("there", flush=True)
    time.sleep(600)
"""


def test_a_folder_where_another_process_trains_is_refused_until_that_ends_even_by_a_kill(
    tiny_config, tiny_data, tmp_path
):
    config, out = tiny_config(steps=2), tmp_path / "run"
    begun = TrainingRun(config, tiny_data, out, ALONE, progress=False)
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, out], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"there\n"
    with pytest.raises(ValueError, match=r"another process trains in .*run; wait for its end, or use another --out"):
        TrainingRun(config, tiny_data, out, ALONE)
    with pytest.raises(OSError, match="another process trains"):  # it came between the check and the first step
        begun.train()
    assert list(out.iterdir()) == []
    holder.kill()
    holder.wait()
    holder.stdout.close()
    assert begun.train().steps == 2


def test_a_finished_run_is_read_while_another_process_makes_something_of_it(tiny_config, tiny_data, tmp_path):
    first = train(tiny_config(steps=2), tiny_data, tmp_path, progress=False)
    with alone_in(tmp_path.parent):  # the lock is the folder's own
        assert train(tiny_config(steps=2), tiny_data, tmp_path, progress=False).steps == first.steps
