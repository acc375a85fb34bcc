"""The choice among the shipped models by pictures: each model's own images must lead to it."""

import argparse

import pytest

from analysis.fitting_model import fitting_model
from analysis.inversion_targets import generated
from analysis.loading import add_model_arguments, load_model
from analysis.pictures import to_image
from sagan_base.models import DEFAULT_MODEL, model_names


def parsed(*options: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_model_arguments(parser)
    return parser.parse_args(["--device", "cpu", *options])


@pytest.mark.parametrize("name", model_names())
def test_images_of_a_model_lead_to_that_model(name, tmp_path):
    paths = [tmp_path / f"{target.name}.png" for target in generated(load_model(name), 4, seed=1)]
    for path, target in zip(paths, generated(load_model(name), 4, seed=1), strict=True):
        to_image(target.image).save(path)
    model, line = fitting_model(parsed(), paths)
    assert model.name == name
    assert f"model {name} fits best" in line and all(other in line for other in model_names())


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
