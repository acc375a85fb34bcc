"""A file is there whole or not at all."""

import json
import os

import pytest
from PIL import Image

from sagan_base.files import atomic_write, save_image, write_json, write_text


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
