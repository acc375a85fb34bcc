"""What cannot work is found before the first step, and said in one line."""

import ast
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sagan_base.train
from sagan_base.data import load_data
from sagan_base.data_sources import decoding

ROOT = Path(__file__).resolve().parents[2]  # the scripts are in the repository alone
SMALL = [
    "--resolution", "16", "--generator-width", "8", "--discriminator-width", "8", "--batch-size", "4", "--num-heads",
    "4", "--steps", "2",
]  # fmt: skip


def pictures(folder: Path, number: int) -> Path:
    """Two classes of so many pictures."""
    noise = np.random.default_rng(0)
    for name in ("left", "right"):
        (folder / name).mkdir(parents=True)
        for i in range(number):
            Image.fromarray(noise.integers(0, 256, (16, 16), np.uint8)).save(folder / name / f"{i}.png")
    return folder


def refusal(capsys, *options: object, code: int = 2) -> str:
    with pytest.raises(SystemExit) as stop:
        sagan_base.train.main([*SMALL, *map(str, options)])
    told = capsys.readouterr().err
    assert stop.value.code == code and told.count("\n") == 1, told
    return told


@pytest.mark.parametrize(("number", "samples"), [(3, 20), (4, 20), (9, 20), (30, 9)])
def test_too_little_for_a_measure(number, samples, tmp_path, capsys):
    data = pictures(tmp_path / "data", number)
    options = ["--out", tmp_path / "run", "--features", "classifier", "--num-samples", samples]
    assert "few" in refusal(capsys, "--data", f"folder:{data}", *options)


@pytest.mark.parametrize(
    "place", [{"HOME": "/proc/none"}, {"YLG_CACHE": "~nosuchuser/cache"}, {"YLG_CACHE": "/dev/null/cache"}]
)
def test_a_default_cache_that_cannot_be_used(place, tmp_path, capsys, monkeypatch):
    data = pictures(tmp_path / "data", 12)
    for name in ("YLG_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    told = refusal(capsys, "--data", f"folder:{data}", "--out", tmp_path / "run", "--features", "classifier")
    assert "--cache or YLG_CACHE" in told and "give another place" in told


def test_without_a_home_only_what_needs_a_cache_is_refused(tmp_path, monkeypatch):
    for name in ("YLG_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/proc/none")
    data = pictures(tmp_path / "data", 2)
    assert len(load_data(f"folder:{data}", 16)) == 4
    monkeypatch.setattr(decoding, "SMALL_FILES", 0)
    with pytest.raises(ValueError, match=r"--cache or YLG_CACHE: nothing can be written into /proc/none/\.cache/ylg"):
        load_data(f"folder:{data}", 16)


@pytest.mark.parametrize(
    ("kind", "damage"),
    [*((kind, damage) for kind in ("npy", "json") for damage in (b"", b"garbage", "cut", "half")), ("npy", "flipped")],
)
def test_a_damaged_cache_of_pictures_is_made_again_and_said_once(kind, damage, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(decoding, "SMALL_FILES", 0)
    spec, cache = f"folder:{pictures(tmp_path / 'data', 3)}", tmp_path / "cache"
    whole = load_data(spec, 16, cache=cache)
    pixels, fingerprint = whole.images.clone(), whole.fingerprint
    del whole
    (path,) = (cache / "images").glob(f"*.{kind}")
    content = path.read_bytes()
    path.unlink()  # the old bytes may still be mapped
    half = len(content) // 2
    flipped = content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :]
    path.write_bytes({"cut": content[:-5], "half": content[:half], "flipped": flipped}.get(damage, damage))
    capsys.readouterr()
    again = load_data(spec, 16, cache=cache)
    assert (again.images == pixels).all() and again.fingerprint == fingerprint
    told = capsys.readouterr().err
    assert told.count("is damaged") == 1 and path.name in told
    load_data(spec, 16, cache=cache)
    assert "damaged" not in capsys.readouterr().err


@pytest.mark.parametrize("folder", ["/proc/self", "/sys", "/dev/fd", "~nosuchuser/pictures"])
def test_folders_that_hold_no_files(folder, capsys):
    assert folder in refusal(capsys, "--data", f"folder:{folder}")


def test_links_that_lead_up_or_into_the_system_are_not_followed(tmp_path):
    data = pictures(tmp_path / "data", 2)
    (data / "left" / "all").symlink_to("/")
    (data / "right" / "process").symlink_to("/proc/self")
    assert len(load_data(f"folder:{data}", 16)) == 4


@pytest.mark.parametrize(("name", "shown"), [(b"\xff.png", r"\udcff.png"), (b"\x1b[31m.png", r"\x1b[31m.png")])
def test_names_that_no_text_can_hold(name, shown, tmp_path, capsys):
    data = pictures(tmp_path / "data", 2)
    os.rename(data / "left" / "0.png", os.fsencode(data / "left") + b"/" + name)
    assert f"{shown}' is not UTF-8, or holds" in refusal(capsys, "--data", f"folder:{data}", "--out", tmp_path / "run")


@pytest.mark.parametrize("name", ["checkpoints/step_00000002.safetensors", "samples.png", "config.json"])
def test_a_folder_where_a_file_must_be_written_is_found_and_stays(name, tmp_path, capsys):
    (tmp_path / name).mkdir(parents=True)
    assert f"{tmp_path / name} stands where training must write" in refusal(capsys, "--out", tmp_path)
    assert (tmp_path / name).is_dir()


@pytest.mark.parametrize("target", ["nowhere", "samples", "file"])
def test_what_stands_where_a_folder_must_be_made_is_found_before_the_training(target, tmp_path, capsys):
    (tmp_path / "file").write_text("of the user")
    (tmp_path / "samples").symlink_to(target)
    assert f"{tmp_path / 'samples'} stands where training must write" in refusal(capsys, "--out", tmp_path)


def test_a_folder_named_like_a_checkpoint_that_is_never_written_is_nobodys_business(tmp_path):
    (tmp_path / "checkpoints" / "step_00000001.safetensors").mkdir(parents=True)
    assert sagan_base.train.main([*SMALL, "--out", str(tmp_path)]) == 0


def test_ctrl_c_in_preparation_is_one_line_and_130(monkeypatch, tmp_path, capsys):
    def interrupted(*_, **__):
        os.kill(os.getpid(), signal.SIGINT)
        signal.pause()

    monkeypatch.setattr(sagan_base.train, "load_data", interrupted)
    assert "interrupted" in refusal(capsys, "--out", tmp_path / "run", code=130)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("program", [["-m", "sagan_base.train"], ["analysis/invert.py"], ["results.py"]])
def test_ctrl_c_while_pytorch_is_imported_is_one_line_and_130(program, tmp_path):
    (tmp_path / "torch.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nsignal.pause()\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = subprocess.run([sys.executable, *program], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_every_script_imports_the_one_way_out_before_what_takes_long():
    scripts = [path for folder in (".", "ablations", "analysis", "benchmarks") for path in (ROOT / folder).glob("*.py")]
    commands = [path for path in scripts if "__main__" in path.read_text()]
    assert len(commands) > 15
    for path in commands:
        imports = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)]
        names = [getattr(node, "module", node.names[0].name) for node in imports]
        assert next(n for n in names if n.partition(".")[0] not in sys.stdlib_module_names) == "sagan_base.cli", path
        assert "@command()\ndef main" in path.read_text(), path
