"""When to stop a run that can no longer learn: losses that are not finite, or a discriminator that has collapsed.

With the hinge loss a discriminator whose loss stays at 0 puts every real and every generated image beyond the margin:
it gets no gradient any more, and what it tells the generator no longer depends on the images' quality.
"""

import math

COLLAPSED_LOSS = 1e-3  # mean over a log window; a balanced run lies between 0.5 and 2
COLLAPSED_STEPS = 500
COLLAPSED_WINDOWS = 10  # at least so many windows in a row, however long they are


class TrainingStopped(RuntimeError):
    """The run cannot go on; the message says what happened, what is left and what to do."""

    exit_code = 1


class Health:
    """Watches the averages of each log window.

    Attributes:
        saturated_since: the step before the present run of windows without discriminator loss, or None.
    """

    def __init__(self, saturated_since: int | None = None, windows: int = 0) -> None:
        self.saturated_since = saturated_since
        self.windows = windows

    def state(self) -> dict[str, int | None]:
        """What a checkpoint keeps: the arguments of the constructor."""
        return {"saturated_since": self.saturated_since, "windows": self.windows}

    def problem(self, start: int, step: int, averages: dict[str, float]) -> str | None:
        """Judge the window of steps ``start`` + 1 ... ``step``: None, or what is wrong and the remedy."""
        wrong = {name: value for name, value in averages.items() if not math.isfinite(value)}
        if wrong:
            shown = ", ".join(f"{name}={value}" for name, value in wrong.items())
            return (
                f"the losses are no longer finite between steps {start + 1} and {step} ({shown}). Lower the learning "
                "rates (--generator-lr, --discriminator-lr) or use --precision float32, with another --out"
            )
        if averages["discriminator_loss"] > COLLAPSED_LOSS:
            self.saturated_since, self.windows = None, 0
            return None
        if self.saturated_since is None:
            self.saturated_since = start
        self.windows += 1
        if self.windows < COLLAPSED_WINDOWS or step - self.saturated_since < COLLAPSED_STEPS:
            return None
        return (
            f"the discriminator has collapsed: its hinge loss has stayed below {COLLAPSED_LOSS:g} since step "
            f"{self.saturated_since}, so that the generator learns nothing from it any more. Lower --discriminator-lr, "
            "raise --batch-size or give more data, with another --out"
        )
