"""What a backend computes on a device, against dense attention in float64 there: the first tests to run on a GPU.

On a CPU the tiles are tested; the kernels run there in Triton's interpreter, in test_triton.py. With a GPU both
are tested on it, at the sizes of real layers.
"""

import os

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import ylg

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no CUDA device")
PLACES = [
    pytest.param(("cpu", "tiles"), id="cpu-tiles"),
    pytest.param(("cuda", "tiles"), id="cuda-tiles", marks=NO_GPU),
    pytest.param(("cuda", "triton"), id="cuda-triton", marks=NO_GPU),
]
SCALE = 0.7
# Relative to the largest value. TF32 would be off by 1e-3.
TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5, torch.float16: 6e-3, torch.bfloat16: 5e-2}


@pytest.fixture(params=PLACES)
def place(request):
    torch.manual_seed(0)
    return request.param


@pytest.fixture
def gpu():
    if not torch.cuda.is_available():
        pytest.skip("PyTorch sees no CUDA device")
    if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        pytest.fail("TRITON_INTERPRET is set, so no kernel would run on the GPU: unset it")
    torch.manual_seed(0)
    return "cuda"


def masks_of(pattern):
    if pattern != "irregular":
        return ylg.head_masks(pattern, (16, 16), (8, 8), num_heads=4)
    masks = torch.rand(3, 301, 77) < 0.2
    masks[..., 7], masks[..., 11] = True, False  # a relay; a key that nobody attends to
    return masks


def inputs_of(masks, dims, device, dtype=torch.float32, batch=2, layout="dims last"):
    """Queries, keys, values with gradients; "cells last" are views of NCHW maps, "channels last" of NHWC maps."""
    heads, num_queries, num_keys = masks.shape
    shapes = [(num_queries, dims[0]), (num_keys, dims[0]), (num_keys, dims[1])]
    made = [torch.randn(batch, heads, *shape, device=device, dtype=dtype) for shape in shapes]
    if layout == "cells last":
        made = [x.mT.contiguous().mT for x in made]
    elif layout == "channels last":  # [B, cells, D * H], as the heads of a layer are merged
        made = [x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2) for x in made]
    return [x.requires_grad_() for x in made]


def dense(queries, keys, values, masks):
    scores = SCALE * queries.double() @ keys.double().mT
    attention = scores.masked_fill(~masks.to(scores.device), float("-inf")).softmax(-1)
    return attention @ values.double(), attention


def assert_matches_dense(inputs, masks, backend):
    """Output, map and the gradients of a mixture of both."""
    expected = dense(*inputs, masks)
    weights = [torch.randn_like(x) for x in expected]

    def with_gradients(outputs):
        mixture = sum((x * weight).sum() for x, weight in zip(outputs, weights, strict=True))
        return *outputs, *torch.autograd.grad(mixture, inputs)

    found = with_gradients(ylg.sparse_attention(*inputs, ylg.attention_plan(masks), SCALE, backend, True))
    names = ("out", "attention", "d queries", "d keys", "d values")
    for name, x, y in zip(names, found, with_gradients(expected), strict=True):
        error = (x.double() - y).abs().max() / y.abs().max().clamp_min(1e-3) if x.numel() else 0
        assert error < TOLERANCE[inputs[0].dtype], f"{name} is off by {error:.1e}"


