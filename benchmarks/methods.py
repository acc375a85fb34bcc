"""Every way to compute one case of attention.py that runs here: ours, and the peers each in several ways."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from cases import WINDOWS, Case
from comparison import DENSE, MASKED, ONE_HEAD, OURS
from scipy.sparse import csr_array
from torch import Tensor
from torch.nn.functional import embedding, pad, scaled_dot_product_attention

from ylg import attention_plan, sparse_attention
from ylg.devices import choose_backend

Method = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Candidate:
    """A way to compute attention, and the memory that it needs by arithmetic."""

    kind: str
    name: str
    pattern: str
    make: Callable[[], Method]
    work: int  # what its time grows with
    needs: int = 0  # bytes
    backward: bool = True


def candidates(case: Case, device: torch.device) -> Iterator[Candidate]:
    """Ours, for every pattern of the case, and then the peers."""

    def planned(pattern: str, backend: str) -> Callable[[], Method]:
        def make() -> Method:
            plan = copy(attention_plan(case.masks(pattern))).to(device)  # without what another backend keeps in it
            return lambda q, k, v: sparse_attention(q, k, v, plan, backend=backend)

        return make

    first = case.patterns[0]
    for pattern in case.patterns:
        for backend in dict.fromkeys((choose_backend(device.type)[0], "tiles")):
            yield Candidate(OURS, f"ours ({backend}), {pattern}", pattern, planned(pattern, backend), 0)
    flex, dense = planned(first, "flex"), case.scores
    yield Candidate(MASKED, "FlexAttention, compiled", first, flex, dense, backward=device.type == "cuda")

    def masked(form: str, attend: Callable[[Tensor], Method]) -> Callable[[], Method]:
        def make() -> Method:
            allowed = torch.from_numpy(np.stack([mask.toarray() for mask in case.masks(first)])).to(device)
            if form == "to add":
                numbers = torch.zeros(allowed.shape, device=device, dtype=getattr(torch, case.dtype))
                allowed = numbers.masked_fill_(~allowed, -math.inf)
            return attend(allowed if form == "of 3 axes" else allowed[None])

        return make

    # Scores, probabilities and a gradient of them at once, in float32, where the path is not fused. The fused one of a
    # CPU keeps none, but turns a mask into numbers first.
    unfused, mask = 12 * case.scores, case.scores // case.batch
    for padded, form, needs in (
        (True, "of 4 axes", 5 * mask),
        (True, "of 3 axes", mask + unfused),
        (True, "to add", 4 * mask),
        (False, "of 4 axes", mask + unfused),
        (False, "of 3 axes", mask + unfused),
    ):
        way = f"SDPA, {'padded' if padded else 'unpadded'}, mask {form}"
        yield Candidate(MASKED, way, first, masked(form, partial(sdpa, padded)), dense, needs)
    yield Candidate(MASKED, "plain operators, mask to add", first, masked("to add", plain), dense, 4 * mask + unfused)
    masks = case.masks(first)
    gathers = case.batch * case.num_queries * case.num_heads * most_keys(masks) * (case.head_dim_qk + case.head_dim_v)
    yield Candidate(MASKED, "keys gathered by query", first, lambda: gathered(masks, device), gathers, 8 * gathers)
    if first == WINDOWS:
        size = most_keys(masks)
        for way, attend in ("SDPA, padded", sdpa(True)), ("SDPA, unpadded", sdpa(False)), ("plain operators", plain()):
            yield Candidate(MASKED, f"{way}, every window a head", first, partial(by_window, attend, size), 0)
    for kind, scores in ((DENSE, unfused), (ONE_HEAD, unfused // case.num_heads)):
        yield Candidate(kind, "SDPA, padded", "dense", lambda: sdpa(True), dense)
        yield Candidate(kind, "SDPA, unpadded", "dense", lambda: sdpa(False), dense, scores)
        yield Candidate(kind, "plain operators", "dense", plain, dense, scores)


def sdpa(padded: bool, mask: Tensor | None = None) -> Method:
    """Padded: one number of channels for all, which the fused path of a CPU asks for, and a multiple of 16.

    A GPU's asks for a multiple of 8; on a CPU heads of 8 take 1.7 times as long as the same heads padded to 16.
    """

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scale = 1 / math.sqrt(q.shape[-1])
        width = -(-max(q.shape[-1], v.shape[-1]) // 16) * 16
        wide = [pad(x, (0, width - x.shape[-1])) for x in (q, k, v)] if padded else (q, k, v)
        return scaled_dot_product_attention(*wide, attn_mask=mask, scale=scale)[..., : v.shape[-1]]

    return attend


def plain(mask: Tensor | None = None) -> Method:
    """As SAGAN writes it. SDPA's unfused path does the same and more: it multiplies both sides by the scale's root."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = q / math.sqrt(q.shape[-1]) @ k.mT
        return (scores if mask is None else scores + mask).softmax(-1) @ v

    return attend


def by_window(attend: Method, size: int) -> Method:
    """Dense attention in windows of ``size`` cells that follow each other, as Swin has it."""

    def folded(*tensors: Tensor) -> Tensor:
        parts = (x.unflatten(2, (-1, size)).flatten(1, 2) for x in tensors)
        return attend(*parts).view(*tensors[0].shape[:3], -1)

    return folded


def most_keys(masks: list[csr_array]) -> int:
    return max(int(np.diff(mask.indptr).max()) for mask in masks)


def gathered(masks: list[csr_array], device: torch.device) -> Method:
    """Every query has a copy of its keys and values, all as many as the one that sees most."""
    num_queries, num_keys = masks[0].shape
    key = np.zeros((len(masks), num_queries, most_keys(masks)), dtype=np.int64)
    bias = np.full(key.shape, -np.inf, dtype=np.float32)
    for head, mask in enumerate(masks):
        query = np.repeat(np.arange(num_queries), np.diff(mask.indptr))
        place = head, query, np.arange(mask.nnz) - mask.indptr[query]
        key[place], bias[place] = head * num_keys + mask.indices, 0
    key, bias = (torch.from_numpy(x).to(device) for x in (key, bias))

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        first = torch.arange(len(q), device=device).view(-1, 1, 1, 1) * len(masks) * num_keys
        k, v = (embedding(first + key, x.flatten(0, 2)) for x in (k, v))
        scores = (k @ (q / math.sqrt(q.shape[-1]))[..., None]).squeeze(-1)
        return ((scores + bias.to(scores.dtype)).softmax(-1)[..., None, :] @ v).squeeze(-2)

    return attend
