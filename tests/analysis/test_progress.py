"""A run over time: its sheets are read back, its maps are those of the previewed samples, and the run is only read."""

import io
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from analysis import progress as command
from analysis.loading import load_model
from sagan_base.files import save_image
from sagan_base.sampling import COLUMNS, preview, preview_inputs, preview_maps, sample_sheet, sheet_images, to_uint8


def npz(**arrays) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def npy(array) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@pytest.fixture
def run(checkpoint, tmp_path):
    """The folder of a run of three sheets, the first without maps."""
    folder = tmp_path / "run"
    (folder / "samples").mkdir(parents=True)
    shutil.copy(checkpoint, folder / "model.safetensors")
    generator = load_model(checkpoint=checkpoint).generator
    for step in (2, 4, 10):
        save_image(folder / "samples" / f"step_{step:08d}.png", preview(generator, step))
        if step > 2:
            np.savez(folder / "samples" / f"step_{step:08d}_maps.npz", middle=preview_maps(generator, step))
    lines = [{"step": s, "generator_loss": 0.1, "gain/generator.attention.8": 0.0, "FD (x)": 9.0 - s} for s in (2, 4)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.mark.parametrize("channels", [1, 3])
def test_a_sheet_gives_its_images_back(channels):
    images = torch.rand(3 * COLUMNS, channels, 6, 6) * 2 - 1
    back = sheet_images(sample_sheet(images, COLUMNS))
    assert back.shape == (3, COLUMNS, channels, 6, 6)
    assert torch.equal(to_uint8(back.flatten(0, 1)), to_uint8(images))


def test_the_recorded_maps_are_the_middle_querys_of_the_first_sample_of_every_row(checkpoint):
    generator = load_model(checkpoint=checkpoint).generator
    maps = preview_maps(generator, 3)
    z, labels = preview_inputs(3, generator.num_classes, generator.latent_dim)
    with torch.no_grad():
        images, attention = generator(z[::COLUMNS], labels[::COLUMNS], return_attention=True)
    (layer,) = generator.attention_layers().values()
    middle = layer.grid[0] // 2 * layer.grid[1] + layer.grid[1] // 2
    np.testing.assert_allclose(maps, attention[:, :, middle].numpy(), atol=1e-3)
    np.testing.assert_allclose(maps.astype(float).sum(-1), 1, atol=1e-2)
    first = sheet_images(preview(generator, 3))[:, 0]
    assert (to_uint8(first).int() - to_uint8(images).int()).abs().max() <= 1


def test_a_run_gives_curves_a_sheet_and_an_animation_and_is_not_touched(run, tmp_path, capsys):
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in run.rglob("*") if path.is_file()}
    out = tmp_path / "out"
    assert command.main([str(run), "--out", str(out), "--head", "5", "--class", "3"]) == 0
    assert {path.name for path in out.iterdir()} == {"curves.png", "samples_over_time.png", "progress.webp"}
    assert "3 steps, 2 to 10" in capsys.readouterr().out
    with Image.open(out / "progress.webp") as animation:
        assert animation.n_frames == 3
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in run.rglob("*") if path.is_file()} == before


def test_the_map_beside_the_samples_is_the_heads_own(run):
    model = load_model(checkpoint=run)
    kept = command.moments(run, model)
    assert [moment.step for moment in kept] == [2, 4, 10]
    assert [moment.maps is None for moment in kept] == [True, False, False]
    one, other = (command.frames(kept, model, 3, head) for head in (0, 5))
    assert one[0].tobytes() == other[0].tobytes()
    assert one[1].tobytes() != other[1].tobytes()
    assert len({frame.size for frame in one}) == 1


def test_the_sheet_over_time_shows_every_rows_first_sample(run):
    kept = command.moments(run, load_model(checkpoint=run))
    sheet = np.asarray(command.over_time(kept, tuple("0123456789")).convert("L"))
    shown = np.asarray(kept[2].sheet)[2 : 2 + 16, 2 : 2 + 16].repeat(3, 0).repeat(3, 1)
    views = np.lib.stride_tricks.sliding_window_view(sheet, (48, 48))[:80, ::]
    assert (views == shown).all((2, 3)).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--head", "8"], "--head 8 does not exist; there are heads 0 to 7"),
        (["--class", "ten"], "--class ten is not a class of this model"),
        (["--rate", "0"], "argument --rate: 0 is not positive"),
    ],
)
def test_mistakes_are_refused(run, tmp_path, capsys, options, message):
    with pytest.raises(SystemExit) as stop:
        command.main([str(run), "--out", str(tmp_path / "out"), *options])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [None, b"", b"\xff\n{}\n5\n"])
def test_a_run_without_a_log_is_refused(run, tmp_path, capsys, content):
    (run / "metrics.jsonl").unlink()
    if content is not None:
        (run / "metrics.jsonl").write_bytes(content)
    with pytest.raises(SystemExit) as stop:
        command.main([str(run), "--out", str(tmp_path / "out")])
    assert stop.value.code == 2 and "has no log (metrics.jsonl)" in capsys.readouterr().err


def test_a_run_without_samples_is_refused(run, capsys):
    shutil.rmtree(run / "samples")
    with pytest.raises(SystemExit):
        command.main([str(run)])
    assert "keeps no samples" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("step_00000004_maps.npz", b"PK\3\4"),
        ("step_00000004_maps.npz", npz(middle=np.zeros((10, 7, 16)))),
        ("step_00000004_maps.npz", npz(map=np.zeros((10, 8, 16)))),
        ("step_00000004_maps.npz", npy(np.zeros(3))),
        ("step_00000004.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"),
        ("step_00000010.png", b""),
    ],
)
def test_files_that_are_no_samples_of_the_run_are_refused_by_name(run, tmp_path, capsys, name, content):
    (run / "samples" / name).write_bytes(content)
    with pytest.raises(SystemExit) as stop:
        command.main([str(run), "--out", str(tmp_path / "out")])
    said = capsys.readouterr().err
    assert stop.value.code == 2 and name in said and said.count("\n") == 1


def test_sheets_of_another_run_and_files_of_the_users_own(run, tmp_path, capsys):
    shutil.copy(run / "samples" / "step_00000004.png", run / "samples" / "step_best.png")
    assert [moment.step for moment in command.moments(run, load_model(checkpoint=run))] == [2, 4, 10]
    save_image(run / "samples" / "step_00000012.png", Image.new("L", (50, 50)))
    with pytest.raises(ValueError, match=r"step_00000012.png.*no sheet of this model's samples"):
        command.moments(run, load_model(checkpoint=run))


def test_a_run_without_maps_says_so(run, tmp_path, capsys):
    for path in run.glob("samples/*_maps.npz"):
        path.unlink()
    assert command.main([str(run), "--out", str(tmp_path / "out")]) == 0
    assert "recorded no maps" in capsys.readouterr().err