@pytest.mark.parametrize("layout", ["dims last", "cells last", "channels last"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("dims", [(4, 16), (2, 8)], ids=str)
def test_the_heads_of_sagan_match_dense_attention_in_every_dtype_and_memory_order(place, dims, dtype, layout):
    device, backend = place
    masks = masks_of("ltr_rtl")
    assert_matches_dense(inputs_of(masks, dims, device, dtype, layout=layout), masks, backend)


@pytest.mark.parametrize("dims", [(1, 1), (3, 5), (4, 16), (5, 3), (16, 16), (40, 24), (64, 64), (128, 128)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_heads_of_every_width_match_dense_attention(place, dims, dtype):
    device, backend = place
    masks = masks_of("irregular")
    assert_matches_dense(inputs_of(masks, dims, device, dtype), masks, backend)


@pytest.mark.parametrize("pattern", ["strided", "butterfly", "dense"])
def test_every_pattern_matches_dense_attention(place, pattern):
    device, backend = place
    masks = masks_of(pattern)
    assert_matches_dense(inputs_of(masks, (4, 16), device, batch=1), masks, backend)


@pytest.mark.parametrize("largest", [3_200, 28_800])
def test_large_scores_are_as_exact_as_in_dense_attention_in_float32(place, largest):
    device, backend = place
    masks = masks_of("ltr_rtl")
    queries, keys, values = inputs_of(masks, (4, 16), device, layout="channels last")
    size = (largest / (SCALE * queries @ keys.mT).abs().max()).sqrt()
    tensors = [x.detach() for x in (queries * size, keys * size, values)]
    plan, weight = ylg.attention_plan(masks), torch.randn_like(values[:, :, :1]).expand(-1, -1, masks.shape[1], -1)

    def found(attend, dtype):
        leaves = [x.to(dtype).requires_grad_() for x in tensors]
        out = attend(*leaves)
        return [out.detach(), *torch.autograd.grad(out, leaves, weight.to(dtype))]

    def by_definition(q, k, v):
        scores = SCALE * q @ k.mT
        return scores.masked_fill(~masks.to(device), float("-inf")).softmax(-1) @ v

    ours = found(lambda *x: ylg.sparse_attention(*x, plan, SCALE, backend), torch.float32)
    exact = found(by_definition, torch.float64)
    for x, dense, right in zip(ours, found(by_definition, torch.float32), exact, strict=True):
        assert (x - right).abs().max() <= 3 * (dense - right).abs().max()


def test_an_empty_batch_matches_dense_attention(place):
    device, backend = place
    masks = masks_of("irregular")
    assert_matches_dense(inputs_of(masks, (4, 16), device, batch=0), masks, backend)


def test_the_last_image_of_a_large_batch_is_right(place):
    """Where offsets are largest."""
    device, backend = place
    masks = ylg.sparse_head_masks("ltr_rtl", (64, 64), (32, 32))
    plan = ylg.attention_plan(masks)
    inputs = [torch.randn(8, 8, n, d, device=device) for n, d in ((4096, 4), (1024, 4), (1024, 16))]
    found = ylg.sparse_attention(*inputs, plan, SCALE, backend)[-1:]
    exact = ylg.sparse_attention(*(x[-1:].double() for x in inputs), plan, SCALE, "tiles")
    assert (found - exact).abs().max() < TOLERANCE[torch.float32] * exact.abs().max()


# --- how kernels behave, on a GPU -------------------------------------------------------------------------------------


class Attention:
    """The kernels on a layer of 32x32 queries; ``step`` gives the output and its gradients."""

    def __init__(self):
        masks = ylg.head_masks("ltr_rtl", (32, 32), (16, 16))
        self.plan = ylg.attention_plan(masks)
        self.inputs = inputs_of(masks, (4, 16), "cuda", batch=4, layout="cells last")

    def __call__(self, *x, backend="triton"):
        return ylg.sparse_attention(*x, self.plan, SCALE, backend)

    def step(self, attend=None, inputs=None):
        inputs = inputs or self.inputs
        out = (attend or self)(*inputs)
        return out, *torch.autograd.grad(out.float().square().sum(), inputs)


@pytest.fixture
def attention(gpu):
    return Attention()


def assert_same_bits(found, expected):
    assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))


def assert_near(found, expected):
    for x, y in zip(found, expected, strict=True):
        assert (x - y).abs().max() < 1e-4 * y.abs().max()


def test_the_same_input_gives_the_same_bits(attention):
    assert_same_bits(attention.step(), attention.step())


def test_auto_takes_the_kernels(attention):
    assert_same_bits([attention(*attention.inputs, backend="auto")], [attention(*attention.inputs)])


def test_compiled_by_inductor_as_one_graph_it_gives_the_same_bits(attention):
    assert_same_bits(attention.step(torch.compile(attention.__call__, fullgraph=True)), attention.step())


def test_a_cuda_graph_replays_the_same_bits(attention):
    expected = attention.step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = attention.step()
    graph.replay()
    assert_same_bits(found, expected)


def test_autocast_computes_in_its_type_and_returns_gradients_in_the_inputs_type(attention):
    with torch.autocast("cuda", torch.bfloat16):
        out = attention(*attention.inputs)
    gradients = torch.autograd.grad(out.float().sum(), attention.inputs)
    assert out.dtype == torch.bfloat16 and {x.dtype for x in gradients} == {torch.float32}


def test_activation_checkpointing_changes_nothing(attention):
    assert_same_bits(attention.step(lambda *x: checkpoint(attention, *x, use_reentrant=False)), attention.step())


def test_another_stream_changes_nothing(attention):
    expected = attention.step()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        found = attention.step()
    torch.cuda.current_stream().wait_stream(stream)
    assert_same_bits(found, expected)


def test_a_gpu_that_is_not_the_current_one_computes_the_same(attention):
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU only")
    moved = [x.detach().to("cuda:1").requires_grad_() for x in attention.inputs]
    assert_same_bits([x.to("cuda:0") for x in attention.step(inputs=moved)], attention.step())


def test_a_layer_with_its_map_and_gradients_is_that_of_tiles(gpu):
    found = {}
    for backend in ("triton", "tiles"):
        torch.manual_seed(0)
        layer = ylg.SparseAttention2d(64, (32, 32), backend=backend).to(gpu)
        torch.nn.init.ones_(layer.gain)
        x = torch.randn(4, 64, 32, 32, device=gpu).to(memory_format=torch.channels_last)
        with torch.backends.cudnn.flags(allow_tf32=False):
            out, attention = layer(x, return_attention=True)
            loss = out.square().sum() + attention.square().sum()
            found[backend] = [out, attention, *torch.autograd.grad(loss, list(layer.parameters()))]
    assert_near(found["triton"], found["tiles"])


def test_a_gradient_penalty_is_that_of_tiles(attention):
    def penalty(backend):
        out = attention(*attention.inputs, backend=backend)
        slopes = torch.autograd.grad(out.square().sum(), attention.inputs, create_graph=True)
        return torch.autograd.grad(sum(slope.square().sum() for slope in slopes), attention.inputs)

    assert_near(penalty("triton"), penalty("tiles"))
