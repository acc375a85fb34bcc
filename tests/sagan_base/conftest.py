"""A training small enough for tests: 16x16 images, networks of a few channels."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sagan_base.config import AttentionConfig, ModelConfig, Recipe, RunConfig, TrainConfig
from sagan_base.data import ImageData, load_data
from sagan_base.metrics.classifier import classifier_for

MODEL = ModelConfig(
    resolution=16,
    image_channels=1,
    num_classes=3,
    latent_dim=8,
    generator_width=4,
    discriminator_width=4,
    attention=AttentionConfig(pattern="ltr", num_heads=2),
)


@pytest.fixture(scope="session")
def tiny_data() -> ImageData:
    """30 random grey images of 16x16 in 3 classes."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (30, 1, 16, 16), generator=generator, dtype=torch.uint8)
    return ImageData("noise", images, torch.arange(30) % 3, ("zero", "one", "two"))


@pytest.fixture(scope="session")
def tiny_config() -> Callable[..., RunConfig]:
    """``tiny_config(steps=4, batch_size=8, ...)``: options are fields of the training or of the recipe."""

    def make(**options: object) -> RunConfig:
        training = {name: value for name, value in options.items() if name in TrainConfig.__dataclass_fields__}
        recipe = {name: value for name, value in options.items() if name not in training}
        defaults = TrainConfig(steps=4, checkpoint_every=2, sample_every=0, log_every=1)
        return RunConfig(MODEL, Recipe(**{"batch_size": 8, **recipe}), replace(defaults, **training), "noise")

    return make


@pytest.fixture(scope="session")
def digits() -> ImageData:
    return load_data("digits", 16)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory, digits: ImageData) -> Path:
    """A cache that holds the digits' classifier, trained once for all these tests."""
    folder = tmp_path_factory.mktemp("cache")
    classifier_for(digits, folder, progress=False)
    return folder


class Replay(nn.Module):
    """A generator that returns real images of the class asked for, moved ``shift`` classes on."""

    latent_dim = 2

    def __init__(self, data: ImageData, shift: int = 0):
        super().__init__()
        self.device_holder = nn.Parameter(torch.zeros(()))
        self.data, self.shift = data, shift
        self.num_classes, self.resolution = data.num_classes, data.resolution

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        of_class = [torch.nonzero(self.data.labels == c)[:, 0] for c in range(self.num_classes)]
        wanted = (labels + self.shift) % self.num_classes
        index = [of_class[c][int(abs(n) * 1e6) % len(of_class[c])] for c, n in zip(wanted, z[:, 0], strict=True)]
        return self.data.batch(torch.stack(index))[0]


@pytest.fixture(scope="session")
def replay() -> type[Replay]:
    return Replay
