"""Canned runs: folders as a finished ablation leaves them, with numbers chosen by the test."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ablations.bootstrap import write_features
from ablations.experiment import Conditions, Experiment, Setting
from ablations.presets import PRESETS
from ablations.records import Record, write_record
from ablations.rows import ROWS
from sagan_base.provenance import Git, Machine, Provenance

GAINS = {"gain/generator.attention.16": 0.1, "gain/discriminator.attention.16": -0.2}
DISTANCE, SCORE = "FD (digits classifier)", "IS-style (digits classifier)"
Canned = Callable[..., Record]


@pytest.fixture
def canned_run(tmp_path: Path) -> Canned:
    """Write one finished run below ``tmp_path`` and return its record."""

    def write(
        row: str,
        seed: int = 0,
        distance: float = 10.0,
        score: float = 5.0,
        accuracy: float | None = 0.95,
        steps: int = 1000,
        curve: tuple[tuple[int, float], ...] = (),
        samples: np.ndarray | None = None,
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
            setting=Conditions("digits", "paper", "digits", "ab" * 32, 32, steps, ("classifier",), 1000),
            metrics={DISTANCE: distance, SCORE: score},
            initial={DISTANCE: 250.0, SCORE: 1.0},
            class_accuracy=accuracy,
            parameters={"generator": 60_000, "discriminator": 40_000},
            file_bytes=420_000,
            seconds=90.0,
            images_per_second=355.0,
            gains={} if ROWS[row].attention is None else GAINS,
            attention_off={} if ROWS[row].attention is None else {DISTANCE: 2 * distance},
            provenance=Provenance(
                seed, "2026-01-01", "python x", {"python": "3.11", "torch": "2.13"}, Git("c0ffee", False), machine
            ),
            folder=root / (folder or run.name),
        )
        record.folder.mkdir(parents=True)
        (record.folder / "config.json").write_text("{}")
        lines = [{"step": step, DISTANCE: value, SCORE: 5.0} for step, value in curve]
        lines += [{"step": step} | record.gains for step, _ in curve]
        (record.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        Image.new("L", (40, 20), 128).save(record.folder / "samples.png")
        if samples is not None:
            size = samples.shape[1]
            write_features(record.folder, samples, np.zeros(size), np.eye(size))
        write_record(record)
        return record

    return write
