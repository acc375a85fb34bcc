"""The benchmark of masks compares versions that build the same entries."""

import json
import runpy

import numpy as np
import pytest


@pytest.fixture(scope="module")
def benchmark(repository):
    return runpy.run_path(str(repository / "benchmarks" / "masks.py"))


@pytest.mark.parametrize("side", [2, 5])
def test_the_loops_build_what_the_package_builds(benchmark, side):
    digests = {name: benchmark["measure"](name, side, 1)["digest"] for name in benchmark["BUILDERS"]}
    assert len(digests) == 3 and len(set(digests.values())) == 1


def test_a_single_entry_changes_the_digest(benchmark):
    masks = benchmark["loops"](3)
    changed = masks.copy()
    changed[7, 20, 5] ^= True
    assert benchmark["_digest"](masks) != benchmark["_digest"](changed)
    assert benchmark["_digest"](masks) == benchmark["_digest"](np.asarray(masks))


def test_the_command_measures_every_version_in_a_process_of_its_own(benchmark, capsys, tmp_path):
    benchmark["main"](["--sizes", "4", "--repeats", "1", "--json", "--out", str(tmp_path / "masks.json")])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["version"] for line in lines] == ["loops", "dense", "sparse"]
    assert all(line["seconds"] > 0 and line["mib"] >= 0 for line in lines) and lines[0]["against_loops"] == 1
    record = json.loads((tmp_path / "masks.json").read_text())
    assert record["rows"] == lines and {"versions", "git", "machine", "command"} <= record.keys()


def test_sizes_below_one_are_refused(benchmark, capsys):
    with pytest.raises(SystemExit) as exit:
        benchmark["main"](["--sizes", "0"])
    assert exit.value.code == 2 and "--sizes and --repeats must be 1 or more" in capsys.readouterr().err
