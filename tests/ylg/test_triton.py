"""The kernels' values, in Triton's interpreter on a CPU, or compiled where there is a GPU."""

import json
import math
import os
import subprocess
import sys

import pytest
import torch
from torch.utils.checkpoint import checkpoint

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when triton is first imported
pytest.importorskip("triton")

import ylg
from ylg.backends.triton import kernels, operators
from ylg.backends.triton import table as tables
from ylg.backends.triton.operators import (
    attention_map,
    tile_attention,
    tile_attention_backward,
    triton_attention,
)
from ylg.plan import AttentionPlan, TileGroup

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = pytest.mark.skipif(
    DEVICE == "cpu" and not kernels.INTERPRETED.value,
    reason="triton was imported before TRITON_INTERPRET=1 was set, and there is no GPU",
)
# largest error allowed, relative to the largest value
TOLERANCE = {torch.float64: 1e-12, torch.float32: 6e-6, torch.float16: 5e-3, torch.bfloat16: 4e-2}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def small_masks():
    """One tile: for tests of what happens around the kernels, which the interpreter makes slow."""
    return random_masks(num_heads=2, num_queries=14, num_keys=13)


def random_masks(num_heads=3, num_queries=37, num_keys=21, density=0.2):
    """Irregular: rows of different lengths, a key that all attend to, one that none does, two equal heads."""
    masks = torch.rand(num_heads, num_queries, num_keys) < density
    masks[..., 7] = True
    masks[..., 11] = False
    masks[-1] = masks[0]
    return masks


def random_inputs(masks, dim_qk=4, dim_v=6, batch=2, dtype=torch.float32):
    num_heads, num_queries, num_keys = masks.shape
    shapes = [(num_queries, dim_qk), (num_keys, dim_qk), (num_keys, dim_v)]
    return [torch.randn(batch, num_heads, *s, dtype=dtype, device=DEVICE, requires_grad=True) for s in shapes]


def dense(queries, keys, values, masks, scale):
    """The definition, written again, in float64."""
    scores = scale * torch.einsum("bhqd,bhkd->bhqk", queries.double(), keys.double())
    attention = scores.masked_fill(~masks.to(scores.device), float("-inf")).softmax(-1)
    return torch.einsum("bhqk,bhkd->bhqd", attention, values.double()), attention


def assert_matches_dense(inputs, masks, scale=0.8, plan=None, tolerance=None):
    """Output, attention map and the gradients of both, against float64."""
    plan = plan or ylg.attention_plan(masks).to(DEVICE)
    found = triton_attention(*inputs, plan, scale, True)
    expected = dense(*inputs, masks, scale)
    weights = [torch.randn_like(x) for x in expected]
    gradients = [
        torch.autograd.grad(sum((x * w).sum() for x, w in zip(outputs, weights, strict=True)), inputs)
        for outputs in (found, expected)
    ]
    dtype = inputs[0].dtype
    names = ["out", "attention", "d queries", "d keys", "d values"]
    for name, x, y in zip(names, (*found, *gradients[0]), (*expected, *gradients[1]), strict=True):
        assert x.dtype == dtype, name
        error = (x.double() - y).abs().max() / y.abs().max().clamp_min(1e-3)
        assert error < (tolerance or TOLERANCE[dtype]), f"{name} is off by {error:.1e}"
    assert (found[1][~masks.expand_as(found[1])] == 0).all()


@pytest.mark.parametrize(("dim_qk", "dim_v"), [(1, 1), (2, 8), (3, 5), (4, 16), (8, 2), (16, 3), (40, 128), (128, 40)])
def test_every_head_dim_matches_dense_attention_in_float32(dim_qk, dim_v):
    masks = random_masks()
    assert_matches_dense(random_inputs(masks, dim_qk, dim_v), masks)


