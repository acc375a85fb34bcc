"""What the README and the docs show works: Python runs, commands parse, links lead somewhere, speeds are on record."""

import argparse
import doctest
import importlib
import re
import shlex
import sys
from pathlib import Path

import pytest

from ylg import patterns

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
BLOCK = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    return [text for kind, text in BLOCK.findall(page.read_text(encoding="utf-8")) if kind == language]


@pytest.fixture
def registry(monkeypatch):
    """What a page registers is forgotten with it."""
    monkeypatch.setattr(patterns, "_REGISTRY", dict(patterns._REGISTRY))


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_runs_from_top_to_bottom(page, capsys):
    names = {}
    exec("import torch, ylg", names)
    for block in blocks(page, "python"):
        if block.startswith(">>>"):
            example = doctest.DocTestParser().get_doctest(block, names, page.name, str(page), 0)
            assert doctest.DocTestRunner().run(example, clear_globs=False).failed == 0
        else:
            exec(compile(block, str(page), "exec"), names)


def test_the_readmes_example_prints_what_it_shows(capsys):
    names = {}
    page = REPOSITORY / "README.md"
    exec(blocks(page, "python")[0], names)
    assert capsys.readouterr().out == blocks(page, "")[0]


def commands() -> list[str]:
    """Every command line of ours in a block of shell, and in the first column of a table."""
    found = []
    for page in PAGES:
        for block in blocks(page, "sh"):
            found += block.replace("\\\n", " ").splitlines()
        found += re.findall(r"^\| `(python [^`]*)`", page.read_text(encoding="utf-8"), re.MULTILINE)
        found += re.findall(r"`(python (?:-m )?[\w./]+(?: [^`]*)?)`", page.read_text(encoding="utf-8"))
    return sorted({line.partition("#")[0].strip() for line in found if "-m venv" not in line})


@pytest.mark.parametrize("line", commands())
def test_commands_name_what_exists_and_options_that_it_has(line, monkeypatch):
    words = [word for word in shlex.split(line) if not re.fullmatch(r"[A-Z_]+=\S+", word)]
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
        return
    if words[1].startswith("examples/"):  # without options; test_examples.py runs them
        assert (REPOSITORY / words[1]).is_file() and len(words) == 2
        return
    position = words.index("-m") + 1 if "-m" in words else 1
    name, arguments = words[position].removesuffix(".py").replace("/", "."), words[position + 1 :]
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)  # the tests' own setting
    for folder in (REPOSITORY, REPOSITORY / "benchmarks"):  # as if the file itself were run
        monkeypatch.syspath_prepend(str(folder))
    try:
        module = importlib.import_module(name + ".__main__")
    except ModuleNotFoundError:
        module = importlib.import_module(name)
    parse = argparse.ArgumentParser.parse_args

    class Parsed(Exception):
        pass

    def only_parse(self, *given, **named):
        parse(self, *given, **named)
        raise Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", only_parse)
    monkeypatch.setattr(sys, "argv", [words[position], *arguments])
    with pytest.raises(Parsed):
        module.main()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_of_the_repository(page):
    targets = re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8"))
    assert all("://" in target or (page.parent / target).exists() for target in targets)


def test_the_readme_is_short_and_its_speeds_are_those_of_the_record():
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 130
    results = (REPOSITORY / "RESULTS.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| (?:grid|discriminator|neighbourhood)-.*", results, re.MULTILINE)
    ratios = [line.split("|")[6].strip() for line in table]  # times ours; - = not run
    measured = {f"{float(ratio):.2g}x" for ratio in ratios if ratio != "-"}
    shown = re.findall(r"(?<![\dx.])\d+(?:\.\d+)?x(?!\d)", text)
    assert len(shown) >= 6 and set(shown) <= measured
