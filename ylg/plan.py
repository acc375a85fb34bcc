"""Plans: boolean head masks turned into what a backend executes.

A plan holds, for every head, tiles: a set of queries that share a short list of keys, and a small mask inside. It
is built once from the masks (planner.py finds the tiles), kept by content, and moves with ``.to(device)``.
Read next: attention.py, and backends/ for what executes a plan.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar
from weakref import WeakValueDictionary

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from ylg import planner
from ylg.devices import choose_backend
from ylg.masks import canonical, content, dense_stack, read_head_masks

_TENSORS = ("query_index", "key_index", "tile_mask")
Made = TypeVar("Made")


@dataclass(frozen=True, eq=False)
class TileGroup:
    """Tiles of one shape: M distinct masks, each ``tiles`` tiles of T queries and L keys.

    Cells are row-major. -1 marks padding in the two index tensors; ``tile_mask`` is False there.
    """

    heads: tuple[int, ...]  # heads computed by this group
    mask_of_head: tuple[int, ...]  # for each of them, which of the M masks below it uses
    query_index: Tensor  # int32 [M, tiles, T]
    key_index: Tensor  # int32 [M, tiles, L]
    tile_mask: Tensor  # bool [M, tiles, T, L], True = may attend

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """M, tiles, T, L."""
        return tuple(self.tile_mask.shape)

    @cached_property
    def full(self) -> bool:
        """Every query of a tile attends to every key of it, and nothing is padded: no mask to apply."""
        return bool(self.tile_mask.all())

    def to(self, device) -> TileGroup:
        return replace(self, **{name: getattr(self, name).to(device) for name in _TENSORS})


@dataclass(frozen=True, eq=False, repr=False)
class AttentionPlan:
    """What ``sparse_attention`` executes; made by :func:`attention_plan`.

    Every (head, query) lies in exactly one tile of exactly one group. Equal by content and device, hashable.
    """

    num_heads: int
    num_queries: int
    num_keys: int
    groups: tuple[TileGroup, ...]
    num_edges: int  # True entries over all heads
    digest: str  # of the masks
    _derived: dict = field(default_factory=dict, repr=False)

    def __repr__(self) -> str:
        return f"<{self.explain().splitlines()[0]}; explain() says more>"

    @property
    def device(self) -> torch.device:
        return self.groups[0].tile_mask.device

    @property
    def sizes(self) -> tuple[int, int, int]:
        return self.num_heads, self.num_queries, self.num_keys

    def __hash__(self) -> int:
        return hash((self.digest, self.device))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AttentionPlan) and (self.digest, self.device) == (other.digest, other.device)

    def derived(self, kind: Hashable, make: Callable[[AttentionPlan], Made]) -> Made:
        """``make(self)``, made once and kept as long as the plan: a copy on a device, or what a backend reads."""
        if kind not in self._derived:
            self._derived[kind] = apart(make, self)
        return self._derived[kind]

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: without what can be made again."""
        return self.__dict__ | {"_derived": {}}

    def __deepcopy__(self, memo: dict) -> AttentionPlan:
        return self  # nothing in it ever changes, so copies of a layer share it

    def to(self, device) -> AttentionPlan:
        """The same plan with its tensors on ``device``; kept, so that moving again costs nothing."""
        if device == self.device:
            return self
        device = torch.empty(0, device=device).device  # "cuda" -> "cuda:0"
        if device == self.device:
            return self
        # a copy knows the plan it was made of, which stays as long as the copy does
        return self.derived(
            device,
            lambda plan: replace(
                plan, groups=tuple(group.to(device) for group in plan.groups), _derived={plan.device: plan}
            ),
        )

    def as_arguments(self) -> tuple[list[Tensor], list[int]]:
        """The groups for an operator, which takes tensors and numbers only; ``plan_of_arguments`` turns them back.

        Three tensors a group; and of each group the number of its heads, the heads, and the mask of each.
        """
        tensors = [getattr(group, name) for group in self.groups for name in _TENSORS]
        heads = [n for group in self.groups for n in (len(group.heads), *group.heads, *group.mask_of_head)]
        return tensors, heads

    def sparse_masks(self) -> list[sp.csr_array]:
        """The head masks again, as bool ``scipy.sparse.csr_array`` [num_queries, num_keys] each."""
        rows, cols = [[] for _ in range(self.num_heads)], [[] for _ in range(self.num_heads)]
        for group in self.to("cpu").groups:
            parts = []
            query_index, key_index = group.query_index.numpy(), group.key_index.numpy()
            for m in range(group.shape[0]):
                tile, t, k = group.tile_mask[m].numpy().nonzero()
                parts.append((query_index[m][tile, t], key_index[m][tile, k]))
            for head, m in zip(group.heads, group.mask_of_head, strict=True):
                rows[head].append(parts[m][0])
                cols[head].append(parts[m][1])
        found = []
        for r, c in zip(rows, cols, strict=True):
            r, c = np.concatenate(r), np.concatenate(c)
            entries = np.ones(r.size, dtype=bool)
            found.append(sp.csr_array((entries, (r, c)), shape=(self.num_queries, self.num_keys)))
        return found

    def dense_masks(self) -> Tensor:
        """The head masks again, as a bool tensor [num_heads, num_queries, num_keys]. For tests and pictures."""
        return torch.from_numpy(dense_stack(self.sparse_masks())).to(self.device)

    @property
    def transposed(self) -> AttentionPlan:
        """The plan of the transposed masks: its "queries" are this plan's keys.

        With it, gradients of keys and values are gathered, tile by tile, instead of scattered. Keys that no query
        attends to are in no tile.
        """
        digest = f"{self.digest} transposed"

        def build():
            return _build([canonical(sp.csr_array(mask.T)) for mask in self.sparse_masks()], digest)

        return self.derived("transposed", lambda plan: _kept(digest, build).to(plan.device))

    @property
    def scores_per_edge(self) -> float:
        """Scores that the tiles compute for one that the masks ask for: 1 where all tiles are dense."""
        computed = sum(len(group.heads) * tiles * T * L for group in self.groups for _, tiles, T, L in [group.shape])
        return computed / self.num_edges

    def explain(self) -> str:
        """What is computed and by which backend, as text for people."""
        dense = self.num_heads * self.num_queries * self.num_keys
        lines = [
            f"attention plan: {self.num_heads} heads, {self.num_queries} queries, {self.num_keys} keys, "
            f"{self.num_edges} edges ({self.num_edges / dense:.1%} of dense)"
        ]
        gathered = 0
        for group in self.groups:
            masks, tiles, T, L = group.shape
            gathered += len(group.heads) * tiles * L
            lines.append(
                f"  heads {', '.join(map(str, group.heads))}: {tiles} tiles of {T} queries x {L} keys, "
                f"{masks} distinct mask{'s' if masks > 1 else ''}{', dense' if group.full else ''}"
            )
        lines.append(
            f"  scores computed: {self.scores_per_edge:.2f} per edge, "
            f"{self.scores_per_edge * self.num_edges / dense:.1%} of dense; "
            f"keys gathered: {gathered / (self.num_heads * self.num_keys):.2f} times each"
        )
        lines += [f"  backend on {kind}: {choose_backend(kind)[1]}" for kind in ("cpu", "cuda")]
        return "\n".join(lines)


