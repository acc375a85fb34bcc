"""Run folders on disk: which are finished, what they hold, and which cannot stand in one table.

Every table and page is rebuilt from run folders, so results of several machines merge by copying folders. A run is
finished when its ``result.json`` is whole; a file that is not is renamed, never deleted, and the run is resumed.
"""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ablations.rows import ROWS
from sagan_base.config import RunConfig
from sagan_base.files import atomic_write
from sagan_base.run_log import read_metrics

RESULT = "result.json"
FORMAT = 1


@dataclass(frozen=True)
class Record:
    """The result of one finished run, as ``result.json`` holds it.

    Attributes:
        setting: ``Setting.to_dict``; equal for runs that can be compared.
        metrics: final evaluation of the EMA generator, keys labelled with their features.
        initial: the same metrics of the untrained generator.
        class_accuracy: share of samples that an SVM trained on the real images gives the class asked for.
        parameters: of "generator" and "discriminator".
        file_bytes: size of the exported model.
        seconds: of training, over all its continuations, without the evaluations.
        attention_gains: residual gain of each attention layer at the end.
        attention_off: metrics of the same generator and samples with its gains set to 0; empty without attention.
    """

    row: str
    title: str
    seed: int
    config: dict[str, Any]
    config_hash: str
    setting: dict[str, Any]
    metrics: dict[str, float]
    initial: dict[str, float]
    class_accuracy: float | None
    parameters: dict[str, int]
    file_bytes: int
    seconds: float
    images_per_second: float
    attention_gains: dict[str, float]
    provenance: dict[str, Any]
    attention_off: dict[str, float] = field(default_factory=dict)
    format: int = FORMAT
    folder: Path = field(default=Path(), compare=False)

    @property
    def distance_key(self) -> str:
        """The first Fréchet distance measured: "FID" for Inception's features, else "FD (... features)"."""
        return next(key for key in self.metrics if key == "FID" or key.startswith("FD "))

    @property
    def score_key(self) -> str:
        """The Inception Score, or what is computed like it in other features."""
        return next(key for key in self.metrics if key == "IS" or key.startswith("IS-style"))

    def curve(self, key: str) -> list[tuple[int, float]]:
        """(step, value) of one metric during training, from ``metrics.jsonl``."""
        return [(line["step"], line[key]) for line in read_metrics(self.folder) if key in line]

    def best(self) -> tuple[float, int]:
        """Lowest Fréchet distance on the curve and its step; the final value where no curve was measured."""
        points = self.curve(self.distance_key) or [(self.setting["steps"], self.metrics[self.distance_key])]
        step, value = min(points, key=lambda point: (point[1], point[0]))
        return value, step


def write_record(record: Record) -> None:
    values = asdict(record)
    folder = values.pop("folder")
    with atomic_write(folder / RESULT) as path:
        path.write_text(json.dumps(values, indent=1) + "\n")


def read_record(folder: Path) -> Record | None:
    """The finished run in this folder, or None where there is none.

    A ``result.json`` that is half-written or lacks something is renamed to ``result.json.aside-N`` with one line
    on standard output saying what was wrong.
    """
    path = folder / RESULT
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise ValueError(f"format {values.get('format') if isinstance(values, dict) else values!r}, not {FORMAT}")
        record = Record(**values, folder=folder)
        config = RunConfig.from_dict(record.config)
        if config.config_hash() != record.config_hash:
            raise ValueError(f"its configuration does not hash to {record.config_hash}")
        if not all(math.isfinite(record.metrics[key]) for key in (record.distance_key, record.score_key)):
            raise ValueError("a metric is not a number")
    except (ValueError, TypeError, KeyError, StopIteration, AttributeError) as error:
        aside = _free_name(path)
        path.rename(aside)
        reason = " ".join(str(error).split()) or type(error).__name__
        print(f"set aside {path} as {aside.name}: not a whole result ({reason}); the run counts as unfinished")
        return None
    return record


def read_records(root: Path) -> tuple[list[Record], list[Path]]:
    """All finished runs below ``root`` in table order, and the folders of unfinished ones.

    Copies of one run (same configuration and seed) count once, with a line that says so.

    Raises:
        ValueError: runs of different settings, or two different runs of one row and seed, lie below ``root``.
    """
    finished: dict[tuple[str, int], Record] = {}
    unfinished = []
    for folder in sorted({path.parent for name in ("config.json", RESULT) for path in root.glob(f"*/{name}")}):
        record = read_record(folder)
        if record is None:
            unfinished.append(folder)
            continue
        first = finished.setdefault((record.row, record.seed), record)
        if first is record:
            continue
        if first.config_hash != record.config_hash or first.metrics != record.metrics:
            raise ValueError(
                f"{first.folder} and {folder} are different runs of row {record.row!r}, seed {record.seed}; "
                f"move one of them out of {root}"
            )
        print(f"{folder} is a copy of {first.folder}: counted once")
    records = sorted(finished.values(), key=_table_order)
    for record in records[1:]:
        require_same_setting(records[0].setting, record.setting, records[0].folder, record.folder)
    return records, unfinished


def require_runs_belong(root: Path, wanted: set[str], setting: dict[str, Any]) -> None:
    """Refuse a folder whose other finished runs were made under another setting, before more are added to it.

    Args:
        wanted: names of the run folders about to be made or gone on with; they may be shorter runs of the same kind.
    Raises:
        ValueError: a run in ``root`` differs in setting.
    """
    for path in sorted(root.glob(f"*/{RESULT}")):
        record = read_record(path.parent) if path.parent.name not in wanted else None
        if record is not None:
            require_same_setting(record.setting, setting, path.parent, "this command")


def require_same_setting(first: dict[str, Any], second: dict[str, Any], first_name: Any, second_name: Any) -> None:
    """Raises ValueError naming what differs between two settings."""
    differing = [key for key in {**first, **second} if first.get(key) != second.get(key)]
    if differing:
        text = ", ".join(f"{key} {_short(first.get(key))} against {_short(second.get(key))}" for key in differing)
        raise ValueError(
            f"{first_name} and {second_name} cannot stand in one table: {text}; "
            "give each setting its own folder with --out"
        )


def _table_order(record: Record) -> tuple[int, str, int]:
    names = list(ROWS)
    return (names.index(record.row) if record.row in names else len(names), record.row, record.seed)


def _free_name(path: Path) -> Path:
    number = 1
    while (candidate := path.with_name(f"{path.name}.aside-{number}")).exists():
        number += 1
    return candidate


def _short(value: Any) -> str:
    return value[:12] if isinstance(value, str) and len(value) == 64 else str(value)
