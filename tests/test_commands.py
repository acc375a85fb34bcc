"""Every command's options, looked at side by side: one meaning has one name, one name one kind of value."""

import argparse
import importlib
from collections import defaultdict
from pathlib import Path

from sagan_base.cli import Parser

import pytest

ROOT = Path(__file__).parents[1]
COMMANDS = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for package in ("ablations", "analysis", "sagan_base")
    for path in (ROOT / package).rglob("*.py")
    if " = Parser(" in path.read_text(encoding="utf-8")
)
TWO_KINDS = {  # options that two commands have with values of another kind, and why
    "--held-out": "so many pictures for an inversion; of metrics all images of a data set",
    "--seeds": "their number for rows; the seeds themselves for probes and trials, whose first ones chose something",
    "--heads": "the heads that weigh in an inversion; the ablation's --num-heads had this name in version 0.1",
}
ONE_NAME = {  # what the field calls it too -> what it is called here
    "--output": "--out", "--out-dir": "--out", "--gpu": "--device", "--random-seed": "--seed", "--dataset": "--data",
    "--iterations": "--steps", "--lr": "--learning-rate", "--batch": "--batch-size", "--label": "--class",
    "--cache-dir": "--cache", "--n-heads": "--num-heads", "--weights": "--checkpoint", "--dryrun": "--dry-run",
}  # fmt: skip


class Asked(Exception):
    """In place of what a command would do with its options."""


@pytest.fixture(scope="module")
def parsers() -> dict[str, Parser]:
    """Command -> its parser, caught where it would read the command line."""

    def caught(parser: Parser, *_: object) -> None:
        raise Asked(parser)

    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Parser, "parse_args", caught)
        for name in COMMANDS:
            with pytest.raises(Asked) as asked:
                importlib.import_module(name).main([])
            found[name] = asked.value.args[0]
    return found


def kind(action: argparse.Action) -> str:
    """What stands for the value in the help: a name where there are choices, nothing for a switch."""
    if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
        return ""
    return str(action.metavar or ("NAME" if action.choices else action.dest.upper()))


def test_there_are_commands(parsers):
    assert len(parsers) > 15 and "analysis.invert" in parsers and "ablations.run" in parsers


def test_an_option_of_several_commands_takes_the_same_kind_of_value_in_each(parsers):
    kinds = defaultdict(dict)
    for command, parser in parsers.items():
        for action in parser._actions:
            for option in action.option_strings:
                kinds[option][command] = kind(action)
    differing = {option: of for option, of in kinds.items() if len(set(of.values())) > 1}
    assert differing.keys() <= TWO_KINDS.keys(), differing
    assert TWO_KINDS.keys() <= differing.keys(), "an exception that is none any more"


def test_one_meaning_has_one_name(parsers):
    used = {option for parser in parsers.values() for action in parser._actions for option in action.option_strings}
    assert not used & ONE_NAME.keys()


def test_every_option_says_what_it_is_and_what_stands_for_its_value(parsers):
    for command, parser in parsers.items():
        for action in parser._actions:
            assert action.help and action.help.strip(), (command, action.dest)
            named = action.metavar or action.choices or not kind(action) or not action.option_strings
            assert named, f"{command} {action.option_strings} shows argparse's own {kind(action)}"


def test_many_options_come_in_groups_and_the_details_last(parsers):
    for command, parser in parsers.items():
        groups = [group for group in parser._action_groups if group._group_actions]
        assert len(parser._actions) <= 15 or len(groups) > 2, command
    titles = {name: [g.title for g in parsers[name]._action_groups] for name in ("sagan_base.train", "analysis.invert")}
    assert titles["sagan_base.train"][2:] == [
        "training", "network", "attention", "recipe", "numerics (part of the recipe)"
    ]  # fmt: skip
    assert titles["analysis.invert"][2:4] == ["what to invert", "model, results and machine"]
    assert titles["analysis.invert"][-2:] == ["details of the loss", "details of the search"]
