"""SAGAN's generator (Zhang et al., arXiv:1805.08318) with the sparse attention of arXiv:1911.12287.

z -> linear -> 4x4 map -> residual blocks, each doubling the side -> norm, ReLU, 3x3 convolution, tanh; attention layers
follow the blocks whose output side is in ``config.generator_attention``. Classes enter through the batch norms only.
Read next: blocks.py, and discriminator.py for the opponent.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sagan_base.batch_norm import BatchNorm2d
from sagan_base.blocks import GeneratorBlock, PlainGeneratorBlock, attention, convolution, linear
from sagan_base.config import ModelConfig
from sagan_base.network import Network, model_config


class Generator(Network):
    """Images from noise and labels.

    Args:
        config: the network; None is the paper's, for ImageNet at 128x128.
        options: fields that replace those of ``config``, see ``sagan_base.network.model_config``:
            ``Generator(resolution=32, num_classes=10, pattern="dense", num_heads=1)``.
    Raises:
        ValueError: the configuration is refused.
    """

    def __init__(self, config: ModelConfig | None = None, **options: Any) -> None:
        config = model_config(config, **options)
        super().__init__(config)
        numerics = config.numerics
        channels = config.generator_channels(4)
        self.linear = linear(config.latent_dim, channels * 4 * 4, numerics)
        block = GeneratorBlock if config.residual else PlainGeneratorBlock
        self.blocks = nn.ModuleList()
        for side in config.generator_sides:
            in_channels, channels = channels, config.generator_channels(side)
            self.blocks.append(block(in_channels, channels, config.num_classes, numerics))
            if config.attention is not None and side in config.generator_attention:
                self.attention[str(side)] = attention(channels, side, config.attention, numerics)
        # Unconditional also in a conditional network, as in the paper's program.
        self.norm = BatchNorm2d(channels, 1, numerics.batch_norm_epsilon, numerics.batch_norm_decay)
        self.to_image = convolution(channels, config.image_channels, 3, numerics)

    def forward(
        self, z: Tensor, labels: Tensor | None = None, return_attention: bool = False
    ) -> Tensor | tuple[Tensor, Tensor | tuple[Tensor, ...]]:
        """Generate one image per row of ``z``.

        Args:
            z: [B, latent_dim], drawn from N(0, 1).
            labels: integers [B] in 0 ... num_classes - 1; may be left out of an unconditional network.
            return_attention: return the attention maps too.
        Returns:
            images [B, image_channels, R, R] in [-1, 1], in the dtype of the weights also under autocast; with
            ``return_attention`` also the map [B, num_heads, num_queries, num_keys] of the attention layer, or a
            tuple of maps, in the order of the forward pass, where there are several layers.
        Raises:
            ValueError: z or labels have a wrong shape, a label is out of range, or attention is asked of a network
                without any.
        """
        if z.ndim != 2 or z.shape[1] != self.latent_dim:
            raise ValueError(f"z has shape {tuple(z.shape)}; give [batch, {self.latent_dim}]")
        if return_attention and not self.attention:
            raise ValueError("this generator has no attention layer; leave return_attention=False")
        labels = self._checked_labels(labels, z.shape[0])
        maps = []
        x = self.linear(z).unflatten(1, (-1, 4, 4))
        for side, block in zip(self.config.generator_sides, self.blocks, strict=True):
            x = block(x, labels)
            if str(side) in self.attention:
                x = self.attention[str(side)](x, return_attention=return_attention)
                if return_attention:
                    x, attention_map = x
                    maps.append(attention_map)
        x = self.to_image(F.relu(self.norm(x)))
        images = torch.tanh(x.to(self.to_image.bias.dtype))
        if not return_attention:
            return images
        return images, maps[0] if len(maps) == 1 else tuple(maps)
