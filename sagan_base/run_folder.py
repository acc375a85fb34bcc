"""A run's folder: which files it holds, whose it is, what it says about its origin, and its log.

``config.json`` is the record of the experiment: the configuration, the data and one entry per session. A folder is
continued only by the same experiment. ``metrics.jsonl`` is its log, one JSON object a line, with the same values for
TensorBoard.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sagan_base.config import RunConfig
from sagan_base.data import ImageData
from sagan_base.files import write_json, write_text
from sagan_base.typed import from_dict, parse_json, read_json

CONFIG_FILE = "config.json"
METRICS_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tensorboard"
SAMPLES_FILE, SAMPLES_FOLDER = "samples.png", "samples"  # the newest sheet, and one a step
MAPS_SUFFIX = "_maps.npz"  # beside a step's sheet: what a head of the generator looked at
CHECKPOINT_FOLDER = "checkpoints"
MODEL_FILE, BEST_FILE = "model.safetensors", "best.safetensors"  # of the last step, and of the lowest distance


@dataclass(frozen=True)
class DataRecord:
    """The data of a run; ``images`` is how many there are."""

    name: str
    fingerprint: str
    source: str
    images: int
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class RunRecord:
    """What ``config.json`` holds: the experiment, and the provenance of each session with the step it began at."""

    seed: int
    config: RunConfig
    config_hash: str
    data: DataRecord
    sessions: tuple[dict[str, Any], ...]


def folder_problem(path: Path, config: RunConfig, data: ImageData) -> str | None:
    """None where ``path`` (a run's ``config.json``) is absent or of the same experiment, else what differs."""
    if not path.is_file():
        return None
    try:
        record = from_dict(RunRecord, read_json(path))
    except ValueError as error:
        return f"{path} is not the record of a run ({error}); use another --out, or delete that folder"
    return experiment_problem(path.parent, record.config, record.data.fingerprint, config, data)


def experiment_problem(
    folder: Path, before: RunConfig, fingerprint: str, config: RunConfig, data: ImageData
) -> str | None:
    """None where what ``folder`` holds is of the same experiment, else what differs.

    Its record and its checkpoints are both asked: a record is a text that people delete and edit.
    """
    there = before.identity()
    if fingerprint == data.fingerprint:
        there["data"] = config.data  # another path to the same pictures is no difference
    differing = _differences(there, config.identity())
    if fingerprint != data.fingerprint:
        differing.append(f"data fingerprint ({fingerprint[:12]} there, {data.fingerprint[:12]} here)")
    if not differing:
        return None
    return (
        f"{folder} holds another run: it differs in {', '.join(differing)}; use another --out, delete that folder "
        "to start anew, or give its options to go on with it"
    )


def obstacle(out: Path, checkpoints: Iterable[Path]) -> str | None:
    """What stands where training must write a file or a folder, these checkpoints among them; None if all is free."""
    files = [out / name for name in (CONFIG_FILE, METRICS_FILE, SAMPLES_FILE, MODEL_FILE, BEST_FILE)]
    folders = [out / name for name in (CHECKPOINT_FOLDER, SAMPLES_FOLDER, TENSORBOARD_FOLDER)]
    wrong = [path for path in (*files, *checkpoints) if path.exists() and not path.is_file()]
    wrong += [path for path in folders if os.path.lexists(path) and not path.is_dir()]  # also a link to nothing
    return f"{wrong[0]} stands where training must write; move it away, or use another --out" if wrong else None


def write_record(path: Path, config: RunConfig, data: ImageData, session: dict[str, Any]) -> None:
    """Write ``config.json``; the entries of earlier sessions stay."""
    earlier = from_dict(RunRecord, read_json(path)).sessions if path.is_file() else ()
    seen = DataRecord(data.name, data.fingerprint, data.source, len(data), data.class_names)
    record = RunRecord(config.training.seed, config, config.config_hash(), seen, (*earlier, session))
    write_json(path, asdict(record))


def _differences(there: Any, here: Any, name: str = "") -> list[str]:
    if isinstance(there, dict) and isinstance(here, dict):
        keys = sorted(there.keys() | here.keys())
        prefix = f"{name}." if name else ""
        return [text for key in keys for text in _differences(there.get(key), here.get(key), prefix + key)]
    return [] if there == here else [f"{name} ({there!r} there, {here!r} here)"]


class RunLog:
    """Appends to a run's logs.

    Args:
        out: the run's folder.
        step: the step that the run goes on from: what was logged after it is dropped, because it will be logged again.
    """

    def __init__(self, out: Path, step: int) -> None:
        path = out / METRICS_FILE
        lines = log_lines(out)
        whole = path.read_bytes().count(b"\n") if path.is_file() else 0  # a last line cut short is no news
        if broken := max(0, whole - len(lines)):
            print(f"warning: {path}: {broken} broken line{'s' if broken > 1 else ''} left out", flush=True)
        kept = [line for line in lines if line["step"] <= step]
        write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = path.open("a", encoding="utf-8")
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and only training writes

        self._board = SummaryWriter(str(out / TENSORBOARD_FOLDER), purge_step=step + 1 if step else None)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Add a line, visible to other processes at once."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        self._file.close()
        self._board.close()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_metrics(out: str | Path) -> list[dict[str, Any]]:
    """The log of a run, one dictionary a step, in order: losses and evaluation of the same step are merged."""
    by_step: dict[int, dict[str, Any]] = {}
    for line in log_lines(out):
        by_step.setdefault(line["step"], {}).update(line)
    return [by_step[step] for step in sorted(by_step)]


def log_lines(out: str | Path) -> list[dict[str, Any]]:
    """The lines of a run's log, in its order; what is no line of it is left out, such as one cut short by a kill."""
    path = Path(out) / METRICS_FILE
    lines = path.read_bytes().split(b"\n") if path.is_file() else []
    return [line for line in map(_line, lines) if line is not None]


def _line(text: bytes) -> dict[str, Any] | None:
    """A line of the log: a JSON object of numbers, with the step; None for anything else."""
    try:
        line = parse_json(text)
    except ValueError:
        return None
    is_log = isinstance(line, dict) and type(line.get("step")) is int and line["step"] >= 0
    return line if is_log and all(type(value) in (int, float) for value in line.values()) else None
