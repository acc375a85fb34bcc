"""Networks in one line, their sizes, and the DCGAN that is as large as a SAGAN."""

from dataclasses import replace
from functools import lru_cache

import torch

from sagan_base.checkpoint import build_networks
from sagan_base.config import AttentionConfig, ModelConfig, RunConfig
from ylg.heads import shown_order


def described(model: ModelConfig) -> str:
    """A network in one line: blocks, widths, and what its attention is."""
    widths = f"widths {model.generator_width} (G) and {model.discriminator_width} (D)"
    network, attention = f"{'SAGAN' if model.residual else 'DCGAN'}, {widths}, ", model.attention
    if attention is None:
        return network + "no attention"
    sides = " and ".join(f"{s}x{s}" for s in sorted({*model.generator_attention, *model.discriminator_attention}))
    heads = f"{attention.num_heads} head{'s' * (attention.num_heads > 1)}"
    if attention.pattern == "dense":
        shape = f"{heads}, dense"
    else:
        order = shown_order(attention.pattern, attention.order)
        shape = f"{heads} of {attention.pattern}" + f" in {order} order" * (order != "-")
        shape += f", alignment {attention.alignment}" + ", steps in sequence" * (attention.mode == "sequential")
    uniform = ", scores fixed at 0" * (attention.scale == 0)
    return f"{network}{shape}{', queries and keys normalised' * attention.qk_norm}{uniform}, at {sides}"


def parameter_counts(model: ModelConfig) -> tuple[int, int]:
    """Trained numbers of generator and discriminator, but for attention's temperatures, one a head.

    Masks have none, so dense attention of as many heads stands for every pattern: rows share one count.
    """
    if (heads := model.attention) is not None:
        model = replace(model, attention=AttentionConfig("dense", heads.num_heads, "raster", "pool", "parallel",
                                                         heads.head_dim_qk, heads.head_dim_v))  # fmt: skip
    return _counts(model)


@lru_cache(maxsize=256)
def _counts(model: ModelConfig) -> tuple[int, int]:
    # A large network is built from shapes alone; a small one sooner for real, as its rules for "meta" import much.
    with torch.device("meta" if model.resolution > 32 else "cpu"):
        networks = build_networks(RunConfig(model=model))
    return tuple(sum(p.numel() for p in network.parameters()) for network in networks)


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
