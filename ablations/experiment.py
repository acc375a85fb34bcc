"""Experiments: a row under a setting with a seed, and the run that makes.

A setting is what all rows of one table share. With its data it comes to conditions, which the record of a run holds:
two runs can stand in one table only if theirs are equal. records.py checks that before anything is trained or drawn.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ablations.presets import Preset
from ablations.rows import Row
from ablations.sizes import dcgan_of_equal_size
from sagan_base.blocks import check_attention
from sagan_base.config import AttentionConfig, ModelConfig, RunConfig, TrainConfig
from sagan_base.data import ImageData


@dataclass(frozen=True)
class Conditions:
    """What makes runs comparable. The preset goes by name, the data by name and content, not by its path; ``measured``
    are the steps whose measurements a result averages."""

    preset: str
    recipe: str
    data: str
    data_fingerprint: str
    resolution: int
    precision: str
    steps: int
    measured: tuple[int, ...]
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
    precision: str = "float32"

    @property
    def measured(self) -> tuple[int, ...]:
        """The last steps that are measured, as many as make a result."""
        every = self.preset.metrics_every
        steps = {*range(every, self.steps, every)} if every else set()
        return tuple(sorted(steps | {self.steps})[-self.preset.plateau :])

    def conditions(self, data: ImageData) -> Conditions:
        """What this setting comes to with the data loaded."""
        return Conditions(
            preset=self.preset.name,
            recipe=self.recipe,
            data=data.name,
            data_fingerprint=data.fingerprint,
            resolution=self.preset.model.resolution,
            precision=self.precision,
            steps=self.steps,
            measured=self.measured,
            features=self.features,
            samples=self.preset.samples,
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
        model = replace(
            preset,
            num_classes=num_classes or preset.num_classes,
            image_channels=image_channels or preset.image_channels,
            generator_attention=self._sides(preset.generator_attention, preset.generator_sides),
            discriminator_attention=self._sides(preset.discriminator_attention, preset.discriminator_sides),
            attention=self._attention(),
        )
        return dcgan_of_equal_size(model) if self.row.dcgan else model

    def _sides(self, sides: tuple[int, ...], possible: tuple[int, ...]) -> tuple[int, ...]:
        """Where attention sits: the preset's sides times the row's factor, or the largest there is."""
        factor = self.row.attention_scale
        return sides if factor == 1 else tuple(min(side * factor, max(possible)) for side in sides)

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
            precision=setting.precision,
            channels_last=True,  # a sixth faster on a CPU too
            checkpoint_every=preset.checkpoint_every,
            log_every=preset.log_every,
            sample_every=preset.metrics_every,
            metrics_every=preset.metrics_every,
        )
        model = self.model() if data is None else self.model(data.num_classes, data.channels)
        return RunConfig(model=model, recipe=recipe, training=training, data=setting.data)


def experiments(rows: tuple[Row, ...], setting: Setting, seeds: tuple[int, ...]) -> list[Experiment]:
    """All rows with the first seed, then all with the next: a table is balanced at any time."""
    return [Experiment(row, setting, seed) for seed in seeds for row in rows]


def check(runs: Iterable[Experiment]) -> None:
    """Raises ValueError where a network cannot be built, such as heads that do not divide the channels."""
    for run in {run.row.name: run for run in runs}.values():
        try:
            check_attention(run.model())
        except ValueError as error:
            if "num_heads" not in str(error):
                raise
            attention = run.row.attention
            raise ValueError(
                f"{attention.num_heads} heads do not fit {attention.pattern!r} in this network ({error})"
            ) from None
