"""How many seeds a verdict needs: what a pilot says of the spread over seeds, and what each further seed would show."""

from pathlib import Path
from statistics import fmean

import pandas as pd

from ablations.contrasts import CONTRASTS, FIRST_SEED, LEVEL, OTHER_SEEDS, POWER, ROWS_OF_CONTRASTS, SEEDS
from ablations.differences import Spread
from ablations.records import by_row, read_records
from ablations.rows import TABLE_ROWS
from ablations.summary import log_distances
from sagan_base.tables import percent, text

COUNTS = (2, 3, 5, 8, 11, 13, 16, 20, 30)


def power_report(runs: Path) -> str:
    """The spread of these runs, and a table: seeds, smallest difference that they show, hours.

    Raises:
        ValueError: no row of a contrast has two runs.
    """
    records = [record for record in read_records(runs)[0] if record.row in ROWS_OF_CONTRASTS] if runs.is_dir() else []
    groups = by_row(records)
    spread = Spread.of(log_distances(groups))
    if not spread.freedom:
        raise ValueError(
            f"{runs} holds no row of a contrast with two seeds; make a pilot of {', '.join(ROWS_OF_CONTRASTS)}: "
            f"python ablations/run.py --contrasts --seeds 2 --out {runs}"
        )
    low, high = spread.interval()
    of_samples = fmean(fmean(move**2 for move in record.resampled) for record in records) ** 0.5
    hours = fmean(record.seconds for record in records) / 3600
    table = pd.DataFrame(
        {
            "seeds a row": list(COUNTS),
            "smallest difference shown": [
                percent(spread.detectable((n, n), len(ROWS_OF_CONTRASTS) * (n - 1))) for n in COUNTS
            ],
            "hours, rows of contrasts": [hours * n * len(ROWS_OF_CONTRASTS) for n in COUNTS],
            "hours, whole table": [
                hours * (n * len(ROWS_OF_CONTRASTS) + OTHER_SEEDS * (len(TABLE_ROWS) - len(ROWS_OF_CONTRASTS)))
                for n in COUNTS
            ],
        }
    )
    counted = ", ".join(f"{name} {len(found)}" for name, found in groups.items())
    return "\n".join(
        [
            f"{len(records)} runs of {records[0].setting.steps:,} steps, a row and its seeds: {counted}",
            f"standard deviation over seeds of log {records[0].distance_key}, pooled over rows: {spread.deviation:.3f} "
            f"(95% interval {low:.3f} to {high:.3f}, {spread.freedom} degrees of freedom); of the samples: "
            f"{of_samples:.3f}",
            "",
            text(table),
            "",
            f"Smallest difference: found with probability {POWER:.0%} by the first of Holm's steps over "
            f"{len(CONTRASTS)} contrasts at level {LEVEL:.0%}. Hours of training on the machine of the pilot. "
            f"contrasts.py has chosen {SEEDS} seeds, from {FIRST_SEED} on.",
        ]
    )
