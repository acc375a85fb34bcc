"""What every command line here shares: how a mistake of the caller is reported."""

import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

INTERRUPTED = 128 + signal.SIGINT  # the exit code a shell gives to a command ended by Ctrl-C


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
