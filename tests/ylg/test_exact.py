"""Exact under stress: large scores, numbers that are not finite, empty batches, gradients that nobody asked for."""

import math

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from ylg import attention_plan, head_masks, sparse_attention
from ylg.backends.tiles import attention as tiles


def inputs(plan, batch=2, dim_qk=4, dim_v=6, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    sizes = [(plan.num_queries, dim_qk), (plan.num_keys, dim_qk), (plan.num_keys, dim_v)]
    made = [torch.randn(batch, plan.num_heads, *size, generator=generator, dtype=torch.float64) for size in sizes]
    return [x.to(dtype).requires_grad_() for x in made]


@pytest.mark.parametrize("largest_score", [30, 3_200, 28_800])
def test_large_scores_are_as_exact_as_in_dense_attention(largest_score):
    masks = head_masks("ltr_rtl", (16, 16), (8, 8))
    plan = attention_plan(masks)
    queries, keys, values = (x.detach() for x in inputs(plan, dim_v=16))
    larger = math.sqrt(largest_score / (queries @ keys.mT).abs().max())
    tensors = [x.float() for x in (queries * larger, keys * larger, values)]
    mix = torch.randn(2, 8, 256, 16, generator=torch.Generator().manual_seed(1))

    def found(attend, dtype):
        leaves = [x.to(dtype).requires_grad_() for x in tensors]
        out = attend(*leaves)
        return [out.detach(), *torch.autograd.grad(out, leaves, mix.to(dtype))]

    def dense(*leaves):
        return scaled_dot_product_attention(*leaves, attn_mask=masks[None], scale=1.0)

    sparse = found(lambda *x: sparse_attention(*x, plan, 1.0), torch.float32)
    for ours, theirs, right in zip(sparse, found(dense, torch.float32), found(dense, torch.float64), strict=True):
        assert (ours - right).abs().max() <= 2 * (theirs - right).abs().max()


MASKS = torch.rand(2, 14, 9, generator=torch.Generator().manual_seed(3)) < 0.4
MASKS[..., 4] = True  # one key that every query attends to, and one query that attends to every key
MASKS[:, 2] = True


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("which", ["keys", "values"])
@pytest.mark.parametrize("backend", ["tiles", "reference"])
def test_what_is_not_finite_reaches_only_those_who_may_attend_to_it(backend, which, bad):
    plan = attention_plan(MASKS)
    tensors = inputs(plan)
    mix = torch.randn(2, 2, 14, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def found():
        out, attention = sparse_attention(*tensors, plan, backend=backend, return_attention=True)
        d_queries, d_keys, d_values = torch.autograd.grad(out, tensors, mix)
        return out.detach(), attention.detach(), d_queries, d_keys, d_values

    before = found()
    cell = 6
    with torch.no_grad():
        tensors[1 if which == "keys" else 2][0, 1, cell, 1] = bad
    sees = torch.zeros(2, 2, 14, dtype=torch.bool)
    sees[0, 1] = MASKS[1, :, cell]
    seen_beside = torch.zeros(2, 2, 9, dtype=torch.bool)  # keys of the queries that are reached
    seen_beside[0, 1] = MASKS[1][MASKS[1, :, cell]].any(0)
    assert 0 < sees.sum() < 14 and seen_beside.sum() < 18
    out, attention, d_queries, d_keys, d_values = found()
    for ours, clean, reached in (
        (out, before[0], sees),
        (attention, before[1], sees),
        (d_queries, before[2], sees),
        (d_keys, before[3], seen_beside),
        (d_values, before[4], seen_beside),
    ):
        torch.testing.assert_close(ours[~reached], clean[~reached])
    if which == "values":
        torch.testing.assert_close(out[..., 0], before[0][..., 0])  # each channel on its own
        expected = torch.full_like(out[sees][:, 1], bad)
        torch.testing.assert_close(out[sees][:, 1], expected, equal_nan=True)
    elif math.isnan(bad):
        assert out[sees].isnan().all() and (attention[0, 1][~MASKS[1]] == 0).all()


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_bad_query_or_gradient_reaches_only_the_keys_it_attends_to(bad):
    plan = attention_plan(MASKS)
    tensors = inputs(plan)
    mix = torch.ones(2, 2, 14, 6, dtype=torch.float64)
    clean = torch.autograd.grad(sparse_attention(*tensors, plan), tensors, mix)
    reached = MASKS[0, 5]
    assert not reached.all()
    with torch.no_grad():
        mix[1, 0, 5, 2] = bad
    found = [torch.autograd.grad(sparse_attention(*tensors, plan), tensors, mix)]
    with torch.no_grad():
        mix[1, 0, 5, 2] = 1
        tensors[0][1, 0, 5, 2] = bad
    found.append(torch.autograd.grad(sparse_attention(*tensors, plan), tensors, mix))
    for _, d_keys, d_values in found:
        for ours, expected in ((d_keys, clean[1]), (d_values, clean[2])):
            torch.testing.assert_close(ours[1, 0][~reached], expected[1, 0][~reached])
            torch.testing.assert_close(ours[0], expected[0])


def test_an_empty_batch_has_second_derivatives_and_maps_over_batches():
    plan = attention_plan(MASKS)
    tensors = inputs(plan, batch=0)
    out, attention = sparse_attention(*tensors, plan, return_attention=True)
    slopes = torch.autograd.grad(out.sum() + attention.sum(), tensors, create_graph=True)
    twice = torch.autograd.grad(sum(x.square().sum() for x in slopes), tensors)
    assert [x.shape for x in twice] == [x.shape for x in tensors]
    over = torch.func.vmap(lambda *x: sparse_attention(*x, plan))
    assert over(*(x.detach().expand(3, *x.shape) for x in tensors)).shape == (3, 0, 2, 14, 6)


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 2)])
@pytest.mark.parametrize("compiled", [False, True])
def test_only_the_gradients_that_are_needed_are_computed(wanted, compiled, monkeypatch):
    plan = attention_plan(MASKS)
    tensors = inputs(plan)
    expected = torch.autograd.grad(sparse_attention(*tensors, plan).square().sum(), tensors)
    leaves = [x if i in wanted else x.detach() for i, x in enumerate(tensors)]
    backward, made = tiles._backward, []

    def recorded(*arguments):
        made.append(backward(*arguments))
        return made[-1]

    monkeypatch.setattr(tiles, "_backward", recorded)

    def attend(*x):
        return sparse_attention(*x, plan)

    attend = torch.compile(attend, backend="aot_eager", fullgraph=True) if compiled else attend
    found = torch.autograd.grad(attend(*leaves).square().sum(), [leaves[i] for i in wanted])
    for i, ours in zip(wanted, found, strict=True):
        torch.testing.assert_close(ours, expected[i])
    assert [x is not None for x in made[0]] == [i in wanted for i in range(3)]


def test_forward_mode_raises_as_documented():
    plan = attention_plan(MASKS)
    queries, keys, values = (x.detach() for x in inputs(plan))
    with pytest.raises(RuntimeError, match="jvp"):
        torch.func.jvp(lambda q: sparse_attention(q, keys, values, plan), (queries,), (queries,))
