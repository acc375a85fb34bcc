"""Attention leaves the house in operators that everybody knows, and nothing made on the way out is kept."""

import warnings

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import ylg
from ylg import SparseAttention, SparseAttention2d, attention_plan, sparse_attention, sparse_head_masks


def layer(**changes):
    torch.manual_seed(0)
    made = SparseAttention2d(**{"channels": 16, "grid": (8, 8), **changes}).eval()
    torch.nn.init.constant_(made.gain, 0.7)
    return made


def images(batch=2, side=8):
    return torch.randn(batch, 16, side, side, generator=torch.Generator().manual_seed(1))


def fresh_plans(monkeypatch):
    monkeypatch.setattr(ylg.plan, "_PLANS", type(ylg.plan._PLANS)())
    monkeypatch.setattr(ylg.plan, "_RECENT", type(ylg.plan._RECENT)())


def in_onnxruntime(module, arguments, path, names, **options):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, arguments, path, dynamo=True, input_names=names, verbose=False, **options)
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    domains = {node.domain for node in pytest.importorskip("onnx").load(path).graph.node}
    assert domains <= {"", "pkg.onnxscript.torch_lib.common"}, domains
    return lambda *x: session.run(None, {n: t.numpy() for n, t in zip(names, x, strict=True)})


@pytest.mark.parametrize("mode", ["parallel", "sequential"])
def test_onnx_computes_what_the_layer_computes(tmp_path, mode):
    block = layer(mode=mode)
    run = in_onnxruntime(block, (images(),), tmp_path / "layer.onnx", ["x"])
    np.testing.assert_allclose(run(images())[0], block(images()).detach(), rtol=1e-4, atol=1e-5)


def test_onnx_computes_what_the_layer_over_tokens_computes(tmp_path):
    torch.manual_seed(0)
    block = SparseAttention(24, (4, 4), num_heads=4, extra_tokens=1, bias_grid=(4, 4)).eval()
    torch.nn.init.normal_(block.offset_bias)
    x = torch.randn(2, 17, 24)
    run = in_onnxruntime(block, (x,), tmp_path / "tokens.onnx", ["x"])
    np.testing.assert_allclose(run(x)[0], block(x).detach(), rtol=1e-4, atol=1e-5)


def test_an_exported_layer_holds_no_operator_of_ours_and_takes_any_batch():
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(layer(), (images(),), dynamic_shapes=({0: batch},))
    assert not [n for n in program.graph.nodes if "ylg" in str(n.target)]
    for size in (1, 5):
        torch.testing.assert_close(program.module()(images(size)), layer()(images(size)))


def test_tracing_as_the_first_use_of_a_plan_leaves_nothing_behind(monkeypatch):
    fresh_plans(monkeypatch)
    block = layer()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(block, images(), check_trace=False)
    torch.testing.assert_close(traced(images()), layer()(images()))
    out = layer()(images(3).requires_grad_())
    out.sum().backward()
    torch.testing.assert_close(out, torch.cat([layer()(x[None]) for x in images(3)]))


@pytest.mark.parametrize("mode", ["meta", "fake", "vmap", "inference"])
def test_nothing_made_under_a_mode_of_the_caller_is_kept(monkeypatch, mode):
    fresh_plans(monkeypatch)
    masks = sparse_head_masks("strided", (4, 4), num_heads=2)
    shapes = [(2, 2, 16, 3), (2, 2, 16, 3), (2, 2, 16, 5)]
    if mode == "vmap":
        plan = attention_plan(masks)
        torch.func.vmap(torch.func.grad(lambda q: sparse_attention(q, q, q, plan).sum()))(torch.randn(3, 2, 2, 16, 3))
    else:
        device = "meta" if mode == "meta" else "cpu"
        with FakeTensorMode() if mode == "fake" else torch.inference_mode(mode == "inference"):
            plan = attention_plan(masks)
            tensors = [torch.zeros(shape, device=device, requires_grad=mode != "inference") for shape in shapes]
            out, attention = sparse_attention(*tensors, plan, return_attention=True)
            assert out.shape == shapes[2] and attention.shape == (2, 2, 16, 16)
            if mode != "inference":
                gradients = torch.autograd.grad(out.sum(), tensors)
                assert [x.shape for x in gradients] == shapes
    tensors = [torch.randn(shape, requires_grad=True) for shape in shapes]
    ours, theirs = (sparse_attention(*tensors, attention_plan(masks), backend=x) for x in ("tiles", "reference"))
    torch.testing.assert_close(ours, theirs)
    torch.autograd.grad(ours.sum(), tensors)


@pytest.mark.parametrize("made", ["inside", "outside"])
def test_layers_run_on_fake_tensors_whether_made_among_them_or_before(monkeypatch, made):
    fresh_plans(monkeypatch)

    def layers():
        return SparseAttention2d(16, (8, 8)), SparseAttention(16, extra_tokens=1, bias_grid=(4, 4))

    before = layers() if made == "outside" else None
    with FakeTensorMode(allow_non_fake_inputs=True):
        for block, shape in zip(before or layers(), [(2, 16, 8, 8), (2, 17, 16)], strict=True):
            x = torch.zeros(shape, requires_grad=True)
            block(x).sum().backward()
            assert x.grad.shape == shape
    torch.nn.functional.mse_loss(layers()[1](torch.ones(2, 17, 16)), torch.zeros(2, 17, 16)).backward()


def test_a_plan_of_which_only_a_copy_is_kept_is_not_made_again():
    masks = torch.rand(2, 9, 7, generator=torch.Generator().manual_seed(5)) < 0.5
    masks[..., 0] = True
    copy = attention_plan(masks).to("meta")
    for n in range(70):
        attention_plan(torch.ones(1, n + 1, 2, dtype=torch.bool))
    tensors, heads = copy.as_arguments()
    assert ylg.plan.plan_of_arguments(tensors, heads, copy.sizes, copy.digest) is copy
    assert torch.equal(copy.to("cpu").dense_masks(), masks)
