"""Figures 5 and 6: which pictures, points and heads; what is drawn comes from the inversions beside them."""

import re

import numpy as np
import pytest
import torch
from PIL import Image

from analysis import figures as command
from analysis.explorer import generator_views
from analysis.inversion.targets import from_file
from analysis.loading import load_model
from sagan_base.extras import missing_modules


@pytest.fixture
def photograph(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(tmp_path / "p.png")
    return tmp_path / "p.png"


def test_every_point_of_every_picture_is_on_it_and_they_differ():
    for points in (*command.HELD_OUT.values(), *command.PHOTOGRAPHS.values()):
        assert len(set(points)) == len(command.POINTS)
        assert all(0 <= part < 1 for point in points for part in point)


def test_from_each_point_the_first_head_of_every_step_is_shown(checkpoint, photograph):
    model = load_model(checkpoint=checkpoint)
    chosen = command.Chosen(from_file(photograph, model), ((0.1, 0.1), (0.5, 0.5), (0.9, 0.9)))
    (view,) = generator_views(model.generator, torch.zeros(8), 0)
    rows = list(command.looked(chosen, view))
    assert [label.splitlines() for label, _ in rows] == [["p", point] for point in command.POINTS]
    for _, pictures in rows:
        captions = [caption for caption, _ in pictures]
        assert captions[0] == "query"
        assert [caption.split(",")[0] for caption in captions[1:]] == ["head 0", "head 1", "head 4", "head 5"]
        assert all(re.search(r"entropy \d+%$|one key only$", caption) for caption in captions[1:])
        assert len({picture.tobytes() for _, picture in pictures}) > 1


def test_a_model_of_other_classes_is_refused(checkpoint, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        command.main(["--checkpoint", str(checkpoint), "--out", str(tmp_path / "out")])
    assert stop.value.code == 2
    assert "has no class airplane, horse; take a model of CIFAR-10" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_both_figures_are_drawn_and_what_was_inverted_is_not_again(checkpoint, tmp_path, monkeypatch, capsys):
    names = {"0": command.HELD_OUT["airplane"], "7": command.HELD_OUT["horse"]}
    photographs = {key: points for key, points in command.PHOTOGRAPHS.items() if key[0] == "sklearn"}
    monkeypatch.setattr(command, "HELD_OUT", names)
    monkeypatch.setattr(command, "PHOTOGRAPHS", photographs)
    out = tmp_path / "out"
    asked = ["--checkpoint", str(checkpoint), "--out", str(out), "--steps", "2", "--restarts", "2", "--draws", "4"]
    assert command.main(asked) == 0
    said = capsys.readouterr()
    assert said.out.count("restarts by") == 4 * len(command.METHODS)
    assert ("left out" in said.err) == bool(missing_modules("photographs"))
    first = {name: (out / name).read_bytes() for name in ("figure5.webp", "figure6.webp")}
    assert command.main(asked) == 0
    assert "restarts by" not in capsys.readouterr().out
    assert {name: (out / name).read_bytes() for name in first} == first
    (latent,) = out.glob("china/saliency/latent.npz")
    latent.write_bytes(latent.read_bytes()[:300])
    with pytest.raises(SystemExit) as stop:
        command.main(asked)
    assert stop.value.code == 2 and "latent.npz" in capsys.readouterr().err
    (metrics,) = out.glob("china/saliency/metrics.json")
    for damaged in ("[" * 100_000, "[]", metrics.read_text().replace('"stopped"', '"halted"')):
        metrics.write_text(damaged)
        assert command.main(asked) == 0
        assert capsys.readouterr().out.count("restarts by") == 1  # done again
