"""Canned runs: folders as a finished ablation leaves them, with numbers chosen by the test."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from ablations.experiment import Conditions, Experiment, Setting
from ablations.presets import PRESETS
from ablations.records import Record, write_record
from ablations.rows import ROWS
from sagan_base.attention_health import LayerHealth, MapHealth
from sagan_base.provenance import Git, Machine, Provenance

GAINS = {"gain/generator.attention.16": 0.1, "gain/discriminator.attention.16": -0.2}
DISTANCE, OTHERS = "FD (digits classifier)", {f"{name} (digits classifier)": 0.5 for name in ("precision", "recall")}
HEALTH = {
    f"{part}.attention.16": LayerHealth(
        (0.5, 0.7), (0.2, 0.4), (0.1, 0.3), MapHealth((0.9,), (0.1,), (0.5,)), {"mean map": 0.1}, {"mean map": 1.25}
    )
    for part in ("discriminator", "generator")
}
Canned = Callable[..., Record]


@pytest.fixture
def canned_run(tmp_path: Path) -> Canned:
    """Write one finished run below ``tmp_path`` and return its record."""

    def write(
        row: str,
        seed: int = 0,
        distance: float = 10.0,
        steps: int = 1000,
        curve: tuple[tuple[int, float], ...] = (),
        resampled: tuple[float, ...] = (-0.03, -0.01, 0.0, 0.01, 0.03),
        root: Path = tmp_path,
        folder: str | None = None,
    ) -> Record:
        setting = Setting(PRESETS["digits"], "paper", "digits", steps, ("classifier",))
        run = Experiment(ROWS[row], setting, seed)
        machine = Machine("Linux", "Test CPU", 2, 1)
        record = Record(
            row=row,
            title=ROWS[row].title,
            seed=seed,
            config=run.config(),
            setting=Conditions(
                "digits", "paper", "digits", "ab" * 32, 32, "float32", steps, setting.measured, ("classifier",), 1000
            ),
            metrics={DISTANCE: distance} | OTHERS,
            initial={DISTANCE: 250.0} | OTHERS,
            real={"images": 355, DISTANCE: 0.14} | OTHERS,
            resampled=resampled,
            parameters={"generator": 60_000, "discriminator": 40_000},
            file_bytes=420_000,
            seconds=90.0,
            images_per_second=355.0,
            gains={} if ROWS[row].attention is None else GAINS,
            attention_off=None if ROWS[row].attention is None else 2.0,
            attention_health={} if ROWS[row].attention is None else HEALTH,
            provenance=Provenance(
                seed, "2026-01-01", "python x", {"python": "3.11", "torch": "2.13"}, Git("c0ffee", False), machine
            ),
            folder=root / (folder or run.name),
        )
        record.folder.mkdir(parents=True)
        (record.folder / "config.json").write_text("{}")
        lines = [{"step": step, DISTANCE: value} for step, value in curve]
        lines += [{"step": step} | record.gains for step, _ in curve]
        (record.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        Image.new("L", (40, 20), 128).save(record.folder / "samples.png")
        write_record(record)
        return record

    return write
