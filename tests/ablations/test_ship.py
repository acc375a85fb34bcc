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


@pytest.fixture
def finished(canned_run) -> Path:
    """A finished run with a model, as ablations/run.py leaves it."""
    record = canned_run("ylg", seed=3, distance=1.5, accuracy=0.97)
    write_record(replace(record, provenance=replace(record.provenance, command="python x --esa")))
    (record.folder / "model.safetensors").write_bytes(b"weights")
    (record.folder / "config.json").write_text(json.dumps({"data": {"class_names": list("0123456789")}}))
    return record.folder


def test_the_card_holds_what_the_run_measured_and_the_hash_of_its_weights(finished, tmp_path, monkeypatch):
    card = ship.ship(finished, "mine", tmp_path / "shipped")
    monkeypatch.setattr(models, "SHIPPED", tmp_path / "shipped")
    assert models.model_card("mine") == card
    assert models.resolve_model("mine").read_bytes() == b"weights"
    assert card.sha256 == hashlib.sha256(b"weights").hexdigest()
    assert card.metrics["FD (digits classifier)"] == 1.5
    assert card.metrics["FD (digits classifier), attention off"] == 3.0
    assert card.metrics["class accuracy (SVM on real images)"] == 0.97
    assert (card.seed, card.steps, card.command) == (3, 1000, "python x --esa")
    assert card.network.endswith("8 heads of ltr_rtl in manhattan order, alignment rows, at 16x16")


def test_the_page_of_a_card_shows_every_figure_and_the_samples(finished, tmp_path):
    card = ship.ship(finished, "mine", tmp_path / "shipped")
    page = (tmp_path / "shipped" / "mine.md").read_text()
    assert "![Samples, a row per class](mine.png)" in page and (tmp_path / "shipped" / "mine.png").is_file()
    for text in (card.data, card.licence, card.recipe, card.network, card.sha256, card.limits, "1.50 |", "0.970 |"):
        assert text in page


def test_an_unfinished_run_is_refused_and_nothing_is_written(finished, tmp_path, capsys):
    (finished / "result.json").unlink()
    with pytest.raises(SystemExit) as stopped:
        ship.main([str(finished), "--name", "mine", "--out", str(tmp_path / "shipped")])
    assert stopped.value.code == 2
    assert "holds no finished run" in capsys.readouterr().err
    assert not (tmp_path / "shipped").exists()


def test_data_of_unknown_terms_is_refused(finished, tmp_path):
    values = json.loads((finished / "result.json").read_text())
    values["setting"]["data"] = "holiday"
    (finished / "result.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="nothing is known about the licence of 'holiday'"):
        ship.ship(finished, "mine", tmp_path / "shipped")


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


@pytest.mark.parametrize("options", [[], ["--refresh", "runs/x"], ["runs/x"], ["--name", "x"]])
def test_what_to_ship_must_be_said_in_full(options, capsys):
    with pytest.raises(SystemExit) as stopped:
        ship.main(options)
    assert stopped.value.code == 2
    assert "give a finished run and --name NAME, or --refresh alone" in capsys.readouterr().err
