"""A file is there whole or not at all."""

import os

import pytest

from sagan_base.atomic import atomic_write


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "table.csv"
    target.write_text("old")
    with pytest.raises(RuntimeError), atomic_write(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"] and target.read_text() == "old"


def test_a_written_file_has_the_permissions_of_any_new_file(tmp_path):
    with atomic_write(tmp_path / "table.csv") as temporary:
        temporary.write_text("new")
    (tmp_path / "other").touch()
    assert os.stat(tmp_path / "table.csv").st_mode == os.stat(tmp_path / "other").st_mode
