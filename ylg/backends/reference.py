"""The definition, dense: softmax(scale * Q K^T, -inf outside the mask) V. Slow and large; for tests."""

from __future__ import annotations

from torch import Tensor

from ylg.devices import wide
from ylg.plan import AttentionPlan


def reference_attention(
    queries: Tensor, keys: Tensor, values: Tensor, plan: AttentionPlan, scale: float, return_attention: bool
) -> Tensor | tuple[Tensor, Tensor]:
    given = queries.dtype
    queries, keys, values = map(wide, (queries, keys, values))
    scores = scale * queries @ keys.mT
    # -inf, not a large negative number: nothing outside the mask takes part, to the last bit.
    hidden = plan.derived("hidden", lambda plan: ~plan.dense_masks())
    attention = scores.masked_fill(hidden, float("-inf")).softmax(dim=-1)
    out = attention @ values
    return (out.to(given), attention.to(given)) if return_attention else out.to(given)
