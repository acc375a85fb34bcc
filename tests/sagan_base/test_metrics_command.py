"""``python -m sagan_base.metrics``: what it prints, beside the floor of real images and in the eyes of the judge."""

import hashlib
import json
from collections.abc import Callable
from inspect import signature
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist
from sklearn.svm import SVC

from sagan_base.checkpoint import build_networks, load_checkpoint, named_part, write_checkpoint
from sagan_base.config import ModelConfig, RunConfig
from sagan_base.data import ImageData, load_data
from sagan_base.images import halves
from sagan_base.metrics import __main__ as command_module
from sagan_base.metrics.__main__ import main as metrics_command
from sagan_base.metrics.class_accuracy import CLASS_ACCURACY, JUDGED, class_accuracy, judged_accuracy
from sagan_base.metrics.classifier import ClassifierConfig, classifier_for, judge_config, load_classifier
from sagan_base.metrics.evaluate import evaluate, evaluate_images, within_class_spread

LABEL = "(digits classifier)"
SPREAD = f"within-class spread {LABEL}"


def measured(values: dict) -> SimpleNamespace:
    """An evaluation, in so far as the command reads it: of two samples of a class, 1 apart."""
    return SimpleNamespace(values=values, features=torch.eye(2)[:, :1], labels=torch.zeros(2, dtype=torch.int64))


def write_model(folder: Path, info: dict | None = None) -> Path:
    config = RunConfig(
        model=ModelConfig(resolution=16, image_channels=1, num_classes=10, generator_width=2, attention=None)
    )
    generator, discriminator = build_networks(config)
    torch.nn.init.constant_(generator.to_image.bias, -1.0)  # a darker generator than the untrained one
    tensors = named_part("ema", generator.state_dict()) | named_part("discriminator", discriminator.state_dict())
    write_checkpoint(folder / "model.safetensors", tensors, config, info or {})
    return folder / "model.safetensors"


