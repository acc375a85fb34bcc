"""How sure a difference of Fréchet distances is: a paired bootstrap over seeds and samples.

Two things make a measured distance vary: the seed of the training, and the finite number of samples drawn from the
trained generator. Both are resampled together: seeds with replacement, and within each seed its samples with
replacement. It is paired twice. Row and baseline use the same seeds, hence the same data order; and sample i of both
comes from the same z and label, so both take the same resampled indices.

A resampled distance is the measured one plus what its samples move it by, to first order: each sample's influence
(Hampel, 1974). Computing every distance anew says the same of its spread (tests/ablations), is biased upwards, because
resamples repeat samples, and takes hundreds of times as long.

``scipy.stats.bootstrap`` resamples one level of independent observations; it has no nested levels, and on three seeds
alone it would leave out the samples. Where only seeds are resampled, the two agree (tests/ablations).

A bootstrap cannot show more variation than its seeds did: of three it takes the range, which holds the true difference
in three cases of four. So the interval is widened to Student's over the seeds wherever that is wider.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from sagan_base.files import atomic_write

FEATURES = "features.npz"


@dataclass(frozen=True, eq=False)
class SampleFeatures:
    """Features of one run's samples, and the Gaussian of the real images they are compared with.

    Attributes:
        samples: [N, d]; sample i of every run under one setting comes from the same z and label.
        real_mean: [d]. real_root: [d, d], symmetric square root of the real covariance.
    """

    samples: NDArray[np.float64]
    real_mean: NDArray[np.float64]
    real_root: NDArray[np.float64]

    def distance_and_influence(self) -> tuple[float, NDArray[np.float64]]:
        """Fréchet distance of the samples to the real images, and its derivative [N] to the weight of each sample.

        The derivatives sum to 0: with equal weights the distance is the measured one.
        """
        mean = self.samples.mean(axis=0)
        centred = self.samples - mean
        covariance = centred.T @ centred / (len(self.samples) - 1)
        # tr sqrt(A B) = sum of sqrt of the eigenvalues of sqrt(B) A sqrt(B), which is symmetric.
        values, vectors = np.linalg.eigh(self.real_root @ covariance @ self.real_root)
        shift, traces = mean - self.real_mean, np.trace(covariance) + np.square(self.real_root).sum()
        distance = np.square(shift).sum() + traces - 2 * np.sqrt(np.clip(values, 0, None)).sum()
        # d tr sqrt(M) = tr(M^-1/2 dM) / 2, where M has full rank; directions that no sample has stay out.
        rank = values > 1e-10 * values[-1]
        half = self.real_root @ vectors[:, rank] / np.sqrt(np.sqrt(values[rank]))
        of_covariance = np.square(centred).sum(axis=1) - np.square(centred @ half).sum(axis=1)
        return float(distance), 2 * centred @ shift + of_covariance - of_covariance.mean()


def write_features(
    folder: Path, samples: NDArray[np.floating], real_mean: NDArray[np.floating], real_covariance: NDArray[np.floating]
) -> None:
    """Store one run's features for the bootstrap; samples as float16, which moves the distance by about 0.1%."""
    with atomic_write(folder / FEATURES) as path:
        np.savez_compressed(
            path,
            samples=samples.astype(np.float16),
            real_mean=real_mean.astype(np.float32),
            real_covariance=real_covariance.astype(np.float32),
        )


def read_features(folder: Path) -> SampleFeatures | None:
    """None where the run stored none."""
    path = folder / FEATURES
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as arrays:
        samples = arrays["samples"].astype(np.float64)
        values, vectors = np.linalg.eigh(arrays["real_covariance"].astype(np.float64))
        root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
        return SampleFeatures(samples, arrays["real_mean"].astype(np.float64), root)


@dataclass(frozen=True)
class Difference:
    """Row minus baseline, averaged over the seeds both have.

    Attributes:
        low, high: 95% interval; NaN where neither seeds nor samples could be resampled.
        seeds: how many there were. over_samples: whether samples were resampled too.
    """

    estimate: float
    low: float
    high: float
    seeds: int
    over_samples: bool

    @property
    def verdict(self) -> str:
        if not np.isfinite(self.low):
            return "no interval"
        if self.low <= 0 <= self.high:
            return "no difference shown"
        return "lower" if self.estimate < 0 else "higher"


def resampled_distances(features: SampleFeatures, resamples: int, seed: int) -> NDArray[np.float64]:
    """[resamples] distances of resampled samples; equal ``seed`` and N give equal indices, which pairs the runs."""
    distance, influence = features.distance_and_influence()
    random, size = np.random.default_rng(seed), len(influence)
    return distance + np.array([influence[random.integers(0, size, size)].mean() for _ in range(resamples)])


def paired_difference(
    row: dict[int, float],
    baseline: dict[int, float],
    row_resampled: dict[int, NDArray[np.float64]],
    baseline_resampled: dict[int, NDArray[np.float64]],
    resamples: int = 500,
    confidence: float = 0.95,
) -> Difference | None:
    """The mean difference over common seeds with its interval; None without a common seed.

    The interval is the bootstrap's percentile interval, or Student's t over the seeds at the ends where that is wider.

    Args:
        row, baseline: seed -> measured distance.
        row_resampled, baseline_resampled: seed -> ``resampled_distances``, with the same seed for both. Where a
            common seed lacks them, only seeds are resampled.
    """
    seeds = sorted(set(row) & set(baseline))
    if not seeds:
        return None
    estimates = np.array([row[s] - baseline[s] for s in seeds])
    over_samples = all(s in row_resampled and s in baseline_resampled for s in seeds)
    noise = np.zeros((len(seeds), resamples))
    if over_samples:
        noise = np.stack([row_resampled[s] - baseline_resampled[s] for s in seeds])
        resamples = noise.shape[1]
        noise -= noise.mean(axis=1, keepdims=True)  # the measured difference comes from all samples, not these draws
    estimate = float(estimates.mean())
    if len(seeds) == 1 and not over_samples:
        return Difference(estimate, float("nan"), float("nan"), 1, False)
    chosen = np.random.default_rng(0).integers(0, len(seeds), (resamples, len(seeds)))
    draws = (estimates[chosen] + noise[chosen, np.arange(resamples)[:, None]]).mean(axis=1)
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    if len(seeds) > 1:
        half = stdtrit(len(seeds) - 1, (1 + confidence) / 2) * estimates.std(ddof=1) / np.sqrt(len(seeds))
        low, high = min(low, estimate - half), max(high, estimate + half)
    return Difference(estimate, float(low), float(high), len(seeds), over_samples)
