"""What is finished, set aside or refused; nothing is lost."""

import json
import os
import shutil
from dataclasses import replace

import pytest

from ablations.records import read_record, read_records, require_runs_belong


def test_a_half_written_result_is_renamed_and_said_and_nothing_is_lost(canned_run, capsys):
    folder = canned_run("ylg").folder
    whole = (folder / "result.json").read_bytes()
    (folder / "result.json").write_bytes(whole[: len(whole) // 2])
    assert read_record(folder) is None
    assert (folder / "result.json.aside-1").read_bytes() == whole[: len(whole) // 2]
    said = capsys.readouterr().out
    assert "set aside" in said and "ylg-seed0/result.json" in said and "not a whole result" in said
    (folder / "result.json").write_text("{}")
    assert read_record(folder) is None
    assert sorted(path.name for path in folder.glob("result.json*")) == ["result.json.aside-1", "result.json.aside-2"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda values: values.pop("metrics"),
        lambda values: values.update(metrics={}),
        lambda values: values.update(format=99),
        lambda values: values["setting"].update(steps=7),
        lambda values: values["metrics"].update({"FD (digits classifier)": "low"}),
        lambda values: values.update(initial={}),
        lambda values: values.update(seed="0"),
        lambda values: values.update(gains=[1]),
        lambda values: values["provenance"].update(machine=None),
        lambda values: values.update(title="\x1b[2Jall is well"),  # a terminal would do it
        lambda values: values["metrics"].update({"\x1b]0;": 1.0}),
        lambda values: values["config"]["model"].update(resolution=32.0),
        lambda values: values["config"]["training"].update(seed=5),
        lambda values: values["metrics"].update({"FD (digits classifier)": float("nan")}),
        lambda values: values.update(surprise=1),
        lambda values: values["attention_health"].update({"generator.attention.16": [0.5]}),
        lambda values: values["attention_health"]["generator.attention.16"].update(entropy="low"),
        lambda values: values["attention_health"]["generator.attention.16"].update(between=[]),
        lambda values: values["attention_health"]["generator.attention.16"].update(untrained=None),
        lambda values: values["attention_health"]["generator.attention.16"].update(distance={"mean map": "far"}),
        lambda values: values["attention_health"]["generator.attention.16"].pop("output_changes"),
    ],
)
def test_a_result_that_lacks_something_is_set_aside(canned_run, damage):
    folder = canned_run("ylg").folder
    values = json.loads((folder / "result.json").read_text())
    damage(values)
    (folder / "result.json").write_text(json.dumps(values))
    assert read_record(folder) is None
    assert (folder / "result.json.aside-1").is_file()


@pytest.mark.parametrize("name", [b"\xff", b"\x1b[2J"])
def test_a_run_folder_whose_name_no_text_can_hold_is_refused(canned_run, name):
    folder = canned_run("ylg").folder
    os.rename(folder, os.fsencode(folder.parent) + b"/" + name)
    with pytest.raises(ValueError, match="is not UTF-8, or holds control characters; rename it"):
        read_records(folder.parent)


def test_a_record_reads_back_equal(canned_run):
    record = canned_run("ylg_strided", seed=3, curve=((10, 2.0), (20, 1.5), (30, 1.5)))
    assert read_record(record.folder) == record
    assert record.best() == (1.5, 20)  # the first of equals
    assert record.curve("FD (digits classifier)") == [(10, 2.0), (20, 1.5), (30, 1.5)]


def test_records_whose_fields_are_spelled_with_spaces_are_read(canned_run):
    record = canned_run("ylg")
    text = (record.folder / "result.json").read_text()
    (record.folder / "result.json").write_text(text.replace("output_changes", "output changes"))
    assert read_record(record.folder) == record


def test_results_of_two_machines_merge_by_copying_folders(canned_run, tmp_path):
    here, there, merged = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    canned_run("sagan", 0, root=here)
    canned_run("ylg", 0, root=there)
    canned_run("ylg", 1, root=there)
    for source in (here, there):
        shutil.copytree(source, merged, dirs_exist_ok=True)
    records, _ = read_records(merged)
    assert [(record.row, record.seed) for record in records] == [("sagan", 0), ("ylg", 0), ("ylg", 1)]


def test_a_copy_of_a_run_counts_once_and_is_said(canned_run, tmp_path, capsys):
    record = canned_run("ylg")
    shutil.copytree(record.folder, tmp_path / "ylg-seed0 (copy)")
    assert len(read_records(tmp_path)[0]) == 1
    assert "is a copy of" in capsys.readouterr().out


def test_two_different_runs_of_one_row_and_seed_are_refused(canned_run, tmp_path):
    canned_run("ylg", distance=3.0)
    canned_run("ylg", distance=4.0, folder="other")
    with pytest.raises(ValueError, match="different runs of row 'ylg', seed 0"):
        read_records(tmp_path)


def test_runs_of_different_settings_in_one_folder_are_refused_by_what_differs(canned_run, tmp_path):
    canned_run("sagan", steps=1000)
    canned_run("ylg", steps=500)
    with pytest.raises(ValueError, match="cannot stand in one table: steps 1000 against 500"):
        read_records(tmp_path)


def test_a_command_is_refused_before_it_adds_runs_of_another_setting(canned_run, tmp_path):
    setting = canned_run("sagan").setting
    require_runs_belong(tmp_path, set(), setting)
    with pytest.raises(ValueError, match=r"steps 1000 against 20; .* --out"):
        require_runs_belong(tmp_path, {"ylg-seed0"}, replace(setting, steps=20))
    require_runs_belong(tmp_path, {"sagan-seed0"}, replace(setting, steps=2000))  # the same run may go on
