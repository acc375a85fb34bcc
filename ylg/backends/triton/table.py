"""Tile tables: a plan flattened into one int32 buffer that a single kernel launch walks through.

A plan groups tiles by shape, which suits batched matrix products; a GPU wants one list of equal pieces of work,
whatever their shape or head. A table is that list (*items*), followed in the same buffer by what items point at:
row cells, column cells and the masks, one bit per score. One bit, because at large grids and small batches byte
masks would be the largest thing that is read. Built once per plan, on the host, with numpy.

Read next: kernels.py, which walks tables, and operators.py, which keeps them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ylg.plan import AttentionPlan

ITEM_FIELDS = 8  # head, rows, row_start, columns, column_start, word_start, words_per_row, slot
MERGE_FIELDS = 5  # head, rows, row_start, first_slot, slots
WORD_BITS = 32
BLOCK_ROWS = (16, 32)  # rows an item may have at most: one warp's worth, so that programs are many and small
MIN_PIECE = 128  # columns that are never split
ITEM_COST = 8  # starting an item, in rows


@dataclass(frozen=True)
class TileTable:
    """The work of one plan, cut into items of at most ``block_rows`` rows (queries; keys in a transposed plan).

    Items whose columns were split write partial sums to ``num_slots`` slots, which ``num_merges`` merges then add up
    in a fixed order, so that results do not depend on which program finishes first.
    """

    buffer: Tensor  # int32: items, merges, then row cells, column cells, mask words; starts count from its beginning
    num_items: int
    num_merges: int
    num_slots: int
    block_rows: int
    max_columns: int
    covers_all_rows: bool  # False: some rows are in no tile (keys that no query attends to) and stay zero


def tile_table(plan: AttentionPlan, split_columns: bool = False) -> TileTable:
    """Flattens ``plan``; with ``split_columns``, very long tiles become several items, to be merged (sums only)."""
    block_rows = _block_rows(plan)
    items, merges, data, offset, num_slots = [], [], [], 0, 0
    covered = np.zeros((plan.num_heads, plan.num_queries), dtype=bool)
    for group in plan.to("cpu").groups:
        row_cells, column_cells, mask = (x.numpy() for x in (group.query_index, group.key_index, group.tile_mask))
        _, tiles, tile_height, tile_width = mask.shape
        words = _pack(mask)
        starts = []
        for part in (row_cells, column_cells, words):
            starts.append(offset)
            data.append(part.reshape(-1).astype(np.int32, copy=False))
            offset += data[-1].size
        for head, m in zip(group.heads, group.mask_of_head, strict=True):
            cells = row_cells[m]
            covered[head, cells[cells >= 0]] = True
            for tile in range(tiles):
                which = m * tiles + tile
                columns = _used(column_cells[m, tile])
                pieces = _pieces(columns) if split_columns else [(0, columns)]
                for row in range(0, _used(cells[tile]), block_rows):
                    rows = min(block_rows, _used(cells[tile]) - row)
                    row_start = starts[0] + which * tile_height + row
                    word_start = starts[2] + (which * tile_height + row) * words.shape[-1]
                    if len(pieces) > 1:
                        merges.append((head, rows, row_start, num_slots, len(pieces)))
                    for first, count in pieces:
                        slot = -1
                        if len(pieces) > 1:
                            slot, num_slots = num_slots, num_slots + 1
                        column_start, word = starts[1] + which * tile_width + first, word_start + first // WORD_BITS
                        items.append((head, rows, row_start, count, column_start, word, words.shape[-1], slot))
    table = np.asarray(items, dtype=np.int64).reshape(-1, ITEM_FIELDS)
    # longest first: what starts last should be short, or the device idles while it ends
    table = table[np.argsort(-table[:, 3], kind="stable")]
    table[:, [2, 4, 5]] += table.size + len(merges) * MERGE_FIELDS
    merge_table = np.asarray(merges, dtype=np.int64).reshape(-1, MERGE_FIELDS)
    merge_table[:, 2] += table.size + merge_table.size
    if table.size + merge_table.size + offset >= 2**31:
        raise ValueError(f"a plan of {plan.num_edges} edges is too large for 32-bit tile tables; use backend='tiles'")
    parts = [table.reshape(-1).astype(np.int32), merge_table.reshape(-1).astype(np.int32), *data]
    return TileTable(
        buffer=torch.from_numpy(np.concatenate(parts)).to(plan.device),
        num_items=len(items),
        num_merges=len(merges),
        num_slots=num_slots,
        block_rows=block_rows,
        max_columns=int(table[:, 3].max(initial=0)),
        covers_all_rows=bool(covered.all()),
    )


def _block_rows(plan: AttentionPlan) -> int:
    def cost(block: int) -> int:
        return sum(
            len(group.heads) * group.shape[1] * group.shape[3] * -(-group.shape[2] // block) * (block + ITEM_COST)
            for group in plan.groups
        )

    return min(BLOCK_ROWS, key=cost)


def _used(cells: np.ndarray) -> int:
    """Length without the padding at the end; padding elsewhere stays, as cell -1 with an empty mask."""
    valid = np.flatnonzero(cells >= 0)
    return int(valid[-1]) + 1 if valid.size else 0


def _pieces(columns: int) -> list[tuple[int, int]]:
    """Equal pieces (first, count) of the columns, cut at whole mask words.

    A few relay keys that every query attends to are, in the backward pass, one short block of rows with very many
    columns: left whole, a handful of programs would run long after all others have finished. Both the columns of a
    piece and the pieces to merge are walked one after the other, so their numbers grow alike, with the square root.
    """
    longest = max(MIN_PIECE, 4 * math.isqrt(columns))
    if columns <= longest:
        return [(0, columns)]
    size = -(-columns // (-(-columns // longest) * WORD_BITS)) * WORD_BITS
    return [(first, min(size, columns - first)) for first in range(0, columns, size)]


def _pack(mask: np.ndarray) -> np.ndarray:
    """Bool [..., columns] to int32 words [..., ceil(columns / 32)], column 0 in the lowest bit."""
    padding = -mask.shape[-1] % WORD_BITS
    padded = np.pad(mask, [(0, 0)] * (mask.ndim - 1) + [(0, padding)])
    octets = np.packbits(padded, axis=-1, bitorder="little")
    return np.ascontiguousarray(octets).view("<i4")
