"""SparseAttention2d: SAGAN's block, its channel conventions, both modes, and how its plan lives in a model."""

import copy
import pickle
import re

import numpy as np
import pytest
import torch

import ylg
from ylg import SparseAttention, SparseAttention2d, head_masks, step_masks
from ylg.backends.tiles.layout import tile_layout


def layer(**changes) -> SparseAttention2d:
    torch.manual_seed(0)
    made = SparseAttention2d(**{"channels": 16, "grid": (8, 8), **changes})
    with torch.no_grad():
        made.gain.fill_(0.7)
    return made


def images(channels=16, side=8, batch=2):
    return torch.randn(batch, channels, side, side, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_a_new_layer_returns_its_input():
    x = images().float()
    assert torch.equal(SparseAttention2d(16, (8, 8))(x), x)


@pytest.mark.parametrize("pool", [1, 2])
def test_the_block_is_sagans_head_by_head(pool):
    """Written out with loops: head-major channels in, channel-major (d * heads + head) out, unscaled scores."""
    block, x = layer(pool=pool, num_heads=4, qk_channels=8, v_channels=12, pattern="ltr_rtl").double(), images()
    masks = head_masks("ltr_rtl", (8, 8), (8 // pool, 8 // pool), 4)

    def project(conv, pooled):
        maps = torch.einsum("oc,bchw->bohw", conv.weight[:, :, 0, 0], x)
        return torch.nn.functional.max_pool2d(maps, pool) if pooled else maps

    queries, keys, values = project(block.query, False), project(block.key, True), project(block.value, True)
    merged = torch.zeros(2, 12, 64, dtype=torch.float64)
    for head in range(4):
        q = queries[:, 2 * head : 2 * head + 2].flatten(2)
        k = keys[:, 2 * head : 2 * head + 2].flatten(2)
        v = values[:, 3 * head : 3 * head + 3].flatten(2)
        scores = torch.einsum("bdq,bdk->bqk", q, k).masked_fill(~masks[head], -torch.inf)
        out = torch.einsum("bqk,bdk->bdq", scores.softmax(-1), v)
        for d in range(3):
            merged[:, d * 4 + head] = out[:, d]
    expected = x + 0.7 * torch.einsum("oc,bcn->bon", block.output.weight[:, :, 0, 0], merged).view_as(x)
    torch.testing.assert_close(block(x), expected)


def test_default_sizes_are_those_of_the_published_network():
    generator, discriminator = SparseAttention2d(256, (32, 32)), SparseAttention2d(128, (32, 32))
    assert [generator.query.out_channels, generator.value.out_channels] == [32, 128]
    assert [discriminator.query.out_channels, discriminator.value.out_channels] == [16, 64]
    assert SparseAttention2d(8, (4, 4), num_heads=16).query.out_channels == 16
    names = {"query", "key", "value", "output", "gain", "_extra_state"}
    assert {name.split(".")[0] for name in generator.state_dict()} == names
    assert all(conv.bias is None for conv in (generator.query, generator.key, generator.value, generator.output))


@pytest.mark.parametrize("mode", ["parallel", "sequential"])
@pytest.mark.parametrize("pattern", ["ltr_rtl", "strided", "butterfly", "dense"])
def test_every_backend_that_runs_here_computes_the_same_layer(pattern, mode):
    ours = layer(pattern=pattern, mode=mode).double()
    dense = layer(pattern=pattern, mode=mode, backend="reference").double()
    for a, b in zip(ours(images(), return_attention=True), dense(images(), return_attention=True), strict=True):
        torch.testing.assert_close(a, b)
    assert torch.equal(ours(images()), ours(images(), return_attention=True)[0])


def reached(block: SparseAttention2d, side: int) -> torch.Tensor:
    """[outputs, inputs]: does the gradient of any channel at an output cell reach an input cell?"""
    x = images(side=side, batch=1).requires_grad_()
    out = block(x).square().sum(1).flatten()
    rows = [torch.autograd.grad(out[i], x, retain_graph=True)[0].abs().sum(1).flatten() > 0 for i in range(out.numel())]
    return torch.stack(rows)


@pytest.mark.parametrize("order", ["manhattan", "raster"])
@pytest.mark.parametrize("pattern", ["ltr", "rtl", "ltr_rtl", "strided", "butterfly"])
def test_one_sequential_layer_carries_every_input_to_every_output(pattern, order):
    chained = layer(grid=(5, 5), pattern=pattern, order=order, mode="sequential", pool=1, num_heads=8).double()
    assert reached(chained, 5).all()


def test_one_parallel_layer_does_not_and_neither_does_a_chain_without_full_information():
    assert not reached(layer(grid=(5, 5), pool=1).double(), 5).all()
    assert not reached(layer(grid=(5, 5), pool=1, pattern="fixed", mode="sequential").double(), 5).all()


@pytest.mark.parametrize("alignment", ["pool", "tile", "rows"])
def test_the_map_of_a_sequential_layer_reaches_every_key_and_makes_the_output(alignment):
    block = layer(mode="sequential", alignment=alignment).double()
    out, attention = block(images(), return_attention=True)
    assert attention.shape == (2, 8, 64, 16) and (attention > 0).all()
    torch.testing.assert_close(attention.sum(-1), torch.ones_like(attention.sum(-1)))
    values = block._heads(block._pooled(block.value(images())))
    merged = (attention @ values).permute(0, 3, 1, 2).reshape(2, -1, 8, 8)
    torch.testing.assert_close(out, images() + 0.7 * block.output(merged))


def test_a_sequential_layer_applies_step_one_before_step_two():
    block = layer(grid=(4, 4), pattern="ltr", order="raster", mode="sequential", pool=1, num_heads=2)
    assert len(block.plans) == 2
    for plan, step in zip(block.plans, step_masks("ltr", 16), strict=True):
        assert torch.equal(plan.dense_masks(), step.expand(2, 16, 16))


def test_patterns_of_unequal_length_cannot_be_chained():
    with pytest.raises(ValueError, match="equally many steps"):
        layer(pattern=["ltr", "dense"], num_heads=4, mode="sequential")


def test_plans_follow_the_model_and_no_layer_can_change_those_of_another():
    block = layer()
    block.to("meta")
    assert block.plan.device.type == "meta" and layer().plan.device.type == "cpu"
    assert layer().half().plan.groups[0].tile_mask.dtype == torch.bool
    before = layer().double()(images())
    with torch.no_grad():
        for buffer in layer().buffers():
            buffer.zero_()
    again = layer().double()
    again.plan._derived.clear()  # what was made of the plan's tensors before they could be changed
    assert torch.equal(again(images()), before)


STRANGERS = {
    "pattern": {"pattern": "strided"},
    "order": {"order": "raster"},
    "permutation": {"order": list(range(15, -1, -1))},
    "alignment": {"alignment": "rows"},
    "stride": {"stride": 2},
    "mode": {"mode": "sequential"},
}


@pytest.mark.parametrize("stranger", STRANGERS.values(), ids=STRANGERS)
def test_the_state_of_a_layer_with_other_masks_is_refused_before_anything_is_copied(stranger):
    network, other = torch.nn.Sequential(layer()), torch.nn.Sequential(layer(**stranger))
    torch.nn.init.ones_(other[0].query.weight)
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(ValueError, match=r"this state belongs to an attention layer of .*; here is one of ") as refusal:
        network.load_state_dict(other.state_dict())
    for name, value in stranger.items():
        assert name in str(refusal.value).split("build it with the same")[1] or name == "pattern"
        for side in (value, getattr(network[0], name)):
            assert isinstance(side, list) or str(side) in str(refusal.value)
    assert all(torch.equal(x, before[name]) for name, x in network.state_dict().items())
    other.load_state_dict(other.state_dict())


def test_a_state_that_names_no_masks_loads_strictly_and_the_grid_only_informs(tmp_path):
    files = pytest.importorskip("safetensors.torch")
    state = layer().state_dict()
    assert state["_extra_state"].dtype == torch.uint8
    files.save_file(state, tmp_path / "layer.safetensors")
    layer(grid=(12, 8)).load_state_dict(files.load_file(tmp_path / "layer.safetensors"), strict=True)
    older = {name: x for name, x in state.items() if name != "_extra_state"}
    block = layer()
    block.load_state_dict(older, strict=True)
    with pytest.raises(RuntimeError, match=r"Missing key.*query.weight"):
        block.load_state_dict({name: x for name, x in older.items() if name != "query.weight"}, strict=True)
    with pytest.raises(ValueError, match="not the state of an attention layer"):
        block.load_state_dict(older | {"_extra_state": torch.zeros(3, dtype=torch.uint8)})


def test_layers_that_spell_the_same_heads_differently_share_their_states():
    layer(pattern=["rtl", "ltr"]).load_state_dict(layer(pattern="ltr_rtl").state_dict())


@pytest.mark.parametrize("mode", ["parallel", "sequential"])
@pytest.mark.parametrize("options", [{}, {"stride": 2, "order": "raster", "alignment": "tile"}, {"pattern": "fixed"}])
def test_a_layer_says_which_entries_of_its_maps_can_be_more_than_zero(mode, options):
    block = layer(mode=mode, **options)
    _, attention = block.double()(images(), return_attention=True)
    assert block.key_grid == (4, 4)
    for head, mask in enumerate(block.head_masks()):
        assert mask.dtype == bool and np.array_equal(mask.toarray(), (attention > 0).any(0)[head].numpy())


def test_a_layer_made_without_memory_has_its_plan_when_it_gets_some():
    with torch.device("meta"):
        block = SparseAttention2d(16, (8, 8))
    block = block.to("meta").to_empty(device="cpu")
    block.load_state_dict(layer().state_dict())
    assert torch.equal(block.double()(images()), layer().double()(images()))


@pytest.mark.parametrize("num_heads", [4, 8, 16])
@pytest.mark.parametrize("channels", [3, 24, 72, 96, 160, 320])
def test_default_widths_suit_any_number_of_channels(channels, num_heads):
    block = SparseAttention2d(channels, (4, 4), num_heads=num_heads)
    for conv, least in ((block.query, channels // 8), (block.value, channels // 2)):
        assert max(least, 8) <= conv.out_channels < max(least, 8) + num_heads and conv.out_channels % num_heads == 0


def test_what_is_made_in_inference_mode_trains_later():
    """The plans and layouts made there are kept, so they must not be inference tensors."""
    with torch.inference_mode():
        layer(grid=(6, 10))(torch.zeros(1, 16, 6, 10), return_attention=True)
    block, x = layer(grid=(6, 10)), torch.randn(1, 16, 6, 10, requires_grad=True)
    pieces = tile_layout(block.plan).pieces
    for tensor in (*block.plan.as_arguments()[0], *(x for p in pieces for x in (p._query_rows._first, p.edges[0]))):
        assert not tensor.is_inference()
    out, attention = torch.compile(block, backend="aot_eager")(x, return_attention=True)
    (out.sum() + attention.square().sum()).backward()
    out, attention = block(x, return_attention=True)
    (slope,) = torch.autograd.grad(out.square().sum() + attention.square().sum(), x, create_graph=True)
    slope.square().sum().backward()
    assert x.grad.isfinite().all()


def test_copies_and_pickles_compute_the_same():
    block, x = layer().double(), images()
    for again in (copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
        assert torch.equal(again(x), block(x))


def test_channels_last_images_give_the_same():
    block, x = layer().double(), images()
    torch.testing.assert_close(block(x.to(memory_format=torch.channels_last)), block(x))


def test_an_empty_batch_passes_through():
    assert layer()(torch.zeros(0, 16, 8, 8)).shape == (0, 16, 8, 8)


def test_printing_a_layer_shows_its_plan():
    text = str(layer(pattern="strided"))
    assert "pattern='strided'" in text and "attention plan: 8 heads, 64 queries, 16 keys" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "serial"}, "unknown mode 'serial'; use one of parallel, sequential"),
        ({"backend": "gpu"}, "backend='gpu' is unknown"),
        ({"pool": 3}, r"pool=3 does not divide the grid \(8, 8\)"),
        ({"qk_channels": 12}, r"qk_channels=12 does not divide among num_heads=8.*qk_channels=8"),
        ({"v_channels": 9}, "v_channels=9 does not divide"),
        ({"num_heads": 6}, "num_heads=6"),
        ({"pattern": "diagonal"}, "diagonal"),
        ({"order": "spiral"}, "spiral"),
        ({"alignment": "none"}, "alignment"),
        ({"grid": (8, 0)}, "grid"),
        ({"channels": 0}, "channels=0"),
        ({"channels": "32"}, "channels='32' must be a whole number"),
        ({"channels": 16.0}, "channels=16.0 must be a whole number"),
        ({"qk_channels": 16.0}, "qk_channels=16.0 must be a whole number"),
        ({"pool": 2.0}, "pool=2.0 does not divide"),
        ({"scale": "a"}, "scale must be a number or None, got str"),
    ],
)
def test_wrong_settings_are_refused_when_the_layer_is_made(changes, message):
    with pytest.raises(ValueError, match=message):
        layer(**changes)


def test_an_image_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"\[batch, 16, 8, 8\], got \[2, 16, 4, 8\]"):
        layer()(torch.zeros(2, 16, 4, 8))


def test_no_scale_is_one_over_the_root_of_the_head_dim():
    x = images().float()
    default, rooted, halved = (layer(num_heads=4, qk_channels=16, scale=scale)(x) for scale in (1.0, None, 0.5))
    assert torch.equal(rooted, halved) and not torch.allclose(rooted, default)


def test_the_stride_is_that_of_the_masks_and_is_shown():
    block = layer(pattern="ltr", num_heads=2, stride=2)
    assert torch.equal(block.plan.dense_masks(), head_masks("ltr", (8, 8), (4, 4), 2, stride=2))
    assert block.stride == 2 and "stride=2" in repr(block)


def test_patterns_native_to_the_grid_are_shown_without_an_order():
    layers = [SparseAttention2d(64, (8, 8), pattern) for pattern in ("rotated_blocks", "ltr_rtl")]
    layers += [SparseAttention(64, (8, 8), pattern) for pattern in ("rotated_blocks", "ltr_rtl")]
    assert [re.search("order='(.*?)'", repr(layer))[1] for layer in layers] == ["-", "manhattan"] * 2


def test_in_sequence_the_first_step_asks_with_max_pooled_queries():
    block, x = layer(pattern="ltr", num_heads=2, mode="sequential").double(), images()
    queries, keys, values = block.query(x), block.key(x), block.value(x)
    coarse, keys, values = (torch.nn.functional.max_pool2d(maps, 2) for maps in (queries, keys, values))
    first = head_masks("ltr", (4, 4), (4, 4), 2)[0]  # both heads take the first step, then both the second
    second = head_masks("ltr", (8, 8), (4, 4), 2)[1]
    mixed = []
    for head in range(2):
        q, c, k, v = (m.unflatten(1, (2, -1))[:, head].flatten(2).mT for m in (queries, coarse, keys, values))
        v = (c @ k.mT).masked_fill(~first, float("-inf")).softmax(-1) @ v
        mixed.append((q @ k.mT).masked_fill(~second, float("-inf")).softmax(-1) @ v)
    merged = torch.stack(mixed, 1).permute(0, 3, 1, 2).flatten(1, 2).unflatten(2, (8, 8))
    torch.testing.assert_close(block(x), x + block.gain * block.output(merged))


@pytest.mark.parametrize("mode", ["parallel", "sequential"])
def test_qk_norm_asks_with_unit_vectors_times_a_temperature_of_each_head(mode):
    """Written out densely, in float64; keys are pooled first, and so are the queries of the first of two steps."""
    x = images()
    block = layer(pattern="ltr", mode=mode, num_heads=4, qk_channels=12, qk_norm=True, temperature=3).double()
    with torch.no_grad():
        block.log_temperature += torch.linspace(-1, 1, 4)
        block.query.weight *= 30  # far from the constant that stands beside the length
        block.key.weight *= 30
    temperature = 3 * torch.linspace(-1, 1, 4, dtype=torch.float64).exp()

    def heads(conv, pool):
        maps = torch.nn.functional.max_pool2d(conv(x), pool)
        return maps.unflatten(1, (4, -1)).flatten(3).mT

    def probabilities(queries, masks):
        unit = [v / v.norm(dim=-1, keepdim=True) for v in (queries, heads(block.key, 2))]
        scores = temperature[:, None, None] * (unit[0] @ unit[1].mT)
        return scores.masked_fill(~masks, -torch.inf).softmax(-1)

    fine = head_masks("ltr", (8, 8), (4, 4), 4)
    expected = probabilities(heads(block.query, 1), fine)
    if mode == "sequential":
        steps = step_masks("ltr", 16)
        cells = ylg.grid_order(4, 4).argsort()
        first = steps[0][cells][:, cells].expand(4, -1, -1)
        last = probabilities(heads(block.query, 1), fine[[1, 1, 3, 3]])
        expected = last @ probabilities(heads(block.query, 2), first)
    torch.testing.assert_close(block(x, return_attention=True)[1], expected, atol=1e-6, rtol=1e-5)


def test_without_qk_norm_nothing_is_added_to_a_layers_state():
    assert "log_temperature" not in layer().state_dict()
    assert layer(qk_norm=True).state_dict()["log_temperature"].exp().tolist() == pytest.approx([4.0] * 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_vectors_of_length_zero_have_a_finite_gradient_under_qk_norm(dtype):
    block = layer(qk_norm=True).to(dtype)
    x = torch.zeros(1, 16, 8, 8, dtype=dtype, requires_grad=True)
    block(x).square().sum().backward()
    assert x.grad.isfinite().all() and block.query.weight.grad.isfinite().all()


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan"), float("inf")])
def test_a_temperature_that_is_none_is_refused(temperature):
    with pytest.raises(ValueError, match=r"temperature=.* must be a positive number"):
        layer(qk_norm=True, temperature=temperature)


def test_qk_norm_is_the_same_on_every_backend_and_its_temperature_learns():
    gradients = []
    for backend in ("tiles", "reference", "triton"):
        block = layer(qk_norm=True, backend=backend)
        block(images().float()).square().sum().backward()
        gradients.append(block.log_temperature.grad)
    assert gradients[0].abs().min() > 1e-6
    for other in gradients[1:]:
        torch.testing.assert_close(other, gradients[0], atol=1e-4, rtol=1e-4)
