"""Experiments: a row under a setting with a seed, and the run that makes.

A setting is what all rows of one table share. With its data it comes to conditions, which the record of a run holds:
two runs can stand in one table only if theirs are equal. records.py checks that before anything is trained or drawn.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ablations.presets import Preset
from ablations.rows import Row
from sagan_base.config import AttentionConfig, ModelConfig, RunConfig, TrainConfig
from sagan_base.data import ImageData


@dataclass(frozen=True)
class Conditions:
    """What makes runs comparable. The preset goes by name, the data by name and content, not by its path."""

    preset: str
    recipe: str
    data: str
    data_fingerprint: str
    resolution: int
    steps: int
    features: tuple[str, ...]
    samples: int


@dataclass(frozen=True)
class Setting:
    """What all rows of a table share: the preset, and what the command line changed in it."""

    preset: Preset
    recipe: str
    data: str
    steps: int
    features: tuple[str, ...]

    def conditions(self, data: ImageData) -> Conditions:
        """What this setting comes to with the data loaded."""
        preset = self.preset
        resolution, samples = preset.model.resolution, preset.final_samples
        return Conditions(
            preset.name, self.recipe, data.name, data.fingerprint, resolution, self.steps, self.features, samples
        )


@dataclass(frozen=True)
class Experiment:
    """One run to be: ``name`` is its folder's."""

    row: Row
    setting: Setting
    seed: int

    @property
    def name(self) -> str:
        return f"{self.row.name}-seed{self.seed}"

    def model(self, num_classes: int | None = None, image_channels: int | None = None) -> ModelConfig:
        """The network; classes and channels default to those of the preset's own data."""
        preset = self.setting.preset.model
        generator_sides = _scaled(preset.generator_attention, self.row.attention_scale, preset.generator_sides)
        discriminator_sides = _scaled(
            preset.discriminator_attention, self.row.attention_scale, preset.discriminator_sides
        )
        return replace(
            preset,
            num_classes=num_classes or preset.num_classes,
            image_channels=image_channels or preset.image_channels,
            generator_attention=generator_sides,
            discriminator_attention=discriminator_sides,
            residual=not self.row.dcgan,
            attention=self._attention(),
        )

    def _attention(self) -> AttentionConfig | None:
        """The row's, with the preset's room where the row leaves it open."""
        attention, preset = self.row.attention, self.setting.preset
        if attention is None:
            return None
        room = {
            name: -(-8 * getattr(preset, name) // attention.num_heads)
            for name in ("head_dim_qk", "head_dim_v")
            if getattr(attention, name) is None and getattr(preset, name) is not None
        }
        return replace(attention, **room)

    def config(self, data: ImageData | None = None) -> RunConfig:
        """Everything ``train`` needs; without data, as for the preset's own."""
        setting, preset = self.setting, self.setting.preset
        recipe = preset.recipe(self.row.recipe or setting.recipe)
        training = TrainConfig(
            steps=setting.steps,
            seed=self.seed,
            precision=preset.precision,
            channels_last=True,  # a sixth faster on a CPU too
            checkpoint_every=preset.checkpoint_every,
            log_every=preset.log_every,
            sample_every=preset.metrics_every,
            metrics_every=preset.metrics_every,
        )
        model = self.model() if data is None else self.model(data.num_classes, data.channels)
        return RunConfig(model=model, recipe=recipe, training=training, data=setting.data)


def experiments(rows: tuple[Row, ...], setting: Setting, seeds: tuple[int, ...]) -> Iterator[Experiment]:
    """All rows with the first seed, then all with the next: a table is complete as early as possible."""
    for seed in seeds:
        for row in rows:
            yield Experiment(row, setting, seed)


def _scaled(sides: tuple[int, ...], factor: int, possible: tuple[int, ...]) -> tuple[int, ...]:
    """Each side times the factor, or the largest there is."""
    return tuple(side if factor == 1 else min(side * factor, max(possible)) for side in sides)
