"""What every command line here shares: the parser, how a mistake of the caller is reported, the device.

The options of a run are made from its configuration in options.py.
"""

import argparse
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import torch

INTERRUPTED = 128 + signal.SIGINT  # the exit code a shell gives to a command ended by Ctrl-C


class Parser(argparse.ArgumentParser):
    """Wide help, no abbreviations (a later option would change their meaning), and a mistake is one line.

    A description of several lines, such as a module's docstring, is shown as it is.
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

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; --help shows the options\n")


@contextmanager
def usage_errors() -> Iterator[None]:
    """Turn the errors a caller can mend into one line on standard error and exit code 2.

    Wrap only the preparing phase of a command (reading options, files and data): there, ``ValueError`` and
    ``OSError`` mean bad input. In the work that follows they would mean a bug, and keep their traceback.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None


def writable_folder(option: str, folder: Path) -> None:
    """Make ``folder`` where it is not there yet, and see that it takes files, before long work whose results it gets.

    Raises:
        ValueError: nothing can be written there; names ``option``, which gave it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = "it is a file" if isinstance(error, (FileExistsError, NotADirectoryError)) else error.strerror
        raise ValueError(f"{option}: nothing can be written into {folder} ({reason}); give another place") from None


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
        reason = str(error).splitlines()[0]
        raise ValueError(f"--device {name} cannot be used ({reason}); use cpu, or cuda where there is a GPU") from None
    return device
