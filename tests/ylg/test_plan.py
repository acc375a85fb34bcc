"""Plans: what the planner finds, that it loses and adds nothing, and what it refuses."""

import copy
import pickle
import time

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ylg import attention_plan, head_masks, sparse_attention, sparse_head_masks
from ylg.masks import canonical
from ylg.plan import AttentionPlan, _build, plan_of_arguments
from ylg.planner import tile_cost


def dense(plan: AttentionPlan) -> torch.Tensor:
    """The masks of a plan, entry by entry, and that every query and key slot is used as the contract says."""
    masks = torch.zeros(plan.num_heads, plan.num_queries, plan.num_keys, dtype=torch.bool)
    tiles_of_query = torch.zeros(plan.num_heads, plan.num_queries, dtype=torch.long)
    for group in plan.groups:
        assert not group.tile_mask[group.query_index < 0].any()
        assert not group.tile_mask.mT[group.key_index < 0].any()
        for head, m in zip(group.heads, group.mask_of_head, strict=True):
            for tile in range(group.shape[1]):
                queries, keys = group.query_index[m, tile], group.key_index[m, tile]
                real = keys[keys >= 0].long()
                assert real.unique().numel() == real.numel(), "a key twice in one tile would be counted twice"
                for t, query in enumerate(queries.tolist()):
                    if query >= 0:
                        tiles_of_query[head, query] += 1
                        masks[head, query, keys[group.tile_mask[m, tile, t]].long()] = True
    assert (tiles_of_query == masks.any(-1)).all(), "every query with a key lies in exactly one tile"
    return masks


@st.composite
def random_masks(draw):
    heads, queries, keys = draw(st.tuples(st.integers(1, 3), st.integers(1, 40), st.integers(1, 24)))
    random = np.random.default_rng(draw(st.integers(0, 10**6)))
    masks = random.random((heads, queries, keys)) < draw(st.sampled_from([0.02, 0.1, 0.5, 0.9, 1.0]))
    if draw(st.booleans()):  # several queries share one row
        masks = masks[:, random.integers(0, queries, queries)]
    if heads > 1 and draw(st.booleans()):
        masks[1] = masks[0]
    masks[~masks.any(-1), random.integers(0, keys)] = True
    return masks


@settings(max_examples=60, deadline=None)
@given(random_masks())
def test_a_plan_holds_exactly_the_masks_it_was_made_from(masks):
    plan = attention_plan(masks)
    assert (dense(plan).numpy() == masks).all()
    assert (plan.dense_masks().numpy() == masks).all()
    assert plan.num_edges == masks.sum()


@settings(max_examples=30, deadline=None)
@given(random_masks())
def test_the_transposed_plan_holds_the_transposed_masks_and_leaves_out_unattended_keys(masks):
    assert (dense(attention_plan(masks).transposed).numpy() == masks.transpose(0, 2, 1)).all()


@pytest.mark.parametrize("alignment", ["pool", "tile", "rows"])
@pytest.mark.parametrize("pattern", ["ltr_rtl", "fixed", "strided", "butterfly", "dense"])
@pytest.mark.parametrize("order", ["manhattan", "hilbert", "raster"])
def test_patterns_under_every_order_and_alignment_are_planned_exactly(pattern, alignment, order):
    masks = head_masks(pattern, (12, 12), (6, 6), 8, order, alignment)
    assert torch.equal(dense(attention_plan(masks)), masks)


def work(plan: AttentionPlan) -> tuple[float, float]:
    """Scores computed per edge, and how often a key is gathered on average."""
    sizes = [(len(g.heads) * g.shape[1], g.shape[2], g.shape[3]) for g in plan.groups]
    scores, keys = sum(n * t * k for n, t, k in sizes), sum(n * k for n, _, k in sizes)
    return scores / plan.num_edges, keys / (plan.num_heads * plan.num_keys)


@pytest.mark.parametrize("alignment", ["pool", "tile", "rows"])
@pytest.mark.parametrize(
    ("pattern", "scores_per_edge", "gathers_per_key"),
    [
        ("ltr_rtl", 2.0, 2.1),  # own half-blocks (1.9 on average), and 16 relays + own block
        ("strided", 1.5, 2.1),  # windows (2 on average), and residue classes
        ("butterfly", 1.0, 1.0),
        ("dense", 1.0, 1.0),
    ],
)
def test_tiles_are_found_whatever_the_permutation_of_cells(pattern, alignment, scores_per_edge, gathers_per_key):
    shuffled = torch.randperm(256, generator=torch.Generator().manual_seed(0))
    for order in ("manhattan", shuffled):
        plan = attention_plan(sparse_head_masks(pattern, (32, 32), (16, 16), 8, order, alignment))
        scores, gathers = work(plan)
        assert scores <= scores_per_edge
        assert gathers <= gathers_per_key


