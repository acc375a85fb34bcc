"""Why a run stops before its end: it can no longer learn, or somebody asked it to.

It can no longer learn with losses that are not finite, or with a discriminator that has collapsed, in one of two ways.
With the hinge loss at 0 every real and every generated image lies beyond the margin: the discriminator gets no gradient
any more, and what it tells the generator no longer depends on the images' quality. With the same answer to real and
generated images it tells the generator nothing at all. Both happen for a while in runs that recover, so only a long
time of it counts.

Ctrl-C, SIGTERM and a closed terminal (SIGHUP) finish the step and write a checkpoint first.
"""

import math
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

COLLAPSED_LOSS = 1e-3  # mean of a log window; a balanced run lies between 0.5 and 2
COLLAPSED_DIFFERENCE = 1e-4  # between the mean logits of real and of generated images
COLLAPSED_STEPS = 500
COLLAPSED_WINDOWS = 10  # at least so many windows in a row, however long they are


class TrainingStopped(RuntimeError):
    """The run cannot go on; the message says what happened, what is left and what to do."""

    exit_code = 1


class TrainingInterrupted(KeyboardInterrupt):
    """Someone asked the run to stop, and it did so after a checkpoint; the message says how to go on.

    Attributes:
        exit_code: 128 + the signal's number, 130 for Ctrl-C.
    """

    def __init__(self, message: str, signal_number: int | None) -> None:
        super().__init__(message)
        # None: it was another process of the run that was told to stop, as torchrun does, with SIGTERM
        self.exit_code = 128 + (signal_number or signal.SIGTERM)


@dataclass
class Health:
    """Watches the averages of each log window.

    Attributes:
        collapsed_since: the step before the present row of windows that look collapsed, or None.
        windows: how many those are.
    """

    collapsed_since: int | None = None
    windows: int = 0

    def state(self) -> dict[str, int | None]:
        """What a checkpoint keeps: the arguments of the constructor."""
        return asdict(self)

    def problem(self, start: int, step: int, averages: dict[str, float]) -> str | None:
        """Judge the window of steps ``start`` + 1 ... ``step``: None, or what is wrong and the remedy."""
        wrong = {name: value for name, value in averages.items() if not math.isfinite(value)}
        if wrong:
            shown = ", ".join(f"{name}={value}" for name, value in wrong.items())
            return (
                f"the losses are no longer finite between steps {start + 1} and {step} ({shown}). Lower the learning "
                "rates (--generator-lr, --discriminator-lr) or use --precision float32, with another --out"
            )
        sign = _sign_of_collapse(averages)
        if sign is None:
            self.collapsed_since, self.windows = None, 0
            return None
        if self.collapsed_since is None:
            self.collapsed_since = start
        self.windows += 1
        if self.windows < COLLAPSED_WINDOWS or step - self.collapsed_since < COLLAPSED_STEPS:
            return None
        return f"the discriminator has collapsed: since step {self.collapsed_since} {sign}, with another --out"


def _sign_of_collapse(averages: dict[str, float]) -> str | None:
    if averages["discriminator_loss"] < COLLAPSED_LOSS:
        return (
            f"its hinge loss has stayed below {COLLAPSED_LOSS:g}, so that the generator learns nothing from it. Lower "
            "--discriminator-lr, raise --batch-size or give more data"
        )
    if abs(averages["discriminator_real"] - averages["discriminator_fake"]) < COLLAPSED_DIFFERENCE:
        return (
            "it has given real and generated images the same logits, so that the generator learns nothing from it. "
            "Lower both learning rates or raise --discriminator-steps"
        )
    return None


class StopRequest:
    """``signal_number`` is None until someone asks the run to stop."""

    signal_number: int | None = None


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Turn the first SIGINT, SIGTERM or SIGHUP into a request; a second one acts as it did before.

    A SIGHUP that is ignored, as nohup has it, stays ignored.

    Signals can only be caught in the main thread; elsewhere the request stays empty.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    hang_up = getattr(signal, "SIGHUP", signal.SIGTERM)  # Windows has none
    if (handler := signal.getsignal(hang_up)) is not signal.SIG_IGN:
        before[hang_up] = handler

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def ask(number: int, frame: object) -> None:
        request.signal_number = number
        restore()
        sys.stderr.write("\nstopping after this step, with a checkpoint; once more stops at once\n")

    for number in before:
        signal.signal(number, ask)
    try:
        yield request
    finally:
        restore()
