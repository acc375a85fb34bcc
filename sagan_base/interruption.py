"""Ctrl-C and SIGTERM: finish the step, write a checkpoint, then go."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class TrainingInterrupted(KeyboardInterrupt):
    """Someone asked the run to stop, and it did so after a checkpoint; the message says how to go on.

    Attributes:
        exit_code: 128 + the signal's number, 130 for Ctrl-C.
    """

    def __init__(self, message: str, signal_number: int | None) -> None:
        super().__init__(message)
        # None: it was another process of the run that was told to stop, as torchrun does, with SIGTERM
        self.exit_code = 128 + (signal_number or signal.SIGTERM)


class StopRequest:
    """``signal_number`` is None until someone asks the run to stop."""

    signal_number: int | None = None


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Turn the first SIGINT or SIGTERM into a request; a second one acts as it did before.

    Signals can only be caught in the main thread; elsewhere the request stays empty.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def ask(number: int, frame: object) -> None:
        request.signal_number = number
        restore()
        sys.stderr.write("\nstopping after this step, with a checkpoint; once more stops at once\n")

    for number in numbers:
        signal.signal(number, ask)
    try:
        yield request
    finally:
        restore()
