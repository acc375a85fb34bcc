"""Standard output and standard error that never end a piece of work.

The reader of a pipe may be gone (Ctrl-C reaches ``tee`` too), the disk under a log full, a terminal closed, a name not
in the terminal's alphabet. What cannot be shown then is lost; the work is not.
"""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any, TextIO


class _Unfailing:
    """A text stream that drops what it cannot write."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except UnicodeEncodeError:
            encoding = self._stream.encoding
            return self.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except (OSError, RuntimeError, ValueError):  # RuntimeError: a signal's handler writes inside of a write
            pass
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, RuntimeError, ValueError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def unfailing_output() -> Iterator[None]:
    """Inside, ``sys.stdout`` and ``sys.stderr`` can always be written, also where there is none (None, closed)."""
    with ExitStack() as stack:
        for name, redirect in (("stdout", redirect_stdout), ("stderr", redirect_stderr)):
            stream = getattr(sys, name) or stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.callback(_let_go, stream)
            stack.enter_context(redirect(_Unfailing(stream)))
        stack.callback(setattr, threading, "excepthook", threading.excepthook)
        threading.excepthook = _show_bug
        yield


def _show_bug(error: threading.ExceptHookArgs) -> None:
    """What a thread could not write, as TensorBoard's on a full disk, its owner raises again; so it is said once."""
    if not isinstance(error.exc_value, OSError):
        threading.__excepthook__(error)


def _let_go(stream: TextIO) -> None:
    """Flush; what cannot be written goes nowhere, because Python flushes once more at the end and complains."""
    try:
        stream.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())
