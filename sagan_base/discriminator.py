"""SAGAN's projection discriminator (Zhang et al., arXiv:1805.08318) with the sparse attention of arXiv:1911.12287.

Residual blocks halve the side down to 4x4, one more keeps it; then ReLU, sum over the cells, and a linear score plus
the inner product with the label's embedding (Miyato & Koyama, arXiv:1802.05637). Attention layers follow the blocks
whose output side is in ``config.discriminator_attention``. There is no batch norm. Read next: blocks.py.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sagan_base.blocks import DiscriminatorBlock, PlainDiscriminatorBlock, attention, embedding, linear
from sagan_base.config import ModelConfig
from sagan_base.network import Network, model_config


class Discriminator(Network):
    """Realness of images, given their labels.

    Args:
        config: the network; None is the paper's, for ImageNet at 128x128.
        options: fields that replace those of ``config``, see ``sagan_base.network.model_config``.
    Raises:
        ValueError: the configuration is refused.
    """

    def __init__(self, config: ModelConfig | None = None, **options: Any) -> None:
        config = model_config(config, **options)
        super().__init__(config)
        numerics = config.numerics
        channels = config.image_channels
        block = DiscriminatorBlock if config.residual else PlainDiscriminatorBlock
        self.blocks = nn.ModuleList()
        for side in config.discriminator_sides:
            in_channels, channels = channels, config.discriminator_channels(side)
            self.blocks.append(block(in_channels, channels, numerics, first=not self.blocks))
            if config.attention is not None and side in config.discriminator_attention:
                self.attention[str(side)] = attention(channels, side, config.attention, numerics)
        self.last_block = (
            DiscriminatorBlock(channels, channels, numerics, halve=False) if config.residual else nn.Identity()
        )
        self.linear = linear(channels, 1, numerics)
        self.embedding = embedding(config.num_classes, channels, numerics) if config.num_classes > 1 else None

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Score images: positive is real, negative is generated.

        Args:
            images: [B, image_channels, R, R] in [-1, 1].
            labels: integers [B] in 0 ... num_classes - 1; may be left out of an unconditional network.
        Returns:
            logits [B], in the dtype of the weights also under autocast.
        Raises:
            ValueError: images or labels have a wrong shape, or a label is out of range.
        """
        self._check_images(images)
        labels = self._checked_labels(labels, images.shape[0])
        *_, (_, x) = self.stages(images)
        # Sums of many cells and channels: a bfloat16 logit would keep only two or three digits.
        with torch.autocast(x.device.type, enabled=False):
            features = F.relu(x).to(self.linear.bias.dtype).sum((2, 3))
            logits = self.linear(features).squeeze(1)
            if self.embedding is not None:
                logits = logits + (features * self.embedding(labels)).sum(1)
        return logits

    def attention_features(self, images: Tensor, side: int | None = None) -> tuple[Tensor, Tensor]:
        """Features just before an attention layer, and where that layer looks: what inversion compares.

        Args:
            images: [B, image_channels, R, R] in [-1, 1]; labels play no part here.
            side: which layer, by the side of its map; None is the first in the forward pass.
        Returns:
            features [B, C, side, side] and attention map [B, num_heads, num_queries, num_keys]; both differentiable.
        Raises:
            ValueError: images have a wrong shape, or there is no such attention layer.
        """
        self._check_images(images)
        if not self.attention:
            raise ValueError("this discriminator has no attention layer, so it has no attention features")
        layer_side = next(iter(self.attention)) if side is None else str(side)
        if layer_side not in self.attention:
            raise ValueError(f"side={side}: this discriminator has attention at {', '.join(self.attention)}")
        features = next(x for stage_side, x in self.stages(images) if str(stage_side) == layer_side)
        _, attention_map = self.attention[layer_side](features, return_attention=True)
        return features, attention_map

    def stages(self, images: Tensor) -> Iterator[tuple[int, Tensor]]:
        """(side, features [B, C, side, side]) after each block, before any attention layer that follows it.

        Computed when asked for: who stops at an attention layer does not pay for it. The last stage is that of the
        block that keeps the side.
        """
        x = images
        for side, block in zip(self.config.discriminator_sides, self.blocks, strict=True):
            x = block(x)
            yield side, x
            if str(side) in self.attention:
                x = self.attention[str(side)](x)
        yield side, self.last_block(x)

    def _check_images(self, images: Tensor) -> None:
        expected = (self.config.image_channels, self.resolution, self.resolution)
        if images.ndim != 4 or images.shape[1:] != expected:
            raise ValueError(f"images have shape {tuple(images.shape)}; give [batch, {', '.join(map(str, expected))}]")
