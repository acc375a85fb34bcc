"""What every command line here shares: the parser, the way out when something goes wrong, the device.

Exit codes: 0; 1 where the work could not be finished; 2 for a mistake in the command or its files, found before the
work; 130 for Ctrl-C. Each of the last three says why in one line; only a bug ends in a traceback. The options of a run
are made from its configuration in options.py.
"""

import argparse
import difflib
import math
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import torch

from sagan_base.files import check_target, is_text, writable_folder
from sagan_base.output import unfailing_output
from sagan_base.typed import MOST

_TOO_LARGE = ("allocate", "array is too big", "verflow")  # what PyTorch and NumPy say of sizes
INTERRUPTED = 128 + signal.SIGINT  # the exit code a shell gives to a command ended by Ctrl-C


class Parser(argparse.ArgumentParser):
    """Wide help, no abbreviations (a later option would change their meaning), and a mistake is one line.

    An unknown option is said before anything else: its value would be taken for what has no option. A description of
    several lines, such as a module's docstring, is shown as it is.
    """

    def __init__(self, prog: str, description: str) -> None:
        kind = argparse.RawDescriptionHelpFormatter if "\n" in description else argparse.HelpFormatter
        width = min(120, shutil.get_terminal_size((120, 24)).columns)
        super().__init__(
            prog=prog,
            description=description,
            formatter_class=lambda prog: kind(prog, max_help_position=34, width=width),
            allow_abbrev=False,
        )
        self.register("type", int, whole(-MOST))
        self.register("type", float, _finite_number)

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> argparse.Namespace:
        words = sys.argv[1:] if args is None else list(args)
        options = words[: words.index("--")] if "--" in words else words
        for word in words:
            if not is_text(word):
                self.error(f"{word!r} is not UTF-8, or holds control characters; rename it")
            if word.startswith("--") and word.endswith("=--"):  # which argparse takes for no value at all
                self.error(f"{word} gives no value")
        known = self._option_string_actions
        for name in (word.partition("=")[0] for word in options if word.startswith("--") and " " not in word):
            if name not in known:
                near = difflib.get_close_matches(name, known, n=2)
                self.error(f"there is no option {name}" + f"; near it: {', '.join(near)}" * bool(near))
        return super().parse_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; --help shows the options\n")


def _finite_number(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise argparse.ArgumentTypeError(f"{text} is no finite number")
    return number


def positive(text: str) -> float:
    """The ``type`` of an option that is a finite number above 0."""
    if (value := _finite_number(text)) <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return value


def _speed_of_a_film(text: str) -> float:
    if not 0.01 <= (value := positive(text)) <= 1000:
        raise argparse.ArgumentTypeError(f"{text} is no speed of a film; use 0.01 to 1000")
    return value


def whole(least: int, most: int = 10**9) -> Callable[[str], int]:
    """The ``type`` of an option that is a whole number, by default of things that can be counted out."""

    def number(text: str) -> int:
        if (value := int(text)) < least:
            raise argparse.ArgumentTypeError(f"{text} is too small; use {least} or more")
        if value > most:
            raise argparse.ArgumentTypeError(f"{text} is too large; give at most {most:,}")
        return value

    number.__name__ = "int"  # as which argparse calls it in messages
    return number


SEED = whole(0, MOST)


CACHE_HELP = "of decoded images, classifiers and statistics (default: $YLG_CACHE, or ylg in the user's cache folder)"
_SHARED: dict[str, dict[str, Any]] = {  # what an option of several commands is in each of them
    "--batch-size": {"type": whole(1), "metavar": "N"},
    "--cache": {"type": Path, "metavar": "DIR"},
    "--class": {"metavar": "CLASS"},
    "--data": {"metavar": "SPEC"},
    "--device": {"metavar": "NAME", "help": "cpu, cuda, cuda:1, ... (default: a GPU where there is one)"},
    "--inception-weights": {"type": Path, "metavar": "FILE"},
    "--num-samples": {"type": whole(1), "metavar": "N"},
    "--out": {"type": Path, "metavar": "DIR"},
    "--rate": {"type": _speed_of_a_film, "metavar": "X"},
    "--seed": {"type": SEED, "metavar": "N"},
    "--steps": {"type": whole(1), "metavar": "N"},
}


def shared_option(to: argparse._ActionsContainer, name: str, about: str | None = None, **more: Any) -> None:
    """Add an option that several commands have, to a parser or a group; ``about`` is its help in this one."""
    to.add_argument(name, **_SHARED[name] | ({"help": about} if about else {}) | more)


@contextmanager
def command() -> Iterator[None]:
    """Decorates the ``main`` of a command: the one way out, whatever happens.

    Ctrl-C and what the machine refuses (a full disk, no memory) are one line and an exit code. Output that nobody
    takes any more does not end the command.
    """
    with unfailing_output():
        try:
            yield
        except KeyboardInterrupt:
            print("interrupted; what was kept before is whole", file=sys.stderr)
            raise SystemExit(INTERRUPTED) from None
        except Exception as error:
            if not isinstance(error, OSError | MemoryError) and not any(words in str(error) for words in _TOO_LARGE):
                raise
            print(f"error: {_line(error)}; what was kept before is whole", file=sys.stderr)
            raise SystemExit(1) from None


@contextmanager
def usage_errors() -> Iterator[None]:
    """Turn the errors a caller can mend into one line on standard error and exit code 2.

    Wrap only the preparing phase of a command (reading options, files and data): there, these errors mean bad input,
    RuntimeError and the like a size that PyTorch cannot make. In the work that follows they would mean a bug, and keep
    their traceback.
    """
    try:
        yield
    except (ValueError, OSError, RuntimeError, OverflowError, MemoryError) as error:
        print(f"error: {_line(error)}", file=sys.stderr)
        raise SystemExit(2) from None


def _line(error: Exception) -> str:
    message = str(error).partition("\nException raised from ")[0]  # PyTorch adds the functions of its C++
    return " ".join(message.split()) or type(error).__name__


def writable_file(option: str, file: Path) -> None:
    """The same for a file in a folder.

    Raises:
        ValueError: as ``writable_folder``, or the file's name is impossible or that of a folder.
    """
    writable_folder(option, file.parent)
    try:
        check_target(file)
    except OSError as error:
        raise ValueError(f"{option} {file} cannot be written ({error.strerror}); give another name") from None


def find_device(name: str | torch.device | None) -> torch.device:
    """The device of this name; a GPU where there is one when None.

    Raises:
        ValueError: PyTorch knows no such device, or there is none here.
    """
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()  # "meta" would take a tensor, but never gives one back
    except Exception as error:  # each kind of device has its own error for being absent
        reason = str(error).splitlines()[0].partition(". ")[0]  # some go on to list every device
        raise ValueError(f"--device {name} cannot be used ({reason}); use cpu, or cuda where there is a GPU") from None
    return device
