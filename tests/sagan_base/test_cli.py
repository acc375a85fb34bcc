"""The one way out of a command: a line and an exit code, and a traceback for bugs alone."""

import errno
import os

from sagan_base.cli import Parser, command, shared_option, usage_errors, writable_file

import pytest
import torch


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (OSError(errno.ENOSPC, "No space left on device", "a.png"), 1, "No space left on device: 'a.png'"),
        (MemoryError(), 1, "MemoryError"),
    ],
)
def test_what_ends_the_work_of_a_command_is_said_in_one_line(error, code, words, capsys):
    @command()
    def main():
        raise error

    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == code
    told = capsys.readouterr().err
    assert words in told and told.count("\n") == 1


def test_memory_that_pytorch_cannot_have_is_one_line_and_a_bug_is_a_traceback(capsys):
    @command()
    def main(size):
        return torch.empty(size) @ 3

    with pytest.raises(SystemExit):
        main(2**60)
    assert "allocate" in capsys.readouterr().err
    with pytest.raises(TypeError):
        main(2)


@pytest.mark.parametrize("error", [ValueError("a\nb"), OverflowError("a b"), RecursionError("a b"), MemoryError("a b")])
def test_mistakes_of_the_caller_are_one_line_and_exit_2(error, capsys):
    with pytest.raises(SystemExit) as stop, usage_errors():
        raise error
    assert (stop.value.code, capsys.readouterr().err) == (2, "error: a b\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seed", "99999999999999999999"], "--seed: 99999999999999999999 is too large"),
        (["--seed", "-1" + "0" * 30], "--seed: -1" + "0" * 30 + " is too small; use 0 or more"),
        (["--number", "99999999999999999"], "--number: 99999999999999999 is too large; give at most 1,000,000,000"),
        (["--number", "-1" + "0" * 30], "is too small"),
        (["--number", "9" * 5000], "--number: invalid int value"),
        (["--rate", "nan"], "--rate: nan is no finite number"),
        (["--rate", "1e400"], "--rate: 1e400 is no finite number"),
        (["--name", os.fsdecode(b"\xff.png")], r"'\udcff.png' is not UTF-8"),
        (["--name", "\x1b[2J"], r"'\x1b[2J' is not UTF-8, or holds control characters"),
        (["--number=--"], "--number=-- gives no value"),
    ],
)
def test_values_that_nothing_can_be_made_of_are_refused_by_the_name_of_their_option(words, message, capsys):
    parser = Parser("command", "Do something.")
    shared_option(parser, "--seed")
    parser.add_argument("--number", type=int)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--name")
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(words)
    told = capsys.readouterr().err
    assert stop.value.code == 2 and message in told and told.count("\n") == 1
    assert parser.parse_args(["--seed", str(2**63 - 1), "--rate", "1e-5", "--name", "größe"]).name == "größe"


def test_names_that_no_file_can_have_are_found_before_the_work(tmp_path):
    writable_file("--sheet", tmp_path / "new" / ("a" * 240 + ".png"))
    (tmp_path / "folder.png").mkdir()
    for name, reason in (("a" * 300 + ".png", "too long"), ("folder.png", "no file"), ("a\0b.png", "null")):
        with pytest.raises(ValueError, match=reason):
            writable_file("--sheet", tmp_path / name)


def test_an_unknown_option_is_said_first_and_its_value_is_no_file(capsys):
    parser = Parser("command", "Do something.")
    parser.add_mutually_exclusive_group().add_argument("--model")
    parser.add_argument("checkpoint", nargs="?")
    with pytest.raises(SystemExit) as stop:
        parser.parse_args(["--modell", "digits", "--out=x"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: there is no option --modell; near it: --model; --help shows the options\n"
    assert parser.parse_args(["--", "--modell"]).checkpoint == "--modell"  # the name of a file
