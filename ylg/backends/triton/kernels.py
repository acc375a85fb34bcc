"""Triton kernels: sparse attention over a tile table, forward and backward. Kernels only; operators.py launches them.

Every program takes one item of the table (at most BLOCK_ROWS rows of one head, and the columns they share) of one
batch element, and reads cells in place through the table, with any strides: nothing is permuted, padded or copied.
Not several images a program: what they would share, cells and mask words, is a few hundred bytes that the cache holds
for the next program, while the rows of a second image find no registers (key_value_gradient uses 205 of 255).

- forward:        rows are queries, columns keys. One pass with an online softmax; saves of each row the largest score
  and 1 / the sum (not the log of the sum, whose rounding grows with the scores).
- query_gradient: the same items. Recomputes the probabilities; also stores delta = <d out, out> per query.
- key_value_gradient: items of the transposed plan: rows are keys, columns queries, so d keys and d values are
  gathered, never scattered: no atomics, and the same bits every time.
- merge: adds up, in a fixed order, the partial sums of items that were split along their columns.

Scores are [rows, columns] for 16-bit inputs, whose products run on tensor cores, and [columns, rows] for wider ones
(ROWS_LAST), whose products run on ordinary units: there Triton gives each thread whole rows, and softmax needs no
exchange between threads (a third fewer instructions in the forward kernel, by benchmarks/kernel_report.py).

What is not finite in a key or a value reaches only those who may attend to it: weights are 0 elsewhere, and products
skip what is not finite (0 * inf is NaN).

Softmax runs in base 2 (exp2 is the hardware's instruction): scale * log2(e) is folded into the scores. Sums are kept
in ACC: float32, or float64 for float64. Products of float32 are IEEE float32, never TF32.
"""

import triton
import triton.language as tl

from ylg.backends.triton import table as tables

ITEM_FIELDS, MERGE_FIELDS = tl.constexpr(tables.ITEM_FIELDS), tl.constexpr(tables.MERGE_FIELDS)


@triton.jit
def matrix_product(x, y, total, ACC: tl.constexpr):
    """total + x @ y, x rounded to y's type as in any mixed-precision attention."""
    x = x.to(y.dtype)
    if INTERPRETED:  # numpy has no bfloat16: its bits would be multiplied as integers; float32 products are exact here
        x, y = x.to(ACC), y.to(ACC)
    if BEFORE_3_5 and x.dtype == tl.float64:  # its tl.dot knows no float64
        return total + tl.sum(x[:, :, None] * y[None, :, :], 1)
    else:
        return tl.dot(x, y, total, input_precision="ieee", out_dtype=ACC)


@triton.jit
def only_finite(x, ACC: tl.constexpr):
    """0 for inf and NaN. A row that may attend to one of those in a key is NaN by its weights."""
    return tl.where(tl.abs(x.to(ACC)) < float("inf"), x, tl.zeros_like(x))


@triton.jit
def weighted_sum(weights, x, total, ACC: tl.constexpr):
    """total + weights @ x; what is not finite in x reaches only rows whose weight for it is above 0."""
    total = matrix_product(weights, only_finite(x, ACC), total, ACC)
    seen = x.to(ACC)
    if tl.max(tl.max(tl.where(tl.abs(seen) < float("inf"), 0, 1), 1), 0) > 0:
        for sign in tl.static_range(-1, 2, 2):  # NaN counts as both, and inf - inf is NaN
            marked = tl.where(sign * seen < float("inf"), 0.0, 1.0).to(x.dtype)
            reached = matrix_product(weights, marked, tl.zeros_like(total), ACC) > 0
            total += tl.where(reached, sign * float("inf"), 0.0)
    return total


BEFORE_3_5 = tl.constexpr(tuple(map(int, triton.__version__.split(".")[:2])) < (3, 5))  # torch before 2.9
INTERPRETED = tl.constexpr(not isinstance(matrix_product, triton.runtime.JITFunction))


