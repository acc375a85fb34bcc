"""Presets: everything that a row does not decide, fixed by one name.

``imagenet128`` is the paper's setting. ``digits`` is the one a laptop finishes in minutes: it shows that every part
works and how large the spread over seeds is, and says nothing about ImageNet.
"""

from dataclasses import dataclass, field, fields, replace
from typing import Any

from sagan_base.config import RECIPES, ModelConfig, NumericsConfig, Recipe


@dataclass(frozen=True)
class Preset:
    """A setting under which rows are compared.

    Attributes:
        data: specification for ``load_data``; "imagenet" needs ``--data imagenet:PATH``.
        model: the network; its attention comes from the row, its classes and channels from the data.
        steps: generator updates.
        metrics_every: steps between two measurements, of ``samples`` images each.
        plateau: how many of the last measurements make a run's result: their mean, of distances the logarithms'.
            Where the distance has stopped falling they are one measurement with less noise than the last alone.
        features: what the Fréchet distance is taken in: "classifier", "efficientnet" or "inception".
        thresholds: distances whose first crossing is reported, fixed before the runs.
        recipe_changes: for each recipe, what is changed in it because the run is short or small.
        default_recipe: the recipe where none is asked for.
        precision: "float32" or "bfloat16", part of a run's identity.
        head_dim_qk, head_dim_v: channels of each of eight heads, where a row does not decide; a single head gets those
            of all eight. None is the published rule.
        cpu_threads: threads on a CPU unless OMP_NUM_THREADS is set; None is PyTorch's choice.
    """

    name: str
    description: str
    data: str
    model: ModelConfig
    steps: int
    metrics_every: int
    samples: int
    plateau: int = 4
    features: str = "classifier"
    thresholds: tuple[float, ...] = ()
    checkpoint_every: int = 1000
    log_every: int = 100
    recipe_changes: dict[str, dict[str, Any]] = field(default_factory=dict)
    default_recipe: str = "paper"
    precision: str = "float32"
    head_dim_qk: int | None = None
    head_dim_v: int | None = None
    cpu_threads: int | None = None

    def recipe(self, name: str) -> Recipe:
        """The recipe of this name with this preset's changes.

        Raises:
            ValueError: no such recipe.
        """
        if name not in RECIPES:
            raise ValueError(f"recipe {name!r} is unknown; use one of {', '.join(RECIPES)}")
        recipe, changes = RECIPES[name], dict(self.recipe_changes.get(name, {}))
        of_numerics = {f.name for f in fields(NumericsConfig)} & set(changes)
        numerics = replace(recipe.numerics, **{key: changes.pop(key) for key in of_numerics})
        return replace(recipe, numerics=numerics, **changes)


# 2,000 steps of batch 32: from 800 to 900 and from 900 to 1,000 steps FD still fell by 16% and 5%. Averages with the
# published decays remember 1,000 steps, so they are shortened; a small network bears learning rates four and five times
# the paper's. A generator at 1e-3 draws each class nearly always the same, and a discriminator at 1e-3 gives fewer
# varied samples than at 2e-3. Everything else of the recipes is kept.
SHORT = {"batch_size": 32, "generator_lr": 4e-4, "discriminator_lr": 2e-3, "ema_decay": 0.99}
DIGITS = {
    "paper": SHORT | {"batch_norm_decay": 0.98},
    "biggan": SHORT | {"ema_start": 50},
}
# Tens of thousands of steps at batch 64: the published averages fit, the learning rates stay.
MEDIUM = {"paper": {"batch_size": 64}, "biggan": {"batch_size": 64}}

# 10,000 steps of batch 32: the published averages fit. The discriminator learns five times as fast as the generator:
# at four times or twice, with a generator as fast as 4e-4, it falls behind and the samples of a class are all alike. So
# it does where images are augmented and temperatures learn five times as fast: FD was 15 after 32,000 images, 18 after
# 64,000.
CLOTHES = {"batch_size": 32, "generator_lr": 2e-4, "discriminator_lr": 1e-3}
FASHION = {"paper": CLOTHES, "biggan": CLOTHES | {"ema_start": 500}}
# A narrow network on photographs: augmented, as the published recipes for few images are.
PHOTOGRAPHS = {"batch_size": 64, "generator_lr": 2e-4, "discriminator_lr": 4e-4, "flip": True,
               "augment": ("colour", "translation"), "temperature_lr_factor": 5.0}  # fmt: skip
SMALL = {"paper": PHOTOGRAPHS, "biggan": PHOTOGRAPHS | {"ema_start": 500}}
# With bfloat16, which halves the time where a processor has it.
QUICK = {"default_recipe": "biggan", "precision": "bfloat16"}

# A narrow network's published rule leaves a head one channel, with which it cannot attend; the paper's generator has 4.
ROOM = {"head_dim_qk": 4, "head_dim_v": 4}

IMAGENET = {"steps": 1_500_000, "metrics_every": 5000, "samples": 50_000, "features": "inception"}

# fmt: off
PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            "digits", "scikit-learn's handwritten digits at 32x32, attention at 16x16: minutes on a CPU core", "digits",
            ModelConfig(32, 1, num_classes=10, latent_dim=64, generator_width=16, discriminator_width=16),
            steps=2000, metrics_every=125, samples=1000, thresholds=(10.0, 4.0, 2.0),
            checkpoint_every=100, log_every=100, recipe_changes=DIGITS, **ROOM,
            # A second thread saves a third of the time on an idle machine and costs many times it on a busy one,
            # where threads wait for each other. With one, the figures do not depend on the number of cores either.
            cpu_threads=1,
        ),
        Preset(
            "fashion-mnist", "Fashion-MNIST at 32x32, attention at 16x16: an hour on a CPU core",
            "fashion-mnist", ModelConfig(32, 1, num_classes=10, generator_width=32, discriminator_width=32),
            steps=10_000, metrics_every=1000, samples=5000, plateau=2,
            checkpoint_every=500, recipe_changes=FASHION, **QUICK, **ROOM,
        ),
        Preset(
            "cifar10", "CIFAR-10 at 32x32, attention at 16x16: hours on a GPU", "cifar10",
            ModelConfig(32, num_classes=10, generator_width=64, discriminator_width=64),
            steps=100_000, metrics_every=5000, samples=10_000, recipe_changes=MEDIUM, **ROOM,
        ),
        Preset(
            "cifar10-small",
            "CIFAR-10 at 32x32 by a network of width 32, attention at 16x16, five epochs: an hour on a CPU core",
            "cifar10", ModelConfig(32, num_classes=10, generator_width=32, discriminator_width=32),
            steps=3906, metrics_every=500, samples=5000, plateau=1, recipe_changes=SMALL, **QUICK, **ROOM,
        ),
        Preset(
            "imagenet128",
            "the paper's setting: ImageNet at 128x128, attention at 32x32, batch 256, 1.5M steps: weeks on 8 GPUs",
            "imagenet", ModelConfig(resolution=128), **IMAGENET,
        ),
        Preset("imagenet256", "ImageNet at 256x256, attention at 32x32", "imagenet", ModelConfig(256), **IMAGENET),
    )
}
# fmt: on


def find_preset(name: str) -> Preset:
    """Raises ValueError where there is none of this name."""
    if name not in PRESETS:
        raise ValueError(f"preset {name!r} is unknown; use one of {', '.join(PRESETS)}")
    return PRESETS[name]
