"""What an inversion minimises: the distance between a real image and a generated one, as the discriminator sees them.

The paper's loss (Daras et al., arXiv:1911.12287, section 4) compares the features that the discriminator has just
before its attention layer, each location weighted by the saliency of the real image under one head, and sums over
heads. Its two baselines (Figure 5) are the same features unweighted, and pixels. Two controls of this package ask
whether saliency says anything of the image: uniform attention over the mask, and another image's saliency. Read next:
search.py.
"""

from itertools import islice

import torch
from torch import Tensor, nn

from analysis.inversion.config import WEIGHTED, LossConfig
from analysis.inversion.saliency import saliency_maps
from sagan_base.attention_health import Maps


class InversionLoss:
    """The distance of generated images from one or more real ones.

    Args:
        discriminator: in evaluation mode; unused by the method "pixel".
        real: [1 or B, C, R, R] in [-1, 1]; one image is compared with every generated one.
        other: the image [1, C, R, R] whose saliency weighs, for the method "other-image".
    Raises:
        ValueError: the method needs an attention layer that the discriminator lacks, or another image that is not
            given, or a head does not exist.
    """

    def __init__(
        self, discriminator: nn.Module, real: Tensor, config: LossConfig | None = None, other: Tensor | None = None
    ) -> None:
        self.discriminator, self.config = discriminator, config or LossConfig()
        needs_attention = self.config.method in WEIGHTED or self.config.features == "attention"
        if self.config.method != "pixel" and needs_attention and not discriminator.attention_layers():
            raise ValueError(
                "the discriminator has no attention layer; use the method 'pixel', or 'features' with features='blocks'"
            )
        if self.config.method == "other-image" and other is None:
            raise ValueError("the method 'other-image' needs another image, whose saliency weighs")
        with torch.no_grad():
            self.real = self._features(real)
            # For each of the features [b, terms, h, w]; None weighs everything 1.
            self.weights = self._weights(other if self.config.method == "other-image" else real)

    def _features(self, images: Tensor) -> list[Tensor]:
        """What is compared, each [B, C, h, w]."""
        if self.config.method == "pixel":
            return [images]
        stages = self.discriminator.stages(images)
        if self.config.features == "blocks":  # those that halve the side
            return [features for _, features in islice(stages, len(self.discriminator.blocks))]
        return [next(features for side, features in stages if str(side) in self.discriminator.attention)]

    def _weights(self, image: Tensor) -> list[Tensor | None]:
        if self.config.method not in WEIGHTED:
            return [None] * len(self.real)
        if self.config.method == "uniform":
            layer = next(iter(self.discriminator.attention_layers().values()))
            attention = Maps(layer).uniform[None].to(image)
        else:
            _, attention = self.discriminator.attention_features(image)
        attention = attention[:, list(self.config.heads_of(self.discriminator))]
        maps = [saliency_maps(attention, tuple(features.shape[-2:]), self.config.queries) for features in self.real]
        return maps if self.config.weighting == "per-head" else [m.mean(1, keepdim=True) for m in maps]

    def terms(self, images: Tensor) -> Tensor:
        """The norms that are summed: [B, heads] for per-head saliency, [B, 1] otherwise; more for several features."""
        power = 1 if self.config.norm == "l1" else 2
        norms = []
        for fake, real, weights in zip(self._features(images), self.real, self.weights, strict=True):
            per_location = (fake - real).abs().pow(power).sum(1)[:, None]  # weights do not depend on the channel
            if weights is not None:
                per_location = per_location * weights.pow(power)
            summed = per_location.sum((-2, -1))
            if self.config.features == "blocks":
                summed = summed / fake[0].numel()
            if self.config.norm not in ("l1", "squared"):
                # An exact match has norm 0, where the square root's gradient is infinite: there it is taken as 0.
                summed = summed.clamp(min=torch.finfo(summed.dtype).tiny).sqrt()
            norms.append(summed)
        return torch.cat(norms, dim=1)

    def per_image(self, terms: Tensor) -> Tensor:
        """[B]: by which images are ranked, whatever the norm."""
        return terms.sum(1)

    def objective(self, terms: Tensor) -> Tensor:
        """The scalar whose gradient is followed."""
        if self.config.norm == "batch":  # Frobenius norm over the batch = norm of the images' norms
            return terms.square().sum(0).sqrt().sum()
        return terms.sum()
