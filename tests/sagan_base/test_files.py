"""A file is there whole or not at all."""

import json
import os
import resource
import signal
import subprocess
import sys

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from sagan_base.files import _remove_abandoned, atomic_write, read_arrays, save_image, write_json, write_text


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


def test_what_is_no_archive_is_called_that_and_no_one_is_told_to_load_it_unsafely(tmp_path):
    (tmp_path / "a.npz").write_text("no archive")
    with pytest.raises(ValueError, match=r"a\.npz cannot be read as an \.npz of plain arrays \(it is no zip archive\)"):
        read_arrays(tmp_path / "a.npz")


def test_text_is_utf_8_with_the_line_ends_it_has_in_a_folder_made_for_it(tmp_path):
    write_text(tmp_path / "new" / "a.csv", "größer\r\n\n")
    assert (tmp_path / "new" / "a.csv").read_bytes() == "größer\r\n\n".encode()


def test_json_reads_back_and_a_value_that_is_none_leaves_the_old_file(tmp_path):
    write_json(tmp_path / "a.json", {"b": [1, 2.5]})
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"b": {1, 2}})
    assert json.loads((tmp_path / "a.json").read_text()) == {"b": [1, 2.5]}


@pytest.mark.parametrize(("name", "kind"), [("a.png", "PNG"), ("a.webp", "WEBP")])
def test_a_picture_has_the_format_of_its_suffix(name, kind, tmp_path):
    save_image(tmp_path / name, Image.new("L", (3, 2), 7))
    with Image.open(tmp_path / name) as read:
        assert (read.format, read.size) == (kind, (3, 2))


@pytest.mark.parametrize("name", ["config.json", "a" * 251 + ".png", "größe" * 20])
def test_what_a_killed_write_left_is_removed_by_the_next_write_into_its_folder(name, tmp_path):
    die = "import os, sys; from sagan_base.files import *\nwith atomic_write(sys.argv[1]): os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", die, tmp_path / name]).returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 1
    with atomic_write(tmp_path / "other"):
        (tmp_path / ".other.notes-1-2").touch()
        _remove_abandoned.cache_clear()
        write_text(tmp_path / "third", "")  # a write that goes on is left alone
    assert {path.name for path in tmp_path.iterdir()} == {"other", "third", ".other.notes-1-2"}


@pytest.mark.parametrize("size", [100, 1_000_000])
def test_a_full_disk_leaves_the_old_file_and_names_it(size, tmp_path):
    """The limit of a process's files stands for the disk's."""
    target = tmp_path / "weights.safetensors"
    target.write_text("old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50, limits[1]))
    try:
        refused = pytest.raises(OSError, match=r"weights.safetensors cannot be written \(.*File too large")
        with refused, atomic_write(target) as temporary:
            save_file({"a": torch.zeros(size, dtype=torch.uint8)}, temporary)
        with refused:
            write_text(target, "x" * size)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == [target.name] and target.read_text() == "old"


def test_a_folder_in_the_place_of_a_file_stays(tmp_path):
    (tmp_path / "a.json").mkdir()
    with pytest.raises(OSError, match=r"a.json cannot be written \(something that is no file has this name\)"):
        write_text(tmp_path / "a.json", "")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
