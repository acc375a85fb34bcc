"""The choice among the shipped models by pictures: each model's own images must lead to it."""

import argparse

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from analysis.fitting_model import _readable, fitting_model
from analysis.inversion.calibration import DRAWS, nearest_draw
from analysis.inversion.distances import Distance
from analysis.inversion.targets import generated
from analysis.loading import add_common_arguments, load_model
from sagan_base.models import DEFAULT_MODEL, model_names
from sagan_base.sampling import draw_any, to_image


def parsed(*options: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_common_arguments(parser, "tests")
    return parser.parse_args(["--device", "cpu", *options])


@pytest.mark.parametrize("name", model_names())
@pytest.mark.slow
def test_images_of_a_model_lead_to_that_model(name, tmp_path):
    paths = [tmp_path / f"{target.name}.png" for target in generated(load_model(name), 4, seed=1)]
    for path, target in zip(paths, generated(load_model(name), 4, seed=1), strict=True):
        to_image(target.image).save(path)
    model, line = fitting_model(parsed(), paths)
    assert model.name == name
    if model.generator.config.image_channels == 3:
        assert line == f"model {name} draws in colour, as the picture is; --model NAME chooses another"
    else:
        assert f"model {name} fits best" in line and all(other in line for other in model_names())


@pytest.mark.slow
def test_a_photograph_gets_the_model_in_colour_and_in_grey_too_where_digits_come_nearer(tmp_path):
    photograph = Image.fromarray(load_sample_image("flower.jpg"))
    for mode in ("RGB", "L"):
        photograph.convert(mode).convert("RGB").save(tmp_path / f"{mode}.png")
    model, line = fitting_model(parsed(), [tmp_path / "RGB.png"])
    assert model.generator.config.image_channels == 3 and "in colour" in line
    model, line = fitting_model(parsed(), [tmp_path / "L.png"])
    assert model.generator.config.image_channels == 3 and "fits best" in line


def test_a_model_that_was_named_is_taken_whatever_the_picture(tmp_path):
    for name in model_names():
        model, line = fitting_model(parsed("--model", name), [tmp_path / "unread.png"])
        assert (model.name, line) == (name, "")


def test_without_a_picture_the_default_model_is_taken():
    model, line = fitting_model(parsed(), [])
    assert (model.name, line) == (DEFAULT_MODEL, "")


def test_a_picture_that_cannot_be_read_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"nothing\.png"):
        fitting_model(parsed(), [tmp_path / "nothing.png"])


def test_of_every_picture_the_nearest_draw_counts(checkpoint, tmp_path):
    model = load_model(checkpoint=checkpoint)
    levels = torch.randint(0, 256, (2, 1, 16, 16), generator=torch.Generator().manual_seed(0))
    pictures = levels.float() / 127.5 - 1
    paths = [tmp_path / f"{number}.png" for number in range(2)]
    for path, picture in zip(paths, pictures, strict=True):
        to_image(picture).save(path)
    squared = Distance("squared", lambda images, real: (images - real).square().mean((1, 2, 3)))
    draws = draw_any(model.generator, DRAWS)
    for negative, sign in ((False, 1), (True, -1)):
        nearest = [min(float((draw - sign * picture).square().mean()) for draw in draws) for picture in pictures]
        ours = [nearest_draw(model, image, squared) for image in _readable(paths, model, negative=negative)]
        assert ours == pytest.approx(nearest, rel=1e-4)
