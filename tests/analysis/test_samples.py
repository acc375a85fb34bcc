"""Sheets, truncation, nearest training images, and walks through the latent space."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from analysis import interpolate, samples
from analysis.interpolate import closed_walk, great_circle
from analysis.loading import Model, load_model
from analysis.neighbours import encoded, encoder, nearest
from analysis.samples import neighbours, spread
from sagan_base.data import ImageData, load_data
from sagan_base.sampling import draw_class, generate


def test_spread_is_the_mean_difference_over_all_pairs():
    images = torch.rand(4, 1, 3, 3) * 2 - 1
    pairs = [(images[i] - images[j]).abs().mean().item() / 2 for i in range(4) for j in range(4) if i != j]
    assert spread(images) == pytest.approx(np.mean(pairs))


def test_nearest_equals_a_full_sort_whatever_the_chunks():
    queries, references = torch.randn(3, 7), torch.randn(20, 7)
    expected = (queries[:, None] - references).square().mean(-1).sqrt().sort(1)
    for sizes in (20, 6, 1):
        distances, indices = nearest(queries, references.split(sizes), 4)
        torch.testing.assert_close(distances, expected.values[:, :4])
        assert torch.equal(indices, expected.indices[:, :4])


def test_a_copied_training_image_is_found_at_distance_0_and_stands_on_top():
    data = load_data("digits", 16)
    copied = data.batch(torch.tensor([700]))[0]
    images = torch.cat([torch.zeros(3, 1, 16, 16), copied])
    sheet, numbers = neighbours(images, data, None, encoder("pixels", data, torch.device("cpu")), 2)
    assert numbers["smallest distance of a generated image"] == 0.0
    first, step = sheet.width - 3 * 72, sheet.height - 8 - 4 * 72  # three pictures a row, four rows
    top = np.asarray(sheet)[step + 8 : step + 72, first:]
    assert np.array_equal(top[:, :64], top[:, 72:136])  # the copy beside the original


def test_pixels_are_compared_as_parts_of_their_range():
    encode = encoder("pixels", load_data("digits", 16), torch.device("cpu"))
    black, white = torch.full((2, 1, 4, 4), -1.0), torch.full((3, 1, 4, 4), 1.0)
    distances, _ = nearest(encode(black), [encode(white)], 1)
    assert distances.tolist() == [[1.0], [1.0]]


def test_the_medians_are_over_the_nearest_training_image_of_each():
    pixels = torch.randint(0, 256, (30, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    train, test = (ImageData("noise", part, torch.zeros(len(part), dtype=torch.long), ("one",))
                   for part in (pixels[:20], pixels[20:25]))  # fmt: skip
    images = pixels[25:].float() / 127.5 - 1
    _, numbers = neighbours(images, train, test, encoder("pixels", train, torch.device("cpu")), 3)
    levels = pixels.flatten(1).numpy() / 255
    away = np.sqrt(np.square(levels[20:, None] - levels[None, :20]).mean(-1)).min(1)
    medians = numbers["median distance to the nearest training image"]
    assert medians["held-out real"] == pytest.approx(np.median(away[:5]), rel=1e-4)
    assert medians["generated"] == pytest.approx(np.median(away[5:]), rel=1e-4)
    assert numbers["smallest distance of a generated image"] == pytest.approx(away[5:].min(), rel=1e-4)


def test_efficientnet_features_tell_images_apart_and_are_streamed_in_chunks():
    images = torch.randint(0, 256, (6, 1, 16, 16), dtype=torch.uint8)
    data = ImageData("noise", images, torch.zeros(6, dtype=torch.long), ("one",))
    encode = encoder("efficientnet", data, torch.device("cpu"))
    chunks = list(encoded(data, encode, chunk=4))
    assert [len(chunk) for chunk in chunks] == [4, 2]
    distances, indices = nearest(torch.cat(chunks), chunks, 2)
    assert indices[:, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert (distances[:, 1] > 10 * distances[:, 0] + 1e-3).all()


def test_the_sheets_are_written_and_truncation_lowers_the_spread(checkpoint, tmp_path, capsys):
    arguments = ["--checkpoint", str(checkpoint), "--class", "3", "5", "--number", "6", "--neighbours", "2"]
    assert samples.main([*arguments, "--out", str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.iterdir()} == {
        "classes.png", "truncation.png", "neighbours.png", "samples.json"
    }  # fmt: skip
    record = json.loads((tmp_path / "samples.json").read_text())
    by_limit = list(record["truncation"]["mean distance between two images"].values())
    assert by_limit == sorted(by_limit)
    medians = record["neighbours"]["median distance to the nearest training image"]
    assert medians["held-out real"] < medians["generated"]  # this generator is untrained
    with Image.open(tmp_path / "classes.png") as sheet:
        assert sheet.width > 6 * 72 and sheet.height == 8 + 2 * 72
    assert "held-out real" in capsys.readouterr().out


def test_without_the_training_data_the_sheets_are_drawn_all_the_same(checkpoint, tmp_path, monkeypatch, capsys):
    def absent(self, split, spec=None):
        raise ValueError("they cannot be downloaded")

    monkeypatch.setattr(Model, "training_data", absent)
    asked = ["--checkpoint", str(checkpoint), "--class", "3", "--number", "2", "--out", str(tmp_path)]
    assert samples.main(asked) == 0
    assert {path.name for path in tmp_path.iterdir()} == {"classes.png", "truncation.png", "samples.json"}
    assert "note: no train images to compare with (they cannot be downloaded)" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:  # those that were named must be there
        samples.main([*asked, "--data", "digits"])
    assert stop.value.code == 2


def test_images_of_the_classes_and_seed_asked_for_are_compared_with_the_training_split(
    checkpoint, tmp_path, monkeypatch
):
    seen = []
    monkeypatch.setattr(samples, "neighbours", lambda *given: seen.extend(given) or neighbours(*given))
    asked = ["--class", "3", "5", "--number", "4", "--neighbours", "2", "--seed", "7", "--out", str(tmp_path)]
    samples.main(["--checkpoint", str(checkpoint), *asked])
    images, train, test, _, count = seen
    generator = load_model(checkpoint=checkpoint).generator
    assert torch.equal(images, torch.cat([draw_class(generator, label, 4, seed=7) for label in (3, 5)]))
    for data, split in ((train, "train"), (test, "test")):
        assert torch.equal(data.images, load_data("digits", 16, split=split).images)
    assert count == 2
    record = json.loads((tmp_path / "samples.json").read_text())
    by_limit = record["truncation"]["mean distance between two images"]
    assert by_limit["|z| <= 1.0"] == pytest.approx(spread(draw_class(generator, 3, 4, 7, truncation=1.0)))


# ---- walks ----


def test_the_great_circle_keeps_length_and_turns_evenly():
    torch.manual_seed(0)
    start, end = torch.randn(2, 50)
    end = end / end.norm() * start.norm()
    codes = great_circle(start, end, torch.linspace(0, 1, 5))
    torch.testing.assert_close(codes[0], start)
    torch.testing.assert_close(codes[-1], end)
    torch.testing.assert_close(codes.norm(dim=1), start.norm().expand(5))
    unit = codes / codes.norm(dim=1, keepdim=True)
    angles = torch.arccos((unit[1:] * unit[:-1]).sum(1).clamp(-1, 1))
    torch.testing.assert_close(angles, angles[:1].expand(4), rtol=1e-3, atol=1e-4)


def test_opposite_equal_and_zero_codes_are_joined_by_a_straight_line():
    start = torch.tensor([1.0, 2.0])
    t = torch.tensor([0.25])
    torch.testing.assert_close(great_circle(start, -start, t), 0.5 * start[None])
    torch.testing.assert_close(great_circle(start, start, t), start[None])
    torch.testing.assert_close(great_circle(torch.zeros(2), start, t), 0.25 * start[None])


def test_a_walk_is_closed_and_passes_every_point():
    points = torch.randn(3, 6)
    codes = closed_walk(points, 4)
    assert codes.shape == (12, 6)
    torch.testing.assert_close(codes[::4], points)
    largest = (codes - codes.roll(-1, 0)).norm(dim=1).max()
    assert largest < 0.6 * max((a - b).norm() for a in points for b in points)


@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_the_walk_is_written_as_an_animation_of_all_its_pictures(checkpoint, tmp_path, kind):
    arguments = ["--checkpoint", str(checkpoint), "--points", "2", "--frames", "5", "--format", kind, "--class", "4"]
    assert interpolate.main([*arguments, "--size", "32", "--out", str(tmp_path)]) == 0
    with Image.open(tmp_path / f"walk.{kind}") as animation:
        assert animation.n_frames == 10
        assert animation.size == (32, 32)
    with Image.open(tmp_path / "walk_strip.png") as strip:
        assert strip.width > 8 * 64


@pytest.fixture
def walked(checkpoint, tmp_path, monkeypatch):
    """Takes options; gives the codes that were walked through, [n, d], and their class."""

    def walk(*options):
        seen = []
        monkeypatch.setattr(interpolate, "generate", lambda *given: seen.extend(given) or generate(*given))
        arguments = ["--frames", "2", *map(str, options), "--checkpoint", str(checkpoint), "--out", str(tmp_path)]
        assert interpolate.main(arguments) == 0
        codes, labels = seen[1:]
        assert len(set(labels.tolist())) == 1
        return codes, labels[0]

    return walk


def test_a_walk_between_inversions_passes_their_codes_in_their_class_or_the_one_asked_for(walked, tmp_path):
    latents = np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32)
    paths = [tmp_path / "a.npz", tmp_path / "b.npz"]
    for path, latent in zip(paths, latents, strict=True):
        np.savez(path, latent=latent, label=np.int64(6))
    codes, label = walked("--between", *paths)
    np.testing.assert_allclose(codes[::2].numpy(), latents, rtol=1e-5, atol=1e-6)
    assert label == 6
    assert walked("--between", *paths, "--class", 2)[1] == 2


def test_a_code_of_another_model_is_refused_and_one_of_unknown_origin_is_told_of(
    walked, checkpoint, tmp_path, capsys
):
    model = load_model(checkpoint=checkpoint)
    stored = {"latent": np.zeros(8, dtype=np.float32), "label": np.int64(6)}
    paths = [tmp_path / name for name in ("own.npz", "foreign.npz", "old.npz")]
    np.savez(paths[0], **stored, generator=model.generator_fingerprint)
    np.savez(paths[1], **stored, generator=load_model("digits").generator_fingerprint)
    np.savez(paths[2], **stored)
    walked("--between", paths[0], paths[0])
    assert "does not say" not in capsys.readouterr().err
    walked("--between", paths[0], paths[2])
    assert "old.npz does not say which model its code belongs to" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        walked("--between", paths[0], paths[1])
    assert "foreign.npz belongs to another model than tiny" in capsys.readouterr().err
    for name, odd in (("latent", np.full(8, np.nan)), ("latent", "x"), ("label", np.zeros(2)), ("label", np.int64(99))):
        np.savez(paths[2], **(stored | {name: odd}))
        with pytest.raises(SystemExit):
            walked("--between", paths[2], paths[0])
        assert "old.npz" in capsys.readouterr().err


def test_a_random_walk_depends_on_its_seed_and_lasts_as_its_rate_says(walked, tmp_path):
    codes, again, other = (walked("--points", 2, "--seed", seed, "--rate", 4)[0] for seed in (1, 1, 2))
    assert torch.equal(codes, again)
    assert not torch.equal(codes, other)
    with Image.open(tmp_path / "walk.gif") as animation:
        assert animation.info["duration"] == 250


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        (interpolate, ["--frames", "0"], "--frames: 0 is too small; use 1 or more"),
        (interpolate, ["--points", "1"], "--points: 1 is too small; use 2 or more"),
        (interpolate, ["--between", "absent.npz"], "--between needs two latent.npz files"),
        (interpolate, ["--between", "absent.npz", "other.npz"], "no file absent.npz"),
        (interpolate, ["--size", "16384", "--format", "webp"], "--size 16384 is more than the 16383 pixels"),
        (interpolate, ["--size", "65536"], "--size 65536 is more than the 65535 pixels"),
        (interpolate, ["--class", "x"], "--class x is not a class of this model"),
        (samples, ["--number", "1"], "--number: 1 is too small; use 2 or more"),
        (samples, ["--neighbours", "-1"], "--neighbours: -1 is too small; use 0 or more"),
        (samples, ["--data", "folder:nowhere"], "nowhere"),
    ],
)
def test_mistakes_end_with_code_2_and_one_line(checkpoint, tmp_path, capsys, module, arguments, message):
    with pytest.raises(SystemExit) as stop:
        module.main([*arguments, "--checkpoint", str(checkpoint), "--out", str(tmp_path / "out")])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_data_with_other_classes_than_the_models_are_refused_where_classes_count():
    model = load_model("digits")
    swapped = replace(model, info={**model.info, "class_names": model.class_names[::-1]})
    ours, theirs = (each.training_data("test").labels for each in (model, swapped))
    assert torch.equal(theirs, 9 - ours)
    other = replace(model, info={"class_names": [f"digit {i}" for i in range(10)]})
    with pytest.raises(ValueError, match=r"has the classes 0, 1.*trained on digit 0, digit 1"):
        other.training_data()
    assert other.training_data(labelled=False).class_names == model.class_names


def test_other_images_than_those_of_the_training_are_warned_of(capsys):
    model = load_model("digits")
    model.training_data()
    assert capsys.readouterr().err == ""
    replace(model, info={"data": {"fingerprint": "0" * 64}}).training_data()
    assert "warning: digits is not what the model was trained on (fingerprint 000000000000" in capsys.readouterr().err
