"""Files and options changed at random end in success or in one line and exit code 2, never in a traceback."""

import io
import json
import random
import shutil
import zipfile
from pathlib import Path

from sagan_base.cli import usage_errors

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import sagan_base.train
from ablations.experiment import Conditions
from ablations.records import Record, read_record, write_record
from sagan_base.attention_health import LayerHealth, MapHealth
from sagan_base.checkpoint import FORMAT, load_checkpoint, read_checkpoint
from sagan_base.config import AttentionConfig, ModelConfig, Recipe, RunConfig, TrainConfig
from sagan_base.data import ImageData
from sagan_base.data_sources.pictures import read_picture, read_square
from sagan_base.distributed import Processes
from sagan_base.files import read_arrays
from sagan_base.options import HELP
from sagan_base.provenance import Git, Machine, Provenance
from sagan_base.published_weights import load_published_weights
from sagan_base.run_folder import folder_problem, log_lines
from sagan_base.run_folder import write_record as write_run
from sagan_base.tensors import digest
from sagan_base.training import TrainingRun, train
from sagan_base.typed import read_json

DEEP = "a value that is nested a hundred thousand times"
ODD = (None, True, 0, -1, 10**30, 16.0, 1e308, float("nan"), "", "x" * 300, "\udcff", [], {}, [[1]], {"a": 1}, DEEP)
MODEL = ModelConfig(16, 1, 3, 8, 4, 4, attention=AttentionConfig("ltr", 2))
CONFIG = RunConfig(MODEL, Recipe(batch_size=4), TrainConfig(steps=1, log_every=1), "noise")
ALONE = Processes(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def data() -> ImageData:
    images = torch.randint(256, (30, 1, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return ImageData("noise", images, torch.arange(30) % 3, ("zero", "one", "two"))


@pytest.fixture(scope="module")
def run(data, tmp_path_factory) -> Path:
    return train(CONFIG, data, tmp_path_factory.mktemp("runs") / "run", progress=False).out


def is_refused(action, capsys) -> bool:
    """Whether it is refused as a mistake of the caller; every other error is the test's."""
    capsys.readouterr()
    try:
        with usage_errors():
            action()
    except SystemExit as stop:
        told = capsys.readouterr().err
        assert stop.code == 2 and told.startswith("error: ") and told.count("\n") == 1, told
        return True
    return False


def changed(value, dice: random.Random):
    """The JSON value with a random part replaced, left out or added."""
    if not isinstance(value, (dict, list)) or not value or dice.random() < 0.05:
        return dice.choice(ODD)
    copy = value.copy()
    key = dice.choice(list(value) if isinstance(value, dict) else range(len(value)))
    kind = dice.random()
    if kind < 0.15:
        del copy[key]
    elif kind < 0.2 and isinstance(value, dict):
        copy["unheard of"] = dice.choice(ODD)
    else:
        copy[key] = changed(value[key], dice)
    return copy


def text(value) -> str:
    return json.dumps(value).replace(json.dumps(DEEP), "[" * 100_000 + "]" * 100_000)


def flipped(content: bytes, dice: random.Random) -> bytes:
    """The bytes with some replaced, cut off or doubled."""
    out = bytearray(content)
    for _ in range(dice.randint(1, 8)):
        out[dice.randrange(len(out))] = dice.randrange(256)
    place = dice.randrange(len(out))
    return bytes(dice.choice((out, out, out[:place], out[:place] + out[place // 2 :])))


def test_records_of_runs(run, data, tmp_path, capsys):
    record = read_json(run / "config.json")
    refused = 0
    for seed in range(300):
        path = tmp_path / "config.json"
        path.write_text(text(changed(record, random.Random(seed))))

        def go_on(path=path):
            if problem := folder_problem(path, CONFIG, data):
                raise ValueError(problem)
            write_run(path, CONFIG, data, {})

        refused += is_refused(go_on, capsys)
    assert 200 < refused < 300


def test_results_and_logs(tmp_path, capsys):
    distance = {"FD (noise classifier)": 3.0}
    setting = Conditions("digits", "paper", "noise", "ab" * 32, 16, "float32", 1, (1,), ("classifier",), 10)
    origin = Provenance(0, "2026", "python x", {}, Git(None, None), Machine("Linux", "CPU", 2, 1))
    sizes = {"generator": 1, "discriminator": 1}
    health = {"generator.attention.8": LayerHealth((0.5,), (0.2,), (0.1,), MapHealth((0.9,), (0.1,), (0.5,)), distance)}
    write_record(
        Record(
            "ylg", "YLG", 0, CONFIG, setting, distance, distance, distance, (0.1,), sizes, 1, 1.0, 1.0, {}, None,
            health, origin, tmp_path,
        )
    )  # fmt: skip
    result, line = read_json(tmp_path / "result.json"), json.dumps({"step": 1, "discriminator_loss": 1.5}).encode()
    assert read_record(tmp_path) is not None
    whole = 0
    for seed in range(200):
        dice = random.Random(seed)
        (tmp_path / "result.json").write_text(text(changed(result, dice)))
        whole += read_record(tmp_path) is not None  # another is set aside, and the run counts as unfinished
        odd = dice.choice((flipped(line, dice), text(changed(json.loads(line), dice)).encode()))
        (tmp_path / "metrics.jsonl").write_bytes(odd + b"\n" + line + b"\n")
        assert log_lines(tmp_path)[-1] == json.loads(line)
    assert 0 < whole < 100


@pytest.mark.parametrize("kind", ["export", "checkpoint"])
def test_checkpoints(kind, run, data, tmp_path, capsys):
    """With a right hash and odd metadata or tensors, and with changed bytes."""
    name = "model.safetensors" if kind == "export" else "checkpoints/step_00000001.safetensors"
    whole = read_checkpoint(run / name)
    parts = {"config": whole.config.to_dict(), "info": whole.info}
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    refused = 0
    for seed in range(60):
        dice = random.Random(seed)
        odd, tensors = dict(parts), dict(whole.tensors)
        part = dice.choice(("config", "info", "tensors"))
        if part == "tensors":
            some = dice.choice(list(tensors))
            tensors.pop(some)
            if dice.random() < 0.5:
                tensors[some] = dice.choice((torch.zeros(3), torch.zeros(2, dtype=torch.int64), torch.zeros(0)))
        else:
            odd[part] = changed(odd[part], dice)
        metadata = {"format": FORMAT} | {key: text(value) for key, value in odd.items() if dice.random() < 0.97}
        metadata["sha256"] = digest(tensors, {"config": "", "info": ""} | metadata)
        save_file(tensors, path, metadata)
        if seed % 4 == 0:
            path.write_bytes(flipped(path.read_bytes(), dice))
        read = load_checkpoint if kind == "export" else lambda _: TrainingRun(CONFIG, data, tmp_path, ALONE)
        refused += is_refused(lambda read=read: read(path), capsys)
    assert refused > 20


def test_arrays(tmp_path, capsys):
    path = tmp_path / "weights.npz"
    np.savez_compressed(path, latent=np.zeros(8, np.float32), label=np.int64(3))
    content = path.read_bytes()
    refused = 0
    for seed in range(150):
        path.write_bytes(flipped(content, random.Random(seed)))
        refused += is_refused(lambda: read_arrays(path), capsys)
        assert is_refused(lambda: load_published_weights(path), capsys)
    assert 100 < refused < 150


def test_archives_that_are_none_are_of_another_kind_or_claim_more_than_there_is(tmp_path, capsys):
    path = tmp_path / "weights.npz"
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**12,)})
    np.save(path.with_suffix(".npy"), np.zeros(3))
    contents = [path.with_suffix(".npy").read_bytes(), b"", b"PK\3\4"]
    for array in (header.getvalue(), header.getvalue().replace(b"(", b"["), b"\x93NUMPY\1\0\xff\xff", b"no array"):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.npy", array)
        contents.append(path.read_bytes())
    local, central = contents[-1].index(b"PK\3\4"), contents[-1].index(b"PK\1\2")
    for offset, value in ((6, 1), (8, 99)):  # encrypted; an unknown method of compression
        odd = bytearray(contents[-1])
        odd[local + offset] = odd[central + offset + 2] = value
        contents.append(bytes(odd))
    for content in contents:
        path.write_bytes(content)
        assert is_refused(lambda: load_published_weights(path), capsys)


def test_pictures(tmp_path, capsys):
    noise = np.random.default_rng(0).integers(0, 256, (20, 20, 3), np.uint8)
    read = 0
    for suffix in ("png", "jpg", "gif", "bmp", "tif", "webp", "ppm"):
        path = tmp_path / f"a.{suffix}"
        Image.fromarray(noise).save(path)
        content = path.read_bytes()
        for seed in range(40):
            path.write_bytes(flipped(content, random.Random(seed)))
            read += not is_refused(lambda path=path: (read_picture(path), read_square(path, 16, 3)), capsys)
    assert 20 < read < 260
    if "AVIF" in Image.SAVE:
        Image.fromarray(noise).save(tmp_path / "avif", "AVIF")
        shutil.move(tmp_path / "avif", tmp_path / "b.png")
        assert is_refused(lambda: read_picture(tmp_path / "b.png"), capsys)


def test_options(data, tmp_path, monkeypatch, capsys):
    """Of training, up to the folder that it would write; the words are refused, or mean something."""
    monkeypatch.setattr(sagan_base.train, "load_data", lambda *_, **__: data)
    monkeypatch.chdir(tmp_path)
    names = [name for part in HELP.values() for name in part]
    names += ["device", "out", "recipe", "features", "num_samples", "init_from", "cache", "inception_weights"]
    odd = ("1" + "0" * 30, "-1", "0", "nan", "1e400", "1e30", "", "x" * 300, "\udcff", "~nosuchuser/x", "/proc/self")
    odd += ("meta", "hpu", "cuda:99", "16", "/dev/null", "a\nb")
    refused = 0
    options = [(name, word) for name in names for word in odd]
    for name, word in random.Random(0).sample(options, 250):
        arguments = ["--resolution", "16", "--num-heads", "4", "--dry-run", f"--{name.replace('_', '-')}={word}"]
        refused += is_refused(lambda arguments=arguments: sagan_base.train.main(arguments), capsys)
    assert 150 < refused < 250