@triton.jit
def inner_products(
    x, y, y_cells, y_valid, y_stride, y_dim_stride,
    DIM: tl.constexpr, PADDED_DIM: tl.constexpr, ALIGNED: tl.constexpr, ACC: tl.constexpr, ROWS_LAST: tl.constexpr,
):  # fmt: skip
    """Scores: <x of a row, y at a column's cell>; x is [rows, channels], read before the loop over columns."""
    if ROWS_LAST and DIM < 16:
        # tl.dot sums over at least 16 channels: at SAGAN's 2, 4 and 8 most of its work would multiply zeros
        products = tl.zeros((y_cells.shape[0], x.shape[0]), ACC)
        for d in tl.static_range(DIM):
            y_d = tl.load(y + y_cells * y_stride + d * y_dim_stride, mask=y_valid, other=0).to(ACC)
            products += y_d[:, None] * channel(x, d, ACC)[None, :]
        return products
    x = widened(x)
    y_tile = widened(load_cells(y, y_cells, y_valid, y_stride, y_dim_stride, DIM, PADDED_DIM, ALIGNED))
    if ROWS_LAST:
        return matrix_product(y_tile, tl.trans(x), tl.zeros((y_cells.shape[0], x.shape[0]), ACC), ACC)
    else:
        return matrix_product(x, tl.trans(y_tile), tl.zeros((x.shape[0], y_cells.shape[0]), ACC), ACC)


@triton.jit
def channel(tile, d: tl.constexpr, ACC: tl.constexpr):
    """One channel of [cells, channels]. Read as vectors, the channels of a cell lie in one thread or two."""
    return tl.sum(tl.where((tl.arange(0, tile.shape[1]) == d)[None, :], tile.to(ACC), 0), 1)


@triton.jit
def widened(tile):
    """Zeros between the channels until there are 16. Inner products do not ask in which order channels come."""
    for _ in tl.static_range(4):
        if tile.shape[1] < 16:
            tile = tl.join(tile, tl.zeros_like(tile)).reshape(tile.shape[0], 2 * tile.shape[1])
    return tile


@triton.jit
def along_rows(x, ROWS_LAST: tl.constexpr):
    """One value a row, shaped to meet scores."""
    if ROWS_LAST:
        return x[None, :]
    else:
        return x[:, None]


@triton.jit
def along_columns(x, ROWS_LAST: tl.constexpr):
    """One value a column, shaped to meet scores."""
    return along_rows(x, not ROWS_LAST)


@triton.jit
def rows_first(scores, ROWS_LAST: tl.constexpr):
    """Scores as [rows, columns]."""
    if ROWS_LAST:
        return tl.trans(scores)
    else:
        return scores


@triton.jit
def cell_pointers(
    x, cells, valid, stride, dim_stride, DIM: tl.constexpr, PADDED_DIM: tl.constexpr, ALIGNED: tl.constexpr
):  # fmt: skip
    """Where the channels of cells lie, [cells, PADDED_DIM], and which of them exist.

    Those of one cell begin at a multiple of ALIGNED bytes, so that they are read as vectors.
    """
    d = tl.arange(0, PADDED_DIM)
    at = tl.multiple_of(x + cells[:, None] * stride + d[None, :] * dim_stride, (1, ALIGNED))
    return at, valid[:, None] & (d < DIM)[None, :]


@triton.jit
def load_cells(
    x, cells, valid, stride, dim_stride, DIM: tl.constexpr, PADDED_DIM: tl.constexpr, ALIGNED: tl.constexpr = 1
):  # fmt: skip
    """[cells, PADDED_DIM]; zeros beyond DIM and where not ``valid``."""
    at, mask = cell_pointers(x, cells, valid, stride, dim_stride, DIM, PADDED_DIM, ALIGNED)
    return tl.load(at, mask=mask, other=0)


