"""SparseAttention over tokens against dense attention written out: extra tokens, key masks, biases, any grid."""

import copy

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

import ylg
from ylg import SparseAttention, attention_plan, head_masks, sparse_attention


def layer(**changes):
    torch.manual_seed(0)
    made = SparseAttention(**{"channels": 24, "num_heads": 4, "extra_tokens": 2, **changes}).double()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return made


def tokens(cells=16, extra=2, channels=24, batch=3):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, extra + cells, channels, generator=generator, dtype=torch.float64)


def dense(layer, x, grid, key_mask=None):
    """The layer by scaled_dot_product_attention and a float mask, its bias pair by pair."""
    extra, n = layer.extra_tokens, x.shape[1]
    masks = torch.ones(layer.num_heads, n, n, dtype=torch.bool)
    masks[:, extra:, extra:] = head_masks(layer.pattern, grid, num_heads=layer.num_heads, order=layer.order)
    scores = torch.zeros(layer.num_heads, n, n, dtype=torch.float64)
    if layer.bias_grid is not None:
        rows, cols = layer.bias_grid
        entries = []
        for query in range(n):
            for key in range(n):
                if query >= extra and key >= extra:
                    (r, c), (s, d) = divmod(query - extra, grid[1]), divmod(key - extra, grid[1])
                    row = min(max(s - r, 1 - rows), rows - 1) + rows - 1
                    col = min(max(d - c, 1 - cols), cols - 1) + cols - 1
                    entries.append(layer.offset_bias[:, row, col])
                else:
                    entries.append(layer.extra_bias[:, 0 if query >= extra else 1 if key >= extra else 2])
        scores = torch.stack(entries, 1).view(layer.num_heads, n, n)
    scores = scores.masked_fill(~masks, -torch.inf)[None]
    if key_mask is not None:
        scores = scores.masked_fill(~key_mask[:, None, None], -torch.inf)
    q, k, v = layer.qkv(x).view(*x.shape[:2], 3, layer.num_heads, layer.head_dim).permute(2, 0, 3, 1, 4)
    empty = (scores == -torch.inf).all(-1, keepdim=True)
    out = scaled_dot_product_attention(q, k, v, scores.masked_fill(empty, 0)).masked_fill(empty, 0)
    return layer.proj(out.transpose(1, 2).flatten(2))


