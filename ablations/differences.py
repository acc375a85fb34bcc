"""How far two rows differ in log Fréchet distance, how sure that is, and what difference so many seeds would show.

Distances are compared as logarithms: seeds move them by a share of themselves, and by about the same share in every
row. So one variance is estimated from all rows together, as in an analysis of variance, and few seeds a row suffice for
an interval (Student's t with the degrees of freedom of all rows). The five contrasts are tested together by Holm's
method. A single run a row leaves only the samples to resample (bootstrap.py).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import optimize, stats

from ablations.contrasts import CONTRASTS, LEVEL, POWER
from sagan_base.tables import percent


@dataclass(frozen=True)
class Difference:
    """Row minus other, in log distance.

    Attributes:
        low, high: 95% interval of this one difference; NaN where nothing says how much seeds matter.
        p: of no difference, two-sided, for this one difference; NaN as above.
        seeds: runs of the row and of the other.
        detectable: the smallest difference that so many seeds show with 80% power when the contrasts are tested.
        over_samples: the interval says what another set of samples would change, not another seed.
    """

    estimate: float
    low: float
    high: float
    p: float
    seeds: tuple[int, int]
    detectable: float
    over_samples: bool = False

    def __str__(self) -> str:
        """ "-12% [-25%, +3%]"."""
        if math.isnan(self.low):
            return percent(self.estimate)
        return f"{percent(self.estimate)} [{percent(self.low)}, {percent(self.high)}]"


@dataclass(frozen=True)
class Spread:
    """The standard deviation over seeds that all rows share, and its degrees of freedom (0: no row has two runs)."""

    deviation: float
    freedom: int

    @classmethod
    def of(cls, groups: Mapping[str, Sequence[float]]) -> "Spread":
        """Pooled over rows: row -> a value per run."""
        squares = sum(float(np.var(values)) * len(values) for values in groups.values())
        freedom = sum(len(values) - 1 for values in groups.values())
        return cls(math.sqrt(squares / freedom) if freedom else math.nan, freedom)

    def interval(self) -> tuple[float, float]:
        """Of the deviation, 95%."""
        ends = stats.chi2.ppf([1 - LEVEL / 2, LEVEL / 2], self.freedom)
        return tuple(self.deviation * math.sqrt(self.freedom / end) for end in ends)

    def difference(self, row: Sequence[float], other: Sequence[float]) -> Difference:
        """Between two rows of those that were pooled, a value per run."""
        estimate, seeds = float(np.mean(row) - np.mean(other)), (len(row), len(other))
        if not self.freedom:
            return Difference(estimate, math.nan, math.nan, math.nan, seeds, math.nan)
        error = self.deviation * math.sqrt(sum(1 / n for n in seeds))
        half = stats.t.ppf(1 - LEVEL / 2, self.freedom) * error
        p = float(2 * stats.t.sf(abs(estimate) / error, self.freedom)) if error else float(not estimate)
        return Difference(estimate, estimate - half, estimate + half, p, seeds, self.detectable(seeds, self.freedom))

    def detectable(self, seeds: tuple[int, int], freedom: int) -> float:
        """The smallest log difference that the first of Holm's steps finds with probability ``POWER``."""
        return _shift_shown(freedom) * self.deviation * math.sqrt(sum(1 / n for n in seeds))


@lru_cache
def _shift_shown(freedom: int) -> float:
    """That difference in standard errors: only the degrees of freedom decide, and finding it takes long."""
    critical = stats.t.ppf(1 - LEVEL / len(CONTRASTS) / 2, freedom)
    return float(optimize.brentq(lambda nc: stats.nct.sf(critical, freedom, nc) - POWER, 0, 2 * critical + 10))


def resampled_difference(row: Sequence[float], other: Sequence[float], estimate: float) -> Difference:
    """Of a single run each: the interval over resamples of their samples, pair by pair."""
    low, high = np.quantile(np.subtract(row, other), [LEVEL / 2, 1 - LEVEL / 2])
    return Difference(estimate, estimate + float(low), estimate + float(high), math.nan, (1, 1), math.nan, True)
