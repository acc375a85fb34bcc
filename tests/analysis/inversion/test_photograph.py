"""Which pixels of a photograph a network gets, and that a person is shown the same ones."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from analysis.inversion.photograph import Crop, cropped
from sagan_base.data_sources.pictures import Picture


def picture(width, height, mode="RGB"):
    random = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Picture(Image.fromarray(random).convert(mode), Path("photo.jpg"))


def pixels(image):
    return np.asarray(image.convert("RGB"))


def test_by_default_the_picture_goes_on_untouched_and_its_centre_is_shown():
    whole = picture(30, 20)
    taken, shown = cropped(whole, Crop())
    assert taken.image is whole.image and not taken.notes  # fit_picture takes the centre, as training did
    assert np.array_equal(pixels(shown.crop), pixels(whole.image)[:, 5:25])
    inside, outside = pixels(shown.shown)[3:17, 8:22], pixels(shown.shown)[:, :5]
    assert np.array_equal(inside, pixels(whole.image)[3:17, 8:22])
    assert np.array_equal(outside, pixels(whole.image)[:, :5] // 2)


def test_a_box_is_taken_out_first_and_its_centre_after_it():
    whole = picture(30, 20)
    taken, shown = cropped(whole, Crop(box=(2, 3, 14, 11)))
    assert np.array_equal(pixels(taken.image), pixels(whole.image)[3:11, 2:14])
    assert np.array_equal(pixels(shown.crop), pixels(whole.image)[3:11, 4:12])
    assert taken.notes == ("the box (2, 3, 14, 11) of its 30x20 pixels was taken",)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(("width", "height"), [(30, 20), (20, 31)])
def test_fit_keeps_every_pixel_on_a_square_of_the_borders_mean_colour(mode, width, height):
    whole = picture(width, height, mode)
    taken, shown = cropped(whole, Crop("fit"))
    side = max(width, height)
    assert taken.image.size == (side, side) and taken.image.mode == mode
    left, top = (side - width) // 2, (side - height) // 2
    assert np.array_equal(pixels(taken.image)[top : top + height, left : left + width], pixels(whole.image))
    values = pixels(whole.image).astype(float)
    border = np.concatenate([values[0], values[-1], values[:, 0], values[:, -1]])
    assert np.array_equal(pixels(taken.image)[0 if top else -1, 0 if left else -1], np.rint(border.mean(0)))
    assert np.array_equal(pixels(shown.shown), pixels(whole.image))  # all was taken: nothing is framed
    assert shown.caption == "the photograph" and shown.crop.size == (side, side)
    assert "on a square of the mean colour" in taken.notes[0]


def test_a_square_photograph_is_shown_once_and_unframed():
    _, shown = cropped(picture(20, 20), Crop())
    assert shown.caption == "the photograph" and shown.crop is shown.shown
    assert np.array_equal(pixels(shown.shown), pixels(picture(20, 20).image))


def test_what_is_shown_of_a_large_photograph_is_small():
    _, shown = cropped(picture(1500, 900), Crop(box=(100, 0, 1300, 900)))
    assert max(shown.shown.size) == max(shown.crop.size) == 512


def test_boxes_that_are_none_or_reach_outside_and_unknown_rules_are_refused():
    with pytest.raises(ValueError, match=r"box=\(5, 0, 5, 9\) is no box; give left, top, right and bottom"):
        Crop(box=(5, 0, 5, 9))
    with pytest.raises(ValueError, match=r"box=\(0, 0, 31, 20\) reaches outside photo.jpg, which has 30x20 pixels"):
        cropped(picture(30, 20), Crop(box=(0, 0, 31, 20)))
    with pytest.raises(ValueError, match="crop='middle' is unknown; use one of centre, fit"):
        Crop("middle")
