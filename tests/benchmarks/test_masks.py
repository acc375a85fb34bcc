"""The benchmark of masks compares versions that build the same entries."""

import json

import numpy as np
import pytest


@pytest.mark.parametrize("side", [2, 5])
def test_the_loops_build_what_the_package_builds(benchmark, side):
    digests = {name: benchmark.measure(name, side, 1)["digest"] for name in benchmark.BUILDERS}
    assert len(digests) == 3 and len(set(digests.values())) == 1


def test_a_single_entry_changes_the_digest(benchmark):
    masks = benchmark.loops(3)
    changed = masks.copy()
    changed[7, 20, 5] ^= True
    assert benchmark._digest(masks) != benchmark._digest(changed)
    assert benchmark._digest(masks) == benchmark._digest(np.asarray(masks))


def test_the_command_measures_every_version(benchmark, capsys, tmp_path):
    benchmark.main(["--sizes", "4", "--repeats", "1", "--out", str(tmp_path / "masks.json")])
    shown = capsys.readouterr().out
    record = json.loads((tmp_path / "masks.json").read_text())
    assert [row["version"] for row in record["rows"]] == ["loops", "dense", "sparse"]
    assert all(row["seconds"] > 0 and row["version"] in shown for row in record["rows"])
    assert record["rows"][0]["against_loops"] == 1 and {"versions", "git", "machine", "command"} <= record.keys()


def test_memory_is_that_of_the_masks_at_least(benchmark):
    assert benchmark.measure("dense", 8, 1)["mib"] * 2**20 > 8 * 256 * 64 > benchmark.measure("sparse", 8, 1)["mib"]


def test_sizes_below_one_are_refused(benchmark, capsys):
    with pytest.raises(SystemExit) as exit:
        benchmark.main(["--sizes", "0"])
    assert exit.value.code == 2 and "--sizes and --repeats must be 1 or more" in capsys.readouterr().err
