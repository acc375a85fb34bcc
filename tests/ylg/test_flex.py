import pytest
import torch

from ylg.backends.flex import _block_mask, flex_attention_backend
from ylg.backends.reference import reference_attention
from ylg.plan import attention_plan


def random_plan(heads: int, queries: int, keys: int, density: float = 0.2):
    masks = torch.rand(heads, queries, keys) < density
    masks[..., 0] = True
    return attention_plan(masks)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def test_padded_heads_give_what_the_dense_definition_gives():
    plan = random_plan(heads=2, queries=200, keys=72)  # neither a multiple of the block nor of a mask word
    queries, keys, values = torch.randn(2, 2, 200, 4), torch.randn(2, 2, 72, 4), torch.randn(2, 2, 72, 3)
    queries.requires_grad_()  # allowed as long as no gradient is recorded
    with torch.no_grad():
        out, attention = flex_attention_backend(queries, keys, values, plan, 0.7, True)
    expected = reference_attention(queries.double(), keys.double(), values.double(), plan, 0.7, True)
    torch.testing.assert_close(out.double(), expected[0], atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(attention.double(), expected[1], atol=2e-6, rtol=1e-5)


def test_what_lies_in_memory_behind_the_last_key_does_not_matter():
    """FlexAttention's CPU kernel reads there: of 40 outputs on a heap of NaN 36 were wrong without whole blocks."""
    plan = random_plan(heads=2, queries=200, keys=72)
    for _ in range(10):
        for size in (1 << 10, 1 << 12, 1 << 14, 1 << 16):
            poison = [torch.full((size // 4 + 64 * i,), torch.nan) for i in range(8)]
            del poison
        queries, keys, values = torch.randn(2, 2, 200, 4), torch.randn(2, 2, 72, 4), torch.randn(2, 2, 72, 3)
        with torch.no_grad():
            out = flex_attention_backend(queries, keys, values, plan, 0.7, False)
        expected = reference_attention(queries, keys, values, plan, 0.7, False)
        torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-4)


def test_block_masks_hold_every_edge_and_mark_full_blocks():
    masks = torch.zeros(2, 300, 260, dtype=torch.bool)
    masks[0, :, 5] = True
    masks[1, :128, :128] = True
    masks[1, 128:, 259] = True
    block_mask = _block_mask(attention_plan(masks))
    partial, full = block_mask.kv_num_blocks[0], block_mask.full_kv_num_blocks[0]
    assert partial.tolist() == [[1, 1, 1], [0, 1, 1]]
    assert full.tolist() == [[0, 0, 0], [1, 0, 0]]
    assert block_mask.kv_indices[0, 1, 1:, 0].tolist() == [2, 2]
    head, query, key = (torch.arange(n) for n in masks.shape)
    found = block_mask.mask_mod(0, head[:, None, None], query[None, :, None], key[None, None, :])
    assert torch.equal(found, masks)


def test_gradients_on_cpu_are_refused_with_the_remedy():
    plan = random_plan(heads=1, queries=16, keys=16)
    x = torch.randn(1, 1, 16, 4, requires_grad=True)
    with pytest.raises(ValueError, match=r"cannot be differentiated on CPU.*backend='tiles'"):
        flex_attention_backend(x, x, x, plan, 1.0, False)


def test_float64_is_refused():
    plan = random_plan(heads=1, queries=16, keys=16)
    x = torch.randn(1, 1, 16, 4, dtype=torch.float64)
    with pytest.raises(ValueError, match="no float64"):
        flex_attention_backend(x, x, x, plan, 1.0, False)


def test_an_empty_batch_gives_an_empty_result():
    plan = random_plan(heads=1, queries=16, keys=16)
    x = torch.randn(0, 1, 16, 4)
    assert flex_attention_backend(x, x, x, plan, 1.0, False).shape == (0, 1, 16, 4)