def test_a_class_token_does_not_spoil_the_tiles_of_the_patches():
    patches = attention_plan(head_masks("ltr_rtl", (16, 16)))
    masks = torch.ones(8, 257, 257, dtype=torch.bool)
    masks[:, 1:, 1:] = head_masks("ltr_rtl", (16, 16))
    with_token = attention_plan(masks)
    assert torch.equal(dense(with_token), masks)
    assert work(with_token)[0] <= 1.5 * work(patches)[0]


def neighbourhoods(rows: int, cols: int, side: int, extra: int = 0) -> torch.Tensor:
    """Of every cell the side x side cells nearest to it; extra tokens see all and are seen by all."""
    cells = rows * cols
    row, col = torch.arange(cells) // cols, torch.arange(cells) % cols
    top, left = (row - side // 2).clamp(0, rows - side), (col - side // 2).clamp(0, cols - side)
    down, right = row - top[:, None], col - left[:, None]
    mask = torch.ones(extra + cells, extra + cells, dtype=torch.bool)
    mask[extra:, extra:] = (down >= 0) & (down < side) & (right >= 0) & (right < side)
    return mask[None]


def test_neighbourhoods_are_cut_into_blocks_of_cells():
    plan = attention_plan(neighbourhoods(64, 64, 7))
    scores, gathers = work(plan)
    assert gathers < 4 and scores < 3, "in bands 9.9 and 2.37, which takes 1.45 times as long"
    blocks = [group.query_index for group in plan.groups if group.shape[2] == 32]
    assert sum(block.numel() for block in blocks) > 0.7 * 64 * 64
    for tile in torch.cat([block.flatten(0, 1) for block in blocks]):
        assert {len((tile // 64).unique()), len((tile % 64).unique())} == {4, 8}


def test_a_block_of_8x8_cells_ranks_above_one_of_4x4():
    assert tile_cost(8 * 8, 14 * 14) / 64 < tile_cost(4 * 4, 10 * 10) / 16


@pytest.mark.parametrize(("rows", "cols", "extra"), [(32, 32, 0), (24, 40, 0), (40, 24, 1), (20, 33, 2)])
def test_blocks_are_found_on_every_rectangle_beside_extra_tokens_and_always_the_same(rows, cols, extra):
    masks = neighbourhoods(rows, cols, 5, extra)
    plan = attention_plan(masks)
    assert torch.equal(dense(plan), masks)
    assert work(plan)[1] < 5, "in bands 6.6 to 7.5"
    again = _build([canonical(sp.csr_array(masks[0].numpy()))], "another digest")
    assert all(map(torch.equal, plan.as_arguments()[0], again.as_arguments()[0]))


def test_attention_in_blocks_is_dense_attention_in_float64():
    masks = neighbourhoods(20, 33, 5, extra=2)
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, 1, 662, dim) for dim in (4, 4, 16, 16)]
    *inputs, d_out = (torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    queries, keys, values = (x.requires_grad_() for x in inputs)
    dense = (queries @ keys.mT / 2).masked_fill(~masks, -torch.inf).softmax(-1) @ values
    tiles = sparse_attention(queries, keys, values, attention_plan(masks), backend="tiles")
    torch.testing.assert_close(tiles, dense, rtol=1e-12, atol=1e-12)
    both = (torch.autograd.grad(out, (queries, keys, values), d_out) for out in (tiles, dense))
    for ours, theirs in zip(*both, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


def test_own_blocks_become_one_tile_each():
    plan = attention_plan(sparse_head_masks("butterfly", (32, 32), (16, 16)))
    (group,) = plan.groups
    assert group.shape == (2, 16, 64, 16)
    assert group.full


def test_a_dense_head_is_one_full_tile():
    plan = attention_plan(torch.ones(3, 20, 7, dtype=torch.bool))
    (group,) = plan.groups
    assert (group.shape, group.heads, group.mask_of_head, group.full) == ((1, 1, 20, 7), (0, 1, 2), (0, 0, 0), True)


def test_equal_heads_share_one_mask():
    plan = attention_plan(head_masks("ltr_rtl", (16, 16)))
    assert sorted(head for group in plan.groups for head in set(group.heads)) == list(range(8))
    assert max(group.shape[0] for group in plan.groups) <= 4
    assert all(len(group.heads) == 2 * group.shape[0] for group in plan.groups)


def test_every_form_of_the_same_masks_gives_the_same_plan_object():
    masks = head_masks("strided", (8, 8), num_heads=2)
    sparse = [sp.csr_array(mask.numpy()) for mask in masks]
    plan = attention_plan(masks)
    assert attention_plan(masks.numpy()) is plan
    assert attention_plan(sparse) is plan
    assert attention_plan([sp.coo_array(mask) for mask in sparse]) is plan
    assert attention_plan(sparse[::-1]) != plan
    assert len({plan, attention_plan(masks.clone()), attention_plan(sparse[::-1])}) == 2


def test_stored_false_entries_and_duplicates_do_not_count():
    mask = sp.coo_array((np.array([True, True, True, False]), ([0, 0, 1, 1], [2, 2, 0, 1])), shape=(2, 3))
    given = sp.csr_array((np.array([True, False, True]), np.array([0, 1, 2]), np.array([0, 2, 3])), shape=(2, 3))
    assert attention_plan([mask]).num_edges == 2
    assert attention_plan([given]).num_edges == 2
    assert given.nnz == 3, "the caller's arrays are not touched"


def test_a_large_grid_is_planned_from_sparse_masks_without_any_dense_array():
    masks = sparse_head_masks("ltr_rtl", (128, 128), (64, 64))
    start = time.process_time()
    plan = attention_plan(masks)
    assert time.process_time() - start < 20  # about 1 second; 64M entries if dense
    assert sum(tensor.numel() * tensor.element_size() for tensor in plan.as_arguments()[0]) < 8e6
    assert plan.num_edges == sum(mask.nnz for mask in masks)
    for mask, again in zip(masks[:2], plan.sparse_masks()[:2], strict=True):
        assert (mask != again).nnz == 0


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (torch.ones(2, 3, 4), r"must be bool .* got float32"),
        (torch.ones(2, 3, 4, dtype=torch.bfloat16), r"must be bool .* got bfloat16"),
        (torch.ones(2, 3, 4, dtype=torch.bool).to_sparse(), "to_dense"),
        (np.ones((2, 3, 4), dtype=np.uint8), r"must be bool .* got uint8"),
        (torch.ones(3, 4, dtype=torch.bool), r"got \[3, 4\]"),
        (torch.ones(0, 3, 4, dtype=torch.bool), r"none of them 0, got \[0, 3, 4\]"),
        ([], "non-empty list of scipy.sparse arrays"),
        ([[True]], "non-empty list of scipy.sparse arrays"),
        ("ltr", "got str"),
        ([sp.csr_array(np.ones((3, 4)))], "head 0 is float64"),
        ([sp.csr_array(np.ones((3, n), dtype=bool)) for n in (4, 5)], r"head 1 has \[3, 5\] and head 0 \[3, 4\]"),
    ],
)
def test_what_is_not_a_set_of_masks_is_refused(masks, message):
    with pytest.raises(ValueError, match=message):
        attention_plan(masks)


def test_a_query_without_keys_is_refused_by_head_and_index():
    masks = torch.ones(3, 5, 4, dtype=torch.bool)
    masks[1, 3] = False
    for form in (masks, [sp.csr_array(mask.numpy()) for mask in masks]):
        with pytest.raises(ValueError, match="in head 1, query 3 may attend to no key"):
            attention_plan(form)


def test_a_plan_is_shown_in_one_line_and_not_by_its_tables():
    plan = attention_plan(sparse_head_masks("ltr_rtl", (8, 8), (4, 4)))
    assert repr(plan).startswith("<attention plan: 8 heads, 64 queries, 16 keys, ") and "\n" not in repr(plan)
    assert "tensor" not in str(plan)


def test_explain_names_tiles_work_and_the_backend_of_each_device():
    text = attention_plan(sparse_head_masks("ltr_rtl", (32, 32), (16, 16))).explain()
    assert "8 heads, 1024 queries, 256 keys" in text
    assert "16 tiles of 64 queries x 16 keys" in text
    assert "scores computed" in text and "keys gathered" in text
    assert "backend on cpu: tiles" in text and "backend on cuda: " in text


def test_moving_a_plan_keeps_its_content_and_is_remembered():
    plan = attention_plan(torch.ones(1, 2, 3, dtype=torch.bool))
    moved = plan.to("meta")
    assert moved.device.type == "meta" and moved.groups[0].shape == plan.groups[0].shape
    assert plan.to("meta") is moved and plan.to("cpu") is plan
    assert moved != plan and moved.digest == plan.digest


def test_an_operators_arguments_give_the_plan_that_is_in_use():
    plan = attention_plan(sparse_head_masks("ltr_rtl", (8, 8), (4, 4)))
    tensors, heads = plan.as_arguments()
    assert plan_of_arguments(tensors, heads, plan.sizes, plan.digest) is plan
    elsewhere = plan_of_arguments(tensors, heads, plan.sizes, "another digest")
    assert elsewhere.num_edges == plan.num_edges and torch.equal(elsewhere.dense_masks(), plan.dense_masks())


def test_plans_in_use_are_found_again_however_many_there_are():
    used = [attention_plan(torch.ones(1, n, 2, dtype=torch.bool)) for n in range(1, 101)]
    assert all(attention_plan(torch.ones(1, n, 2, dtype=torch.bool)) is plan for n, plan in enumerate(used, 1))


def test_copies_and_pickles_leave_out_what_was_derived():
    plan = attention_plan(sparse_head_masks("ltr_rtl", (8, 8), (4, 4)))
    before = len(pickle.dumps(plan))
    plan.derived("something large", lambda plan: torch.zeros(100_000))
    assert plan.transposed.num_queries == 16
    assert len(pickle.dumps(plan)) == before
    assert pickle.loads(pickle.dumps(plan)) == copy.deepcopy(plan) == plan
