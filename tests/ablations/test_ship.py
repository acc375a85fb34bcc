"""Shipping a run: the card says what the run measured, and the files appear whole or not at all."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ablations import ship
from ablations.records import write_record
from sagan_base import models
from sagan_base.checkpoint import build_networks, named_part, read_checkpoint, write_checkpoint
from sagan_base.config import ModelConfig, RunConfig, TrainConfig
from sagan_base.provenance import provenance


@pytest.fixture
def finished(canned_run) -> Path:
    """A finished run with a model, as ablations/run.py leaves it."""
    record = canned_run("ylg", seed=3, distance=1.5)
    write_record(record)
    model(record.folder)
    return record.folder


def model(folder: Path, data: str = "digits", spec: str = "digits") -> None:
    """A small model file of step 77 in a run's folder."""
    small = ModelConfig(16, 1, num_classes=10, latent_dim=4, generator_width=4, discriminator_width=4)
    config = RunConfig(small, training=TrainConfig(seed=3), data=spec)
    generator, discriminator = build_networks(config)
    tensors = named_part("ema", generator.state_dict()) | named_part("discriminator", discriminator.state_dict())
    info = {
        "step": 77,
        "seconds": 90.0,
        "class_names": list("0123456789"),
        "data": {"name": data, "fingerprint": "f"},
        "provenance": {"processes": 1, **provenance(3), "command": "python x --esa"},
    }
    write_checkpoint(folder / "model.safetensors", tensors, config, info)


def test_the_card_holds_what_the_run_measured_and_the_hash_of_its_weights(finished, tmp_path, monkeypatch):
    card = ship.ship(finished, "mine", destination=tmp_path / "shipped")
    monkeypatch.setattr(models, "SHIPPED", tmp_path / "shipped")
    assert models.model_card("mine") == card
    assert card.sha256 == hashlib.sha256(models.resolve_model("mine").read_bytes()).hexdigest()
    assert card.metrics["FD (digits classifier)"] == 1.5
    assert (card.seed, card.steps, card.seconds, card.command) == (3, 77, 90.0, "python x --esa")
    assert card.network.endswith("8 heads of ltr_rtl in manhattan order, alignment pool, at 8x8")


def test_a_run_of_training_alone_ships_with_its_last_evaluation_and_without_its_path(tmp_path, capsys):
    run, shipped = tmp_path / "run", tmp_path / "shipped"
    model(run, "cifar10-jpeg", f"folder:{tmp_path}/pictures")
    with pytest.raises(ValueError, match="was never measured"):
        ship.ship(run, "colour", "cifar10", shipped)
    lines = [{"step": 5, "FD (c classifier)": 2.0, "KID (c classifier)": 0.1}, {"step": 6, "entropy/g": 0.5}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(ValueError, match="the model would carry the path folder:"):
        ship.ship(run, "colour", None, shipped)
    assert not shipped.exists()
    ship.main([str(run), "--name", "colour", "--data", "cifar10", "--out", str(shipped)])
    checkpoint = read_checkpoint(shipped / "colour.safetensors")
    assert checkpoint.config.data == "cifar10" and str(tmp_path) not in json.dumps(checkpoint.config.to_dict())
    card = json.loads((shipped / "colour.json").read_text())
    assert card["metrics"] == {"FD (c classifier)": 2.0, "KID (c classifier)": 0.1} and "JPEG" in card["data"]


def test_the_best_networks_of_a_run_that_goes_on_ship_with_the_figures_of_their_step(tmp_path):
    run, shipped = tmp_path / "run", tmp_path / "shipped"
    model(run)
    (run / "model.safetensors").rename(run / "best.safetensors")  # step 77
    lines = [{"step": 77, "FD (c classifier)": 2.0}, {"step": 80, "FD (c classifier)": 3.0}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors is not a file"):
        ship.ship(run, "mine", destination=shipped)
    ship.main([str(run), "--best", "--name", "mine", "--out", str(shipped)])
    card = json.loads((shipped / "mine.json").read_text())
    assert (card["steps"], card["metrics"]) == (77, {"FD (c classifier)": 2.0})


def test_a_card_says_in_what_numbers_and_from_which_weights_a_run_was_trained(tmp_path):
    model(tmp_path)
    checkpoint = read_checkpoint(tmp_path / "model.safetensors")
    assert "bfloat16" not in ship.make_card("a", checkpoint, ship.TERMS["digits"], {}, b"").recipe
    config = replace(checkpoint.config, init_from="digits at step 6, SHA-256 1f",
                     training=replace(checkpoint.config.training, precision="bfloat16"))  # fmt: skip
    card = ship.make_card("a", replace(checkpoint, config=config), ship.TERMS["digits"], {}, b"")
    assert card.recipe.endswith(", bfloat16, from the weights of digits at step 6, SHA-256 1f")


def test_the_page_of_a_card_shows_every_figure_and_the_samples(finished, tmp_path):
    card = ship.ship(finished, "mine", destination=tmp_path / "shipped")
    page = (tmp_path / "shipped" / "mine.md").read_text()
    assert "![Samples, a row per class](mine.png)" in page and (tmp_path / "shipped" / "mine.png").is_file()
    for text in (card.data, card.licence, card.recipe, card.network, card.sha256, card.limits, "1.50 |", "0.500 |"):
        assert text in page


def test_a_folder_without_a_model_is_refused_and_nothing_is_written(finished, tmp_path, capsys):
    (finished / "model.safetensors").unlink()
    with pytest.raises(SystemExit) as stopped:
        ship.main([str(finished), "--name", "mine", "--out", str(tmp_path / "shipped")])
    assert stopped.value.code == 2
    assert "is not a file; give a checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "shipped").exists()


def test_data_of_unknown_terms_is_refused(finished, tmp_path):
    model(finished, "holiday")
    with pytest.raises(ValueError, match="nothing is known about the licence of 'holiday'"):
        ship.ship(finished, "mine", destination=tmp_path / "shipped")
    assert not (tmp_path / "shipped").exists()


def test_page_and_sheet_of_every_shipped_model_are_those_that_its_card_and_weights_give(tmp_path):
    written = ship.refresh(tmp_path)
    assert {path.name for path in written} == {
        f"{name}.{end}" for name in models.model_names() for end in ("png", "md")
    }
    for path in written:
        if path.suffix == ".md":
            assert path.read_text() == (models.SHIPPED / path.name).read_text()
        else:  # another machine may round a pixel differently
            here, there = (np.asarray(Image.open(file), dtype=float) for file in (path, models.SHIPPED / path.name))
            assert here.shape == there.shape and np.abs(here - there).max() <= 2


@pytest.mark.parametrize("options", [[], ["--refresh", "runs/x"], ["--refresh", "--best"], ["runs/x"], ["--name", "x"]])
def test_what_to_ship_must_be_said_in_full(options, capsys):
    with pytest.raises(SystemExit) as stopped:
        ship.main(options)
    assert stopped.value.code == 2
    assert "give a finished run and --name NAME, or --refresh alone" in capsys.readouterr().err
