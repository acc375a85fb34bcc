"""The models that ship: each loads, is what its card says, and draws the classes it names."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from sagan_base import load_checkpoint, models
from sagan_base.checkpoint import read_checkpoint
from sagan_base.data import load_data
from sagan_base.metrics.class_accuracy import CLASS_ACCURACY, class_accuracy


@pytest.fixture(params=models.model_names())
def name(request):
    return request.param


def test_a_model_that_ships_is_what_its_card_says(name):
    card = models.model_card(name)
    generator, discriminator, config = load_checkpoint(models.resolve_model(name))
    assert generator.num_classes == len(card.classes)
    assert (generator.resolution, config.model.image_channels) == (card.resolution, card.image_channels)
    assert config.training.seed == card.seed
    assert read_checkpoint(models.resolve_model(name)).info["step"] == card.steps  # of a run that may go on
    assert models.resolve_model(name).stat().st_size == card.bytes
    labels = torch.arange(2) % generator.num_classes
    images = generator(torch.randn(2, generator.latent_dim), labels)
    assert images.shape == (2, card.image_channels, card.resolution, card.resolution)
    assert discriminator(images, labels).shape == (2,)


def test_the_digits_model_draws_the_class_asked_for():
    generator, _, config = load_checkpoint(models.resolve_model("digits"))
    accuracy = class_accuracy(generator, load_data(config.data, generator.resolution), num_samples=200, seed=1)
    assert accuracy >= 0.9
    # the record's figure is of other samples, so the two agree only up to chance
    record = json.loads((Path(__file__).parents[2] / "analysis" / "results" / "held_out_digits.json").read_text())
    assert accuracy == pytest.approx(record["trained"][CLASS_ACCURACY], abs=0.05)


def test_without_a_name_the_default_model_is_resolved():
    assert models.resolve_model().stem == models.DEFAULT_MODEL == models.model_names()[0]


def test_all_models_together_stay_small():
    assert sum(path.stat().st_size for path in models.SHIPPED.iterdir()) < 20e6


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"no shipped model is called 'horses'; use one of digits"):
        models.resolve_model("horses")


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """A folder with a card and weights of its own in place of the package's."""
    card = json.loads((models.SHIPPED / "digits.json").read_text())
    weights = b"not weights at all"
    card |= {"name": "mine", "sha256": hashlib.sha256(weights).hexdigest()}
    (tmp_path / "mine.json").write_text(json.dumps(card))
    (tmp_path / "mine.safetensors").write_bytes(weights)
    monkeypatch.setattr(models, "SHIPPED", tmp_path)
    return tmp_path


def test_weights_that_are_not_those_of_the_card_are_refused(elsewhere):
    assert models.resolve_model("mine").name == "mine.safetensors"
    (elsewhere / "mine.safetensors").write_bytes(b"changed")
    with pytest.raises(ValueError, match="its card says"):
        models.resolve_model("mine")
    (elsewhere / "mine.safetensors").unlink()
    with pytest.raises(ValueError, match="is missing; reinstall"):
        models.resolve_model("mine")


def test_the_command_lists_every_model_with_its_metrics(capsys):
    models.main([])
    printed = capsys.readouterr().out
    for name in models.model_names():
        assert name in printed
        for metric in models.model_card(name).metrics:
            assert metric in printed


def test_the_command_refuses_an_unknown_model_in_one_line(capsys):
    with pytest.raises(SystemExit) as stopped:
        models.main(["horses", "--path"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("error: no shipped model is called 'horses'")
