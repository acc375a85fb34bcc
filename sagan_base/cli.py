"""What every command line here shares: how a mistake of the caller is reported."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

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
