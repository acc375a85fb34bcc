"""The blocks of the DCGAN row, which no published weights pin down, against their formulas."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sagan_base.blocks import PlainDiscriminatorBlock, PlainGeneratorBlock
from sagan_base.config import NumericsConfig


def images(channels: int) -> torch.Tensor:
    return torch.randn(2, channels, 6, 6, generator=torch.Generator().manual_seed(0))


def test_a_plain_generator_block_is_norm_by_class_relu_and_a_transposed_convolution():
    block = PlainGeneratorBlock(4, 3, num_classes=2, numerics=NumericsConfig()).eval()
    for parameter in (block.norm.weight, block.norm.bias, block.conv.bias):
        nn.init.normal_(parameter)
    x, labels = images(4), torch.tensor([1, 0])
    gain, bias = (p[labels][:, :, None, None] for p in (block.norm.weight, block.norm.bias))
    hidden = torch.relu(x / (1 + 1e-3) ** 0.5 * gain + bias)  # moving statistics 0 and 1
    expected = F.conv_transpose2d(hidden, block.conv.weight, block.conv.bias, stride=2, padding=1)
    torch.testing.assert_close(block(x, labels), expected)
    assert expected.shape == (2, 3, 12, 12)


@pytest.mark.parametrize("first", [True, False])
def test_a_plain_discriminator_block_is_leaky_relu_but_on_an_image_and_a_convolution(first):
    block = PlainDiscriminatorBlock(3, 5, NumericsConfig(), first=first).eval()
    nn.init.normal_(block.conv.bias)
    x = images(3)
    hidden = x if first else torch.where(x > 0, x, 0.2 * x)
    expected = F.conv2d(hidden, block.conv.weight, block.conv.bias, stride=2, padding=1)
    torch.testing.assert_close(block(x), expected)
    assert expected.shape == (2, 5, 3, 3)


def test_the_convolution_of_a_plain_discriminator_block_is_spectrally_normalised():
    block = PlainDiscriminatorBlock(3, 5, NumericsConfig(bounded_spectral_norm=False)).train()
    for _ in range(100):
        block(images(3))
    assert torch.linalg.matrix_norm(block.conv.weight.flatten(1), 2).item() == pytest.approx(1, abs=1e-3)
