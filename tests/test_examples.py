"""The examples do what they say: attention in a U-Net of diffusers, a pattern of one's own (timm: test_drop_in.py)."""

import importlib.util
import runpy

import pytest
import torch

from ylg import head_masks, patterns


@pytest.fixture(scope="module")
def diffusers_example(repository):
    if importlib.util.find_spec("diffusers") is None:
        pytest.skip("diffusers is not installed")
    return runpy.run_path(str(repository / "examples" / "diffusers_unet.py"))


@pytest.fixture
def unet(diffusers_example):
    torch.manual_seed(0)
    return diffusers_example["unet"](8).double()


NOISY, TIMES = (
    torch.randn(2, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1)),
    torch.tensor([3, 9]),
)


def test_under_a_full_mask_a_diffusion_unet_says_what_it_said(diffusers_example, unet):
    before = unet(NOISY, TIMES).sample
    names = set(unet.state_dict())
    sparse = diffusers_example["make_sparse"](unet, "dense")
    torch.testing.assert_close(sparse(NOISY, TIMES).sample, before)
    assert set(sparse.state_dict()) == names


def test_its_attention_is_theirs_under_the_same_masks(diffusers_example, unet):
    module = unet.down_blocks[0].attentions[0]
    maps = torch.randn(2, 32, 8, 8, dtype=torch.float64)
    masks = head_masks("interlaced8", (8, 8), num_heads=module.heads)
    added = torch.where(masks, 0.0, -torch.inf).double()[None].expand(2, -1, -1, -1).flatten(0, 1)
    theirs = module(maps, attention_mask=added)
    torch.testing.assert_close(diffusers_example["make_sparse"](unet).down_blocks[0].attentions[0](maps), theirs)
    assert not torch.allclose(theirs, module(maps) * 2)
    with pytest.raises(ValueError, match="leave this module as it was"):
        module(maps, attention_mask=added)


@pytest.mark.slow
def test_a_diffusion_unet_learns(diffusers_example, capsys):
    diffusers_example["main"](steps=12)
    dense, sparse = (line.split() for line in capsys.readouterr().out.splitlines())
    assert all(float(words[6]) < float(words[2]) for words in (dense, sparse))


def test_a_pattern_of_ones_own_is_checked_and_probed(repository, monkeypatch, capsys):
    monkeypatch.setattr(patterns, "_REGISTRY", dict(patterns._REGISTRY))
    runpy.run_path(str(repository / "examples" / "own_pattern.py"))["main"](steps=5, grid=(4, 6))
    said = capsys.readouterr().out
    assert "Full information on 12 x 20: True" in said and "A layer: (1, 64, 16, 16)" in said
    assert "axial: 240 edges, flow 12 from left to right" in said and "Probe find: predicted 1.00" in said
