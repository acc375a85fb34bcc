"""Every draw is a function of (seed, purpose, counters)."""

import numpy as np
import pytest
import torch
from scipy import stats

from sagan_base.draws import PURPOSES, image_indices, labels, latents, stream, truncated_latents


def test_a_stream_is_repeatable_and_differs_by_seed_purpose_and_counter():
    places = [(0, "generator", 1), (1, "generator", 1), (0, "generator", 2), (0, "discriminator", 1, 0)]
    draws = [latents(stream(*place), 2, 4) for place in places]
    assert torch.equal(draws[0], latents(stream(0, "generator", 1), 2, 4))
    assert len({tuple(draw.flatten().tolist()) for draw in draws}) == len(draws)


def test_purposes_are_told_apart():
    assert len({stream(0, purpose).integers(1 << 60) for purpose in PURPOSES}) == len(PURPOSES)


def test_every_epoch_shows_each_image_once_in_another_order():
    epochs = image_indices(3, 0, 21, 7).view(3, 7)
    assert all(sorted(epoch.tolist()) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 3


@pytest.mark.parametrize(("start", "count"), [(0, 3), (5, 4), (13, 20)])
def test_the_order_of_images_does_not_depend_on_where_reading_begins(start, count):
    whole = image_indices(1, 0, 40, 7)
    assert torch.equal(image_indices(1, start, count, 7), whole[start : start + count])


def test_labels_are_uniform_over_the_classes():
    counts = torch.bincount(labels(stream(0, "generator", 1), 6000, 3))
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


@pytest.mark.parametrize("limit", [0.5, 2.0])
def test_truncated_latents_follow_the_truncated_normal_distribution(limit):
    z = truncated_latents(stream(0, "sample", 0), 500, 8, limit)
    assert z.dtype == torch.float32 and z.abs().max() <= limit
    assert stats.kstest(z.flatten().numpy(), stats.truncnorm(-limit, limit).cdf).pvalue > 1e-3


def test_more_latents_begin_with_the_fewer():
    few, many = (latents(stream(5, "sample", 1), count, 8) for count in (3, 10))
    assert np.array_equal(few.numpy(), many[:3].numpy())
