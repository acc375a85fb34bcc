"""What generator and discriminator share: their configuration, their attention layers, the check of labels."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from sagan_base.config import AttentionConfig, ModelConfig, NumericsConfig
from ylg import SparseAttention2d


def model_config(config: ModelConfig | None = None, **options: Any) -> ModelConfig:
    """``config`` (the paper's network when None) with some fields replaced.

    Args:
        options: fields of ``ModelConfig``, and of its ``AttentionConfig`` and ``NumericsConfig`` by their own names:
            ``model_config(resolution=32, pattern="dense", num_heads=1)``. A new resolution moves attention back to
            its place for that resolution, unless that is an option too.
    Raises:
        ValueError: an option is no such field, or its value is refused.
    """
    names = {part: {f.name for f in fields(part)} for part in (ModelConfig, AttentionConfig, NumericsConfig)}
    if unknown := sorted(set(options) - set().union(*names.values())):
        raise ValueError(
            f"a network has no option {unknown}; its options are "
            f"{sorted(names[ModelConfig] | names[AttentionConfig] | names[NumericsConfig])}"
        )
    config = ModelConfig() if config is None else config
    if not isinstance(config, ModelConfig):
        raise ValueError(f"config={config!r} is no ModelConfig; give single fields by name, as in resolution=64")
    if "resolution" in options:
        options = {"generator_attention": None, "discriminator_attention": None} | options
    for field, part in (("attention", AttentionConfig), ("numerics", NumericsConfig)):
        if inner := {name: options.pop(name) for name in names[part] & options.keys()}:
            outer = options.get(field, getattr(config, field))
            if outer is None:
                raise ValueError(f"{sorted(inner)} describe an attention layer, but attention=None; leave one out")
            options[field] = replace(outer, **inner)
    return replace(config, **options)


class Network(nn.Module):
    """A generator or discriminator: ``config`` and what can be read off it, and checks of what it is given.

    Attributes:
        config: all that is needed to build the network again.
        attention: the attention layers, by the side of the feature map that they follow ("32").
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.attention = nn.ModuleDict()

    @property
    def resolution(self) -> int:
        """Height and width of the images."""
        return self.config.resolution

    @property
    def num_classes(self) -> int:
        """1 means unconditional."""
        return self.config.num_classes

    @property
    def latent_dim(self) -> int:
        """Length of z."""
        return self.config.latent_dim

    def attention_layers(self) -> dict[str, SparseAttention2d]:
        """The attention layers in the order of the forward pass, by their name in ``state_dict`` ("attention.32")."""
        return {f"attention.{side}": layer for side, layer in self.attention.items()}

    def _checked_labels(self, labels: Tensor | None, batch: int) -> Tensor | None:
        if self.num_classes == 1:
            return None
        if labels is None:
            raise ValueError(f"labels are missing: this network has {self.num_classes} classes; give one per image")
        if not isinstance(labels, Tensor):
            raise ValueError(f"labels are a {type(labels).__name__}; give a tensor of class numbers, one per image")
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise ValueError(f"labels have dtype {labels.dtype}; give class numbers, as torch.int64")
        if labels.shape != (batch,):
            raise ValueError(f"labels have shape {tuple(labels.shape)}; give one per image, shape ({batch},)")
        # Reading values makes the host wait for an accelerator: once per call in evaluation, but not in training,
        # where labels come from a checked data set. Nothing can be read while a graph is being compiled.
        readable = labels.device.type == "cpu" or not self.training
        if readable and not torch.compiler.is_compiling() and batch:
            wrong = labels[(labels < 0) | (labels >= self.num_classes)]
            if len(wrong):
                raise ValueError(
                    f"label {int(wrong[0])} is out of range: this network has {self.num_classes} classes; use "
                    f"0 ... {self.num_classes - 1} (the paper's program silently took such a label for class 0)"
                )
        return labels.long()


@contextmanager
def attention_off(network: Network) -> Iterator[None]:
    """Within it, every residual gain of the network is 0: its attention layers pass their input on."""
    layers = list(network.attention_layers().values())
    gains = [layer.gain.detach().clone() for layer in layers]
    try:
        with torch.no_grad():
            for layer in layers:
                layer.gain.zero_()
        yield
    finally:
        with torch.no_grad():
            for layer, gain in zip(layers, gains, strict=True):
                layer.gain.copy_(gain)
