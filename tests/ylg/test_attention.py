"""Sparse attention on the CPU backends against the definition, written out here, and against gradcheck."""

import copy
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ylg import SparseAttention2d, attention_plan, devices, head_masks, sparse_attention, sparse_head_masks
from ylg.backends.tiles import layout, plain
from ylg.plan import plan_of_arguments


def definition(queries, keys, values, masks, scale):
    """Query by query: a softmax over the allowed keys alone, in float64."""
    queries, keys, values = (x.double() for x in (queries, keys, values))
    outs, attention = [], torch.zeros(*queries.shape[:3], keys.shape[2], dtype=torch.float64)
    for b, h, i in np.ndindex(*queries.shape[:3]):
        allowed = masks[h, i].nonzero().squeeze(1)
        weights = torch.exp(scale * keys[b, h, allowed] @ queries[b, h, i])
        weights = weights / weights.sum()
        attention[b, h, i, allowed] = weights
        outs.append(weights @ values[b, h, allowed])
    return torch.stack(outs).view(*queries.shape[:3], -1), attention


def inputs(plan, batch, dim_qk, dim_v, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    sizes = [(plan.num_queries, dim_qk), (plan.num_keys, dim_qk), (plan.num_keys, dim_v)]
    made = [torch.randn(batch, plan.num_heads, *size, generator=generator, dtype=torch.float64) for size in sizes]
    return [x.to(dtype).requires_grad_() for x in made]


def results(tensors, plan, backend, with_attention=True):
    """Output, map and the gradients of a fixed mixture of both."""
    found = sparse_attention(*tensors, plan, scale=0.7, backend=backend, return_attention=with_attention)
    outputs = list(found) if with_attention else [found]
    generator = torch.Generator().manual_seed(1)
    mix = [torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.dtype) for x in outputs]
    return outputs + list(torch.autograd.grad(outputs, tensors, mix))


def small_plan(pattern="ltr_rtl", heads=4):
    return attention_plan(head_masks(pattern, (6, 6), (3, 3), heads))


