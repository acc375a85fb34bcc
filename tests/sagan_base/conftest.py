"""A training small enough for tests: 16x16 images, networks of a few channels."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from sagan_base.config import AttentionConfig, ModelConfig, Recipe, RunConfig, TrainConfig
from sagan_base.data import ImageData

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