@triton.jit
def store_cells(
    x, cells, valid, stride, dim_stride, tile,
    DIM: tl.constexpr, PADDED_DIM: tl.constexpr, ALIGNED: tl.constexpr = 1,
):  # fmt: skip
    at, mask = cell_pointers(x, cells, valid, stride, dim_stride, DIM, PADDED_DIM, ALIGNED)
    tl.store(at, tile.to(x.dtype.element_ty), mask=mask)


@triton.jit
def load_item(table, item):
    """head, rows, row_start, columns, column_start, word_start, words_per_row, slot (see table.py)."""
    at = table + item * ITEM_FIELDS
    return (
        tl.load(at), tl.load(at + 1), tl.load(at + 2), tl.load(at + 3),
        tl.load(at + 4), tl.load(at + 5), tl.load(at + 6), tl.load(at + 7),
    )  # fmt: skip


@triton.jit
def load_index(table, start, count, BLOCK: tl.constexpr):
    """BLOCK cells from ``start``, and which of them are cells; the others (padding) read as cell 0."""
    i = tl.arange(0, BLOCK)
    cells = tl.load(table + start + i, mask=i < count, other=-1)
    return tl.maximum(cells, 0), cells >= 0


@triton.jit
def load_mask(
    table, word_start, words_per_row, first, rows,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr, ROWS_LAST: tl.constexpr,
):  # fmt: skip
    """Bool, shaped like scores, for the columns from ``first`` on: bits of one word a row (32 >= BLOCK_COLUMNS)."""
    i = tl.arange(0, BLOCK_ROWS)
    words = tl.load(table + word_start + i * words_per_row + first // 32, mask=i < rows, other=0)
    bit = first % 32 + tl.arange(0, BLOCK_COLUMNS)
    return ((along_rows(words, ROWS_LAST) >> along_columns(bit, ROWS_LAST)) & 1) != 0


@triton.jit
def scored_columns(
    x, y, table, first, rows, columns, column_start, word_start, words_per_row, scale, y_stride, y_dim_stride,
    DIM: tl.constexpr, PADDED_DIM: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
    ALIGNED: tl.constexpr, ACC: tl.constexpr, ROWS_LAST: tl.constexpr,
):  # fmt: skip
    """An item's columns from ``first`` on: their cells, which of those exist, which rows may meet them, and scores.

    The same in every kernel, so that backward rounds scores as forward did.
    """
    cells, valid = load_index(table, column_start + first, columns - first, BLOCK_COLUMNS)
    scores = inner_products(x, y, cells, valid, y_stride, y_dim_stride, DIM, PADDED_DIM, ALIGNED, ACC, ROWS_LAST)
    allowed = load_mask(table, word_start, words_per_row, first, rows, BLOCK_ROWS, BLOCK_COLUMNS, ROWS_LAST)
    return cells, valid, allowed, tl.where(allowed, scores * scale, float("-inf"))


@triton.jit
def probabilities_of(scores, allowed, highest, share, ROWS_LAST: tl.constexpr):
    """The forward pass's probabilities again."""
    weights = tl.exp2(scores - along_rows(highest, ROWS_LAST)) * along_rows(share, ROWS_LAST)
    return tl.where(allowed, weights, 0.0)


@triton.jit
def forward(
    queries, keys, values, out, softmax, table,
    q_batch, q_head, q_cell, q_dim,
    k_batch, k_head, k_cell, k_dim,
    v_batch, v_head, v_cell, v_dim,
    o_batch, o_head, o_cell, o_dim,
    num_items, num_heads, num_queries, scale: tl.float64,
    DIM_QK: tl.constexpr, DIM_V: tl.constexpr, PADDED_QK: tl.constexpr, PADDED_V: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr, ONE_BLOCK: tl.constexpr,
    ALIGNED: tl.constexpr, ACC: tl.constexpr, ROWS_LAST: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    batch = (program // num_items).to(tl.int64)
    head, rows, row_start, columns, column_start, word_start, words_per_row, _ = load_item(table, program % num_items)
    queries += batch * q_batch + head.to(tl.int64) * q_head
    keys += batch * k_batch + head.to(tl.int64) * k_head
    values += batch * v_batch + head.to(tl.int64) * v_head
    out += batch * o_batch + head.to(tl.int64) * o_head
    softmax += (batch * num_heads + head) * num_queries * 2
    q_cells, q_valid = load_index(table, row_start, rows, BLOCK_ROWS)
    q_tile = load_cells(queries, q_cells, q_valid, q_cell, q_dim, DIM_QK, PADDED_QK, ALIGNED)
    scale = tl.full((), scale, ACC)

    highest = tl.full((BLOCK_ROWS,), float("-inf"), ACC)
    total = tl.zeros((BLOCK_ROWS,), ACC)
    mixed = tl.zeros((BLOCK_ROWS, PADDED_V), ACC)
    for first in range(0, BLOCK_COLUMNS if ONE_BLOCK else columns, BLOCK_COLUMNS):
        k_cells, k_valid, _allowed, scores = scored_columns(
            q_tile, keys, table, first, rows, columns, column_start, word_start, words_per_row, scale, k_cell, k_dim,
            DIM_QK, PADDED_QK, BLOCK_ROWS, BLOCK_COLUMNS, ALIGNED, ACC, ROWS_LAST,
        )  # fmt: skip
        peak = tl.maximum(highest, tl.max(scores, 0 if ROWS_LAST else 1))
        # rows that have seen no key yet: -inf - -inf would be NaN
        finite_peak = tl.where(peak == float("-inf"), 0.0, peak)
        weights = tl.exp2(scores - along_rows(finite_peak, ROWS_LAST))
        decay = tl.exp2(highest - finite_peak)
        total = total * decay + tl.sum(weights, 0 if ROWS_LAST else 1)
        v_tile = load_cells(values, k_cells, k_valid, v_cell, v_dim, DIM_V, PADDED_V, ALIGNED)
        mixed = weighted_sum(rows_first(weights, ROWS_LAST), v_tile, mixed * decay[:, None], ACC)
        highest = peak

    total = tl.where(q_valid, total, 1.0)
    store_cells(out, q_cells, q_valid, o_cell, o_dim, mixed / total[:, None], DIM_V, PADDED_V, ALIGNED)
    tl.store(softmax + 2 * q_cells, highest, mask=q_valid)
    tl.store(softmax + 2 * q_cells + 1, 1 / total, mask=q_valid)


@triton.jit
def query_gradient(
    queries, keys, values, out, d_out, softmax, delta, d_queries, table,
    q_batch, q_head, q_cell, q_dim,
    k_batch, k_head, k_cell, k_dim,
    v_batch, v_head, v_cell, v_dim,
    o_batch, o_head, o_cell, o_dim,
    g_batch, g_head, g_cell, g_dim,
    dq_batch, dq_head, dq_cell, dq_dim,
    num_items, num_heads, num_queries, scale: tl.float64, natural_scale: tl.float64,
    DIM_QK: tl.constexpr, DIM_V: tl.constexpr, PADDED_QK: tl.constexpr, PADDED_V: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr, ONE_BLOCK: tl.constexpr,
    ALIGNED: tl.constexpr, ACC: tl.constexpr, ROWS_LAST: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    batch = (program // num_items).to(tl.int64)
    head, rows, row_start, columns, column_start, word_start, words_per_row, _ = load_item(table, program % num_items)
    queries += batch * q_batch + head.to(tl.int64) * q_head
    keys += batch * k_batch + head.to(tl.int64) * k_head
    values += batch * v_batch + head.to(tl.int64) * v_head
    out += batch * o_batch + head.to(tl.int64) * o_head
    d_out += batch * g_batch + head.to(tl.int64) * g_head
    d_queries += batch * dq_batch + head.to(tl.int64) * dq_head
    softmax += (batch * num_heads + head) * num_queries * 2
    delta += (batch * num_heads + head) * num_queries
    q_cells, q_valid = load_index(table, row_start, rows, BLOCK_ROWS)
    highest = tl.load(softmax + 2 * q_cells, mask=q_valid, other=0)
    share = tl.load(softmax + 2 * q_cells + 1, mask=q_valid, other=0)
    scale = tl.full((), scale, ACC)

    q_tile = load_cells(queries, q_cells, q_valid, q_cell, q_dim, DIM_QK, PADDED_QK, ALIGNED)
    d_out_tile = load_cells(d_out, q_cells, q_valid, g_cell, g_dim, DIM_V, PADDED_V, ALIGNED)

    row_delta = tl.zeros((BLOCK_ROWS,), ACC)
    if not ONE_BLOCK:
        out_tile = load_cells(out, q_cells, q_valid, o_cell, o_dim, DIM_V, PADDED_V, ALIGNED)
        row_delta = tl.sum(out_tile.to(ACC) * d_out_tile.to(ACC), 1)
    gradient = tl.zeros((BLOCK_ROWS, PADDED_QK), ACC)
    for first in range(0, BLOCK_COLUMNS if ONE_BLOCK else columns, BLOCK_COLUMNS):
        k_cells, k_valid, allowed, scores = scored_columns(
            q_tile, keys, table, first, rows, columns, column_start, word_start, words_per_row, scale, k_cell, k_dim,
            DIM_QK, PADDED_QK, BLOCK_ROWS, BLOCK_COLUMNS, ALIGNED, ACC, ROWS_LAST,
        )  # fmt: skip
        d_weights = inner_products(
            d_out_tile, values, k_cells, k_valid, v_cell, v_dim, DIM_V, PADDED_V, ALIGNED, ACC, ROWS_LAST
        )
        weights = probabilities_of(scores, allowed, highest, share, ROWS_LAST)
        d_weights = tl.where(allowed, d_weights, 0.0)
        if ONE_BLOCK:
            # every key is here, so <d out, out> = sum of weights * d_weights, and out need not be read
            row_delta = tl.sum(weights * d_weights, 0 if ROWS_LAST else 1)
        d_scores = tl.where(allowed, weights * (d_weights - along_rows(row_delta, ROWS_LAST)), 0.0)
        k_tile = load_cells(keys, k_cells, k_valid, k_cell, k_dim, DIM_QK, PADDED_QK, ALIGNED)
        gradient = matrix_product(rows_first(d_scores, ROWS_LAST), only_finite(k_tile, ACC), gradient, ACC)

    tl.store(delta + q_cells, row_delta, mask=q_valid)
    gradient *= tl.full((), natural_scale, ACC)
    store_cells(d_queries, q_cells, q_valid, dq_cell, dq_dim, gradient, DIM_QK, PADDED_QK, ALIGNED)


@triton.jit
def key_value_gradient(
    queries, keys, values, d_out, softmax, delta, d_keys, d_values, partial, table,
    q_batch, q_head, q_cell, q_dim,
    k_batch, k_head, k_cell, k_dim,
    v_batch, v_head, v_cell, v_dim,
    g_batch, g_head, g_cell, g_dim,
    dk_batch, dk_head, dk_cell, dk_dim,
    dv_batch, dv_head, dv_cell, dv_dim,
    num_items, num_slots, num_heads, num_queries, scale: tl.float64, natural_scale: tl.float64,
    DIM_QK: tl.constexpr, DIM_V: tl.constexpr, PADDED_QK: tl.constexpr, PADDED_V: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr, ONE_BLOCK: tl.constexpr,
    ALIGNED: tl.constexpr, ACC: tl.constexpr, ROWS_LAST: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    batch = (program // num_items).to(tl.int64)
    item = program % num_items
    head, rows, row_start, columns, column_start, word_start, words_per_row, slot = load_item(table, item)
    queries += batch * q_batch + head.to(tl.int64) * q_head
    keys += batch * k_batch + head.to(tl.int64) * k_head
    values += batch * v_batch + head.to(tl.int64) * v_head
    d_out += batch * g_batch + head.to(tl.int64) * g_head
    softmax += (batch * num_heads + head) * num_queries * 2
    delta += (batch * num_heads + head) * num_queries
    k_cells, k_valid = load_index(table, row_start, rows, BLOCK_ROWS)
    k_tile = load_cells(keys, k_cells, k_valid, k_cell, k_dim, DIM_QK, PADDED_QK, ALIGNED)
    v_tile = load_cells(values, k_cells, k_valid, v_cell, v_dim, DIM_V, PADDED_V, ALIGNED)
    scale = tl.full((), scale, ACC)

    key_gradient = tl.zeros((BLOCK_ROWS, PADDED_QK), ACC)
    value_gradient = tl.zeros((BLOCK_ROWS, PADDED_V), ACC)
    for first in range(0, BLOCK_COLUMNS if ONE_BLOCK else columns, BLOCK_COLUMNS):
        q_cells, q_valid, allowed, scores = scored_columns(
            k_tile, queries, table, first, rows, columns, column_start, word_start, words_per_row, scale, q_cell, q_dim,
            DIM_QK, PADDED_QK, BLOCK_ROWS, BLOCK_COLUMNS, ALIGNED, ACC, ROWS_LAST,
        )  # fmt: skip
        highest = tl.load(softmax + 2 * q_cells, mask=q_valid, other=0)
        share = tl.load(softmax + 2 * q_cells + 1, mask=q_valid, other=0)
        column_delta = tl.load(delta + q_cells, mask=q_valid, other=0)
        d_weights = inner_products(
            v_tile, d_out, q_cells, q_valid, g_cell, g_dim, DIM_V, PADDED_V, ALIGNED, ACC, ROWS_LAST
        )
        weights = probabilities_of(scores, allowed, highest, share, not ROWS_LAST)
        d_out_tile = load_cells(d_out, q_cells, q_valid, g_cell, g_dim, DIM_V, PADDED_V, ALIGNED)
        value_gradient = matrix_product(rows_first(weights, ROWS_LAST), d_out_tile, value_gradient, ACC)
        d_scores = tl.where(allowed, weights * (d_weights - along_columns(column_delta, ROWS_LAST)), 0.0)
        q_tile = load_cells(queries, q_cells, q_valid, q_cell, q_dim, DIM_QK, PADDED_QK, ALIGNED)
        key_gradient = matrix_product(rows_first(d_scores, ROWS_LAST), only_finite(q_tile, ACC), key_gradient, ACC)

    key_gradient *= tl.full((), natural_scale, ACC)
    if slot < 0:
        d_keys += batch * dk_batch + head.to(tl.int64) * dk_head
        d_values += batch * dv_batch + head.to(tl.int64) * dv_head
        store_cells(d_keys, k_cells, k_valid, dk_cell, dk_dim, key_gradient, DIM_QK, PADDED_QK, ALIGNED)
        store_cells(d_values, k_cells, k_valid, dv_cell, dv_dim, value_gradient, DIM_V, PADDED_V, ALIGNED)
    else:
        # partial [batch, slot, row, DIM_QK + DIM_V]
        partial += (batch * num_slots + slot) * BLOCK_ROWS * (DIM_QK + DIM_V)
        row = tl.arange(0, BLOCK_ROWS)
        store_cells(partial, row, k_valid, DIM_QK + DIM_V, 1, key_gradient, DIM_QK, PADDED_QK)
        store_cells(partial + DIM_QK, row, k_valid, DIM_QK + DIM_V, 1, value_gradient, DIM_V, PADDED_V)


@triton.jit
def merge(
    partial, d_keys, d_values, table,
    dk_batch, dk_head, dk_cell, dk_dim,
    dv_batch, dv_head, dv_cell, dv_dim,
    num_items, num_merges, num_slots,
    DIM_QK: tl.constexpr, DIM_V: tl.constexpr, PADDED_QK: tl.constexpr, PADDED_V: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, ALIGNED: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    batch = (program // num_merges).to(tl.int64)
    at = table + num_items * ITEM_FIELDS + (program % num_merges) * MERGE_FIELDS
    head, rows, row_start = tl.load(at), tl.load(at + 1), tl.load(at + 2)
    first_slot, slots = tl.load(at + 3), tl.load(at + 4)
    k_cells, k_valid = load_index(table, row_start, rows, BLOCK_ROWS)
    row = tl.arange(0, BLOCK_ROWS)
    key_gradient = tl.zeros((BLOCK_ROWS, PADDED_QK), ACC)
    value_gradient = tl.zeros((BLOCK_ROWS, PADDED_V), ACC)
    partial += (batch * num_slots + first_slot) * BLOCK_ROWS * (DIM_QK + DIM_V)
    for _ in range(slots):
        key_gradient += load_cells(partial, row, k_valid, DIM_QK + DIM_V, 1, DIM_QK, PADDED_QK)
        value_gradient += load_cells(partial + DIM_QK, row, k_valid, DIM_QK + DIM_V, 1, DIM_V, PADDED_V)
        partial += BLOCK_ROWS * (DIM_QK + DIM_V)
    d_keys += batch * dk_batch + head.to(tl.int64) * dk_head
    d_values += batch * dv_batch + head.to(tl.int64) * dv_head
    store_cells(d_keys, k_cells, k_valid, dk_cell, dk_dim, key_gradient, DIM_QK, PADDED_QK, ALIGNED)
    store_cells(d_values, k_cells, k_valid, dv_cell, dv_dim, value_gradient, DIM_V, PADDED_V, ALIGNED)


@triton.jit
def attention_map(
    queries, keys, softmax, probabilities, table,
    q_batch, q_head, q_cell, q_dim,
    k_batch, k_head, k_cell, k_dim,
    num_items, num_heads, num_queries, num_keys, scale: tl.float64,
    DIM_QK: tl.constexpr, PADDED_QK: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr, ONE_BLOCK: tl.constexpr,
    ALIGNED: tl.constexpr, ACC: tl.constexpr, ROWS_LAST: tl.constexpr,
):  # fmt: skip
    """Writes the probabilities that ``forward`` used into a dense, zeroed [batch, heads, queries, keys]."""
    program = tl.program_id(0)
    batch = (program // num_items).to(tl.int64)
    head, rows, row_start, columns, column_start, word_start, words_per_row, _ = load_item(table, program % num_items)
    queries += batch * q_batch + head.to(tl.int64) * q_head
    keys += batch * k_batch + head.to(tl.int64) * k_head
    softmax += (batch * num_heads + head) * num_queries * 2
    probabilities += (batch * num_heads + head) * num_queries * num_keys
    q_cells, q_valid = load_index(table, row_start, rows, BLOCK_ROWS)
    highest = tl.load(softmax + 2 * q_cells, mask=q_valid, other=0)
    share = tl.load(softmax + 2 * q_cells + 1, mask=q_valid, other=0)
    q_tile = load_cells(queries, q_cells, q_valid, q_cell, q_dim, DIM_QK, PADDED_QK, ALIGNED)
    scale = tl.full((), scale, ACC)
    for first in range(0, BLOCK_COLUMNS if ONE_BLOCK else columns, BLOCK_COLUMNS):
        k_cells, _valid, allowed, scores = scored_columns(
            q_tile, keys, table, first, rows, columns, column_start, word_start, words_per_row, scale, k_cell, k_dim,
            DIM_QK, PADDED_QK, BLOCK_ROWS, BLOCK_COLUMNS, ALIGNED, ACC, ROWS_LAST,
        )  # fmt: skip
        weights = probabilities_of(scores, allowed, highest, share, ROWS_LAST)
        at = along_rows(q_cells.to(tl.int64) * num_keys, ROWS_LAST) + along_columns(k_cells, ROWS_LAST)
        tl.store(probabilities + at, weights.to(probabilities.dtype.element_ty), mask=allowed)
