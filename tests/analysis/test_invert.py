"""The command: files of one picture, a table of many, and a refusal of one line before any work."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from analysis import invert as command
from analysis.inversion import job, report
from analysis.inversion.config import PRESETS, InversionConfig, LossConfig
from analysis.inversion.distances import Distance, ssim_distance
from analysis.inversion.photograph import Crop
from analysis.inversion.report import comparison, inversion_page, similarity, summary
from analysis.inversion.search import invert
from analysis.inversion.table import summaries
from analysis.inversion.targets import files_in, from_file, from_folder, generated
from analysis.loading import load_model
from sagan_base.data_sources.pictures import read_square
from sagan_base.sampling import to_image

QUICK = ["--steps", "3", "--restarts", "2", "--draws", "12"]
FILES = {"reconstruction.png", "comparison.png", "latent.npz", "metrics.json", "explorer.html"}


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "three.png"
    values = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(values).save(path)
    return path


def run(*arguments):
    return command.main([str(argument) for argument in arguments])


def test_one_picture_gives_its_files_and_says_what_was_done(checkpoint, picture, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(picture, "--checkpoint", checkpoint, "--out", out, *QUICK) == 0
    assert {path.name for path in out.iterdir()} == FILES
    numbers = json.loads((out / "metrics.json").read_text())
    said = capsys.readouterr().out
    assert "the central 20x20 of its 30x20 pixels were taken" in said
    effort = "best of 2 restarts by EfficientNet-Lite0 distance, 3 steps, "
    assert f"class {numbers['class']}, which fits best; {effort}" in said
    assert f"PSNR {numbers['psnr']:.2f} dB" in said
    with Image.open(out / "comparison.png") as sheet:
        assert sheet.width > 3 * 256
    page = (out / "explorer.html").read_text()
    assert "trained on digits" in page
    assert numbers["config"]["loss"]["method"] == "saliency"
    assert numbers["provenance"]["versions"]["torch"]


def test_the_reconstruction_is_the_image_of_the_stored_code(checkpoint, picture, tmp_path):
    run(picture, "--checkpoint", checkpoint, "--out", tmp_path / "out", *QUICK)
    stored = np.load(tmp_path / "out" / "latent.npz")
    model = load_model(checkpoint=checkpoint)
    with torch.no_grad():
        image = model.generator(torch.from_numpy(stored["latent"])[None], torch.tensor([int(stored["label"])]))[0, 0]
    expected = ((image.clamp(-1, 1) + 1) * 127.5).round().numpy()
    with Image.open(tmp_path / "out" / "reconstruction.png") as file:
        seen = np.asarray(file, dtype=np.float32)
    assert np.abs(seen - expected).max() <= 1  # another batch size may round another way


def test_the_same_seed_gives_the_same_files_and_a_finished_result_is_not_computed_again(
    checkpoint, picture, tmp_path, capsys
):
    for name in ("a", "b"):
        run(picture, "--checkpoint", checkpoint, "--out", tmp_path / name, "--seed", 7, *QUICK)
    for name in ("reconstruction.png", "comparison.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert np.array_equal(np.load(tmp_path / "a/latent.npz")["losses"], np.load(tmp_path / "b/latent.npz")["losses"])
    before = (tmp_path / "a" / "metrics.json").stat().st_mtime_ns
    run(picture, "--checkpoint", checkpoint, "--out", tmp_path / "a", "--seed", 7, *QUICK)
    assert (tmp_path / "a" / "metrics.json").stat().st_mtime_ns == before
    assert "done before" in capsys.readouterr().out
    run(picture, "--checkpoint", checkpoint, "--out", tmp_path / "a", "--seed", 8, *QUICK)
    assert (tmp_path / "a" / "metrics.json").stat().st_mtime_ns != before


def test_a_run_folder_with_newer_weights_is_inverted_again(checkpoint, picture, tmp_path, capsys):
    folder = tmp_path / "run"
    folder.mkdir()
    for _ in range(2):
        shutil.copy(checkpoint, folder / "model.safetensors")  # with the time of the copy
        os.utime(folder / "model.safetensors", (1e9, 1e9))
        run(picture, "--checkpoint", folder, "--out", tmp_path / "out", *QUICK)
    assert "done before" in capsys.readouterr().out
    os.utime(folder / "model.safetensors", (2e9, 2e9))
    run(picture, "--checkpoint", folder, "--out", tmp_path / "out", *QUICK)
    assert "done before" not in capsys.readouterr().out


def test_a_folder_gives_a_table_and_its_bad_files_are_named_and_skipped(checkpoint, picture, tmp_path, capsys):
    folder = tmp_path / "pictures" / "7"
    folder.mkdir(parents=True)
    Image.new("RGBA", (9, 9), (255, 0, 0, 99)).save(folder / "a.png")
    Image.new("RGB", (12, 12), (1, 2, 3)).save(folder / "b.jpg")
    (folder / "broken.png").write_bytes(picture.read_bytes()[:90])
    (folder / "notes.txt").write_text("not a picture")
    odd = [os.fsencode(folder) + b"/" + name for name in (b"\xff.png", b"\x1b[2J.png")]
    for name in odd:
        shutil.copyfile(folder / "a.png", name)
    out = tmp_path / "out"
    code = run(tmp_path / "pictures", "--checkpoint", checkpoint, "--out", out, "--method", "saliency", "pixel", *QUICK)
    assert code == 0
    said = capsys.readouterr()
    assert "broken.png is damaged or truncated" in said.err
    assert "notes.txt is not an image" in said.err
    assert said.err.count(".png' is not UTF-8, or holds control characters; rename it") == len(odd)
    with (out / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["picture"], row["method"]) for row in rows] == [
        ("7_a", "saliency"), ("7_a", "pixel"), ("7_b", "saliency"), ("7_b", "pixel"),
    ]  # fmt: skip
    assert all(row["true_class"] == "7" for row in rows)
    assert {path.name for path in (out / "7_a" / "pixel").iterdir()} == FILES
    table = (out / "table.md").read_text()
    for word in (
        "PSNR (dB)",
        "SSIM",
        "EfficientNet-Lite0 distance",
        "feature distance",
        "time (s)",
        "±",
        "class found",
    ):
        assert word in table


def test_held_out_and_generated_images_are_inverted_and_the_latter_know_the_right_code(checkpoint, tmp_path):
    out = tmp_path / "out"
    run("--held-out", 2, "--generated", 2, "--true-class", "--checkpoint", checkpoint, "--out", out, *QUICK)
    with (out / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["source"] for row in rows] == ["held-out"] * 2 + ["generated"] * 2
    assert [row["true_class"] for row in rows] == ["0", "1", "0", "1"]
    assert [row["class"] for row in rows] == ["0", "1", "0", "1"]
    assert [row["latent error"] == "" for row in rows] == [True, True, False, False]
    assert all(row["class_given"] == "given" for row in rows)
    assert "class found" not in (out / "table.md").read_text()  # it was told


def test_numbers_of_a_tuned_generator_are_labelled_wherever_they_appear(checkpoint, picture, tmp_path, capsys):
    out = tmp_path / "out"
    run(
        picture,
        "--checkpoint",
        checkpoint,
        "--out",
        out,
        "--tune-generator",
        3,
        "--method",
        "pixel",
        "features",
        *QUICK,
    )
    label = "generator tuned to this image"
    assert capsys.readouterr().out.count(label) == 4  # two lines, two rows of the summary
    with (out / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == ["pixel", f"pixel, {label}", "features", f"features, {label}"]
    folder = out / "three" / "pixel"
    assert (folder / "reconstruction_generator_tuned.png").is_file()
    assert label in (folder / "explorer.html").read_text()
    numbers = json.loads((folder / "metrics.json").read_text())
    given = [numbers["psnr"], numbers[label]["psnr"]]
    assert [float(row["psnr"]) for row in rows[:2]] == pytest.approx(given, rel=1e-4)
    assert numbers["psnr"] != numbers[label]["psnr"]


def test_an_interruption_keeps_the_best_so_far_and_says_so(checkpoint, picture, tmp_path, monkeypatch, capsys):
    def interrupted(self, stage, done, total, loss):
        if stage == "optimising" and done == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(job.Progress, "__call__", interrupted)
    out = tmp_path / "out"
    assert run(picture, "--checkpoint", checkpoint, "--out", out, *QUICK) == 130
    assert {path.name for path in out.iterdir()} == FILES
    assert json.loads((out / "metrics.json").read_text())["stopped"] == "interrupted"
    assert "the best so far is kept" in capsys.readouterr().err
    monkeypatch.setattr(job.Progress, "__call__", lambda *_: None)
    assert run(picture, "--checkpoint", checkpoint, "--out", out, *QUICK) == 0  # an interrupted one is done again
    assert json.loads((out / "metrics.json").read_text())["stopped"] == "steps"


def test_codes_that_run_away_leave_whole_files_and_a_remedy(checkpoint, picture, tmp_path, capsys):
    out, wild = tmp_path / "out", ["--learning-rate", "1e25", "--clamp", "0", "--ramp-up", "0", "--steps", "30"]
    assert run(picture, "--checkpoint", checkpoint, "--out", out, *QUICK, *wild) == 0
    assert "the codes ran away; a smaller --learning-rate" in capsys.readouterr().err
    numbers = json.loads((out / "metrics.json").read_text())
    assert numbers["stopped"] == "losses not finite"
    assert {path.name for path in out.iterdir()} == FILES
    assert "NaN" not in (out / "explorer.html").read_text()


def test_the_controls_are_methods_and_another_image_is_another_result(checkpoint, tmp_path):
    out = tmp_path / "out"
    asked = ["--generated", 2, "--checkpoint", checkpoint, "--out", out, "--method", "uniform", "other-image", *QUICK]
    run(*asked)
    with (out / "table.csv").open() as file:
        assert [row["method"] for row in csv.DictReader(file)] == ["uniform", "other-image"] * 2
    requests = [
        json.loads((out / f"generated_00{i}" / "other-image" / "metrics.json").read_text())["request"] for i in (0, 1)
    ]
    assert [request["other"] for request in requests] == [request["target"] for request in requests[::-1]]


def test_the_crop_decides_what_the_network_sees_and_the_page_shows_it(checkpoint, picture, tmp_path):
    model = load_model(checkpoint=checkpoint)
    images = [from_file(picture, model, crop=crop).image for crop in (Crop(), Crop("fit"), Crop(box=(0, 0, 9, 9)))]
    assert not any(torch.equal(images[0], image) for image in images[1:])
    out = tmp_path / "out"
    run(picture, "--crop", "fit", "--box", 0, 0, 9, 7, "--checkpoint", checkpoint, "--out", out, *QUICK)
    seen = from_file(picture, model, crop=Crop("fit", (0, 0, 9, 7)))
    assert json.loads((out / "metrics.json").read_text())["target_sha256"] == seen.fingerprint
    page = (out / "explorer.html").read_text()
    for caption in ("the photograph; in the frame, what was taken", "what was taken", "what the network saw"):
        assert f"<figcaption>{caption}</figcaption>" in page


def test_a_light_picture_before_a_dark_model_is_warned_of_and_the_negative_is_the_remedy(checkpoint, tmp_path, capsys):
    model = load_model(checkpoint=checkpoint)
    torch.nn.init.constant_(model.generator.to_image.bias, -1.0)  # draws dark pictures now
    from analysis.inversion.targets import brightness_warning

    assert "lighter than anything" in brightness_warning(model, torch.full((1, 16, 16), 0.76))
    assert brightness_warning(model, torch.full((1, 16, 16), -0.76)) is None
    Image.new("L", (16, 16), 255).save(tmp_path / "white.png")
    out = tmp_path / "out"
    run(tmp_path / "white.png", "--negative", "--checkpoint", checkpoint, "--out", out, *QUICK)
    assert "light and dark were exchanged" in capsys.readouterr().out


@pytest.mark.parametrize("far", [False, True])
def test_where_a_picture_stands_is_a_warning_where_it_is_far(far, checkpoint, picture, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "standing", lambda *given: ("it stands there", far))
    run(picture, "--checkpoint", checkpoint, "--out", tmp_path / "out", *QUICK)
    said, page = capsys.readouterr(), (tmp_path / "out" / "explorer.html").read_text()
    assert ("warning: three: it stands there" in said.err) == far == ("it stands there" not in said.out)
    assert ('<p class="warning">it stands there</p>' in page) == far == ("<li>it stands there</li>" not in page)
    assert ("comes out as the nearest thing" in page) != far


@pytest.mark.parametrize("least", [0.0, 1.1])
def test_heads_that_look_everywhere_alike_are_said_to_be_uniform(least, checkpoint, picture, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "UNIFORM", least)
    run(picture, "--checkpoint", checkpoint, "--out", tmp_path / "out", *QUICK)
    assert ("% of the largest, which is uniform" in (tmp_path / "out" / "explorer.html").read_text()) == (least > 1)


def test_the_class_that_is_given_is_used_and_another_one_is_another_result(checkpoint, picture, tmp_path):
    for label in (4, 5):
        run(picture, "--checkpoint", checkpoint, "--out", tmp_path / "out", "--class", label, *QUICK)
        numbers = json.loads((tmp_path / "out" / "metrics.json").read_text())
        assert (numbers["label"], numbers["class_given"]) == (label, "given")


def test_every_option_reaches_the_configuration_and_the_rest_is_the_presets():
    def configs(*options):
        return command.configs_of(command.build_parser().parse_args(["picture.png", *options]))

    assert configs() == [InversionConfig()]
    assert configs("--preset", "published") == [PRESETS["published"]]
    options = ["--heads", "1", "6", "--features", "blocks", "--weighting", "mean", "--norm", "l1", "--noise", "0.5"]
    losses = [LossConfig(method, "blocks", (1, 6), "mean", "l1") for method in ("pixel", "saliency")]
    expected = [InversionConfig(loss, noise=0.5) for loss in losses]
    assert configs(*options, "--method", "pixel", "saliency") == expected


def test_a_folder_is_read_up_to_the_limit_and_a_negative_exchanges_light_and_dark(checkpoint, picture, tmp_path):
    model = load_model(checkpoint=checkpoint)
    for name in "ab":
        shutil.copy(picture, tmp_path / f"{name}.png")
    assert [len(from_folder(tmp_path, model, limit)[0]) for limit in (None, 2, 1)] == [3, 2, 1]
    plain, negative = from_file(picture, model), from_file(picture, model, negative=True)
    assert torch.equal(negative.image, -plain.image)
    assert not torch.equal(negative.image, plain.image)


# ---- what is reported of the chosen restart ----


@pytest.fixture(scope="module")
def chosen_last(checkpoint):
    """A model, a target whose code is known, and its inversion of which the third of three restarts is chosen."""
    model = load_model(checkpoint=checkpoint)
    (target,) = generated(model, 1, seed=3)
    config = InversionConfig(LossConfig(heads=(1, 6)), steps=3, restarts=3, draws=12)
    prefer_last = Distance("last", lambda images, reference: -torch.arange(len(images)).float())
    found = invert(model.generator, model.discriminator, target.image, config, prefer_last, target.label)
    assert found.chosen == 2
    return model, target, found, summary(model, target, found, prefer_last, class_given=True)


def test_the_numbers_are_those_of_the_chosen_restart(chosen_last):
    _, target, found, numbers = chosen_last
    assert numbers["loss_last"] == found.losses[:, 2].min()
    assert numbers["loss_last"] != found.losses[:, 0].min()
    error = np.sqrt(np.mean((found.latents[2].numpy() - target.latent.numpy()) ** 2))
    assert numbers["latent error"] == pytest.approx(error, rel=1e-5)


def test_the_feature_distance_is_the_root_mean_square_of_the_features_before_attention(chosen_last):
    model, target, found, _ = chosen_last
    with torch.no_grad():
        a, b = (dict(model.discriminator.stages(image[None]))[8] for image in (target.image, found.image))
    expected = np.sqrt(np.mean((a - b).numpy() ** 2))
    numbers = similarity(model, found.image, target.image, ssim_distance())
    assert numbers["feature distance"] == pytest.approx(expected, rel=1e-4)


def test_the_page_shows_the_frames_of_the_chosen_restart_and_marks_the_heads_that_weigh(chosen_last):
    model, target, found, numbers = chosen_last
    page = inversion_page(model, target, found, numbers, [])
    assert [step for step, _ in page.frames] == [0, 1, 2]
    for (_, shown), (_, images) in zip(page.frames, found.frames, strict=True):
        assert torch.equal(shown, images[2])
    assert [view.weighs for view in page.views] == [(1, 6), (), ()]


def test_the_comparison_shows_the_real_image_and_then_the_reconstruction(chosen_last):
    model, target, found, _ = chosen_last
    sheet = np.asarray(comparison(model, target, found))
    for index, image in enumerate((target.image, found.image)):
        left, top = 8 + index * (256 + 8), sheet.shape[0] - 8 - 256
        assert np.array_equal(sheet[top : top + 256 : 16, left : left + 256 : 16, 0], np.asarray(to_image(image)))
    assert not np.array_equal(to_image(target.image), to_image(found.image))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to invert"),
        (["absent.jpg"], "absent.jpg does not exist"),
        (["PICTURE", "--steps", "0"], "steps=0 is not positive"),
        (["PICTURE", "--heads", "9"], "heads=[9] do not exist"),
        (["PICTURE", "--true-class"], "--true-class changes nothing without --held-out N or --generated N"),
        (["PICTURE", "--data", "digits"], "--data changes nothing without --held-out N"),
        (["PICTURE", "--limit", "3"], "--limit changes nothing without a folder"),
        (["--generated", "1", "--crop", "fit"], "--crop changes nothing without a picture or a folder"),
        (["PICTURE", "--box", "0", "0", "99", "9"], "box=(0, 0, 99, 9) reaches outside"),
        (["PICTURE", "--box", "9", "0", "3", "9"], "box=(9, 0, 3, 9) is no box"),
        (["PICTURE", "--learning-rate", "1e300"], "learning_rate=1e+300 is not a positive number up to 1e30"),
        (["--generated", "1", "--negative"], "--negative changes nothing without a picture"),
        (["PICTURE", "--class", "ten"], "--class ten is not a class of this model"),
        (["PICTURE", "--method", "style"], "invalid choice: 'style'"),
        (["PICTURE", "--threads", "0"], "argument --threads: 0 is too small; use 1 or more"),
        (["PICTURE", "--clamp", "-1"], "clamp=-1.0 is negative"),
        (["--held-out", "-1"], "argument --held-out: -1 is too small; use 0 or more"),
        (["--held-out", "9999"], "ask for fewer"),
        (["--held-out", "1", "--data", "folder:nowhere"], "nowhere"),
        (["PICTURE", "--device", "cuda:99"], "--device cuda:99 cannot be used"),
        (["PICTURE", "--lpips", "a.pth", "b.pth"], "a.pth does not exist"),
    ],
)
def test_mistakes_end_with_code_2_and_one_line(checkpoint, picture, capsys, tmp_path, arguments, message):
    arguments = [picture if argument == "PICTURE" else argument for argument in arguments]
    with pytest.raises(SystemExit) as stop:
        run(*arguments, "--checkpoint", checkpoint, "--out", tmp_path / "out")
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_file_that_is_no_checkpoint_and_an_unknown_model_are_refused(picture, tmp_path, capsys):
    for option, value, message in (
        ("--checkpoint", picture, "is not a checkpoint"),
        ("--checkpoint", tmp_path / "absent.safetensors", "absent.safetensors"),
        ("--model", "mona-lisa", "no shipped model is called 'mona-lisa'"),
    ):
        with pytest.raises(SystemExit) as stop:
            run(picture, option, value)
        assert stop.value.code == 2
        assert message in capsys.readouterr().err


def test_a_model_without_attention_is_inverted_by_pixels_and_refused_otherwise(picture, tmp_path, capsys):
    from sagan_base.checkpoint import build_networks, named_part, write_checkpoint
    from sagan_base.config import ModelConfig, RunConfig

    model = ModelConfig(16, image_channels=3, num_classes=1, latent_dim=8, generator_width=8, discriminator_width=8,
                        attention=None)  # fmt: skip
    generator, discriminator = build_networks(RunConfig(model=model))
    tensors = named_part("ema", generator.state_dict()) | named_part("discriminator", discriminator.state_dict())
    write_checkpoint(tmp_path / "bare.safetensors", tensors, RunConfig(model=model), {})
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as stop:
        run(picture, "--checkpoint", tmp_path / "bare.safetensors", "--out", out, *QUICK)
    assert stop.value.code == 2
    assert "no attention layer" in capsys.readouterr().err
    assert run(picture, "--checkpoint", tmp_path / "bare.safetensors", "--out", out, "--method", "pixel", *QUICK) == 0
    assert {path.name for path in out.iterdir()} == FILES


def test_the_summary_gives_mean_and_standard_deviation():
    rows = [
        {"source": "file", "picture": str(i), "method": "pixel", "class": "1", "true_class": true, "psnr": value}
        for i, (true, value) in enumerate([("1", 10.0), ("2", 14.0), (None, 12.0)])
    ]
    entry = summaries(pd.DataFrame(rows).assign(class_given=None)).iloc[0]
    assert entry["images"] == 3
    assert entry["class found"] == "50%"
    assert entry["PSNR (dB)"] == "12.00 ± 2.00"


def test_the_script_runs_as_documented_and_ctrl_c_keeps_the_best_so_far(checkpoint, picture, tmp_path, repository):
    out = tmp_path / "out"
    command = [sys.executable, "analysis/invert.py", picture, "--checkpoint", checkpoint, "--out", out]
    command += ["--restarts", "2", "--draws", "12", "--steps", "1000000", "--patience", "0"]
    # Where the tests run in the background, SIGINT is ignored, and a child would inherit that.
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    heeded = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, cwd=repository, preexec_fn=heeded, **pipes) as script:
        said = b""
        while b"optimising" not in said:
            part = os.read(script.stderr.fileno(), 4096)
            assert part, said.decode()
            said += part
        time.sleep(0.5)
        script.send_signal(signal.SIGINT)
        rest = script.communicate(timeout=120)[1]
    assert script.returncode == 130, rest.decode()
    assert b"interrupted: the best so far is kept" in rest
    assert b"Traceback" not in rest
    assert {path.name for path in out.iterdir()} == FILES
    numbers = json.loads((out / "metrics.json").read_text())
    assert numbers["stopped"] == "interrupted"
    assert 0 < numbers["steps_done"] < 1000000


def test_a_picture_file_is_read_to_the_pixels_of_training(checkpoint, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((800, 600)).save(tmp_path / "photo.jpg")
    target = from_file(tmp_path / "photo.jpg", load_model(checkpoint=checkpoint))
    assert "the central 600x600 of its 800x600 pixels were taken" in target.notes
    levels = ((target.image + 1) * 127.5).round().numpy()
    assert np.array_equal(levels, read_square(tmp_path / "photo.jpg", 16, 1))


def test_the_files_of_a_folder_are_listed_in_order_without_hidden_ones(tmp_path):
    (tmp_path / "b").mkdir()
    for name in ("z.png", "b/a.png", ".hidden.png", "a.txt"):
        (tmp_path / name).write_bytes(b"x")
    assert [str(path.relative_to(tmp_path)) for path in files_in(tmp_path)] == ["a.txt", "b/a.png", "z.png"]
