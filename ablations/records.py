"""Run folders on disk: which are finished, what they hold, and which cannot stand in one table.

Every table and page is rebuilt from run folders, so results of several machines merge by copying folders. A run is
finished when its ``result.json`` is whole; a file that is not is renamed, never deleted, and the run is resumed.
"""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ablations.experiment import Conditions
from ablations.rows import ROWS, Row
from sagan_base.attention_health import LayerHealth
from sagan_base.config import RunConfig
from sagan_base.files import check_name, write_json
from sagan_base.metrics.names import leading
from sagan_base.provenance import Provenance
from sagan_base.run_folder import CONFIG_FILE, read_metrics
from sagan_base.typed import from_dict, read_json

RESULT = "result.json"
FORMAT = 3


@dataclass(frozen=True)
class Record:
    """The result of one finished run, as ``result.json`` holds it.

    Attributes:
        row, title: of the row; the name is a key of ``ROWS`` unless the row was asked for on a command line.
        setting: equal for runs that can be compared.
        metrics: of the EMA generator, keys labelled with their features: means over the steps ``setting.measured``, of
            distances the geometric mean; in features other than the first, of the last step.
        initial: the same metrics of the untrained generator.
        real: the same metrics of held-out real images, and their number as "images"; empty where the data has none.
        resampled: what resamples of the last step's samples add to the log distance; see bootstrap.py.
        parameters: of "generator" and "discriminator".
        file_bytes: size of the exported model.
        seconds: of training, over all its continuations, without the evaluations.
        gains: residual gain of each attention layer at the end, named as in ``metrics.jsonl``.
        attention_off: distance of the last step's samples with the gains set to 0, over that with them as trained;
            None without attention.
        attention_health: of every attention layer; ``distance`` is over that under the generator's own maps.
        folder: where it lies.
    """

    row: str
    title: str
    seed: int
    config: RunConfig
    setting: Conditions
    metrics: dict[str, float]
    initial: dict[str, float]
    real: dict[str, float]
    resampled: tuple[float, ...]
    parameters: dict[str, int]
    file_bytes: int
    seconds: float
    images_per_second: float
    gains: dict[str, float]
    attention_off: float | None
    attention_health: dict[str, LayerHealth]
    provenance: Provenance
    folder: Path = field(default=Path(), compare=False)

    @property
    def distance_key(self) -> str:
        """The first Fréchet distance measured: "FID" for Inception's features, else "FD (... features)"."""
        return leading(self.metrics, "FD")

    @property
    def distance(self) -> float:
        """The metric that leads every table."""
        return self.metrics[self.distance_key]

    @property
    def of_row(self) -> Row:
        """The row as rows.py has it, or as far as a record tells it."""
        attention = self.config.model.attention
        kind = "attending" if attention is not None and attention.qk_norm else "other"
        return ROWS.get(self.row) or Row(self.row, self.title, "asked for on the command line", attention, kind)

    def curve(self, key: str) -> list[tuple[int, float]]:
        """(step, value) of one metric during training, from ``metrics.jsonl``."""
        return [(line["step"], line[key]) for line in read_metrics(self.folder) if key in line]

    def best(self) -> tuple[float, int]:
        """Lowest Fréchet distance on the curve and its step; the result where no curve was measured."""
        points = self.curve(self.distance_key) or [(self.setting.steps, self.distance)]
        return min((value, step) for step, value in points)

    def file(self, name: str) -> Path | None:
        """A file of the run's own; None where it is missing, or a link, which may lead to what is none of the run's."""
        path = self.folder / name
        return path if path.is_file() and not path.is_symlink() else None


def by_row(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Row name -> its runs, in the order given."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.row, []).append(record)
    return groups


def write_record(record: Record) -> None:
    values = asdict(record)
    folder = values.pop("folder")
    write_json(folder / RESULT, {"format": FORMAT, **values})


def read_record(folder: Path) -> Record | None:
    """The finished run in this folder, or None where there is none.

    A ``result.json`` that is half-written or lacks something is renamed to ``result.json.aside-N`` with one line
    on standard output saying what was wrong.
    """
    path = folder / RESULT
    if not path.is_file():
        return None
    try:
        return replace(_parsed(read_json(path)), folder=folder)
    except ValueError as error:
        aside = _free_name(path)
        path.rename(aside)
        reason = " ".join(str(error).split())
        print(f"set aside {path} as {aside.name}: not a whole result ({reason}); the run counts as unfinished")
        return None


def _parsed(values: Any) -> Record:
    """Raises ValueError where these are not the values of one finished run."""
    number = values.pop("format", None) if isinstance(values, dict) else values
    if number != FORMAT:
        raise ValueError(f"format {number!r}, not {FORMAT}")
    record = from_dict(Record, values)
    if (record.seed, record.setting.steps) != (record.config.training.seed, record.config.training.steps):
        raise ValueError("its configuration is of another seed or number of steps")
    distances = [metrics.get(leading(record.metrics, "FD"), math.nan) for metrics in (record.metrics, record.initial)]
    if not all(math.isfinite(distance) and distance > 0 for distance in distances):
        raise ValueError("its distance is not a number above 0")
    return record


def read_records(root: Path) -> tuple[list[Record], list[Path]]:
    """All finished runs below ``root`` in table order, and the folders of unfinished ones.

    Copies of one run (same configuration and seed) count once, with a line that says so.

    Raises:
        ValueError: runs of different settings, or two different runs of one row and seed, lie below ``root``; or a
            folder there has a name that no text can hold.
    """
    finished: dict[tuple[str, int], Record] = {}
    unfinished = []
    for folder in sorted({path.parent for name in (CONFIG_FILE, RESULT) for path in root.glob(f"*/{name}")}):
        check_name(str(folder))
        record = read_record(folder)
        if record is None:
            unfinished.append(folder)
            continue
        first = finished.setdefault((record.row, record.seed), record)
        if first is record:
            continue
        if (first.config.config_hash(), first.metrics) != (record.config.config_hash(), record.metrics):
            raise ValueError(
                f"{first.folder} and {folder} are different runs of row {record.row!r}, seed {record.seed}; "
                f"move one of them out of {root}"
            )
        print(f"{folder} is a copy of {first.folder}: counted once")
    records = sorted(finished.values(), key=_table_order)
    for record in records[1:]:
        require_same_setting(records[0].setting, record.setting, records[0].folder, record.folder)
    return records, unfinished


def require_runs_belong(root: Path, wanted: set[str], setting: Conditions) -> None:
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


def require_same_setting(first: Conditions, second: Conditions, first_name: Any, second_name: Any) -> None:
    """Raises ValueError naming what differs between two settings."""
    pairs = {f.name: (getattr(first, f.name), getattr(second, f.name)) for f in fields(Conditions)}
    differing = [f"{name} {_short(a)} against {_short(b)}" for name, (a, b) in pairs.items() if a != b]
    if differing:
        raise ValueError(
            f"{first_name} and {second_name} cannot stand in one table: {', '.join(differing)}; "
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
