"""The documented example: a timm vision transformer whose attention is ours."""

import importlib.util
import runpy

import pytest
import torch

from ylg import head_masks


@pytest.fixture(scope="module")
def example(repository):
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed")
    return runpy.run_path(str(repository / "examples" / "timm_drop_in.py"))


def vision_transformer(example, **changes):
    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 5}
    return example["VisionTransformer"](**{**sizes, **changes}).double()


def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_a_full_mask_leaves_the_models_output_as_it_was(example):
    model = vision_transformer(example)
    before = model(images())
    torch.testing.assert_close(example["make_sparse"](model, "dense")(images()), before)


def test_the_replaced_attention_is_timms_own_under_the_same_masks(example):
    dense = vision_transformer(example).blocks[0].attn
    sparse = example["make_sparse"](vision_transformer(example)).blocks[0].attn
    masks = torch.ones(4, 65, 65, dtype=torch.bool)
    masks[:, 1:, 1:] = head_masks("ltr_rtl", (8, 8), num_heads=4)
    tokens = torch.randn(2, 65, 32, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    torch.testing.assert_close(sparse(tokens), dense(tokens, attn_mask=masks))
    assert not torch.allclose(sparse(tokens), dense(tokens))


def test_every_weight_of_the_sparse_model_is_trained(example):
    model = example["make_sparse"](vision_transformer(example))
    model(images()).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_what_would_be_lost_is_refused(example):
    with pytest.raises(ValueError, match="attention dropout"):
        example["make_sparse"](vision_transformer(example, attn_drop_rate=0.1))
    with pytest.raises(ValueError, match="num_heads=2"):
        example["make_sparse"](vision_transformer(example, num_heads=2))
    model = example["make_sparse"](vision_transformer(example))
    with pytest.raises(ValueError, match="the plan is the mask"):
        model.blocks[0].attn(torch.zeros(1, 65, 32, dtype=torch.float64), is_causal=True)


def test_the_example_runs_as_it_stands(example, capsys):
    example["main"]()
    assert "attention plan: 4 heads, 257 queries, 257 keys" in capsys.readouterr().out
