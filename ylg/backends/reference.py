"""The definition, dense: softmax(scale * Q K^T, -inf outside the mask) V. Slow and large; for tests."""

from __future__ import annotations

import math

from torch import Tensor

from ylg.backends.finite import all_finite
from ylg.devices import wide
from ylg.plan import AttentionPlan


def reference_attention(
    queries: Tensor, keys: Tensor, values: Tensor, plan: AttentionPlan, scale: float, return_attention: bool
) -> Tensor | tuple[Tensor, Tensor]:
    given = queries.dtype
    queries, keys, values = map(wide, (queries, keys, values))
    hidden = plan.derived("hidden", lambda plan: ~plan.dense_masks())
    if all_finite(queries, keys, values):
        # -inf, not a large negative number: nothing outside the mask takes part, to the last bit.
        attention = (scale * queries @ keys.mT).masked_fill(hidden, -math.inf).softmax(dim=-1)
        out = attention @ values
    else:  # to the letter: every query has keys and values of its own, in which those that it may not see are 0
        keys, values = (x[:, :, None].masked_fill(hidden[..., None], 0) for x in (keys, values))
        scores = scale * (keys @ queries[..., None]).squeeze(-1)
        attention = scores.masked_fill(hidden, -math.inf).softmax(dim=-1).masked_fill(hidden, 0)
        out = (attention[..., None, :] @ values).squeeze(-2)
    return (out.to(given), attention.to(given)) if return_attention else out.to(given)
