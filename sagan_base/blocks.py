"""Residual blocks of SAGAN's generator and discriminator, and the normalised layers that they are made of.

A ReLU is never in place: the shortcut reads the raw input. The 1x1 convolution of a shortcut commutes with nearest
up-sampling and with average pooling, so it always runs on the smaller map; results agree up to rounding.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sagan_base.batch_norm import BatchNorm2d
from sagan_base.config import AttentionConfig, ModelConfig, NumericsConfig
from sagan_base.spectral_norm import spectral_norm
from ylg import SparseAttention2d


def initialise_(weight: Tensor, init: str) -> Tensor:
    """Fill ``weight`` in place; ``init`` as in ``NumericsConfig``."""
    match init:
        case "xavier":
            return nn.init.xavier_uniform_(weight)
        case "orthogonal":
            return nn.init.orthogonal_(weight)
        case "normal":
            return nn.init.normal_(weight, std=0.02)
    raise ValueError(f"init={init!r} is unknown; use 'xavier', 'orthogonal' or 'normal'")


def _normalised(layer: nn.Module, numerics: NumericsConfig, bounded: bool) -> nn.Module:
    initialise_(layer.weight.data, numerics.init)
    return spectral_norm(layer, bounded, numerics.spectral_norm_epsilon)


def convolution(in_channels: int, out_channels: int, kernel: int, numerics: NumericsConfig) -> nn.Conv2d:
    """Spectrally normalised convolution that keeps height and width; its bias starts at 0."""
    layer = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2)
    nn.init.zeros_(layer.bias)
    return _normalised(layer, numerics, numerics.bounded_spectral_norm)


def linear(in_features: int, out_features: int, numerics: NumericsConfig) -> nn.Linear:
    """Spectrally normalised linear layer; its bias starts at 0."""
    layer = nn.Linear(in_features, out_features)
    nn.init.zeros_(layer.bias)
    return _normalised(layer, numerics, numerics.bounded_spectral_norm)


def embedding(num_classes: int, features: int, numerics: NumericsConfig) -> nn.Embedding:
    """Spectrally normalised embedding of labels."""
    return _normalised(nn.Embedding(num_classes, features), numerics, numerics.bounded_spectral_norm)


def attention(channels: int, side: int, config: AttentionConfig, numerics: NumericsConfig) -> SparseAttention2d:
    """Attention layer on a ``side`` x ``side`` map, keys pooled 2x2; its convolutions are divided by sigma itself."""
    layer = SparseAttention2d(
        channels,
        grid=(side, side),
        pattern=config.pattern,
        num_heads=config.num_heads,
        order=config.order,
        alignment=config.alignment,
        mode=config.mode,
        qk_channels=config.head_dim_qk and config.head_dim_qk * config.num_heads,
        v_channels=config.head_dim_v and config.head_dim_v * config.num_heads,
        qk_norm=config.qk_norm,
        temperature=config.temperature,
        scale=config.scale,
    )
    for convolution_1x1 in (layer.query, layer.key, layer.value, layer.output):
        if config.spectral_projections or convolution_1x1 in (layer.value, layer.output):
            _normalised(convolution_1x1, numerics, bounded=False)
        else:
            initialise_(convolution_1x1.weight.data, numerics.init)
    return layer


def check_attention(config: ModelConfig) -> None:
    """Raises ValueError where a network of this configuration could not have its attention layers.

    It builds them, because patterns and orders may be the user's own; their plans are found again by the network.
    """
    if config.attention is None:
        return
    with torch.random.fork_rng(devices=[]):
        for side in config.generator_attention:
            attention(config.generator_channels(side), side, config.attention, config.numerics)
        for side in config.discriminator_attention:
            attention(config.discriminator_channels(side), side, config.attention, config.numerics)


class GeneratorBlock(nn.Module):
    """Doubles height and width: norm, ReLU, up, conv, norm, ReLU, conv, plus the up-sampled 1x1 convolution of x.

    Shape:
        [batch, in_channels, h, w] and labels [batch] -> [batch, out_channels, 2 h, 2 w].
    """

    def __init__(self, in_channels: int, out_channels: int, num_classes: int, numerics: NumericsConfig) -> None:
        super().__init__()
        statistics = (num_classes, numerics.batch_norm_epsilon, numerics.batch_norm_decay)
        self.norm1 = BatchNorm2d(in_channels, *statistics)
        self.conv1 = convolution(in_channels, out_channels, 3, numerics)
        self.norm2 = BatchNorm2d(out_channels, *statistics)
        self.conv2 = convolution(out_channels, out_channels, 3, numerics)
        self.shortcut = convolution(in_channels, out_channels, 1, numerics)

    def forward(self, x: Tensor, labels: Tensor | None) -> Tensor:
        hidden = self.conv1(_double(F.relu(self.norm1(x, labels))))
        hidden = self.conv2(F.relu(self.norm2(hidden, labels)))
        return hidden + _double(self.shortcut(x))


class DiscriminatorBlock(nn.Module):
    """ReLU, conv, ReLU, conv, plus a shortcut; with ``halve`` both halves are average-pooled 2x2.

    Args:
        first: the input is an image, so the leading ReLU is left out.
        halve: False keeps height, width and channels, and the shortcut is the identity.
    Shape:
        [batch, in_channels, h, w] -> [batch, out_channels, h / 2, w / 2], or the input's shape without ``halve``.
    """

    def __init__(
        self, in_channels: int, out_channels: int, numerics: NumericsConfig, first: bool = False, halve: bool = True
    ) -> None:
        super().__init__()
        self.first = first
        self.halve = halve
        self.conv1 = convolution(in_channels, out_channels, 3, numerics)
        self.conv2 = convolution(out_channels, out_channels, 3, numerics)
        self.shortcut = convolution(in_channels, out_channels, 1, numerics) if halve else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv1(x if self.first else F.relu(x))
        hidden = self.conv2(F.relu(hidden))
        if self.halve:
            hidden, x = F.avg_pool2d(hidden, 2), F.avg_pool2d(x, 2)
        return hidden + self.shortcut(x)


class PlainGeneratorBlock(nn.Module):
    """A DCGAN's doubling of height and width: norm, ReLU, 4x4 transposed convolution, not spectrally normalised.

    Shape:
        [batch, in_channels, h, w] and labels [batch] -> [batch, out_channels, 2 h, 2 w].
    Reference: Radford et al., arXiv:1511.06434, with the conditional norm of the residual network.
    """

    def __init__(self, in_channels: int, out_channels: int, num_classes: int, numerics: NumericsConfig) -> None:
        super().__init__()
        self.norm = BatchNorm2d(in_channels, num_classes, numerics.batch_norm_epsilon, numerics.batch_norm_decay)
        self.conv = nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1)
        initialise_(self.conv.weight.data, numerics.init)
        nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor, labels: Tensor | None) -> Tensor:
        return self.conv(F.relu(self.norm(x, labels)))


class PlainDiscriminatorBlock(nn.Module):
    """A DCGAN's halving of height and width: leaky ReLU (not on an image), 4x4 convolution, spectrally normalised.

    Spectral norm takes the place of DCGAN's batch norm, as in the DCGANs that SAGAN's forerunners compare with
    (Miyato et al., arXiv:1802.05957, appendix B).

    Shape:
        [batch, in_channels, h, w] -> [batch, out_channels, h / 2, w / 2].
    """

    def __init__(self, in_channels: int, out_channels: int, numerics: NumericsConfig, first: bool = False) -> None:
        super().__init__()
        self.first = first
        layer = nn.Conv2d(in_channels, out_channels, 4, stride=2, padding=1)
        nn.init.zeros_(layer.bias)
        self.conv = _normalised(layer, numerics, numerics.bounded_spectral_norm)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x if self.first else F.leaky_relu(x, 0.2))


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")
