"""Distances against scipy's matrix square root, influences by definition, resamples against fresh samples."""

import numpy as np
import pytest
from scipy import linalg

from ablations.bootstrap import distance_and_influence, resampled_log_distances


def gaussian(seed: int, shift: float = 0.0, size: int = 400, dimension: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((size, dimension)) * 1.5 + shift


def real(dimension: int = 6) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(dimension), np.eye(dimension)


def test_the_distance_equals_the_definition_with_scipys_square_root():
    random = np.random.default_rng(0)
    factor = random.standard_normal((5, 5))
    theirs, mean = factor @ factor.T, random.standard_normal(5)
    samples = random.standard_normal((300, 5)) @ random.standard_normal((5, 5)) + 1
    ours = np.cov(samples.T)
    expected = np.square(samples.mean(0) - mean).sum() + np.trace(
        ours + theirs - 2 * np.real(linalg.sqrtm(ours @ theirs))
    )
    assert distance_and_influence(samples, mean, theirs)[0] == pytest.approx(expected, rel=1e-9)


def test_an_influence_is_what_a_sample_given_a_little_more_weight_moves_the_distance_by():
    samples = gaussian(3, 0.7, size=60, dimension=4)
    _, influence = distance_and_influence(samples, *real(4))
    assert abs(influence.sum()) < 1e-9
    base, _ = distance_and_influence(np.repeat(samples, 1000, axis=0), *real(4))
    for sample in (0, 17):
        weights = np.full(60, 1000)  # the same samples a thousand times over, and this one once more
        weights[sample] += 1
        moved, _ = distance_and_influence(np.repeat(samples, weights, axis=0), *real(4))
        assert (moved - base) * weights.sum() == pytest.approx(influence[sample], rel=0.03)


def test_a_feature_that_no_sample_varies_in_has_no_say():
    samples = gaussian(5, 0.5)
    dead = distance_and_influence(np.hstack([samples, np.zeros((400, 1))]), np.zeros(7), np.diag([1.0] * 6 + [0.0]))
    alive = distance_and_influence(samples, *real())
    assert dead[0] == pytest.approx(alive[0])
    np.testing.assert_allclose(dead[1], alive[1], atol=1e-9)


def classes_far_apart(random: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    """Features of a generator whose classes lie apart, as those of digits do, and a little off the real ones."""
    centres = np.random.default_rng(9).standard_normal((10, 6)) * 4
    return centres[labels] + random.standard_normal((len(labels), 6)) + 0.3


def test_resamples_spread_as_fresh_samples_of_the_same_classes_do_and_not_several_times_as_far():
    labels = np.arange(500) % 10
    many = np.arange(20_000) % 10
    images = classes_far_apart(np.random.default_rng(0), many) - 0.3
    mean, covariance = images.mean(0), np.cov(images.T)
    fresh = [
        np.log(distance_and_influence(classes_far_apart(np.random.default_rng(seed), labels), mean, covariance)[0])
        for seed in range(1, 301)
    ]
    samples = classes_far_apart(np.random.default_rng(0), labels)
    within = resampled_log_distances(samples, labels, mean, covariance, 1000)
    across = resampled_log_distances(samples, np.zeros(500, int), mean, covariance, 1000)
    assert np.std(within) == pytest.approx(np.std(fresh), rel=0.2)
    assert np.std(across) > 2 * np.std(fresh)


def test_resamples_of_equal_labels_are_pairs():
    """Two generators that differ little on the same z move together."""
    labels, samples = np.arange(400) % 4, gaussian(1, 1.0)
    one, other = (resampled_log_distances(part, labels, *real()) for part in (samples, samples + 0.01))
    assert np.std(one - other) < np.std(one) / 10
