"""Sizes of networks, counted by building them; and the DCGAN that is as large as a SAGAN."""

from dataclasses import replace
from functools import lru_cache

import torch

from sagan_base.checkpoint import build_networks
from sagan_base.config import ModelConfig, RunConfig


@lru_cache(maxsize=256)
def parameter_counts(model: ModelConfig) -> tuple[int, int]:
    """Trained numbers of generator and discriminator, but for attention's temperatures, one a head.

    Raises:
        ValueError: the networks cannot be built, such as heads that do not divide the channels.
    """
    # A large network is built from shapes alone; a small one sooner for real, as its rules for "meta" import much.
    device = "meta" if model.resolution > 32 else "cpu"
    try:
        with torch.device(device):
            networks = build_networks(RunConfig(model=model))
    except ValueError as error:
        attention = model.attention
        if attention is None or "num_heads" not in str(error):
            raise
        raise ValueError(
            f"{attention.num_heads} heads do not fit {attention.pattern!r} in this network ({error})"
        ) from None
    return tuple(
        sum(p.numel() for name, p in network.named_parameters() if not name.endswith("log_temperature"))
        for network in networks
    )


def dcgan_of_equal_size(model: ModelConfig) -> ModelConfig:
    """Plain blocks in place of residual ones, each network as wide as brings its size nearest to the model's."""
    model, plain = replace(model, attention=None), replace(model, attention=None, residual=False)
    for part, name in enumerate(("generator_width", "discriminator_width")):
        aim = parameter_counts(model)[part]
        # A convolution has as many weights as its width squared.
        guess = int(getattr(model, name) * (aim / parameter_counts(plain)[part]) ** 0.5)
        sizes = {w: parameter_counts(replace(plain, **{name: w}))[part] for w in range(guess - 1, guess + 3)}
        plain = replace(plain, **{name: min(sizes, key=lambda width, sizes=sizes, aim=aim: abs(sizes[width] - aim))})
    return plain
