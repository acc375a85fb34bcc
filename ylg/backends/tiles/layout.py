"""A plan as flat indices: where each tile's queries and keys lie in memory, and the way back.

Made once a plan and device, and kept with the plan. attention.py computes with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from ylg.plan import AttentionPlan, TileGroup, apart

CHUNK = 2**18  # scores computed at a time, so that they stay in a core's cache


class Rows:
    """Rows of ``[batch, rows, dim]`` by index; those that lie together in memory are copied together.

    Queries that share a pooled key come in pairs at least, blocks of cells in longer runs: 0.90 to 0.97 of the time of
    forward and backward. Where all follow each other (windows of cells enumerated window by window, the blocks of
    butterfly's first step in raster order) they are a view, and nothing is gathered.
    """

    def __init__(self, index: Tensor, rows: int):
        self.run = 1
        while rows % 2 == index.numel() % 2 == 0:
            even, odd = index[::2], index[1::2]
            if (even % 2).any() or not torch.equal(even + 1, odd):
                break
            index, rows, self.run = even // 2, rows // 2, 2 * self.run
        self._first = index  # of each run, in runs
        self._start = int(index[0]) * self.run if (index.diff() == 1).all() else None

    @cached_property
    def index(self) -> Tensor:
        """Every row's, again: int64."""
        return self._first if self.run == 1 else apart(self._find_index)

    def _find_index(self) -> Tensor:
        return (self._first[:, None] * self.run + torch.arange(self.run, device=self._first.device)).flatten()

    def of(self, x: Tensor) -> Tensor:
        if self._start is not None:
            return x.narrow(1, self._start, self._first.numel() * self.run)
        if torch.compiler.is_compiling():  # a graph has its own ways to gather, and is slow to prove sizes of runs
            return x.index_select(1, self.index)
        runs = x.unflatten(1, (-1, self.run)).flatten(2)
        return runs.index_select(1, self._first).unflatten(2, (self.run, -1)).flatten(1, 2)


class Piece:
    """Some tiles of one shape, as indices into ``[batch, heads * cells, dim]``; ``n`` is batch * heads * tiles."""

    def __init__(self, group: TileGroup, num_queries: int, num_keys: int, query_slot: int, key_slot: int):
        masks, self.tiles, self.T, self.L = group.shape
        self.heads = len(group.heads)
        self.num_query_slots, self.num_key_slots = self.heads * self.tiles * self.T, self.heads * self.tiles * self.L
        self.num_scores = self.num_query_slots * self.L  # per batch element
        self.query_slots = slice(query_slot, query_slot + self.num_query_slots)
        self.key_slots = slice(key_slot, key_slot + self.num_key_slots)

        which = torch.tensor(group.mask_of_head, device=group.tile_mask.device)
        head = torch.tensor(group.heads, device=group.tile_mask.device)[:, None, None]
        query, key = group.query_index.long()[which], group.key_index.long()[which]  # [heads, tiles, T or L]
        self.query_is_real, self.key_is_real = query.flatten() >= 0, key.flatten() >= 0
        self._query_rows, self._key_rows = (
            Rows((head * cells + cell.clamp(min=0)).flatten(), cells)
            for cells, cell in ((num_queries, query), (num_keys, key))
        )
        self._mask, self._which, self._num_keys = group.tile_mask, which, num_keys
        self._bias = self._valid = None
        if not group.full:
            padded = group.query_index < 0
            # a padding query may attend to everything: its numbers are finite, and cleared below
            allowed = (group.tile_mask | padded[..., None]).mT
            bias = torch.zeros(allowed.shape, device=which.device).masked_fill_(~allowed, -math.inf)
            share = self.heads // masks
            if group.mask_of_head == tuple(m for m in range(masks) for _ in range(share)):
                self._bias = bias[:, None]  # [masks, 1, tiles, L, T]: equal heads share one copy
            else:
                self._bias = bias[which][:, None]
            if padded.any():
                self._valid = (~padded)[which].view(-1, 1, self.T)

    @property
    def query_row(self) -> Tensor:
        return self._query_rows.index

    @property
    def key_row(self) -> Tensor:
        return self._key_rows.index

    def queries(self, rows: Tensor) -> Tensor:
        """[batch, heads * queries, dim] -> [n, T, dim]"""
        return self._query_rows.of(rows).reshape(-1, self.T, rows.shape[-1])

    def keys(self, rows: Tensor) -> Tensor:
        """[batch, heads * keys, dim] -> [n, L, dim]"""
        return self._key_rows.of(rows).reshape(-1, self.L, rows.shape[-1])

    def mask_(self, scores: Tensor, finite: bool = True) -> Tensor:
        """-inf wherever a query may not attend; unless ``finite``, whatever stood there before."""
        if self._bias is not None:
            if finite:
                self._by_mask(scores).add_(self._bias)
            else:
                self._by_mask(scores).masked_fill_(self._bias < 0, -math.inf)
        return scores

    def clear_(self, weights: Tensor, finite: bool = True) -> Tensor:
        """0 for padding queries; unless ``finite``, also wherever a query may not attend."""
        if self._valid is not None:
            weights.view(-1, self.heads * self.tiles, self.L, self.T).masked_fill_(~self._valid, 0)
        if self._bias is not None and not finite:
            self._by_mask(weights).masked_fill_(self._bias < 0, 0)
        return weights

    def _by_mask(self, scores: Tensor) -> Tensor:
        first = self._bias.shape[0]
        return scores.view(-1, first, self.heads // first, self.tiles, self.L, self.T)

    @staticmethod
    def put_(slots: Tensor, tiles: Tensor) -> None:
        """Writes [n, rows, dim] into this piece's part [batch, slots, dim] of a larger array."""
        slots.unflatten(1, (-1, tiles.shape[1])).copy_(tiles.unflatten(0, (slots.shape[0], -1)))

    @cached_property
    def edges(self) -> tuple[Tensor, Tensor]:
        """Of every edge, its places in this piece's scores of one batch element and in ``[heads, queries, keys]``."""
        return apart(self._find_edges)

    def _find_edges(self) -> tuple[Tensor, Tensor]:
        head, tile, t, k = self._mask[self._which].nonzero(as_tuple=True)
        tile = head * self.tiles + tile
        slot = (tile * self.L + k) * self.T + t
        key = self.key_row[tile * self.L + k] % self._num_keys
        return slot, self.query_row[tile * self.T + t] * self._num_keys + key

    def edge_places(self, plan: AttentionPlan) -> tuple[Tensor, Tensor, Tensor]:
        """Of every edge, its head, query and key."""
        _, cell = self.edges
        row = cell // plan.num_keys
        return row // plan.num_queries, row % plan.num_queries, cell % plan.num_keys


class TileLayout:
    """A plan as flat indices, and the way back from tiles to cells."""

    def __init__(self, plan: AttentionPlan):
        num_heads, num_queries, num_keys = plan.sizes
        self.pieces: list[Piece] = []
        self.query_slots = self.key_slots = 0
        for group in plan.groups:
            for part in _split(group):
                self.pieces.append(Piece(part, num_queries, num_keys, self.query_slots, self.key_slots))
                self.query_slots += self.pieces[-1].num_query_slots
                self.key_slots += self.pieces[-1].num_key_slots
        row = torch.cat([piece.query_row for piece in self.pieces])
        slots = torch.cat([piece.query_is_real for piece in self.pieces]).nonzero().squeeze(1)
        slot_of_query = row.new_empty(num_heads * num_queries)
        slot_of_query[row[slots]] = slots
        self._query_slots = Rows(slot_of_query, self.query_slots)
        row = torch.cat([piece.key_row for piece in self.pieces])
        slots = torch.cat([piece.key_is_real for piece in self.pieces]).nonzero().squeeze(1)
        self._slots_by_key = slots[row[slots].argsort(stable=True)]
        counts = torch.bincount(row[slots], minlength=num_heads * num_keys)
        self._first_of_key = counts.cumsum(0) - counts

    def make_ready(self) -> None:
        """Makes everything that is made when it is first used."""
        for rows in (self._query_slots, *(x for piece in self.pieces for x in (piece._query_rows, piece._key_rows))):
            _ = rows.index
        for piece in self.pieces:
            _ = piece.edges

    def chunks(self, batch: int) -> Iterator[tuple[Piece, slice]]:
        """Pieces and parts of the batch, of about CHUNK scores each."""
        for piece in self.pieces:
            step = max(1, CHUNK // piece.num_scores)
            for start in range(0, batch, step):
                yield piece, slice(start, min(start + step, batch))

    def to_queries(self, tiles: Tensor) -> Tensor:
        """[batch, query slots, dim] -> [batch, heads * queries, dim]"""
        return self._query_slots.of(tiles)

    def to_keys(self, tiles: Tensor) -> Tensor:
        """[batch, key slots, dim] -> [batch, heads * keys, dim], summed over the slots of each key"""
        batch, _, dim = tiles.shape
        counted = self._first_of_key.numel()
        number = torch.arange(batch, device=tiles.device)[:, None]
        slots = (self._slots_by_key + number * self.key_slots).flatten()
        first = (self._first_of_key + number * self._slots_by_key.numel()).flatten()
        return F.embedding_bag(slots, tiles.view(-1, dim), first, mode="sum").view(batch, counted, dim)


def _split(group: TileGroup) -> Iterator[TileGroup]:
    """The group itself, or parts of at most CHUNK scores: fewer heads, then fewer tiles, then fewer queries each."""
    order = sorted(range(len(group.heads)), key=lambda i: group.mask_of_head[i])
    _, tiles, T, L = group.shape
    queries = max(1, min(T, CHUNK // L))
    tiles_each = max(1, min(tiles, CHUNK // (queries * L)))
    heads_each = max(1, CHUNK // (tiles_each * queries * L))
    for h in range(0, len(order), heads_each):
        some = order[h : h + heads_each]
        masks = sorted({group.mask_of_head[i] for i in some})
        for start in range(0, tiles, tiles_each):
            for top in range(0, T, queries):
                part = (masks, slice(start, start + tiles_each))
                yield TileGroup(
                    heads=tuple(group.heads[i] for i in some),
                    mask_of_head=tuple(masks.index(group.mask_of_head[i]) for i in some),
                    query_index=group.query_index[part][..., top : top + queries],
                    key_index=group.key_index[part],
                    tile_mask=group.tile_mask[part][:, :, top : top + queries],
                )


def tile_layout(plan: AttentionPlan) -> TileLayout:
    """The layout of a plan, made once."""
    return plan.derived(TileLayout, TileLayout)
