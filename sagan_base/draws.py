"""Every random draw of training, as a pure function of (seed, purpose, counters): nothing to store, nothing to restore.

A run that is killed and resumed, or split over another number of processes, sees the same images, latents and labels,
because each process draws the *global* batch on the CPU and keeps its part. NumPy's ``SeedSequence`` turns the tuple
into a well mixed 128-bit state, so neighbouring steps are as independent as different seeds.
"""

from functools import lru_cache

import numpy as np
import torch
from scipy.special import ndtr, ndtri
from torch import Tensor

PURPOSES = (
    "weights", "shuffle", "flip", "discriminator", "generator", "preview", "sample", "augment", "health", "statistics"
)  # fmt: skip


def stream(seed: int, purpose: str, *counters: int) -> np.random.Generator:
    """The random stream of one purpose at one place of a run.

    Args:
        purpose: one of ``PURPOSES``; streams of different purposes are independent.
        counters: non-negative integers, such as the step and the discriminator update within it.
    """
    return np.random.default_rng([seed, PURPOSES.index(purpose), *counters])


def latents(source: np.random.Generator, count: int, latent_dim: int) -> Tensor:
    """z from N(0, 1), float32 [count, latent_dim]."""
    return torch.from_numpy(source.standard_normal((count, latent_dim), dtype=np.float32))


def truncated_latents(source: np.random.Generator, count: int, latent_dim: int, limit: float) -> Tensor:
    """z from N(0, 1) given that |z| <= ``limit`` in each component, float32 [count, latent_dim].

    The truncation trick of Brock et al. (arXiv:1809.11096, section 3.1): a smaller limit gives more typical and less
    varied images. Drawn by the inverse distribution function, so nothing is redrawn.
    """
    edge = ndtr(-limit)
    return torch.from_numpy(ndtri(source.uniform(edge, 1 - edge, (count, latent_dim)))).float()


def labels(source: np.random.Generator, count: int, num_classes: int) -> Tensor:
    """Uniform class numbers, int64 [count]."""
    return torch.from_numpy(source.integers(num_classes, size=count))


def image_indices(seed: int, start: int, count: int, num_images: int) -> Tensor:
    """Which images stand at ``start`` ... ``start + count - 1`` of an endless stream of shuffled epochs, int64 [count].

    Every epoch holds each image exactly once, in an order of its own; a batch may straddle two epochs.
    """
    positions = np.arange(start, start + count)
    epochs, ranks = np.divmod(positions, num_images)
    parts = [_permutation(seed, int(epoch), num_images)[ranks[epochs == epoch]] for epoch in np.unique(epochs)]
    return torch.from_numpy(np.concatenate(parts))


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, num_images: int) -> np.ndarray:
    return stream(seed, "shuffle", epoch).permutation(num_images)
