"""Measures of likeness against their definitions, and perceptual distances against an independent program."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from analysis.inversion.distances import (
    choose_distance,
    decibels,
    efficientnet_distance,
    lpips_distance,
    psnr,
    ssim,
    ssim_distance,
)


def images(count=2, channels=3, side=16, seed=0):
    return (
        torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2
        - 1
    )


def test_psnr_is_ten_times_the_logarithm_of_the_squared_range_over_the_error():
    reference = torch.zeros(1, 1, 4, 4)
    assert psnr(reference + 0.2, reference).item() == pytest.approx(20.0, abs=1e-4)
    assert math.isinf(psnr(reference, reference).item())
    assert decibels(math.inf) == 99.0
    assert decibels(20.0) == 20.0


def test_ssim_equals_its_definition_by_scipys_gaussian_filter():
    x, y = images(1, 1, 24, 1)[0, 0].numpy(), images(1, 1, 24, 2)[0, 0].numpy()

    def blur(z):  # an 11-wide window of sigma 1.5, only where it fits
        return gaussian_filter(z, 1.5, truncate=5 / 1.5, mode="constant")[5:-5, 5:-5]

    mx, my = blur(x), blur(y)
    vx, vy, cov = blur(x * x) - mx**2, blur(y * y) - my**2, blur(x * y) - mx * my
    score = (2 * mx * my + 0.0004) * (2 * cov + 0.0036) / ((mx**2 + my**2 + 0.0004) * (vx + vy + 0.0036))
    ours = ssim(torch.from_numpy(x)[None, None], torch.from_numpy(y)[None, None])
    assert ours.item() == pytest.approx(float(np.mean(score)), abs=1e-9)


@pytest.mark.parametrize("side", [4, 5, 16, 32])
def test_ssim_of_equal_images_is_one_at_any_size_and_falls_with_noise(side):
    reference = images(1, 3, side)
    scores = [ssim(reference + level * images(1, 3, side, 9), reference).item() for level in (0.0, 0.1, 0.5)]
    assert scores[0] == pytest.approx(1.0)
    assert scores[0] > scores[1] > scores[2]


def test_distances_are_zero_for_equal_images_and_take_one_reference_for_many():
    pictures = images(3, 1, 16).float()
    for distance in (ssim_distance(), efficientnet_distance()):
        values = distance(pictures, pictures[:1])
        assert values.shape == (3,)
        assert values[0].abs() < 1e-5
        assert values[1] > 0.01


def test_the_efficientnet_distance_grows_as_an_image_is_blurred():
    sharp = images(1, 3, 32).float()
    distance = choose_distance()
    assert distance.name == "EfficientNet-Lite0 distance"
    blurred = [torch.nn.functional.avg_pool2d(sharp, k, 1, k // 2, count_include_pad=False) for k in (3, 5)]
    once, twice = (distance(image, sharp).item() for image in blurred)
    assert 0 < once < twice


def test_lpips_equals_torch_fidelitys_on_the_same_random_weights(tmp_path, monkeypatch):
    from sagan_base.torchvision_compat import declare_missing_operators

    declare_missing_operators()
    from torch_fidelity import sample_similarity_lpips as peer
    from torchvision.models.vgg import cfgs, make_layers

    torch.manual_seed(0)
    network = torch.nn.ModuleDict({"features": make_layers(cfgs["D"], batch_norm=False)})
    linear = {f"lin{i}.model.1.weight": torch.rand(1, c, 1, 1) for i, c in enumerate((64, 128, 256, 512, 512))}
    torch.save(network.state_dict(), tmp_path / "vgg16.pth")
    torch.save(linear, tmp_path / "lpips.pth")
    monkeypatch.setattr(peer, "load_state_dict_from_url", lambda *_, **__: linear)
    monkeypatch.setattr(
        peer, "torchvision_load_pretrained_vgg16", lambda: SimpleNamespace(features=network["features"])
    )
    theirs = peer.SampleSimilarityLPIPS("lpips")
    pixels = torch.randint(0, 256, (2, 3, 64, 64))
    # Their first channel shift is applied to bytes in 0..255, ours to values in [-1, 1].
    expected = theirs(pixels[:1].float(), pixels[1:].float())
    ours = lpips_distance(tmp_path / "vgg16.pth", tmp_path / "lpips.pth")
    scaled = pixels.float() / 127.5 - 1
    assert ours(scaled[:1], scaled[1:]).item() == pytest.approx(expected.item(), rel=1e-4)


def test_files_that_are_not_lpips_weights_are_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"absent\.pth does not exist"):
        lpips_distance(tmp_path / "absent.pth", tmp_path / "absent.pth")
    (tmp_path / "words.pth").write_text("words")
    with pytest.raises(ValueError, match=r"words\.pth is not a file of weights"):
        lpips_distance(tmp_path / "words.pth", tmp_path / "words.pth")
    torch.save({"other": torch.ones(1)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="are not the weights of VGG16"):
        lpips_distance(tmp_path / "other.pth", tmp_path / "other.pth")
