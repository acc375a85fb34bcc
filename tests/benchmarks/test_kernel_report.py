"""The report of the kernels refuses what it cannot compile in one line; what it counts is tested in tests/ylg."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton.backends.nvidia")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--grid", "7"], "--grid 7 is not an even number from 2 up"),
        (["--capability", "60"], "argument --capability: invalid choice: 60"),
        (["--dims", "4x16", "4x200"], "'4x200' is not two head dims from 1 to 128, as in 4x16"),
        (["--pattern", "spiral"], "spiral"),
        ([], "TRITON_INTERPRET is set, so kernels would be interpreted: unset it"),
    ],
)
def test_a_mistake_is_one_line(repository, options, words):
    environment = os.environ | {"TRITON_INTERPRET": "0" if options else "1"}
    command = [sys.executable, repository / "benchmarks" / "kernel_report.py", *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1, done.stderr
