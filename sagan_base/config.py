"""Every choice of a run, as frozen dataclasses: the network, the recipe, the training, the data.

``RunConfig`` holds the four parts, turns into plain JSON and back, and hashes to the name of its results.
``RECIPES["paper"]`` and ``RECIPES["biggan"]`` stand beside each other so that they can be compared line by line.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from sagan_base.typed import from_dict
from ylg.layer import MODES

RESOLUTIONS = (16, 32, 64, 128, 256)
PRECISIONS = ("float32", "bfloat16")
MOST_HEADS = 1024  # of a layer, and channels of one; each head is planned by itself
AUGMENTATIONS = ("colour", "translation", "cutout")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True)
class AttentionConfig:
    """What the attention layers of a network are; names as in ``ylg.head_masks`` and ``ylg.SparseAttention2d``.

    The pattern, order and alignment are checked where the layer is built, because users may register their own.

    Attributes:
        head_dim_qk, head_dim_v: channels that one head's queries and keys, and its values, have; None is the published
            rule, C / 8 and C / 2 shared by all heads, which leaves a head one channel in small networks.
        qk_norm: queries and keys of unit length times a learned temperature per head, which starts at ``temperature``.
        scale: what scores are multiplied by; SAGAN does not scale. 0 is the control: uniform attention over the mask.
        spectral_projections: divide the query and key convolutions by their largest singular value, as published.
    """

    pattern: str = "ltr_rtl"
    num_heads: int = 8
    order: str = "manhattan"
    alignment: str = "pool"
    mode: str = "parallel"
    head_dim_qk: int | None = None
    head_dim_v: int | None = None
    qk_norm: bool = False
    temperature: float = 4.0
    scale: float = 1.0
    spectral_projections: bool = True

    def __post_init__(self) -> None:
        for name in ("head_dim_qk", "head_dim_v"):
            size = getattr(self, name)
            _require(size is None or size >= 1, f"{name}={size} is not positive; the paper's generator has 4 and 16")
            _require(size is None or size <= MOST_HEADS, f"{name}={size} is more than {MOST_HEADS}")
        _require(self.temperature > 0, f"temperature={self.temperature} is not positive; use 4 to 16")
        _require(self.scale >= 0, f"scale={self.scale} is negative; use 1 as published, or 0 for uniform attention")
        _require(
            self.qk_norm or self.temperature == AttentionConfig.temperature,
            f"temperature={self.temperature} is read by qk_norm alone; give --qk-norm too",
        )
        _require(self.num_heads >= 1, f"num_heads={self.num_heads} is not positive; use 1, 2, 4 or 8")
        _require(self.num_heads <= MOST_HEADS, f"num_heads={self.num_heads} is more than {MOST_HEADS}")
        _require(
            self.mode in MODES,
            f"mode={self.mode!r} is unknown; use 'parallel' (the paper) or 'sequential'",
        )


@dataclass(frozen=True)
class NumericsConfig:
    """Constants of the normalisations and the initial weights, which differ between published programs.

    Attributes:
        init: initial kernels, "xavier" (uniform), "orthogonal" or "normal" (standard deviation 0.02).
        batch_norm_epsilon: added to the variance.
        batch_norm_decay: new moving statistic = decay * old + (1 - decay) * batch.
        spectral_norm_epsilon: smallest squared norm of the power-iteration vectors.
        bounded_spectral_norm: True divides the residual, linear and embedding weights by max(1, sigma) as the
            paper's program does; False by sigma. The attention convolutions always divide by sigma.
    """

    init: str = "xavier"
    batch_norm_epsilon: float = 1e-3
    batch_norm_decay: float = 0.999
    spectral_norm_epsilon: float = 1e-12
    bounded_spectral_norm: bool = True

    def __post_init__(self) -> None:
        _require(
            self.init in ("xavier", "orthogonal", "normal"),
            f"init={self.init!r} is unknown; use 'xavier', 'orthogonal' or 'normal'",
        )
        for name in ("batch_norm_epsilon", "spectral_norm_epsilon"):
            _require(getattr(self, name) > 0, f"{name}={getattr(self, name)} is not positive")
        _require(0 < self.batch_norm_decay < 1, f"batch_norm_decay={self.batch_norm_decay} is not between 0 and 1")


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a SAGAN; the defaults are the paper's network for ImageNet at 128x128.

    At resolution R, the generator's block with output side r has ``generator_width * min(16, R / r)`` channels,
    and the discriminator's has ``discriminator_width * min(16, R / (2 r))``.

    Attributes:
        resolution: side of the images, one of 16, 32, 64, 128, 256.
        image_channels: 3 (colour) or 1 (grey).
        num_classes: 1 means unconditional.
        latent_dim: length of z, drawn from N(0, 1).
        generator_attention, discriminator_attention: sides of the feature maps that an attention layer follows;
            None means one, at min(32, R / 2), which is where the paper has it.
        residual: False gives both networks the plain blocks of a DCGAN, to compare with.
        attention: None for a network without attention.
    """

    resolution: int = 128
    image_channels: int = 3
    num_classes: int = 1000
    latent_dim: int = 128
    generator_width: int = 64
    discriminator_width: int = 64
    generator_attention: tuple[int, ...] | None = None
    discriminator_attention: tuple[int, ...] | None = None
    residual: bool = True
    attention: AttentionConfig | None = field(default_factory=AttentionConfig)
    numerics: NumericsConfig = field(default_factory=NumericsConfig)

    def __post_init__(self) -> None:
        _require(self.resolution in RESOLUTIONS, f"resolution={self.resolution!r} is not one of {RESOLUTIONS}")
        _require(self.image_channels in (1, 3), f"image_channels={self.image_channels}: use 1 (grey) or 3 (colour)")
        for name in ("num_classes", "latent_dim", "generator_width", "discriminator_width"):
            _require(getattr(self, name) >= 1, f"{name}={getattr(self, name)} is not positive")
        for name in ("generator_attention", "discriminator_attention"):
            sides = getattr(self, name)
            sides = (min(32, self.resolution // 2),) if sides is None else tuple(sides)
            object.__setattr__(self, name, sides)
        if self.attention is not None:
            self._check_sides("generator_attention", self.generator_sides)
            self._check_sides("discriminator_attention", self.discriminator_sides)

    def _check_sides(self, name: str, sides: tuple[int, ...]) -> None:
        wrong = [side for side in getattr(self, name) if side not in sides]
        _require(
            not wrong, f"{name}={wrong} is no feature map of a {self.resolution}x{self.resolution} network; use {sides}"
        )

    @property
    def generator_sides(self) -> tuple[int, ...]:
        """Output sides of the generator's blocks, in order: 8, 16, ..., R."""
        return tuple(8 << i for i in range((self.resolution // 8).bit_length()))

    @property
    def discriminator_sides(self) -> tuple[int, ...]:
        """Output sides of the discriminator's down-sampling blocks, in order: R/2, ..., 8, 4."""
        return tuple(side // 2 for side in reversed(self.generator_sides))

    def generator_channels(self, side: int) -> int:
        """Channels of the generator's feature map of this side (the first, 4x4, has those of the 8x8 block)."""
        return self.generator_width * min(16, self.resolution // max(side, 8))

    def discriminator_channels(self, side: int) -> int:
        """Channels of the discriminator's feature map of this side."""
        return self.discriminator_width * min(16, self.resolution // (2 * side))


@dataclass(frozen=True)
class Recipe:
    """How a SAGAN is trained. ``batch_size`` is global: over all processes and accumulation steps.

    Attributes:
        ema_decay, ema_start: the evaluated generator is averaged with this decay from this iteration on, and is
            a copy of the trained one before it.
        discriminator_steps: discriminator updates per generator update.
        flip: mirror real images left to right with probability 1/2.
        augment: differentiable augmentations of all that the discriminator sees, real and generated; see augment.py.
        temperature_lr_factor: the learning rate of attention's log-temperatures, in those of their networks.
    """

    name: str = "paper"
    batch_size: int = 256
    generator_lr: float = 1e-4
    discriminator_lr: float = 4e-4
    betas: tuple[float, float] = (0.0, 0.9)
    adam_epsilon: float = 1e-8
    discriminator_steps: int = 1
    ema_decay: float = 0.999
    ema_start: int = 0
    flip: bool = False
    augment: tuple[str, ...] = ()
    temperature_lr_factor: float = 1.0
    numerics: NumericsConfig = field(default_factory=NumericsConfig)

    def __post_init__(self) -> None:
        for name in ("batch_size", "generator_lr", "discriminator_lr", "discriminator_steps", "temperature_lr_factor"):
            _require(getattr(self, name) > 0, f"{name}={getattr(self, name)} is not positive")
        unknown = sorted(set(self.augment) - set(AUGMENTATIONS))
        _require(not unknown, f"augment={unknown} is unknown; use some of {', '.join(AUGMENTATIONS)}")
        _require(len(set(self.augment)) == len(self.augment), f"augment={list(self.augment)} names one twice")
        for name in ("ema_start", "adam_epsilon"):
            _require(getattr(self, name) >= 0, f"{name}={getattr(self, name)} is negative")
        _require(all(0 <= beta < 1 for beta in self.betas), f"betas={tuple(self.betas)} are not both in [0, 1)")
        _require(0 <= self.ema_decay < 1, f"ema_decay={self.ema_decay} is not in [0, 1)")


RECIPES: dict[str, Recipe] = {
    # Zhang et al., 2019, section 4. The published program of Your Local GAN has the same learning rates, but
    # TensorFlow's default beta2 of 0.999 and two generator updates for each discriminator update.
    "paper": Recipe(),
    # The BigGAN-style recipe that took a dense SAGAN to FID 12.83 on ImageNet 128 (mmgeneration).
    "biggan": Recipe(
        name="biggan",
        betas=(0.0, 0.999),
        ema_decay=0.999,
        ema_start=2000,
        numerics=NumericsConfig(
            init="xavier",
            batch_norm_epsilon=1e-5,
            batch_norm_decay=0.9,
            spectral_norm_epsilon=1e-8,
            bounded_spectral_norm=False,
        ),
    ),
}


@dataclass(frozen=True)
class TrainConfig:
    """How long a run lasts and how it is executed; ``seed``, ``precision`` and ``accumulation`` change its numbers.

    Attributes:
        steps: generator updates in all; the same run with more steps continues.
        precision: "float32", or "bfloat16" for autocast. On a GPU PyTorch lets float32 convolutions use TF32 unless
            ``torch.backends.cudnn.allow_tf32`` is set to False; attention is true float32.
        accumulation: micro-batches a discriminator or generator update is split into.
        sync_batch_norm: batch statistics over all processes, as on the paper's TPUs.
        compile: torch.compile the networks (worth it on a GPU; it can fail in a CPU's C++ compiler).
        checkpoint_every, sample_every, metrics_every, log_every: in steps; 0 = only at the end.
        keep_checkpoints: how many of the newest stay.
        standing_statistics: batches of samples on which the averaged generator's batch statistics are measured anew
            whenever it is evaluated, shown or saved; 0 = the trained generator's moving ones, as published, which do
            not fit an average of weights that still move fast.
    """

    steps: int = 1_000_000
    seed: int = 0
    precision: str = "float32"
    accumulation: int = 1
    sync_batch_norm: bool = False
    channels_last: bool = False
    compile: bool = False
    checkpoint_every: int = 1000
    sample_every: int = 1000
    metrics_every: int = 0
    log_every: int = 10
    keep_checkpoints: int = 2
    standing_statistics: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "accumulation", "log_every", "keep_checkpoints"):
            _require(getattr(self, name) >= 1, f"{name}={getattr(self, name)} is not positive")
        for name in ("seed", "checkpoint_every", "sample_every", "metrics_every", "standing_statistics"):
            _require(getattr(self, name) >= 0, f"{name}={getattr(self, name)} is negative")
        _require(
            self.precision in PRECISIONS,
            f"precision={self.precision!r} is unknown; use 'float32' or 'bfloat16'",
        )


# What may change between a run and its continuation without making it another run.
OPERATIONAL_FIELDS = frozenset(
    {"steps", "compile", "channels_last", "checkpoint_every", "sample_every", "metrics_every", "log_every",
     "keep_checkpoints", "standing_statistics"}
)  # fmt: skip


@dataclass(frozen=True)
class RunConfig:
    """A whole run: network, recipe, training, the data's name (as given to ``load_data``) and where weights start.

    ``init_from`` names the checkpoint that the networks start from (see init_from.py); None means from random ones.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    recipe: Recipe = field(default_factory=Recipe)
    training: TrainConfig = field(default_factory=TrainConfig)
    data: str = "digits"
    init_from: str | None = None

    def __post_init__(self) -> None:
        # The recipe decides the numerics; the network carries them so that a model file is complete by itself.
        object.__setattr__(self, "model", replace(self.model, numerics=self.recipe.numerics))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; ``from_dict`` reads it back."""
        return json.loads(json.dumps(asdict(self)))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "RunConfig":
        """Raises ValueError on unknown or invalid fields."""
        return from_dict(cls, values)

    def identity(self) -> dict[str, Any]:
        """What makes two runs the same experiment: everything but the length and ``OPERATIONAL_FIELDS``."""
        values = self.to_dict()
        values["training"] = {k: v for k, v in values["training"].items() if k not in OPERATIONAL_FIELDS}
        return values

    def config_hash(self, with_steps: bool = True) -> str:
        """12 hex digits naming the experiment, its number of steps included unless told otherwise."""
        steps = {"steps": self.training.steps} if with_steps else {}
        text = json.dumps(_without_later_fields(self.identity()) | steps, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


# Fields that came later, and what held before them: at that value they stay out of the hash, so that runs of before
# keep the names of their folders.
LATER_FIELDS = {
    "head_dim_qk": None, "head_dim_v": None, "qk_norm": False, "temperature": 4.0, "scale": 1.0,
    "spectral_projections": True,
    "augment": [], "temperature_lr_factor": 1.0, "init_from": None,
}  # fmt: skip


def _without_later_fields(values: dict[str, Any]) -> dict[str, Any]:
    kept = {k: v for k, v in values.items() if k not in LATER_FIELDS or v != LATER_FIELDS[k]}
    return {k: _without_later_fields(v) if isinstance(v, dict) else v for k, v in kept.items()}
