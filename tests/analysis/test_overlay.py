"""Attention against uniform attention as colours, and sheets of pictures."""

import numpy as np
import pytest
import torch
from PIL import Image

from analysis.overlay import LESS, MORE, against_uniform, captioned, overlay


def test_the_ratio_is_0_for_uniform_attention_and_outside_the_mask():
    uniform = torch.tensor([0.25, 0.25, 0.5, 0.0])
    ratios = against_uniform(torch.tensor([0.5, 0.125, 0.5, 0.0]), uniform)
    assert ratios.tolist() == [1, -1, 0, 0]


def test_more_is_orange_less_is_blue_and_uniform_leaves_the_image():
    image = torch.full((1, 4, 4), -1.0)  # black
    picture, end = overlay(image, torch.tensor([[2.0, 0.0], [-2.0, -torch.inf]]))
    pixels = np.asarray(picture)[::2, ::2].reshape(4, 3)
    assert end == 4
    assert np.array_equal(pixels[0], np.rint(0.85 * np.array(MORE)))
    assert not pixels[1].any()
    assert np.array_equal(pixels[2], pixels[3]) and np.array_equal(pixels[2], np.rint(0.85 * np.array(LESS)))


def test_nearly_uniform_attention_is_drawn_pale():
    picture, end = overlay(torch.full((1, 2, 2), -1.0), torch.full((2, 2), 0.01))
    assert end == pytest.approx(1.25)
    assert np.asarray(picture).max() < 0.05 * 255


def test_a_sheet_shows_every_picture_whole_with_its_caption_wrapped_above_it():
    pictures = [Image.new("RGB", size, "red") for size in ((10, 5), (300, 900), (64, 64))]
    sheet = captioned([("row", [("a caption that is far longer than its picture", p) for p in pictures])], 64)
    red = (np.asarray(sheet) == (255, 0, 0)).all(-1)
    assert red.sum() == 64 * 32 + 21 * 64 + 64 * 64
    right = sheet.width - 3 * 72
    above = np.asarray(sheet.convert("L"))[: np.nonzero(red)[0].min(), right:]
    for column in range(3):
        ink = np.nonzero((above[:, column * 72 : column * 72 + 64] < 128).any(0))[0]
        assert len(ink) and not (above[:, column * 72 + 66 : column * 72 + 72] < 128).any()  # stays above its own
