"""The planner: one sparse mask in, a few shapes of small dense tiles out.

A tile is a set of queries that load one common list of keys and mask inside it. Which queries share a tile is
found from the mask itself, never from a pattern's name:

1. rows with the same keys are one *class* (a pooled alignment makes four queries of every mask row);
2. classes are put in an order that keeps overlapping rows together: reverse Cuthill-McKee on the bipartite graph
   of classes and keys (hubs, such as relays or a class token, are set aside because they connect everything), or
   Morton order on the grid of their keys, for neighbourhoods;
3. that order is cut into tiles of least cost (scores computed, keys gathered, tiles started), by dynamic programming
   and, since tiles of one shape run together, also evenly;
4. tiles of similar shape are padded into one group, as long as padding costs less than another group.

Everything works on index lists; nothing of size [queries, keys] is ever made. Read next: plan.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import reverse_cuthill_mckee

from ylg.orders import ORDERS

# The cost model counts in scores: one (query, key) entry costs 1.
KEY_COST = 32  # gathering one key and its value, and scattering their gradients: 16 to 32 by processor and channels
TILE_COST = 128  # starting one tile: a small matrix product, a GPU program
GROUP_COST = 8192  # starting one group: a round of operator calls
MAX_CLASSES = 256  # classes a tile may hold; bounds the dynamic programming


@dataclass(frozen=True)
class Tiles:
    """Tiles of one shape, of one mask; -1 and False are padding."""

    query_index: np.ndarray  # int32 [tiles, T]
    key_index: np.ndarray  # int32 [tiles, L]
    tile_mask: np.ndarray  # bool [tiles, T, L]

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.tile_mask.shape


def tile_cost(queries, keys):
    """Cost of a tile, in scores; sizes count as multiples of 8 since every machine computes in such steps."""
    return (-(-queries // 8) * 8) * (-(-keys // 8) * 8) + KEY_COST * keys + TILE_COST


def find_tiles(mask: sp.csr_array) -> list[Tiles]:
    """The cheapest tiles found for one mask.

    Args:
        mask: bool ``[queries, keys]`` in canonical form (sorted, no duplicates, no stored False). Rows may be empty:
            those queries are in no tile.
    Returns:
        Tiles by shape. Every non-empty row lies in exactly one tile.
    """
    class_of_row, classes = _row_classes(mask)
    weight = np.bincount(class_of_row[class_of_row >= 0], minlength=classes.shape[0])
    # No plan can compute fewer scores, or gather fewer keys, than this; an order that comes close ends the search.
    bound = int((weight * np.diff(classes.indptr)).sum() + KEY_COST * np.unique(classes.indices).size)
    best_cost, best = np.inf, None
    for order in _class_orders(classes):
        for cuts, shapes in _cuts(classes[order], weight[order]):
            group_of_tile, cost = _group_shapes(shapes)
            if cost < best_cost:
                best_cost, best = cost, (order, cuts, group_of_tile)
        if best_cost < 2 * bound:
            break
    order, cuts, group_of_tile = best
    return _materialise(classes, class_of_row, order, cuts, group_of_tile)


def _row_classes(mask: sp.csr_array) -> tuple[np.ndarray, sp.csr_array]:
    """Class of every row (-1 for an empty row), and one row per class."""
    lengths = np.diff(mask.indptr)
    rows = np.flatnonzero(lengths)
    code = np.random.default_rng(0).integers(1, 2**63, size=mask.shape[1], dtype=np.uint64)
    signature = np.add.reduceat(code[mask.indices], mask.indptr[rows])
    _, first, inverse = np.unique(signature, return_index=True, return_inverse=True)
    # Classes in order of first appearance, so that an already good order of rows survives.
    rank = np.argsort(np.argsort(first))
    class_of_row = np.full(mask.shape[0], -1, dtype=np.int64)
    class_of_row[rows] = rank[inverse]
    classes = mask[rows[np.sort(first)]]
    # Signatures are sums of random 63-bit codes: equal sums of different rows are not to be expected, yet a wrong
    # mask would be a wrong result, so compare.
    repeated = classes[class_of_row[rows]]
    assert np.array_equal(repeated.indices, mask.indices), "two different mask rows have one signature"
    return class_of_row, classes


def _class_orders(classes: sp.csr_array) -> Iterator[np.ndarray]:
    """Candidate orders of the classes, the most promising first."""
    count, num_keys = classes.shape
    if count <= 2:
        yield np.arange(count)
        return
    # hubs, which connect everything: keys that nearly every row attends to, rows that attend to nearly every key
    key_degree, row_degree = np.bincount(classes.indices, minlength=num_keys), np.diff(classes.indptr)
    hub_key = key_degree > max(2, 4 * np.median(key_degree[key_degree > 0]))
    hub_row = row_degree > max(2, 4 * np.median(row_degree))
    yield _band_order(classes, ~hub_row, ~hub_key)
    yield np.arange(count)
    yield _morton_order(classes)
    if hub_key.any() or hub_row.any():
        yield _band_order(classes, np.ones(count, dtype=bool), np.ones(num_keys, dtype=bool))


def _band_order(classes: sp.csr_array, rows: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Order in which classes with common keys (among those to use) come close together; other rows come last."""
    use = np.flatnonzero(rows)
    part = classes[use][:, np.flatnonzero(keys)].astype(np.int8)
    graph = sp.block_array([[None, part], [part.T, None]], format="csr")
    found = reverse_cuthill_mckee(sp.csr_matrix(graph), symmetric_mode=True)
    return np.concatenate([use[found[found < use.size]], np.flatnonzero(~rows)])