@pytest.mark.slow
def test_the_classes_of_the_data_are_numbered_as_the_models_or_refused(
    digits: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    seen = {}
    monkeypatch.setattr(command_module, "evaluate", lambda *_, **__: measured({}))
    monkeypatch.setattr(command_module, "class_accuracy", lambda _, data, seed: seen.update(data=data) or 1.0)
    monkeypatch.setattr(command_module, "_reference", lambda *_: "")
    info = {"class_names": digits.class_names[::-1], "data": {"fingerprint": digits.fingerprint}}
    model = str(write_model(tmp_path, info))
    assert metrics_command([model, "--cache", str(tmp_path)]) == 0
    assert seen["data"].class_names == digits.class_names[::-1]
    assert torch.equal(seen["data"].labels, 9 - digits.labels)
    err = capsys.readouterr().err
    assert "note: the classes of digits are numbered as the model's: 9, 8" in err
    assert f"warning: digits is not what the model was trained on (fingerprint {digits.fingerprint[:12]} in" in err
    write_model(tmp_path, {**info, "class_names": digits.class_names})
    assert metrics_command([model, "--cache", str(tmp_path)]) == 0
    assert seen["data"].fingerprint == digits.fingerprint and "warning" not in capsys.readouterr().err
    write_model(tmp_path, {"class_names": [f"digit {i}" for i in range(10)]})
    with pytest.raises(SystemExit) as stop:
        metrics_command([model])
    assert stop.value.code == 2
    assert "has the classes 0, 1, 2" in (err := capsys.readouterr().err) and "trained on digit 0, digit 1" in err


def test_the_command_prints_a_row_a_measure_for_the_trained_and_the_untrained_network(
    digits: ImageData, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    model = write_model(tmp_path)
    arguments = ["--num-samples", "40", "--untrained", "--cache", str(cache), "--json", str(tmp_path / "m.json")]
    assert metrics_command([str(model), *arguments]) == 0
    out, err = capsys.readouterr()
    rows = {line[: line.index("  ")]: line.split()[-2:] for line in out.splitlines()[1:] if "  " in line}
    found = json.loads((tmp_path / "m.json").read_text())
    direct = evaluate(load_checkpoint(model)[0], digits, num_samples=40, cache=cache).values
    assert found["trained"][f"FD {LABEL}"] == direct[f"FD {LABEL}"] != found["untrained"][f"FD {LABEL}"]
    assert rows[f"FD {LABEL}"] == [f"{found[c][f'FD {LABEL}']:.4f}" for c in ("trained", "untrained")]
    assert CLASS_ACCURACY in found["trained"] and "of 355 held-out real images" in out
    assert "data: digits" in err


@pytest.mark.slow
def test_the_commands_samples_have_its_seed_and_its_machine_learns_from_the_training_images(
    digits: ImageData, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    def seed_of(measure: Callable) -> Callable:
        return lambda *given, **named: signature(measure).bind(*given, **named).arguments.get("seed", 0)

    evaluated, judged = seed_of(evaluate), seed_of(class_accuracy)
    monkeypatch.setattr(
        command_module, "evaluate", lambda *given, **named: measured({"FD": evaluated(*given, **named)})
    )
    monkeypatch.setattr(command_module, "class_accuracy", judged)
    options = ["--seed", "7", "--cache", str(tmp_path), "--json", str(tmp_path / "m.json")]
    assert metrics_command([str(write_model(tmp_path)), *options]) == 0
    found = json.loads((tmp_path / "m.json").read_text())
    assert found.pop("weights") and found.pop("provenance")["seed"] == 7
    assert found == {"trained": {"FD": 7, SPREAD: 1, CLASS_ACCURACY: 7}}
    test = load_data("digits", 16, split="test")
    pixels, held_out = (part.images.flatten(1).numpy() / np.float32(255) for part in (digits, test))
    share = SVC(C=10.0).fit(pixels, digits.labels).score(held_out, test.labels)
    assert share < 1 and f"the machine names the class of {share:.1%})" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing.safetensors"], "missing.safetensors is not a file"),
        (["missing.safetensors", "--features", "vgg"], "invalid choice: 'vgg'"),
    ],
)
def test_the_command_refuses_bad_input_in_one_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as stop:
        metrics_command(arguments)
    err = capsys.readouterr().err
    assert stop.value.code == 2 and words in err and err.count("\n") == 1


# --- held-out images, the floor and the judge ---


def test_the_spread_is_the_mean_distance_of_two_images_of_a_class():
    features, labels = torch.randn(50, 7, dtype=torch.float64), torch.arange(50) % 4
    expected = np.mean([pdist(features[labels == label].numpy()).mean() for label in range(4)])
    assert within_class_spread(features, labels) == pytest.approx(expected, rel=1e-12)
    assert within_class_spread(features[:5], torch.tensor([0, 0, 1, 2, 3])) == pytest.approx(
        float((features[0] - features[1]).norm())
    )
    assert within_class_spread(torch.ones(6, 3), torch.arange(6) % 2) == 0  # each class is one image, however often


def test_halves_share_no_image_and_have_the_classes_as_often(digits: ImageData):
    first, second = halves(digits)
    assert len(first) + len(second) == len(digits) and first.fingerprint != second.fingerprint
    assert (first.class_counts - second.class_counts).abs().max() <= 1
    both = torch.cat([first.images, second.images]).flatten(1).unique(dim=0)
    assert torch.equal(both, digits.images.flatten(1).unique(dim=0))


def test_real_images_in_the_place_of_samples_give_the_floor(digits: ImageData, cache: Path):
    first, second = halves(load_data("digits", 16, split="test"))
    floor = evaluate_images(second, digits, cache=cache, reference=first, progress=False)
    model, _ = load_classifier(classifier_for(digits, cache))
    with torch.no_grad():
        expected = [model(part.images)[0].double().numpy() for part in (first, second)]
    assert np.allclose(floor.real.mean.numpy(), expected[0].mean(0), atol=1e-5)
    assert np.allclose(floor.features.numpy(), expected[1], atol=1e-5)
    itself = evaluate_images(first, digits, cache=cache, reference=first, progress=False)
    assert abs(itself.values[f"FD {LABEL}"]) < 1e-3 < floor.values[f"FD {LABEL}"]
    assert evaluate_images(first, digits, cache=cache, progress=False).values != itself.values  # of the training images


def test_the_command_compares_with_held_out_images_and_shows_the_floor(
    digits: ImageData, cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    model = write_model(tmp_path)
    options = ["--held-out", "--num-samples", "40", "--cache", str(cache), "--json", str(tmp_path / "m.json")]
    assert metrics_command([str(model), *options]) == 0
    found = json.loads((tmp_path / "m.json").read_text())
    first, _ = halves(load_data("digits", 16, split="test"))
    direct = evaluate(load_checkpoint(model)[0], digits, num_samples=40, cache=cache, reference=first).values
    assert found["trained"][f"FD {LABEL}"] == direct[f"FD {LABEL}"] > found["real"][f"FD {LABEL}"]
    assert found["weights"] == hashlib.sha256(model.read_bytes()).hexdigest()
    assert found["real"][SPREAD] > 0 and found["real"][CLASS_ACCURACY] > 0.9 > found["trained"][CLASS_ACCURACY]
    out = capsys.readouterr().out
    assert "compared with 178 held-out images; real: 177 other ones" in out and out.split("\n")[0].split() == [
        "trained", "real"
    ]  # fmt: skip


def test_the_training_images_are_not_taken_for_held_out_ones(tmp_path: Path, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as stop:
        metrics_command([str(write_model(tmp_path)), "--held-out", "digits"])
    assert stop.value.code == 2
    assert "--held-out digits holds the very images of the training data" in capsys.readouterr().err


def test_the_judge_is_another_network_that_learns_the_classes(digits: ImageData, tmp_path: Path, replay):
    config = ClassifierConfig("residual", width=4, min_steps=60, max_steps=60, batch_size=64, learning_rate=1e-2)
    path = classifier_for(digits, tmp_path, config, progress=False)
    judge, accuracy = load_classifier(path)
    assert accuracy > 0.8 and path.parent.name == "judges"
    labels = torch.arange(40) % 10
    assert judged_accuracy(judge, replay(digits), labels) > 0.8
    assert judged_accuracy(judge, replay(digits, shift=1), labels) < 0.2
    # What is kept of the plain classifier since version 0.1 has the name that it had.
    assert ClassifierConfig().path(digits, tmp_path) == (
        tmp_path
        / "classifiers"
        / f"digits-{digits.fingerprint[:16]}-24-250-4000-6-128-0.004-0.01-0-10-0.0625.safetensors"
    )


def test_only_what_is_in_colour_is_mirrored_for_the_judge(digits: ImageData):
    colour = ImageData("colour", digits.images.expand(-1, 3, -1, -1), digits.labels, digits.class_names)
    assert judge_config(colour).mirrored and not judge_config(digits).mirrored


def test_the_command_asks_the_judge(digits: ImageData, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    small = ClassifierConfig("residual", width=2, min_steps=2, max_steps=2)
    monkeypatch.setattr(command_module, "judge_config", lambda data: small)
    options = [
        "--held-out",
        "--judge",
        "--num-samples",
        "40",
        "--cache",
        str(cache),
        "--json",
        str(tmp_path / "m.json"),
    ]
    assert metrics_command([str(write_model(tmp_path)), *options]) == 0
    found = json.loads((tmp_path / "m.json").read_text())
    assert 0 <= found["trained"][JUDGED] <= 1 and 0 <= found["real"][JUDGED] <= 1