def assert_exact(layer, x, grid, key_mask=None):
    ours, theirs = layer(x, grid, key_mask), dense(layer, x, grid, key_mask)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    mix = torch.randn(ours.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    gradients = [torch.autograd.grad(out, list(layer.parameters()), mix, allow_unused=True) for out in (ours, theirs)]
    for (name, _), a, b in zip(layer.named_parameters(), *gradients, strict=True):
        assert a is not None and a.abs().sum() > 0, name
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("bias_grid", [None, (4, 4), (2, 3)])
@pytest.mark.parametrize("extra", [0, 1, 3])
@pytest.mark.parametrize("pattern", ["ltr_rtl", "butterfly", "rotated_blocks"])
def test_extra_tokens_and_biases_are_exact_with_their_gradients(pattern, extra, bias_grid):
    block = layer(pattern=pattern, extra_tokens=extra, bias_grid=bias_grid)
    assert_exact(block, tokens(extra=extra), (4, 4))


@pytest.mark.parametrize("bias_grid", [None, (4, 4)])
def test_key_masks_of_samples_are_exact_and_a_query_without_a_key_gives_zeros(bias_grid):
    key_mask = torch.rand(3, 18, generator=torch.Generator().manual_seed(3)) < 0.5
    key_mask[1] = False  # nobody sees anything
    key_mask[2, :2] = False  # nor, here, the extra tokens
    block = layer(bias_grid=bias_grid)
    assert_exact(block, tokens(), (4, 4), key_mask)
    out, attention = block(tokens(), key_mask=key_mask, return_attention=True)
    torch.testing.assert_close(out[1], block.proj.bias.expand(18, 24))
    assert (attention.masked_select(~key_mask[:, None, None]) == 0).all()
    sums = attention.sum(-1)
    assert ((sums - 1).abs().lt(1e-12) | (sums == 0)).all() and (sums[2] == 0).any() and (sums[2] > 0).any()


@pytest.mark.parametrize("head_dim", [32, 64, 128])
def test_wide_heads_are_scaled_by_the_root_of_their_dim(head_dim):
    assert_exact(layer(head_dim=head_dim), tokens(), (4, 4))


def test_any_grid_is_taken_at_run_time_and_its_plan_kept():
    block = layer(bias_grid=(3, 5))
    for grid in ((3, 5), (5, 3), (6, 2), (4, 4)):
        assert_exact(block, tokens(cells=grid[0] * grid[1]), grid)
    torch.testing.assert_close(block(tokens()), block(tokens(), grid=(4, 4)))
    assert block.plan((3, 5)) is copy.deepcopy(block).plan((3, 5))


def test_what_masked_keys_hold_reaches_nobody():
    block, x, key_mask = layer(bias_grid=(4, 4)), tokens(), torch.ones(3, 18, dtype=torch.bool)
    key_mask[:, [1, 7]] = False
    expected, real = block(x, key_mask=key_mask), key_mask[0]
    x[:, 1], x[:, 7] = torch.nan, torch.inf
    assert torch.equal(block(x, key_mask=key_mask)[:, real], expected[:, real])


def test_a_query_whose_biases_are_all_minus_infinity_gives_zeros():
    plan = attention_plan(head_masks("strided", (2, 3), num_heads=2))
    x = torch.randn(1, 2, 6, 2, requires_grad=True)
    hidden = torch.tensor([0.0, -torch.inf, 0, 0, 0, 0])
    out = sparse_attention(x, x, x, plan, score_bias=lambda head, query, key: hidden[query])
    out.sum().backward()
    assert (out[:, :, 1] == 0).all() and (out[:, :, 0] != 0).all() and x.grad.isfinite().all()


@pytest.mark.slow
def test_compiled_for_batches_of_any_size_it_gives_the_same(monkeypatch):
    for name in ("_PLANS", "_RECENT"):  # compiled as the first use of a plan, whatever ran before
        monkeypatch.setattr(ylg.plan, name, type(getattr(ylg.plan, name))())
    block = layer(grid=(4, 4), bias_grid=(4, 4))
    compiled = torch.compile(block, backend="aot_eager", fullgraph=True, dynamic=True)
    for batch in (3, 5):
        torch.testing.assert_close(compiled(tokens(batch=batch)), block(tokens(batch=batch)))


def test_a_graph_cannot_make_the_plan_of_a_grid_and_says_so():
    block = layer(order="raster", extra_tokens=0)
    compiled = torch.compile(block, backend="eager", fullgraph=True)
    with pytest.raises(Exception, match=r"call layer.plan\(\(2, 7\)\) once before"):
        compiled(tokens(cells=14, extra=0), grid=(2, 7))
    block.plan((2, 7))
    torch._dynamo.reset()
    assert compiled(tokens(cells=14, extra=0), grid=(2, 7)).shape == (3, 14, 24)


def test_dtypes_and_autocast_are_those_of_attention():
    block, x = layer(bias_grid=(4, 4)), tokens()
    expected = block(x)
    narrow = copy.deepcopy(block).bfloat16()(x.bfloat16(), key_mask=torch.ones(3, 18, dtype=torch.bool))
    assert narrow.dtype == torch.bfloat16 and (narrow - expected).abs().max() < 0.1 * expected.abs().max()
    with torch.autocast("cpu", torch.bfloat16):
        assert block.float()(x.float()).dtype == torch.bfloat16


def test_a_bias_and_a_key_mask_can_be_differentiated_twice():
    plan = attention_plan(head_masks("strided", (2, 3), num_heads=2))
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(1, 2, 6, 2, generator=generator, dtype=torch.float64) for _ in range(3)]
    table = torch.randn(2, 6, 6, generator=generator, dtype=torch.float64)
    key_mask = torch.tensor([[True, False, True, True, False, True]])

    def attend(*x):
        *inputs, bias = x
        return sparse_attention(*inputs, plan, key_mask=key_mask, score_bias=lambda h, q, k: bias[h, q, k])

    leaves = [x.requires_grad_() for x in (*tensors, table)]
    assert torch.autograd.gradcheck(attend, leaves) and torch.autograd.gradgradcheck(attend, leaves)


def test_the_state_of_a_layer_with_other_masks_is_refused():
    block = layer()
    block.load_state_dict(layer().state_dict())
    for stranger in ({"pattern": "strided"}, {"extra_tokens": 1}, {"order": "raster"}):
        with pytest.raises(ValueError, match="this state belongs to an attention layer of"):
            block.load_state_dict(layer(**stranger).state_dict())


def test_what_does_not_fit_is_refused_in_one_line():
    refused = [
        (lambda: layer()(tokens(cells=15)), r"17 tokens, 2 of them extra, do not fill the grid \(3, 3\).*grid=\(rows"),
        (lambda: layer(grid=(4, 4))(tokens(cells=15), grid=(5, 5)), r"grid \(5, 5\) of 25 cells"),
        (lambda: layer()(tokens(channels=8)), r"\[batch, tokens, 24\], got \[3, 18, 8\]"),
        (lambda: layer(extra_tokens=-1), r"extra_tokens=-1"),
        (lambda: layer(channels=22), r"channels=22 does not divide among num_heads=4; give head_dim"),
        (lambda: layer(num_heads=3), r"num_heads=3 is not a multiple of 4"),
        (lambda: layer(order="nope"), r"unknown order 'nope'; use one of raster"),
        (lambda: layer(grid=(4, 4), order=[1, 2]), r"must hold 16 integers"),
        (lambda: layer()(tokens(), key_mask=torch.ones(3, 17).bool()), r"key_mask must be bool .* \[3, 18\]"),
        (lambda: layer()(tokens(), key_mask=torch.ones(3, 18)), r"key_mask must be bool .*float32"),
        (lambda: layer(backend="triton", bias_grid=(4, 4))(tokens()), r"'triton' takes neither key_mask nor"),
    ]
    for attempt, message in refused:
        with pytest.raises(ValueError, match=message) as refusal:
            attempt()
        assert "\n" not in str(refusal.value)
