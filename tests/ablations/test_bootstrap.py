"""Distances against scipy's matrix square root; intervals against scipy's bootstrap and against their coverage."""

from inspect import signature

import numpy as np
import pytest
from scipy import linalg, stats

from ablations import bootstrap
from ablations.bootstrap import (
    SampleFeatures,
    paired_difference,
    read_features,
    resampled_distances,
    write_features,
)


def gaussian(seed: int, shift: float = 0.0, size: int = 400, dimension: int = 6) -> SampleFeatures:
    random = np.random.default_rng(seed)
    samples = random.standard_normal((size, dimension)) * 1.5 + shift
    return SampleFeatures(samples, np.zeros(dimension), np.eye(dimension))


def test_the_distance_equals_the_definition_with_scipys_square_root():
    random = np.random.default_rng(0)
    factor = random.standard_normal((5, 5))
    covariance, mean = factor @ factor.T, random.standard_normal(5)
    samples = random.standard_normal((300, 5)) @ random.standard_normal((5, 5)) + 1
    features = SampleFeatures(samples, mean, np.real(linalg.sqrtm(covariance)))
    ours, theirs = np.cov(samples.T), covariance
    expected = np.square(samples.mean(0) - mean).sum() + np.trace(
        ours + theirs - 2 * np.real(linalg.sqrtm(ours @ theirs))
    )
    assert features.distance_and_influence()[0] == pytest.approx(expected, rel=1e-9)


def test_stored_features_give_the_distance_they_had(tmp_path):
    features = gaussian(1)
    covariance = np.diag(np.arange(1.0, 7.0))
    write_features(tmp_path, features.samples, np.full(6, 0.5), covariance)
    exact = SampleFeatures(features.samples, np.full(6, 0.5), np.sqrt(covariance)).distance_and_influence()[0]
    assert read_features(tmp_path).distance_and_influence()[0] == pytest.approx(exact, rel=2e-3)
    assert read_features(tmp_path / "elsewhere") is None


def test_resamples_of_equal_size_and_seed_take_the_same_samples():
    a = gaussian(1)
    doubled = SampleFeatures(a.samples, a.real_mean, a.real_root)
    assert (resampled_distances(a, 20, seed=3) == resampled_distances(doubled, 20, seed=3)).all()
    assert (resampled_distances(a, 20, seed=3) != resampled_distances(a, 20, seed=4)).all()


def test_with_seeds_alone_the_interval_is_scipys_percentile_interval(monkeypatch):
    random = np.random.default_rng(2)
    row = dict(enumerate(random.normal(5, 1, 12)))
    dense = dict(enumerate(random.normal(6, 1, 12)))
    monkeypatch.setattr(bootstrap, "stdtrit", lambda df, q: 0.0)  # without it the interval is Student's, wider
    ours = paired_difference(row, dense, {}, {}, resamples=20_000)
    generator = "rng" if "rng" in signature(stats.bootstrap).parameters else "random_state"  # SciPy before 1.15
    theirs = stats.bootstrap(
        (np.array(list(row.values())), np.array(list(dense.values()))),
        lambda a, b, axis: np.mean(a - b, axis=axis),
        paired=True,
        method="percentile",
        n_resamples=20_000,
        **{generator: np.random.default_rng(0)},
    ).confidence_interval
    assert not ours.over_samples
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)


def test_of_few_seeds_the_interval_is_students():
    row, dense = {0: 5.0, 1: 6.5, 2: 5.2}, {0: 6.0, 1: 7.0, 2: 6.1}
    found = paired_difference(row, dense, {}, {})
    expected = stats.ttest_rel(list(row.values()), list(dense.values())).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_the_interval_of_three_seeds_holds_the_true_difference_as_often_as_it_says():
    random = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        found = paired_difference(
            dict(enumerate(random.normal(1, 2, 3))), dict(enumerate(random.normal(0, 2, 3))), {}, {}
        )
        held += found.low <= 1 <= found.high
    assert 0.92 <= held / 400 <= 0.98


def test_the_difference_is_the_mean_over_common_seeds_only():
    found = paired_difference({0: 1.0, 1: 3.0, 7: 100.0}, {0: 2.0, 1: 6.0, 9: 0.0}, {}, {})
    assert (found.estimate, found.seeds) == (-2.0, 2)  # (-1 - 3) / 2
    assert paired_difference({0: 1.0}, {1: 1.0}, {}, {}) is None


