"""Every choice of an inversion: what is minimised (``LossConfig``) and how (``InversionConfig``).

``PRESETS["published"]`` is the authors' program: 8 random starts, 1000 plain steps. Where the program and the paper's
equation differ, both can be chosen by name. Read next: loss.py.
"""

import argparse
from dataclasses import dataclass, field, fields
from typing import Any

from sagan_base.cli import whole

from torch import nn

METHODS = ("saliency", "features", "pixel", "uniform", "other-image")
WEIGHTED = ("saliency", "uniform", "other-image")
FEATURES = ("attention", "blocks")
NORMS = ("restart", "batch", "squared", "l1")
WEIGHTINGS = ("per-head", "mean")
QUERIES = ("attending", "all")
CHOICES = ("distance", "loss")


def option(default: Any, about: str, choices: tuple[str, ...] = ()) -> Any:
    """A field of a configuration: ``about`` says what it means, to who reads the class and in the command's help."""
    return field(default=default, metadata={"about": about, "choices": choices})


EFFORT = ("steps", "restarts", "draws")  # what the time of an inversion goes with


def _check_choices(config: Any) -> None:
    for name, choices in ((f.name, f.metadata.get("choices")) for f in fields(config)):
        if choices and getattr(config, name) not in choices:
            raise ValueError(f"{name}={getattr(config, name)!r} is unknown; use one of {', '.join(choices)}")


@dataclass(frozen=True)
class LossConfig:
    """Which distance.

    ``features`` of "blocks" are each divided by their root mean square, so that none outweighs the others (as Pan et
    al., arXiv:2003.13659, compare all depths); saliency is resized to each. ``norm`` of "restart" gives every image of
    the batch its own Euclidean norm, so that restarts do not share a gradient, as in the published Frobenius norm over
    the "batch", in which a restart that is far off shrinks the others' steps; "squared" is the
    norm of the paper's equation.
    """

    method: str = option("saliency", "the paper's, a baseline, or a control of what weighs", METHODS)
    features: str = option(
        "attention", "those before the first attention layer (published), or the outputs of all blocks", FEATURES
    )
    heads: tuple[int, ...] | None = option(
        None, "heads that weigh; by default the first half, as published; the equation takes all"
    )
    weighting: str = option("per-head", "a norm per head (published), or one with their mean saliency", WEIGHTINGS)
    norm: str = option("restart", "per restart, over the whole batch (published), squared (the equation), or L1", NORMS)
    queries: str = option(
        "attending", "saliency is mean attention over those that attend (published), or all (the equation)", QUERIES
    )

    def __post_init__(self) -> None:
        _check_choices(self)
        if self.heads is not None and not self.heads:
            raise ValueError("heads is empty; name at least one, or leave it out for the published half")

    def heads_of(self, discriminator: nn.Module) -> tuple[int, ...]:
        """The heads of its first attention layer that weigh, or would.

        Raises:
            ValueError: one of them does not exist.
        """
        num_heads = next(iter(discriminator.attention_layers().values())).num_heads
        heads = self.heads or tuple(range(max(num_heads // 2, 1)))
        wrong = [head for head in heads if not 0 <= head < num_heads]
        if wrong:
            raise ValueError(f"heads={wrong} do not exist; the discriminator has heads 0 to {num_heads - 1}")
        return heads


@dataclass(frozen=True)
class InversionConfig:
    """Every choice of an inversion. What tuning the generator gives is kept apart from a reconstruction by z alone."""

    loss: LossConfig = field(default_factory=LossConfig)
    steps: int = option(300, "optimisation steps")
    restarts: int = option(8, "codes optimised side by side")
    draws: int = option(512, "random codes scored first by the same loss; the best become restarts")
    classes: int = option(3, "the restarts are shared among so many of the best classes, where none is given")
    learning_rate: float = option(0.07, "of Adam")
    ramp_up: float = option(0.05, "part of the steps over which the rate rises linearly")
    ramp_down: float = option(0.25, "part of the steps over which it falls along a cosine")
    lookahead: int = option(0, "k of Lookahead; 0 leaves it out, as the published program does in effect")
    lookahead_alpha: float = option(0.5, "how far Lookahead's slow weights move")
    clamp: float = option(3.0, "largest absolute entry of z; 0 leaves z free")
    noise: float = option(0.0, "standard deviation of noise on z at the start; falls to 0 over 3/4 of the steps")
    patience: int = option(100, "stop when the sum of the restarts' losses has not fallen for so many steps; 0 never")
    tune_steps: int = option(0, "steps of a further stage, which adapts the generator's weights to this one image")
    tune_learning_rate: float = option(1e-3, "of the stage of --tune-generator")
    choose: str = option("distance", "restarts are chosen by a distance not minimised, or by the loss itself", CHOICES)
    seed: int = option(0, "of all random draws")

    def __post_init__(self) -> None:
        _check_choices(self)
        for name in ("steps", "restarts", "classes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is not positive")
        for name in ("draws", "lookahead", "clamp", "noise", "patience", "tune_steps", "seed"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}={getattr(self, name)} is negative")
        for name in ("learning_rate", "tune_learning_rate"):
            if not 0 < getattr(self, name) <= 1e30:  # Adam divides it further, within float32
                raise ValueError(f"{name}={getattr(self, name)} is not a positive number up to 1e30")
        if self.ramp_up < 0 or self.ramp_down < 0 or not self.ramp_up + self.ramp_down <= 1:
            raise ValueError(f"ramp_up={self.ramp_up} and ramp_down={self.ramp_down} are not parts of the steps")
        if not 0 < self.lookahead_alpha <= 1:
            raise ValueError(f"lookahead_alpha={self.lookahead_alpha} is not in (0, 1]; the published value is 0.5")


def add_effort_options(parser: argparse.ArgumentParser) -> None:
    """An option for each of ``EFFORT``, for commands that leave the other choices as they are."""
    for name in EFFORT:
        value = getattr(InversionConfig(), name)
        parser.add_argument(
            f"--{name}", type=whole(1), default=value, metavar="N", help=f"of each inversion (default: {value})"
        )


PRESETS = {
    "default": InversionConfig(),
    "published": InversionConfig(
        loss=LossConfig(norm="batch"), steps=1000, draws=0, ramp_up=0.0, ramp_down=0.0, clamp=0.0, patience=0
    ),
}
