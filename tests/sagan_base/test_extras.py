"""Without an extra, one line says what is missing and how to install it."""

import subprocess
import sys

import pytest

from sagan_base.extras import EXTRAS, missing_modules


def without(*modules: str, code: str) -> subprocess.CompletedProcess:
    hide = f"import sys; sys.modules.update(dict.fromkeys({modules!r}))"
    return subprocess.run([sys.executable, "-c", f"{hide}\n{code}"], capture_output=True, text=True)


@pytest.mark.parametrize("start", ["import sagan_base.train", "import runpy; runpy.run_module('analysis.invert')"])
def test_a_command_without_its_extra_ends_in_one_line_that_says_how_to_install_it(start):
    ended = without("safetensors", "jinja2", code=start)
    assert ended.returncode == 1
    assert ended.stderr == (
        "error: sagan_base needs safetensors, jinja2; pip install 'ylg[gan]', or from a checkout pip install '.[gan]'\n"
    )


def test_other_errors_keep_their_traceback():
    ended = without("tabulate", code="try:\n    import sagan_base\nexcept ImportError:\n    pass\n1 / 0")
    assert "Traceback" in ended.stderr and "ZeroDivisionError" in ended.stderr


def test_the_attention_library_needs_no_extra():
    assert without(*EXTRAS["gan"], *EXTRAS["features"], code="import ylg").returncode == 0


@pytest.mark.parametrize("extra", EXTRAS)
def test_every_package_of_an_extra_is_looked_for(extra, repository):
    tomllib = pytest.importorskip("tomllib")  # from Python 3.11
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    assert len(project["optional-dependencies"][extra]) == len(EXTRAS[extra])


def test_a_module_that_is_here_is_not_missing(monkeypatch):
    monkeypatch.setitem(EXTRAS, "made", ("json", "no_such_module"))
    assert missing_modules("made") == ["no_such_module"]
