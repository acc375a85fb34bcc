"""What a run says about itself: ``metrics.jsonl``, one JSON object a line, and the same values for TensorBoard."""

import json
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from sagan_base.files import write_text

METRICS_FILE = "metrics.jsonl"
TENSORBOARD_FOLDER = "tensorboard"


class RunLog:
    """Appends to a run's logs.

    Args:
        out: the run's folder.
        step: the step that the run goes on from: what was logged after it is dropped, because it will be logged again.
    """

    def __init__(self, out: Path, step: int) -> None:
        path = out / METRICS_FILE
        kept = [line for line in _read_lines(path) if line["step"] <= step]
        write_text(path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = path.open("a", encoding="utf-8")
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
    for line in _read_lines(Path(out) / METRICS_FILE):
        by_step.setdefault(line["step"], {}).update(line)
    return [by_step[step] for step in sorted(by_step)]


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a log; a last line cut short by a kill is left out."""
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines
