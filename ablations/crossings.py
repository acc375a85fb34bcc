"""The paper's Figure 4 as numbers: how many steps and seconds until a row's distance falls below a threshold.

A run that never gets there is censored at its end, later than all others, which an interval of the median by the order
of the runs allows for: it asks how many lie below, not how far above.
"""

import math

import numpy as np
import pandas as pd
from scipy import stats

from ablations.differences import Spread
from ablations.presets import PRESETS
from ablations.records import Record
from sagan_base.tables import cell


def crossing(record: Record, threshold: float) -> int | None:
    """The first measured step with a distance below the threshold; None where there is none."""
    return next((step for step, value in record.curve(record.distance_key) if value < threshold), None)


def median_time(times: list[float]) -> tuple[float, float, float]:
    """The time by which half have crossed, and its 95% interval; infinity is later than the runs.

    The interval is exact and asks nothing of the distribution, so it takes six runs to have two ends: NaN where one is
    missing.
    """
    interval = stats.quantile_test(times, p=0.5).confidence_interval(0.95)
    return float(np.median(times)), float(interval.low), float(interval.high)


def crossing_table(groups: dict[str, list[Record]]) -> pd.DataFrame:
    """A line a threshold of the preset and row; empty where it has none, or nothing was measured on the way.

    "steps against dense" compares the logarithms of the steps, where every run of both rows has crossed.
    """
    first = next(iter(groups.values()))[0]
    preset, lines = PRESETS.get(first.setting.preset), []
    for threshold in preset.thresholds if preset else ():
        steps = {name: [crossing(record, threshold) for record in runs] for name, runs in groups.items()}
        logs = {name: [math.log(step) for step in found] for name, found in steps.items() if None not in found}
        spread = Spread.of(logs)
        for name, runs in groups.items():
            at = [step or math.inf for step in steps[name]]
            seconds = [step * run.seconds / first.setting.steps for step, run in zip(at, runs, strict=True)]
            dense = runs[0].of_row.dense_row
            compared = name != dense and {name, dense} <= logs.keys() and spread.freedom
            lines.append(
                {
                    "row": runs[0].title,
                    "below": threshold,
                    "runs": f"{sum(map(math.isfinite, at))} of {len(runs)}",
                    "steps": _shown(*median_time(at)),
                    "seconds": _shown(*median_time(seconds)),
                    "steps against dense": str(spread.difference(logs[name], logs[dense])) if compared else "-",
                }
            )
    return pd.DataFrame(lines)


def _shown(median: float, low: float, high: float) -> str:
    """ "750 [625, 1,000]", with "later" for a time beyond the runs and "?" for an end that so few runs do not give.

    Without either end the median stands alone.
    """
    shown = ["?" if math.isnan(t) else "later" if math.isinf(t) else cell(round(t)) for t in (median, low, high)]
    return shown[0] if math.isnan(low) and math.isnan(high) else "{} [{}, {}]".format(*shown)
