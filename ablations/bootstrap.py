"""How much a measured Fréchet distance owes to the samples that were drawn: a bootstrap within classes.

Samples are drawn with each class as often as the data has it, so resamples must hold each class as often, too: drawn
over all classes at once, the number of each class varies, which it never does, and the spread comes out several times
too wide (tests/ablations). Equal labels and sizes take equal indices, and sample i of every run comes from the same z,
so resamples of two runs are pairs.

A resampled distance is the measured one plus what its samples move it by, to first order: each sample's influence
(Hampel, 1974). Computing every distance anew says the same of its spread, is biased upwards, because resamples repeat
samples, and takes hundreds of times as long.
"""

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 200


def distance_and_influence(
    samples: NDArray[np.float64], real_mean: NDArray[np.float64], real_covariance: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64]]:
    """Fréchet distance of samples [N, d] to the Gaussian of the real images, and its derivative [N] to the weight of
    each sample; the derivatives sum to 0."""
    values, vectors = np.linalg.eigh(real_covariance)
    real_root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    mean = samples.mean(axis=0)
    centred = samples - mean
    covariance = centred.T @ centred / (len(samples) - 1)
    # tr sqrt(A B) = sum of sqrt of the eigenvalues of sqrt(B) A sqrt(B), which is symmetric.
    values, vectors = np.linalg.eigh(real_root @ covariance @ real_root)
    shift = mean - real_mean
    distance = shift @ shift + np.trace(covariance + real_covariance) - 2 * np.sqrt(np.clip(values, 0, None)).sum()
    # d tr sqrt(M) = tr(M^-1/2 dM) / 2, where M has full rank; directions that no sample has stay out.
    rank = values > 1e-10 * values[-1]
    half = real_root @ vectors[:, rank] / np.sqrt(np.sqrt(values[rank]))
    of_covariance = np.square(centred).sum(axis=1) - np.square(centred @ half).sum(axis=1)
    return float(distance), 2 * centred @ shift + of_covariance - of_covariance.mean()


def resampled_log_distances(
    samples: NDArray[np.float64],
    labels: NDArray[np.int64],
    real_mean: NDArray[np.float64],
    real_covariance: NDArray[np.float64],
    resamples: int = RESAMPLES,
) -> NDArray[np.float64]:
    """[resamples]: how far the log distance moves when the samples are drawn again within their classes."""
    distance, influence = distance_and_influence(samples, real_mean, real_covariance)
    random = np.random.default_rng(0)
    moves = np.zeros(resamples)
    for label in np.unique(labels):
        of_class = influence[labels == label]
        drawn = of_class[random.integers(0, len(of_class), (resamples, len(of_class)))]
        moves += drawn.sum(axis=1) / len(influence)
    return np.log(np.maximum(distance + moves, 1e-3 * distance) / distance)