@pytest.mark.parametrize("backend", ["tiles", "reference"])
@pytest.mark.parametrize("scale", [None, 1.0])
def test_attention_is_the_softmax_over_the_allowed_keys(backend, scale):
    masks = head_masks("ltr_rtl", (6, 6), (3, 3), 4)
    queries, keys, values = inputs(small_plan(), 2, 3, 5)
    out, attention = sparse_attention(queries, keys, values, small_plan(), scale, backend, return_attention=True)
    expected = definition(queries, keys, values, masks, 1 / math.sqrt(3) if scale is None else scale)
    torch.testing.assert_close(out, expected[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(attention, expected[1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("alignment", ["pool", "tile", "rows"])
@pytest.mark.parametrize("pattern", ["ltr_rtl", "fixed", "strided", "butterfly", "dense"])
@pytest.mark.parametrize("order", ["manhattan", "hilbert", "raster"])
def test_tiles_agree_with_the_reference_under_every_pattern_order_and_alignment(pattern, order, alignment):
    plan = attention_plan(sparse_head_masks(pattern, (8, 8), (4, 4), 8, order, alignment))
    tensors = inputs(plan, 2, 3, 4)
    for ours, dense in zip(results(tensors, plan, "tiles"), results(tensors, plan, "reference"), strict=True):
        torch.testing.assert_close(ours, dense, rtol=1e-11, atol=1e-11)


@settings(max_examples=40, deadline=None)
@given(
    heads=st.integers(1, 3),
    queries=st.integers(1, 30),
    keys=st.integers(1, 20),
    density=st.sampled_from([0.05, 0.3, 1.0]),
    dims=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    with_attention=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_tiles_agree_with_the_reference_on_random_masks(heads, queries, keys, density, dims, with_attention, seed):
    random = np.random.default_rng(seed)
    masks = random.random((heads, queries, keys)) < density
    masks[~masks.any(-1), random.integers(0, keys)] = True
    plan = attention_plan(masks)
    tensors = inputs(plan, 2, *dims, seed=seed)
    both = (results(tensors, plan, backend, with_attention) for backend in ("tiles", "reference"))
    for ours, dense in zip(*both, strict=True):
        torch.testing.assert_close(ours, dense, rtol=1e-10, atol=1e-10)


def test_heads_may_share_masks_in_unequal_numbers():
    lower = torch.ones(8, 8, dtype=torch.bool).tril()
    plan = attention_plan(torch.stack([lower, lower, lower.T, lower]))
    assert plan.groups[0].shape[0] == 2 and len(plan.groups[0].heads) == 4
    tensors = inputs(plan, 2, 3, 4)
    for ours, dense in zip(results(tensors, plan, "tiles"), results(tensors, plan, "reference"), strict=True):
        torch.testing.assert_close(ours, dense)


@pytest.mark.parametrize("dim", [1, 2, 3, 5, 16])
def test_gradients_are_those_of_the_function_itself(dim):
    plan = attention_plan(head_masks("ltr_rtl", (2, 4), (2, 2), 4))
    tensors = inputs(plan, 1, dim, 17 - dim)
    assert torch.autograd.gradcheck(lambda *x: sparse_attention(*x, plan), tensors)
    assert torch.autograd.gradcheck(lambda *x: sparse_attention(*x, plan, return_attention=True), tensors)


def test_second_derivatives_are_right_with_and_without_the_map():
    plan = attention_plan(head_masks("strided", (2, 3), num_heads=2))
    tensors = inputs(plan, 1, 2, 3)
    assert torch.autograd.gradgradcheck(lambda *x: sparse_attention(*x, plan), tensors)
    assert torch.autograd.gradgradcheck(lambda *x: sparse_attention(*x, plan, return_attention=True), tensors)


def test_a_gradient_penalty_needs_only_one_of_the_inputs():
    plan = small_plan()
    queries, keys, values = inputs(plan, 1, 2, 3)
    found = []
    for backend in ("tiles", "reference"):
        out = sparse_attention(queries, keys.detach(), values.detach(), plan, backend=backend)
        (slope,) = torch.autograd.grad(out.square().sum(), queries, create_graph=True)
        found.append(torch.autograd.grad(slope.square().sum(), queries)[0])
    torch.testing.assert_close(*found)


def test_derivatives_of_any_order_agree_with_the_reference():
    plan = small_plan()
    queries, keys, values = inputs(plan, 1, 2, 3)

    def third(backend):
        slope = queries
        for _ in range(3):
            out, attention = sparse_attention(queries, keys, values, plan, None, backend, True)
            (slope,) = torch.autograd.grad(
                (out.sum() + attention.square().sum()) * slope.sum(), queries, None, True, True
            )
        return slope

    torch.testing.assert_close(third("tiles"), third("reference"))


def test_a_gradient_penalty_makes_no_dense_map_unless_one_was_asked_for(monkeypatch):
    """And costs what the first gradient costs until it is itself differentiated."""
    made, plan = [], small_plan()
    attend = plain.plain_attention

    def recorded(*arguments):
        made.append([x.shape for x in attend(*arguments)])
        return attend(*arguments)

    monkeypatch.setattr(plain, "plain_attention", recorded)
    tensors = inputs(plan, 1, 4, 16)
    (slope,) = torch.autograd.grad(sparse_attention(*tensors, plan).square().sum(), tensors[0], create_graph=True)
    assert not made
    slope.square().sum().backward()
    assert made == [[(1, *plan.sizes[:2], 16)]]


def test_transforms_of_torch_func_reach_through():
    plan = small_plan()
    queries, keys, values = (x.detach() for x in inputs(plan, 2, 2, 3))

    def energy(queries, keys, values, backend="tiles"):
        out, attention = sparse_attention(queries, keys, values, plan, None, backend, True)
        return out.square().sum() + attention.square().sum()

    leaves = [x.clone().requires_grad_() for x in (queries, keys, values)]
    expected = torch.autograd.grad(energy(*leaves, "reference"), leaves)
    for ours, dense in zip(torch.func.grad(energy, argnums=(0, 1, 2))(queries, keys, values), expected, strict=True):
        torch.testing.assert_close(ours, dense)
    one_by_one = torch.func.vmap(torch.func.grad(lambda *x: energy(*(y[None] for y in x))))(queries, keys, values)
    torch.testing.assert_close(one_by_one, expected[0])
    twice = torch.func.vmap(lambda q: sparse_attention(q, keys, values, plan), in_dims=1)
    both = twice(torch.stack([queries, 2 * queries], 1))
    torch.testing.assert_close(both[1], sparse_attention(2 * queries, keys, values, plan))
    hessian = torch.func.jacrev(torch.func.jacrev(energy))(queries, keys, values)
    torch.testing.assert_close(
        hessian, torch.autograd.functional.hessian(lambda q: energy(q, keys, values, "reference"), queries)
    )


def test_an_ensemble_of_layers_runs_as_one():
    layers = [SparseAttention2d(16, (4, 4)).double() for _ in range(3)]
    for layer in layers:
        torch.nn.init.ones_(layer.gain)
    weights, _ = torch.func.stack_module_state(layers)
    x = torch.randn(2, 16, 4, 4, dtype=torch.float64)
    together = torch.func.vmap(lambda w: torch.func.functional_call(layers[0], w, (x,)))(weights)
    torch.testing.assert_close(together, torch.stack([layer(x) for layer in layers]))


def test_going_backward_under_autocast_changes_nothing():
    plan = small_plan()
    tensors = inputs(plan, 2, 4, 16, torch.float32)
    expected = torch.autograd.grad(sparse_attention(*tensors, plan).square().sum(), tensors)
    loss = sparse_attention(*tensors, plan).square().sum()
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.autograd.grad(loss, tensors)
    assert all(torch.equal(ours, before) for ours, before in zip(found, expected, strict=True))


def test_many_threads_may_share_the_caches():
    plans = [attention_plan(torch.ones(1, n, 3, dtype=torch.bool)) for n in range(1, 81)]

    def work(seed):
        for n in np.random.default_rng(seed).permutation(80):
            x = torch.ones(1, 1, n + 1, 2)
            assert (sparse_attention(x, x.new_ones(1, 1, 3, 2), x.new_ones(1, 1, 3, 2), plans[n]) == 1).all()
            tensors, heads = plans[n].as_arguments()
            assert plan_of_arguments(tensors, heads, plans[n].sizes, plans[n].digest) is plans[n]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(16)))


@pytest.mark.parametrize("chunk", [1, 7, 64, 500])
def test_chunks_of_any_size_give_the_same(chunk, monkeypatch):
    plan = attention_plan(head_masks("strided", (6, 6), (3, 3), 4))
    tensors = inputs(plan, 3, 3, 4)
    expected = results(tensors, plan, "reference")
    monkeypatch.setattr(layout, "CHUNK", chunk)
    plan = copy.copy(plan)  # without the layout that was made with chunks of the usual size
    assert len(list(layout.tile_layout(plan).chunks(3))) > 2
    for ours, dense in zip(results(tensors, plan, "tiles"), expected, strict=True):
        torch.testing.assert_close(ours, dense, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    ("index", "rows", "run"),
    [
        ([4, 5, 6, 7, 0, 1, 2, 3], 8, 4),
        ([6, 7, 2, 3, 0, 1, 6, 7], 8, 2),
        ([1, 2, 5, 6], 8, 1),  # pairs that begin at odd rows
        ([0, 1, 2, 4], 8, 1),
        ([2, 3, 4, 5], 7, 1),  # seven rows are no pairs
        (list(range(8)), 8, 8),
    ],
)
def test_rows_that_lie_together_are_gathered_together(index, rows, run):
    found = layout.Rows(torch.tensor(index), rows)
    assert found.run == run and found.index.tolist() == index
    x = torch.randn(3, rows, 5)
    assert torch.equal(found.of(x), x[:, index]) and found.of(x[:0]).shape == (0, len(index), 5)


@pytest.mark.parametrize("batch", [0, 1, 3])
@pytest.mark.parametrize("chunk", [2**18, 40])  # pieces of all heads, and of one
def test_tiles_that_follow_each_other_are_no_copies_and_right_all_the_same(chunk, batch, monkeypatch):
    monkeypatch.setattr(layout, "CHUNK", chunk)
    window = torch.arange(16) // 4
    plan = copy.copy(attention_plan((window[:, None] == window).expand(3, 16, 16)))
    tensors = inputs(plan, batch, 3, 4)
    rows = tensors[0].flatten(1, 2)
    for piece in layout.tile_layout(plan).pieces:
        assert piece._query_rows.of(rows).untyped_storage().data_ptr() == rows.untyped_storage().data_ptr()
    before = [x.detach().clone() for x in tensors]
    for ours, dense in zip(results(tensors, plan, "tiles"), results(tensors, plan, "reference"), strict=True):
        torch.testing.assert_close(ours, dense, rtol=1e-11, atol=1e-11)
    assert all(map(torch.equal, tensors, before))


def test_cells_in_blocks_are_gathered_in_runs_and_pooled_queries_in_pairs():
    for pattern, runs in (("rotated_blocks", {(16, 8), (2, 1)}), ("ltr_rtl", {(2, 1)})):
        made = layout.tile_layout(attention_plan(sparse_head_masks(pattern, (64, 64), (32, 32))))
        assert {(piece._query_rows.run, piece._key_rows.run) for piece in made.pieces} == runs


@pytest.mark.parametrize("backend", ["tiles", "reference"])
def test_the_map_is_exactly_zero_outside_the_mask_and_sums_to_one(backend):
    masks = head_masks("strided", (6, 6), (3, 3), 4)
    _, attention = sparse_attention(*inputs(small_plan(), 2, 3, 4), attention_plan(masks), None, backend, True)
    assert (attention[:, ~masks] == 0).all()
    assert (attention[:, masks] > 0).all()
    torch.testing.assert_close(attention.sum(-1), torch.ones_like(attention.sum(-1)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_narrow_dtypes_are_as_exact_as_their_rounding_allows(dtype):
    plan = small_plan()
    tensors = inputs(plan, 2, 4, 16, dtype)
    exact = results([x.detach().double().requires_grad_() for x in tensors], plan, "reference")
    for ours, expected in zip(results(tensors, plan, "tiles"), exact, strict=True):
        assert ours.dtype == dtype
        allowed = 4 * torch.finfo(dtype).eps * expected.abs().max()
        assert (ours - expected).abs().max() <= allowed


def test_scores_far_beyond_the_range_of_exp_stay_finite():
    plan = small_plan()
    queries, keys, values = inputs(plan, 1, 2, 2, torch.float32)
    found = results([(x.detach() * 300).requires_grad_() for x in (queries, keys, values)], plan, "tiles")
    assert all(x.isfinite().all() for x in found)


def test_keys_outside_the_mask_change_nothing_however_large_they_are():
    masks = torch.tensor([[[True, True, False], [True, False, True]]])
    plan = attention_plan(masks)
    queries, keys, values = inputs(plan, 1, 2, 3)
    before = sparse_attention(queries, keys, values, plan)
    with torch.no_grad():
        keys[:, :, 2] = 1e4 * queries[:, :, 0]  # would win query 0's softmax by far
        values[:, :, 2] = 1e6
    assert torch.equal(sparse_attention(queries, keys, values, plan)[:, :, 0], before[:, :, 0])


def test_strides_do_not_matter():
    plan = small_plan()
    tensors = inputs(plan, 2, 3, 5, torch.float32)
    expected = results(tensors, plan, "tiles")
    channel_major = [x.detach().mT.contiguous().mT.requires_grad_() for x in tensors]
    heads_last = [x.detach().transpose(1, 2).contiguous().transpose(1, 2).requires_grad_() for x in tensors]
    every_other = [x.detach().repeat_interleave(2, -1)[..., ::2].requires_grad_() for x in tensors]
    for strange in (channel_major, heads_last, every_other):
        assert not all(x.is_contiguous() for x in strange)
        for ours, same in zip(results(strange, plan, "tiles"), expected, strict=True):
            torch.testing.assert_close(ours, same)


def test_results_and_gradients_may_be_changed_in_place():
    tensors = inputs(small_plan(), 1, 2, 3)
    out, attention = sparse_attention(*tensors, small_plan(), return_attention=True)
    (expected,) = torch.autograd.grad(2 * out.sum() + 3 * attention.square().sum(), tensors[0], create_graph=True)
    (slope,) = torch.autograd.grad(out.mul_(2).sum() + attention.square_().mul_(3).sum(), tensors[0], create_graph=True)
    torch.testing.assert_close(slope.mul_(2), 2 * expected)


def test_an_empty_batch_gives_an_empty_result_with_gradients():
    plan = small_plan()
    tensors = inputs(plan, 0, 3, 5)
    out, attention, *gradients = results(tensors, plan, "tiles")
    assert out.shape == (0, 4, 36, 5) and attention.shape == (0, 4, 36, 9)
    assert [g.shape for g in gradients] == [x.shape for x in tensors]


def test_equal_inputs_give_equal_bits():
    plan = attention_plan(sparse_head_masks("ltr_rtl", (16, 16), (8, 8)))
    tensors = inputs(plan, 2, 4, 16, torch.float32)
    first, again = results(tensors, plan, "tiles"), results(tensors, plan, "tiles")
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_a_whole_batch_gives_the_bits_of_its_parts_to_rounding():
    plan = small_plan()
    queries, keys, values = inputs(plan, 5, 4, 16, torch.float32)
    whole = sparse_attention(queries, keys, values, plan)
    parts = [sparse_attention(q[None], k[None], v[None], plan) for q, k, v in zip(queries, keys, values, strict=True)]
    torch.testing.assert_close(whole, torch.cat(parts))


def test_autocast_computes_in_its_dtype_as_scaled_dot_product_attention_does():
    plan = small_plan()
    tensors = inputs(plan, 1, 4, 8, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = sparse_attention(*tensors, plan)
        assert out.dtype == torch.nn.functional.scaled_dot_product_attention(*tensors).dtype == torch.bfloat16
    out.float().sum().backward()
    assert all(x.grad.dtype == torch.float32 for x in tensors)


def test_activation_checkpointing_gives_the_same_gradients():
    plan = small_plan()
    tensors = inputs(plan, 1, 2, 3)
    direct = torch.autograd.grad(sparse_attention(*tensors, plan).square().sum(), tensors)
    out = torch.utils.checkpoint.checkpoint(lambda *x: sparse_attention(*x, plan), *tensors, use_reentrant=False)
    for a, b in zip(torch.autograd.grad(out.square().sum(), tensors), direct, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("with_attention", [False, True])
def test_compiling_leaves_no_graph_break(with_attention):
    plan = small_plan()
    tensors = inputs(plan, 2, 2, 3)
    compiled = torch.compile(
        lambda *x: sparse_attention(*x, plan, return_attention=with_attention), backend="aot_eager", fullgraph=True
    )
    ours, eager = compiled(*tensors), sparse_attention(*tensors, plan, return_attention=with_attention)
    ours, eager = (ours, eager) if with_attention else ([ours], [eager])
    for a, b in zip(ours, eager, strict=True):
        torch.testing.assert_close(a, b)
    gradients = [torch.autograd.grad([x.square().sum() for x in outs], tensors) for outs in (ours, eager)]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("with_attention", [False, True])
def test_the_operator_that_compiled_graphs_hold_is_registered_correctly(with_attention):
    plan = small_plan()
    tensors = [t for g in plan.groups for t in (g.query_index, g.key_index, g.tile_mask)]
    heads = [n for g in plan.groups for n in (len(g.heads), *g.heads, *g.mask_of_head)]
    arguments = (*inputs(plan, 2, 2, 3), tensors, heads, plan.digest, 0.7, with_attention)
    torch.library.opcheck(torch.ops.ylg.tiles_forward.default, arguments)


@pytest.mark.parametrize("dynamic", [None, True])
def test_a_compiled_layer_trains_like_the_layer_itself(dynamic):
    torch.manual_seed(0)
    layer = SparseAttention2d(8, (6, 6)).double()
    torch.nn.init.ones_(layer.gain)
    compiled = torch.compile(layer, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    x = torch.randn(2, 8, 6, 6, dtype=torch.float64)
    gradients = []
    for module in (layer, compiled):
        gradients.append(torch.autograd.grad(module(x).square().sum(), list(layer.parameters())))
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b)


def test_automatic_choice_takes_tiles_on_a_cpu():
    plan = small_plan()
    tensors = inputs(plan, 1, 2, 3)
    assert torch.equal(sparse_attention(*tensors, plan), sparse_attention(*tensors, plan, backend="tiles"))


def test_a_gpu_without_triton_is_announced_once(monkeypatch):
    monkeypatch.setattr(devices, "TRITON_INSTALLED", False)
    monkeypatch.setattr(devices, "_ANNOUNCED", set())
    assert devices.choose_backend("cuda")[0] == "tiles"
    with pytest.warns(RuntimeWarning, match="triton is not installed"):
        devices.automatic_backend("cuda")
    devices.automatic_backend("cuda")  # a second warning would be an error


def test_heads_too_wide_for_the_kernels_take_tiles_and_say_so_once(monkeypatch):
    monkeypatch.setattr(devices, "TRITON_INSTALLED", True)
    monkeypatch.setattr(devices, "_ANNOUNCED", set())
    assert [devices.choose_backend("cuda", dim)[0] for dim in (1, 128, 129)] == ["triton", "triton", "tiles"]
    devices.automatic_backend("cuda", 128)  # a warning would be an error
    with pytest.warns(RuntimeWarning, match="no head dims above 128"):
        devices.automatic_backend("cuda", 192)
    devices.automatic_backend("cuda", 192)


def test_what_does_not_fit_the_plan_is_refused_by_name():
    plan = small_plan()
    queries, keys, values = (x.detach() for x in inputs(plan, 2, 3, 5))
    refused = [
        ((queries[:, :2], keys, values), r"queries must have the shape \[batch, 4, 36, head_dim\]"),
        ((queries, values[:, :, :4], values), r"keys must have the shape \[batch, 4, 9, head_dim\]"),
        ((queries, keys, values[0]), r"values must have the shape"),
        ((queries, keys, values.float()), r"values torch.float32"),
        ((queries, keys[:1], values), r"queries have batch 2 but keys have batch 1"),
        ((queries, keys[..., :2], values), r"need one head dim.*queries 3, keys 2"),
        ((queries[..., :0], keys[..., :0], values), r"at least 1"),
        ((queries.long(), keys.long(), values.long()), r"floating point .*, got torch.int64"),
    ]
    for tensors, message in refused:
        with pytest.raises(ValueError, match=message):
            sparse_attention(*tensors, plan)
    with pytest.raises(ValueError, match=r"backend='cuda' is unknown; use one of \['auto', 'tiles'"):
        sparse_attention(queries, keys, values, plan, backend="cuda")
    with pytest.raises(ValueError, match=r"queries must be a torch\.Tensor, got ndarray"):
        sparse_attention(queries.numpy(), keys, values, plan)
    for scale in (torch.ones(()), torch.ones(4), "a", True):
        with pytest.raises(ValueError, match=r"scale must be a number or None.*multiply the queries"):
            sparse_attention(queries, keys, values, plan, scale=scale)
    with pytest.raises(ValueError, match=r"attention_plan\(masks\), got Tensor"):
        sparse_attention(queries, keys, values, plan.dense_masks())