_PLANS: WeakValueDictionary[str, AttentionPlan] = WeakValueDictionary()  # all that are in use, by digest
_RECENT: OrderedDict[str, AttentionPlan] = OrderedDict()  # the last ones stay, used or not
_RECENT_KEPT = 64
_RECENT_LOCK = threading.Lock()


def attention_plan(masks: Tensor | np.ndarray | Sequence) -> AttentionPlan:
    """Turns head masks into a plan, once: the same masks give the same object again.

    Args:
        masks: True = may attend; either bool ``[num_heads, num_queries, num_keys]`` (tensor or array), or a sequence
            of num_heads bool ``scipy.sparse`` arrays ``[num_queries, num_keys]``, from which nothing dense is made.
    Raises:
        ValueError: not bool, wrong shape, or a query that may attend to no key (its head and index are named).
    """
    heads = read_head_masks(masks)
    digest = hashlib.sha256(repr((len(heads), heads[0].shape)).encode())
    for mask in heads:
        digest.update(content(mask))
    digest = digest.hexdigest()

    def build():
        for head, mask in enumerate(heads):
            empty = np.flatnonzero(np.diff(mask.indptr) == 0)
            if empty.size:
                raise ValueError(
                    f"in head {head}, query {empty[0]} may attend to no key ({empty.size} such queries in this head); "
                    f"its softmax would be 0/0: let every query attend to one key at least, such as its own cell"
                )
        return _build(heads, digest)

    return _kept(digest, build)


