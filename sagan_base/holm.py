"""Several questions asked of the same data: their p values, adjusted together."""

from collections.abc import Sequence

import numpy as np


def holm(p: Sequence[float]) -> list[float]:
    """Adjusted p values [N] (Holm, 1979): reject those below the level, and a false rejection is as rare as it says."""
    ordered = np.argsort(p)
    adjusted = np.empty(len(p))
    adjusted[ordered] = np.minimum(np.maximum.accumulate(np.asarray(p)[ordered] * np.arange(len(p), 0, -1)), 1.0)
    return adjusted.tolist()