@pytest.mark.parametrize(("dim_qk", "dim_v"), [(1, 3), (2, 8), (4, 16), (24, 40)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_every_dtype_matches_dense_attention(dtype, dim_qk, dim_v):
    masks = random_masks()
    assert_matches_dense(random_inputs(masks, dim_qk, dim_v, dtype=dtype), masks)


@pytest.mark.parametrize("pattern", ["ltr_rtl", "strided", "butterfly", "dense"])
def test_every_pattern_matches_dense_attention(pattern):
    masks = ylg.head_masks(pattern, (8, 8), (4, 4), num_heads=4)
    assert_matches_dense(random_inputs(masks, 2, 8, batch=1), masks)


def test_heads_in_several_groups_and_padding_anywhere_match_dense_attention():
    """A plan by hand: head 0 in both groups, padding inside and at the end, tiles unlike in size."""
    masks = random_masks(num_heads=2, num_queries=40, num_keys=21)

    def group(heads, tiles, length):
        query_index = torch.tensor(tiles, dtype=torch.int32)[None].expand(len(heads), -1, -1).contiguous()
        key_index = torch.full((len(heads), len(tiles), length), -1, dtype=torch.int32)
        key_index[..., 1:22] = torch.randperm(21, dtype=torch.int32)
        tile_mask = torch.zeros(*query_index.shape, length, dtype=torch.bool)
        for m, head in enumerate(heads):
            for tile, queries in enumerate(tiles):
                for row, query in enumerate(queries):
                    if query >= 0:
                        tile_mask[m, tile, row, 1:22] = masks[head, query, key_index[m, tile, 1:22].long()]
        return TileGroup(heads, tuple(range(len(heads))), query_index, key_index, tile_mask)

    first = [[9, -1, *range(8)], [8, *range(10, 17), -1, -1]]
    second, whole = [[*range(17, 40), -1]], [[*range(39, -1, -1)]]
    groups = group((0,), first, 35), group((0,), second, 22), group((1,), whole, 24)
    plan = AttentionPlan(2, 40, 21, groups, int(masks.sum()), "made by hand")
    assert_matches_dense(random_inputs(masks), masks, plan=plan.to(DEVICE))


def test_more_keys_than_queries_and_more_columns_than_a_block_match_dense_attention():
    masks = torch.rand(2, 18, 150) < 0.7
    masks[..., 0] = True
    assert_matches_dense(random_inputs(masks, batch=1), masks)


def test_scores_of_any_size_leave_the_softmax_finite():
    masks = random_masks()
    assert_matches_dense(random_inputs(masks, 4, 4, dtype=torch.float64), masks, scale=200.0, tolerance=1e-9)


@pytest.mark.parametrize("layout", ["channels first", "channels last", "sliced", "broadcast"])
def test_any_strides_are_read_in_place(layout):
    masks = random_masks(num_heads=2)

    def strided(x):
        batch, heads, cells, dim = x.shape
        x = x.detach()
        if layout == "channels first":  # [B, H * D, cells], as a convolution leaves it
            x = x.mT.contiguous().mT
        elif layout == "channels last":
            x = x.transpose(1, 2).contiguous().transpose(1, 2)
        elif layout == "sliced":
            x = torch.stack([x, torch.full_like(x, torch.nan)], -1).flatten(-2)[..., ::2]
        else:
            x = x[:, :1].expand(batch, heads, cells, dim)
        return x.requires_grad_()

    assert_matches_dense([strided(x) for x in random_inputs(masks)], masks)


def test_kernels_read_the_channels_of_a_cell_in_one_piece(monkeypatch):
    """Of the layer, whatever the memory format of its input; with the gradients of the one for CPUs."""
    layer = ylg.SparseAttention2d(32, (4, 4), num_heads=4, v_channels=16, qk_channels=8, backend="triton").to(DEVICE)
    torch.nn.init.ones_(layer.gain)
    x, aligned, launch = torch.randn(2, 32, 4, 4, device=DEVICE, requires_grad=True), [], operators._launch_constants
    monkeypatch.setattr(operators, "_launch_constants", lambda *x: aligned.append(launch(*x)["ALIGNED"]) or launch(*x))

    def found():
        out = layer(x)
        return out, *torch.autograd.grad(out.square().sum(), (x, *layer.parameters()))

    by_kernels = found()
    assert set(aligned) == {8} and len(aligned) == 3, "two channels of float32, and four for the values"
    layer.backend = "tiles"
    for ours, theirs in zip(by_kernels, found(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "bytes_together"),
    [
        (lambda x: x, 16),
        (lambda x: x.mT.contiguous().mT, 1),
        (lambda x: x[..., :2], 16),
        (lambda x: x.flatten(2)[..., 2:-2].unflatten(2, (2, 4)), 8),
        (lambda x: x.bfloat16(), 8),
    ],
    ids=["contiguous", "NCHW", "sliced", "offset", "bfloat16"],
)
def test_cells_are_read_as_vectors_no_wider_than_they_lie(change, bytes_together):
    assert operators._alignment(change(torch.zeros(2, 3, 3, 4))) == bytes_together


def test_outputs_keep_the_memory_order_of_the_queries():
    masks = random_masks(num_heads=2)
    plan = ylg.attention_plan(masks).to(DEVICE)
    queries, keys, values = random_inputs(masks)
    first = triton_attention(queries.detach().mT.contiguous().mT, keys, values, plan, 1.0, False)
    assert first.mT.is_contiguous()
    assert triton_attention(queries, keys, values, plan, 1.0, False).is_contiguous()


def test_an_empty_batch_gives_empty_results_and_gradients():
    masks = random_masks()
    inputs = random_inputs(masks, batch=0)
    out, attention = triton_attention(*inputs, ylg.attention_plan(masks).to(DEVICE), 1.0, True)
    assert out.shape == (0, 3, 37, 6) and attention.shape == (0, 3, 37, 21)
    gradients = torch.autograd.grad(out.sum() + attention.sum(), inputs)
    assert [g.shape for g in gradients] == [x.shape for x in inputs]


def test_keys_that_nobody_attends_to_get_exactly_zero_gradient():
    masks = random_masks()
    inputs = random_inputs(masks)
    out = triton_attention(*inputs, ylg.attention_plan(masks).to(DEVICE), 1.0, False)
    _, d_keys, d_values = torch.autograd.grad(out.square().sum(), inputs)
    assert (d_keys[:, :, 11] == 0).all() and (d_values[:, :, 11] == 0).all()


def test_columns_split_over_programs_are_merged_to_the_same_gradients(monkeypatch):
    masks = random_masks(num_queries=150, density=0.5)
    monkeypatch.setattr(tables, "MIN_PIECE", 32)
    plan = ylg.attention_plan(masks)
    assert_matches_dense(random_inputs(masks, batch=2), masks)
    transposed = plan.to(DEVICE).derived(
        operators.TRANSPOSED_TABLE, lambda _: pytest.fail("the backward pass made none")
    )
    assert transposed.num_merges > 0 and transposed.num_slots > transposed.num_merges


def test_the_same_input_gives_the_same_bits():
    masks = ylg.head_masks("ltr_rtl", (8, 8), (4, 4), num_heads=4)
    plan = ylg.attention_plan(masks).to(DEVICE)
    inputs = random_inputs(masks, batch=1)

    def once():
        out = triton_attention(*inputs, plan, 1.0, False)
        return out, *torch.autograd.grad(out.square().sum(), inputs)

    assert all(torch.equal(x, y) for x, y in zip(once(), once(), strict=True))


@pytest.mark.parametrize("dim", [1, 2, 3, 5, 16])
def test_gradients_are_the_derivative_in_float64(dim):
    masks = random_masks(num_heads=2, num_queries=5, num_keys=12, density=0.4)
    plan = ylg.attention_plan(masks).to(DEVICE)
    inputs = random_inputs(masks, dim, 2, batch=1, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda *x: triton_attention(*x, plan, 0.7, True), inputs, fast_mode=True, nondet_tol=0.0
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_a_gradient_penalty_is_that_of_dense_attention(dtype):
    masks = small_masks()
    plan = ylg.attention_plan(masks).to(DEVICE)
    inputs = random_inputs(masks, dtype=dtype)

    def penalty(attend, inputs, given):
        out, attention = attend(*inputs, given, 0.8, *[True] * (attend is triton_attention))
        loss = out.sin().sum() + attention.square().sum()
        slopes = torch.autograd.grad(loss, inputs, create_graph=True)
        return torch.autograd.grad(sum(slope.square().sum() for slope in slopes), inputs)

    exact = penalty(dense, [x.detach().double().requires_grad_() for x in inputs], masks)
    for ours, expected in zip(penalty(triton_attention, inputs, plan), exact, strict=True):
        assert ours.dtype == dtype
        assert (ours.double() - expected).abs().max() < 10 * TOLERANCE[dtype] * expected.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_large_scores_are_as_exact_as_in_dense_attention(dtype):
    masks = small_masks()
    plan = ylg.attention_plan(masks).to(DEVICE)
    given = [x.detach() for x in random_inputs(masks, batch=1)]
    larger = math.sqrt((28_800 if dtype == torch.float32 else 3_200) / (given[0] @ given[1].mT).abs().max())
    given = [x.to(dtype) for x in (given[0] * larger, given[1] * larger, given[2])]
    mix = torch.randn(1, 2, 14, 6, device=DEVICE).to(dtype)

    def found(attend, dtype):
        leaves = [x.to(dtype).requires_grad_() for x in given]
        out = attend(*leaves)
        return [out.detach(), *torch.autograd.grad(out, leaves, mix.to(dtype))]

    def dense(*x):
        return torch.nn.functional.scaled_dot_product_attention(*x, attn_mask=masks[None].to(DEVICE), scale=1.0)

    exact = found(dense, torch.float64)
    sparse = found(lambda *x: triton_attention(*x, plan, 1.0, False), dtype)
    for ours, theirs, right in zip(sparse, found(dense, dtype), exact, strict=True):
        allowed = torch.finfo(dtype).eps * right.abs().max() + (theirs - right).abs().max()
        assert (ours - right).abs().max() <= 2 * allowed


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # NumPy, in the interpreter
@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("which", [0, 1, 2], ids=["queries", "keys", "values"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_not_finite_reaches_only_those_who_may_attend_to_it(which, bad, dtype):
    masks = small_masks()
    plan, inputs = ylg.attention_plan(masks).to(DEVICE), random_inputs(masks, dtype=dtype)

    def found():
        out, attention = triton_attention(*inputs, plan, 0.7, True)
        both = out.sum() + attention.square().sum()
        return [x.detach() for x in (out, attention, *torch.autograd.grad(both, inputs))]

    clean, cell = found(), 5
    with torch.no_grad():
        inputs[which][1, 0, cell, 1] = bad
    queries = torch.zeros(2, 2, 14, dtype=torch.bool)
    queries[1, 0] = masks[0, :, cell] if which else torch.arange(14) == cell
    keys = torch.zeros(2, 2, 13, dtype=torch.bool)
    keys[1, 0] = masks[0][queries[1, 0]].any(0)
    assert queries.sum() > 0 and not keys[1, 0].all()
    after = found()
    for ours, before, reached in zip(after, clean, (queries, queries, queries, keys, keys), strict=True):
        torch.testing.assert_close(ours[~reached.to(DEVICE)], before[~reached.to(DEVICE)])
    if which == 2:
        expected = torch.full_like(after[0][queries.to(DEVICE)][:, 1], bad)
        torch.testing.assert_close(after[0][queries.to(DEVICE)][:, 1], expected, equal_nan=True)
        torch.testing.assert_close(after[0][..., 0], clean[0][..., 0])


def test_kernels_for_keys_and_values_do_not_run_where_only_queries_need_gradients(monkeypatch):
    masks = small_masks()
    plan, (queries, *others) = ylg.attention_plan(masks).to(DEVICE), random_inputs(masks)
    expected = torch.autograd.grad(triton_attention(queries, *others, plan, 1.0, False).sum(), queries)
    monkeypatch.setattr(kernels, "key_value_gradient", None)
    out = triton_attention(queries, *(x.detach() for x in others), plan, 1.0, False)
    (slope,) = torch.autograd.grad(out.sum(), queries, create_graph=True)
    assert torch.equal(slope, expected[0])
    assert torch.autograd.grad(slope.square().sum(), queries)[0].isfinite().all()


def test_the_maps_gradient_under_autocast_is_the_one_outside():
    masks = small_masks()
    plan, inputs = ylg.attention_plan(masks).to(DEVICE), random_inputs(masks)
    loss = triton_attention(*inputs, plan, 1.0, True)[1].square().sum()
    expected = torch.autograd.grad(loss, inputs[:2], retain_graph=True)
    with torch.autocast(DEVICE, torch.bfloat16):
        found = torch.autograd.grad(loss, inputs[:2])
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


# --- as an operator -----------------------------------------------------------------------------------------------


def test_the_operators_pass_the_checks_that_pytorch_has_for_operators():
    masks = small_masks()
    plan = ylg.attention_plan(masks).to(DEVICE)
    inputs = random_inputs(masks, batch=1)
    arguments = (*plan.as_arguments(), plan.digest, 0.9)
    out, softmax = tile_attention(*inputs, *arguments)
    torch.library.opcheck(tile_attention, (*inputs, *arguments))
    detached = [x.detach() for x in (torch.randn_like(out), *inputs, out, softmax)]
    for keys_too in (True, False):
        torch.library.opcheck(tile_attention_backward, (*detached, *arguments, keys_too))
    torch.library.opcheck(attention_map, (*inputs[:2], softmax.detach(), *arguments))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_as_one_graph_it_gives_the_same_values_and_gradients(backend):
    masks = small_masks()
    plan = ylg.attention_plan(masks).to(DEVICE)
    inputs = random_inputs(masks)

    def attend(queries, keys, values):
        return triton_attention(2 * queries, keys, values, plan, 0.7, False).square().sum()

    compiled = torch.compile(attend, backend=backend, fullgraph=True)
    found = torch.autograd.grad(compiled(*inputs), inputs)
    expected = torch.autograd.grad(attend(*inputs), inputs)
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))


def test_a_compiled_function_given_another_plan_of_the_same_shape_uses_that_plan():
    masks = torch.ones(2, 16, 16, dtype=torch.bool).tril()
    inputs = random_inputs(masks)
    compiled = torch.compile(triton_attention, backend="eager", fullgraph=True)
    for mask in (masks, masks.mT.contiguous()):
        plan = ylg.attention_plan(mask).to(DEVICE)
        out = compiled(*inputs, plan, 1.0, False)
        torch.testing.assert_close(out.double(), dense(*inputs, mask, 1.0)[0], atol=1e-5, rtol=1e-5)


def test_activation_checkpointing_changes_nothing():
    masks = small_masks()
    plan = ylg.attention_plan(masks).to(DEVICE)
    inputs = random_inputs(masks)

    def attend(*x):
        return triton_attention(*x, plan, 0.7, False).square().sum()

    again = torch.autograd.grad(checkpoint(attend, *inputs, use_reentrant=False), inputs)
    plain = torch.autograd.grad(attend(*inputs), inputs)
    assert all(torch.equal(x, y) for x, y in zip(again, plain, strict=True))


@pytest.mark.parametrize("compiled", [False, True])
def test_in_distributed_data_parallel_the_gradients_are_the_same(compiled, tmp_path):
    torch.manual_seed(0)
    layer = ylg.SparseAttention2d(8, (4, 4), num_heads=4, backend="triton").to(DEVICE)
    torch.nn.init.ones_(layer.gain)
    x = torch.randn(2, 8, 4, 4, device=DEVICE)
    layer(x).square().sum().backward()
    alone = {name: p.grad.clone() for name, p in layer.named_parameters()}
    layer.zero_grad()
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        inside = torch.compile(layer, backend="aot_eager", fullgraph=True) if compiled else layer
        torch.nn.parallel.DistributedDataParallel(inside)(x).square().sum().backward()
    finally:
        torch.distributed.destroy_process_group()
    for name, p in layer.named_parameters():
        torch.testing.assert_close(p.grad, alone[name])


def test_autocast_computes_in_its_type_and_returns_gradients_in_the_inputs_type():
    masks = small_masks()
    plan = ylg.attention_plan(masks).to(DEVICE)
    inputs = random_inputs(masks)
    with torch.autocast(DEVICE, torch.bfloat16):
        out = triton_attention(*inputs, plan, 0.7, False)
    assert out.dtype == torch.bfloat16
    assert {x.dtype for x in torch.autograd.grad(out.float().sum(), inputs)} == {torch.float32}


def test_heads_wider_than_the_kernels_take_are_refused_in_words():
    masks = random_masks()
    with pytest.raises(ValueError, match=r"head dims from 1 to 128, got 4 .* and 300"):
        triton_attention(*random_inputs(masks, dim_v=300), ylg.attention_plan(masks).to(DEVICE), 1.0, False)


# --- tile tables --------------------------------------------------------------------------------------------------


def edges_of(table: tables.TileTable) -> set[tuple[int, int, int]]:
    """(head, row cell, column cell) of every score that a program walking the table would not mask, in plain Python."""
    buffer = table.buffer.tolist()
    found = []
    for i in range(table.num_items):
        fields = buffer[i * tables.ITEM_FIELDS : (i + 1) * tables.ITEM_FIELDS]
        head, rows, row_start, columns, column_start, word_start, words_per_row, _ = fields
        assert 0 < rows <= table.block_rows and 0 < columns <= table.max_columns
        for row in range(rows):
            for column in range(columns):
                if buffer[word_start + row * words_per_row + column // 32] >> (column % 32) & 1:
                    found.append((head, buffer[row_start + row], buffer[column_start + column]))
    assert len(found) == len(set(found)), "a score would be counted twice"
    return set(found)


@pytest.mark.parametrize("split_columns", [False, True])
def test_tile_tables_hold_exactly_the_edges_of_the_masks(split_columns, monkeypatch):
    monkeypatch.setattr(tables, "MIN_PIECE", 32)
    masks = random_masks(num_queries=150, num_keys=140)
    masks[1] = torch.eye(150, 140, dtype=torch.bool)
    masks[1, 140:, 0] = True
    plan = ylg.attention_plan(masks)
    table = tables.tile_table(plan, split_columns)
    assert (table.num_slots > 0) == split_columns
    assert edges_of(table) == {tuple(e) for e in masks.nonzero().tolist()}
    transposed = tables.tile_table(plan.transposed, split_columns)
    assert edges_of(transposed) == {(h, k, q) for h, q, k in masks.nonzero().tolist()}
    assert not transposed.covers_all_rows


# --- for a GPU, without one ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "dims", "layout"),
    [
        ("float32", "4x16", "tokens"),  # as the layers lay their maps
        ("float32", "4x16", "cells-last"),  # views of NCHW maps
        ("bfloat16", "2x8", "tokens"),
        ("float64", "3x8", "tokens"),
    ],
)
@pytest.mark.slow
def test_kernels_compile_for_hopper_and_keep_their_tiles_in_registers(repository, dtype, dims, layout):
    """The interpreter knows no types, layouts or registers; the compiler does, and needs no GPU."""
    pytest.importorskip("triton.backends.nvidia")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "benchmarks/kernel_report.py", "--json", "--dtypes", dtype, "--dims", dims]
    command += ["--layouts", layout]
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = {row["kernel"]: row for row in map(json.loads, done.stdout.splitlines())}
    assert rows.keys() >= {"forward", "query_gradient", "key_value_gradient", "attention_map"}
    programs = 1 if dtype == "float64" and kernels.BEFORE_3_5.value else 2  # there products are written out
    assert all(row["spills"] <= 64 and row["programs"] >= programs for row in rows.values()), rows
    if dtype == "float32":
        assert all(row["tensor"] == 0 for row in rows.values()), "tensor cores would round float32 to TF32"
