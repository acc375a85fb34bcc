"""Generators and discriminators leave the house whole: torch.export with any batch, ONNX checked by onnxruntime."""

import warnings

import numpy as np
import pytest
import torch

from sagan_base.checkpoint import build_networks


@pytest.fixture
def networks(tiny_config):
    networks = build_networks(tiny_config())
    for network in networks:
        for attention in network.attention_layers().values():
            torch.nn.init.constant_(attention.gain, 0.7)
    return [network.eval() for network in networks]


def inputs(generator, batch=2):
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(generator.num_classes, (batch,), generator=random)
    return torch.randn(batch, generator.latent_dim, generator=random), labels


@pytest.mark.slow
def test_exported_networks_take_any_batch(networks):
    generator, discriminator = networks
    batch = torch.export.Dim("batch", min=1, max=64)
    shapes = ({0: batch}, {0: batch})
    exported = torch.export.export(generator, inputs(generator), dynamic_shapes=shapes).module()
    for size in (1, 5):
        torch.testing.assert_close(exported(*inputs(generator, size)), generator(*inputs(generator, size)))
    images = torch.randn(2, generator.config.image_channels, generator.resolution, generator.resolution)
    judged = torch.export.export(discriminator, (images, inputs(generator)[1]), dynamic_shapes=shapes).module()
    three, labels = images[:1].expand(3, -1, -1, -1).contiguous(), inputs(generator, 3)[1]
    torch.testing.assert_close(judged(three, labels), discriminator(three, labels))


def test_onnx_draws_what_the_generator_draws(networks, tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    generator, path = networks[0], tmp_path / "generator.onnx"
    batch = torch.export.Dim("batch", min=1, max=64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            generator,
            inputs(generator),
            path,
            dynamo=True,
            verbose=False,
            input_names=["z", "labels"],
            dynamic_shapes=({0: batch}, {0: batch}),
        )
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for size in (2, 3):
        z, labels = inputs(generator, size)
        found = session.run(None, {"z": z.numpy(), "labels": labels.numpy()})[0]
        np.testing.assert_allclose(found, generator(z, labels).detach(), rtol=1e-3, atol=1e-4)
