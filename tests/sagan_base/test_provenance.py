"""Where results come from: enough to repeat them, and nothing about whose machine it was."""

import json
import sys
from pathlib import Path

import pytest

from sagan_base import provenance as module
from sagan_base.provenance import command_line, provenance, versions

ROOT = Path(module.__file__).resolve().parents[1]


def test_provenance_is_plain_json_with_seed_versions_revision_and_machine():
    found = provenance(seed=7)
    assert json.loads(json.dumps(found)) == found
    assert found["seed"] == 7
    assert set(found) == {"seed", "started", "command", "versions", "git", "machine"}
    assert found["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["machine"]["threads"] >= 1


def test_versions_name_what_takes_part_in_a_result():
    assert {"python", "torch", "numpy", "torch-fidelity"} <= set(versions())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([str(ROOT / "sagan_base" / "cli.py"), "--esa"], "sagan_base/cli.py --esa"),
        (["tool.py", "--out", str(ROOT / "runs" / "a")], "tool.py --out runs/a"),
        (["tool.py", "--out=/home/ada/runs/b"], "tool.py --out=b"),
        (["tool.py", "--data", "folder:/home/ada/cats"], "tool.py --data folder:cats"),
        (["tool.py", "--data", "folder:cats", "--lr", "1e-3"], "tool.py --data folder:cats --lr 1e-3"),
        (["tool.py", "a file.png"], "tool.py 'a file.png'"),
    ],
)
def test_a_command_is_kept_without_the_folders_of_its_user(words, expected, monkeypatch):
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.delattr(sys.modules["__main__"], "__spec__", raising=False)
    assert command_line() == f"python {expected}"