def test_one_seed_without_features_has_no_interval():
    found = paired_difference({0: 1.0}, {0: 2.0}, {}, {})
    assert np.isnan(found.low) and found.verdict == "no interval"


def test_one_seed_with_features_has_the_interval_of_its_samples():
    row, dense = gaussian(1, 0.5), gaussian(2, 0.5)
    found = paired_difference(
        {0: row.distance_and_influence()[0]},
        {0: dense.distance_and_influence()[0]},
        {0: resampled_distances(row, 200, 0)},
        {0: resampled_distances(dense, 200, 0)},
    )
    assert found.over_samples and found.low < found.estimate < found.high
    assert found.high - found.low == pytest.approx(4 * np.std(
        resampled_distances(row, 200, 0) - resampled_distances(dense, 200, 0)), rel=0.25)  # fmt: skip


def test_a_difference_inside_its_interval_is_called_none_and_one_outside_by_its_sign():
    def verdict(shifts: list[float], base: float = 0.3) -> str:
        runs = {s: gaussian(s, base) for s in range(3)}
        others = {s: gaussian(100 + s, shift) for s, shift in enumerate(shifts)}
        return paired_difference(
            {s: f.distance_and_influence()[0] for s, f in others.items()},
            {s: f.distance_and_influence()[0] for s, f in runs.items()},
            {s: resampled_distances(f, 200, s) for s, f in others.items()},
            {s: resampled_distances(f, 200, s) for s, f in runs.items()},
        ).verdict

    assert verdict([0.3, 0.3, 0.3]) == "no difference shown"
    assert verdict([2.0, 2.1, 1.9]) == "higher"
    assert verdict([0.0, 0.0, 0.0], base=1.0) == "lower"


def test_pairing_narrows_the_interval_where_samples_are_alike():
    """Two generators that differ little on the same z: pairing removes what they share."""
    row = gaussian(1, 1.0)
    other = SampleFeatures(row.samples + 0.01, row.real_mean, row.real_root)
    drawn = resampled_distances(row, 200, 0)

    def width(resampled: np.ndarray) -> float:
        found = paired_difference(
            {0: row.distance_and_influence()[0]}, {0: other.distance_and_influence()[0]}, {0: drawn}, {0: resampled}
        )
        return found.high - found.low

    assert width(resampled_distances(other, 200, 0)) < width(resampled_distances(other, 200, 1)) / 10


def test_an_influence_is_what_a_sample_given_a_little_more_weight_moves_the_distance_by():
    features = gaussian(3, 0.7, size=60, dimension=4)
    _, influence = features.distance_and_influence()
    assert abs(influence.sum()) < 1e-9
    for sample in (0, 17):
        # The same samples a thousand times over, and this one once more.
        weights = np.full(60, 1000)
        weights[sample] += 1
        moved, _ = SampleFeatures(
            np.repeat(features.samples, weights, axis=0), features.real_mean, features.real_root
        ).distance_and_influence()
        base, _ = SampleFeatures(
            np.repeat(features.samples, 1000, axis=0), features.real_mean, features.real_root
        ).distance_and_influence()
        assert (moved - base) * weights.sum() == pytest.approx(influence[sample], rel=0.03)


def test_resampled_distances_spread_as_those_computed_anew_from_resampled_features():
    features = gaussian(4, 0.5, size=800)
    indices = np.random.default_rng(0).integers(0, 800, (200, 800))
    anew = [
        SampleFeatures(features.samples[index], features.real_mean, features.real_root).distance_and_influence()[0]
        for index in indices
    ]
    assert np.std(resampled_distances(features, 2000, 1)) == pytest.approx(np.std(anew), rel=0.15)


def test_a_feature_that_no_sample_varies_in_has_no_say():
    features = gaussian(5, 0.5)
    dead = SampleFeatures(np.hstack([features.samples, np.zeros((400, 1))]), np.zeros(7), np.diag([1.0] * 6 + [0.0]))
    assert dead.distance_and_influence()[0] == pytest.approx(features.distance_and_influence()[0])
    np.testing.assert_allclose(dead.distance_and_influence()[1], features.distance_and_influence()[1], atol=1e-9)