def groups_of_arguments(tensors: Sequence[Tensor], heads: Sequence[int]) -> tuple[TileGroup, ...]:
    """The groups of a plan again, from what ``AttentionPlan.as_arguments`` gave to an operator."""
    groups, at = [], 0
    for i in range(0, len(tensors), 3):
        count = heads[at]
        names, masks = heads[at + 1 : at + 1 + count], heads[at + 1 + count : at + 1 + 2 * count]
        groups.append(TileGroup(tuple(names), tuple(masks), *tensors[i : i + 3]))
        at += 1 + 2 * count
    return tuple(groups)


def plan_of_arguments(
    tensors: Sequence[Tensor], heads: Sequence[int], sizes: tuple[int, int, int], digest: str
) -> AttentionPlan:
    """The plan of these ``sizes`` again, from what ``as_arguments`` gave to an operator; the same one if in use."""

    def build():
        groups = groups_of_arguments(tensors, heads)
        num_edges = sum(int(group.tile_mask[list(group.mask_of_head)].sum()) for group in groups)
        return AttentionPlan(*sizes, groups, num_edges, digest)

    return _kept(digest, build).to(tensors[0].device)


def plan_in_use(digest: str) -> AttentionPlan | None:
    """The plan of this digest as it was made, on the CPU, for what can be given no plan; None = it came by a pickle."""
    return _PLANS.get(digest)


def apart(make: Callable[..., Made], *arguments: Any) -> Made:
    """``make(*arguments)`` in a thread of its own, for what is kept.

    Inference mode, tracing, fake tensors, the transforms of torch.func: whatever the caller is in belongs to its
    thread, and what is made under it must not outlive it.
    """

    def made():
        result = make(*arguments)
        if torch.cuda.is_initialized():  # the caller may compute on another stream
            torch.cuda.synchronize()
        return result

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(made).result()


def _kept(digest: str, build: Callable[[], AttentionPlan]) -> AttentionPlan:
    """The plan of this digest, built unless it is in use or among the last used."""
    plan = _PLANS.get(digest)
    if plan is None:
        plan = _PLANS[digest] = apart(build)
    with _RECENT_LOCK:
        _RECENT[digest] = plan
        _RECENT.move_to_end(digest)
        if len(_RECENT) > _RECENT_KEPT:
            _RECENT.popitem(last=False)
    return plan


def _build(masks: list[sp.csr_array], digest: str) -> AttentionPlan:
    heads_of: OrderedDict[bytes, list[int]] = OrderedDict()
    for head, mask in enumerate(masks):
        heads_of.setdefault(content(mask), []).append(head)
    # masks whose tiles have one shape are executed together
    together: OrderedDict[tuple, list[tuple[planner.Tiles, list[int]]]] = OrderedDict()
    for heads in heads_of.values():
        for tiles in planner.find_tiles(masks[heads[0]]):
            together.setdefault((tiles.shape, bool(tiles.tile_mask.all())), []).append((tiles, heads))
    groups = []
    for members in together.values():
        pairs = sorted((head, m) for m, (_, heads) in enumerate(members) for head in heads)
        groups.append(
            TileGroup(
                heads=tuple(head for head, _ in pairs),
                mask_of_head=tuple(m for _, m in pairs),
                query_index=torch.from_numpy(np.stack([tiles.query_index for tiles, _ in members])),
                key_index=torch.from_numpy(np.stack([tiles.key_index for tiles, _ in members])),
                tile_mask=torch.from_numpy(np.stack([tiles.tile_mask for tiles, _ in members])),
            )
        )
    num_queries, num_keys = masks[0].shape
    return AttentionPlan(len(masks), num_queries, num_keys, tuple(groups), sum(m.nnz for m in masks), digest)