def _morton_order(classes: sp.csr_array) -> np.ndarray:
    """Order along a Z over the grid of the keys, whose runs are blocks of 2x2, 2x4, 4x4, ... cells to choose from.

    Neighbours on both axes share keys, which no band shows. A class lies where its middle key does, and the grid is as
    wide as runs of neighbouring keys most often begin apart.
    """
    first = classes.indices[np.diff(classes.indices, prepend=-1) != 1]
    width = 1 + int(np.bincount(np.diff(first).clip(0), minlength=2)[1:].argmax())
    rank = np.argsort(ORDERS["morton"](-(-classes.shape[1] // width), width))
    middle = classes.indices[(classes.indptr[:-1] + classes.indptr[1:]) // 2]
    return np.argsort(rank[middle], kind="stable")


def _cuts(classes: sp.csr_array, weight: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Ways to cut the ordered classes into tiles: ends of the tiles, and queries and keys of each [tiles, 2].

    Even cuts, and the best cuts for several guesses of what a tile costs: the padding that cuts cause, when tiles of
    different shapes are then grouped, is known only afterwards.
    """
    count = classes.shape[0]
    longest = min(count, MAX_CLASSES)
    keys = _distinct_keys(classes, longest)
    before = np.concatenate([[0], weight.cumsum()])
    end, length = np.arange(1, count + 1)[:, None], np.arange(1, longest + 1)[None, :]
    queries = before[end] - before[np.maximum(end - length, 0)]
    cost = tile_cost(queries, keys).astype(np.float32)

    found = []
    for size in 2 ** np.arange(longest.bit_length()):
        found.append(np.append(np.arange(size, count, size), count))
    for extra in (0, 7 * TILE_COST, 63 * TILE_COST):
        cuts = _least_cost_cuts(cost, extra)
        if not any(np.array_equal(cuts, other) for other in found):
            found.append(cuts)
    for cuts in found:
        lengths = np.diff(cuts, prepend=0)
        yield cuts, np.stack([queries[cuts - 1, lengths - 1], keys[cuts - 1, lengths - 1]], axis=1)


def _distinct_keys(classes: sp.csr_array, longest: int) -> np.ndarray:
    """How many distinct keys the rows e - d ... e use together, at [e, d], for every e and every d < ``longest``."""
    count = classes.shape[0]
    by_key = classes.tocsc()
    row = by_key.indices
    gap = np.diff(row, prepend=0)  # rows since the same key was last used
    gap[by_key.indptr[:-1][np.diff(by_key.indptr) > 0]] = longest
    np.minimum(gap, longest, out=gap)
    histogram = np.bincount(row.astype(np.int64) * (longest + 1) + gap, minlength=count * (longest + 1))
    histogram = histogram.reshape(count, longest + 1).astype(np.int32)
    # fresh[d, r]: keys of row r that none of the d rows before it uses
    fresh = np.ascontiguousarray(histogram[:, :0:-1].cumsum(axis=1, dtype=np.int32)[:, ::-1].T)
    keys = np.zeros((longest, count), dtype=np.int32)
    running = np.zeros(count, dtype=np.int32)  # by the first row of the run, whose last row is d further on
    for d in range(longest):
        running[: count - d] += fresh[d, d:]
        keys[d, d:] = running[: count - d]
    return np.ascontiguousarray(keys.T)


def _least_cost_cuts(cost: np.ndarray, extra: int) -> np.ndarray:
    """Ends of the tiles that cost least in all, where the run of d + 1 rows that ends with row e costs [e, d]."""
    count, longest = cost.shape
    # best is kept backwards: best[count - e] is the least cost of the first e rows
    best, step = np.full(count + 1, np.inf), np.zeros(count + 1, dtype=np.int64)
    best[count] = 0
    for e in range(1, count + 1):
        top = min(e, longest)
        total = best[count - e + 1 : count - e + 1 + top] + cost[e - 1, :top]
        step[e] = total.argmin() + 1
        best[count - e] = total[step[e] - 1] + extra
    cuts = [count]
    while (start := cuts[-1] - step[cuts[-1]]) > 0:
        cuts.append(start)
    return np.array(cuts[::-1])


def _group_shapes(shapes: np.ndarray) -> tuple[np.ndarray, float]:
    """Which tiles are padded to one shape, and what the whole then costs."""
    distinct, inverse, counts = np.unique(shapes, axis=0, return_inverse=True, return_counts=True)
    inverse = inverse.reshape(-1)
    if len(distinct) > 32:  # too many pairs to try: merge what lies within a quarter of a power of two first
        scale = 2.0 ** (np.floor(np.log2(distinct)) - 2).clip(0)
        _, parent = np.unique(np.ceil(distinct / scale), axis=0, return_inverse=True)
        parent = parent.reshape(-1)
        inverse, counts = parent[inverse], np.bincount(parent, weights=counts).astype(np.int64)
        distinct = np.array([distinct[parent == p].max(axis=0) for p in range(parent.max() + 1)])
    groups = [([i], distinct[i], counts[i]) for i in range(len(distinct))]

    def price(shape, tiles):
        return GROUP_COST + tiles * tile_cost(shape[0], shape[1])

    while len(groups) > 1:
        best_gain, pair = 0, None
        for i in range(len(groups)):
            for j in range(i):
                shape = np.maximum(groups[i][1], groups[j][1])
                gain = price(*groups[i][1:]) + price(*groups[j][1:]) - price(shape, groups[i][2] + groups[j][2])
                if gain > best_gain:
                    best_gain, pair = gain, (i, j)
        if pair is None:
            break
        i, j = pair
        merged = (groups[i][0] + groups[j][0], np.maximum(groups[i][1], groups[j][1]), groups[i][2] + groups[j][2])
        groups = [g for k, g in enumerate(groups) if k not in pair] + [merged]
    group_of_shape = np.empty(len(distinct), dtype=np.int64)
    for number, (members, _, _) in enumerate(groups):
        group_of_shape[members] = number
    return group_of_shape[inverse], float(sum(price(shape, tiles) for _, shape, tiles in groups))


def _materialise(classes, class_of_row, order, cuts, group_of_tile) -> list[Tiles]:
    starts = np.concatenate([[0], cuts[:-1]])
    tile_of_class = np.empty(order.size, dtype=np.int64)
    tile_of_class[order] = np.repeat(np.arange(cuts.size), cuts - starts)
    place_of_class = np.empty(order.size, dtype=np.int64)
    place_of_class[order] = np.arange(order.size) - np.repeat(starts, cuts - starts)

    rows = np.flatnonzero(class_of_row >= 0)
    row_tile = tile_of_class[class_of_row[rows]]
    by_tile = np.argsort(row_tile, kind="stable")
    rows, row_tile = rows[by_tile], row_tile[by_tile]
    row_slot = _position_within(row_tile, cuts.size)
    first_row = rows[np.searchsorted(row_tile, np.arange(cuts.size))]

    num_keys = classes.shape[1]
    entry_class = np.repeat(np.arange(order.size), np.diff(classes.indptr))
    entry_pair = tile_of_class[entry_class] * num_keys + classes.indices
    pairs = np.unique(entry_pair)
    key_tile, keys = pairs // num_keys, pairs % num_keys
    key_slot = _position_within(key_tile, cuts.size)
    entry_slot = key_slot[np.searchsorted(pairs, entry_pair)]

    found = []
    for group in range(group_of_tile.max() + 1):
        members = np.flatnonzero(group_of_tile == group)
        members = members[first_row[members].argsort()]  # as rows lie in memory, which are then gathered in long runs
        local = np.full(cuts.size, -1)
        local[members] = np.arange(members.size)
        r, k = local[row_tile] >= 0, local[key_tile] >= 0
        query_index = np.full((members.size, row_slot[r].max() + 1), -1, dtype=np.int32)
        query_index[local[row_tile[r]], row_slot[r]] = rows[r]
        width = int(key_slot[k].max()) + 1
        if width > 8:  # whole vectors
            width = -(-width // 8) * 8
        key_index = np.full((members.size, min(width, max(num_keys, 8))), -1, dtype=np.int32)
        key_index[local[key_tile[k]], key_slot[k]] = keys[k]
        # one mask row per class first, then copied to the queries of the class; the extra last row is padding
        e = local[tile_of_class[entry_class]] >= 0
        most = int((cuts - starts)[members].max())
        class_mask = np.zeros((members.size, most + 1, key_index.shape[1]), dtype=bool)
        class_mask[local[tile_of_class[entry_class[e]]], place_of_class[entry_class[e]], entry_slot[e]] = True
        place = np.full(query_index.shape, most)
        place[local[row_tile[r]], row_slot[r]] = place_of_class[class_of_row[rows[r]]]
        found.append(Tiles(query_index, key_index, class_mask[np.arange(members.size)[:, None], place]))
    return found


def _position_within(sorted_group: np.ndarray, groups: int) -> np.ndarray:
    """0, 1, 2, ... within every run of an ascending array of group numbers."""
    start = np.searchsorted(sorted_group, np.arange(groups))
    return np.arange(sorted_group.size) - start[sorted_group]
