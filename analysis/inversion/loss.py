"""What an inversion minimises: the distance between a real image and a generated one, as the discriminator sees them.

The paper's loss (Daras et al., arXiv:1911.12287, section 4) compares the features that the discriminator has just
before its attention layer, each location weighted by the saliency of the real image under one head, and sums over
heads. Its two baselines (Figure 5) are the same features unweighted, and pixels. Read next: search.py.
"""

from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from analysis.inversion.saliency import saliency_maps

METHODS = ("saliency", "features", "pixel")
FEATURES = ("attention", "blocks")
NORMS = ("restart", "batch", "l1")
WEIGHTINGS = ("per-head", "mean")


@dataclass(frozen=True)
class LossConfig:
    """Which distance.

    Attributes:
        method: "saliency" (the paper's), "features" (unweighted) or "pixel".
        features: of the discriminator; "attention" (published) are those just before its first attention layer,
            "blocks" the outputs of all blocks, each by its root mean square, so that none outweighs the others (as
            Pan et al., arXiv:2003.13659, compare all depths); saliency is resized to each.
        heads: discriminator heads whose saliency weighs; None means the first half, as published (0 to 3 of 8, which
            are the right-to-left ones).
        weighting: "per-head" (published) sums one norm per head; "mean" takes one norm, weighted by the mean saliency.
        norm: "restart" gives every image of the batch its own Euclidean norm, so that restarts do not share a
            gradient; "batch" is the published Frobenius norm over the whole batch, in which a restart that is far
            off shrinks the others' steps; "l1" sums absolute differences, image by image.
    """

    method: str = "saliency"
    features: str = "attention"
    heads: tuple[int, ...] | None = None
    weighting: str = "per-head"
    norm: str = "restart"

    def __post_init__(self) -> None:
        for name, choices in (
            ("method", METHODS),
            ("features", FEATURES),
            ("weighting", WEIGHTINGS),
            ("norm", NORMS),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name}={getattr(self, name)!r} is unknown; use one of {', '.join(choices)}")
        if self.heads is not None and not self.heads:
            raise ValueError("heads is empty; name at least one, or leave it out for the published half")


class InversionLoss:
    """The distance of generated images from one or more real ones.

    Args:
        discriminator: in evaluation mode; unused by the method "pixel".
        real: [1 or B, C, R, R] in [-1, 1]; one image is compared with every generated one.
    Raises:
        ValueError: the method needs an attention layer that the discriminator lacks, or a head does not exist.
    """

    def __init__(self, discriminator: nn.Module, real: Tensor, config: LossConfig | None = None) -> None:
        self.discriminator, self.config = discriminator, config or LossConfig()
        needs_attention = self.config.method == "saliency" or self.config.features == "attention"
        if self.config.method != "pixel" and needs_attention and not discriminator.attention_layers():
            raise ValueError(
                "the discriminator has no attention layer; use the method 'pixel', or 'features' with features='blocks'"
            )
        with torch.no_grad():
            self.real = self._features(real)
            self.weights = self._weights(real)  # for each of the features [b, terms, h, w]; None weighs everything 1

    def _features(self, images: Tensor) -> list[Tensor]:
        """What is compared, each [B, C, h, w]."""
        if self.config.method == "pixel":
            return [images]
        stages = self.discriminator.stages(images)
        if self.config.features == "blocks":  # those that halve the side
            return [features for _, features in islice(stages, len(self.discriminator.blocks))]
        return [next(features for side, features in stages if str(side) in self.discriminator.attention)]

    def _weights(self, real: Tensor) -> list[Tensor | None]:
        if self.config.method != "saliency":
            return [None] * len(self.real)
        _, attention = self.discriminator.attention_features(real)
        attention = attention[:, list(self._heads(attention.shape[1]))]
        maps = [saliency_maps(attention, tuple(features.shape[-2:])) for features in self.real]
        return maps if self.config.weighting == "per-head" else [m.mean(1, keepdim=True) for m in maps]

    def _heads(self, num_heads: int) -> tuple[int, ...]:
        heads = self.config.heads or tuple(range(max(num_heads // 2, 1)))
        wrong = [head for head in heads if not 0 <= head < num_heads]
        if wrong:
            raise ValueError(f"heads={wrong} do not exist; the discriminator has heads 0 to {num_heads - 1}")
        return heads

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
            # An exact match has norm 0, where the square root's gradient is infinite: there it is taken as 0.
            norms.append(summed if power == 1 else summed.clamp(min=torch.finfo(summed.dtype).tiny).sqrt())
        return torch.cat(norms, dim=1)

    def per_image(self, terms: Tensor) -> Tensor:
        """[B]: by which images are ranked, whatever the norm."""
        return terms.sum(1)

    def objective(self, terms: Tensor) -> Tensor:
        """The scalar whose gradient is followed."""
        if self.config.norm == "batch":  # Frobenius norm over the batch = norm of the images' norms
            return terms.square().sum(0).sqrt().sum()
        return terms.sum()
