"""Command-line options made from the configuration dataclasses: one option a field, so that none is forgotten.

An option that is not given leaves its field to the recipe or to the dataclass's default, which the help text shows.
"""

import argparse
from dataclasses import MISSING, fields, replace
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from sagan_base.cli import SEED

from sagan_base.config import RECIPES, AttentionConfig, ModelConfig, NumericsConfig, Recipe, RunConfig, TrainConfig
from ylg.heads import has_order

# Field -> what the help says. A test checks that these are exactly the fields there are.
HELP: dict[type, dict[str, str]] = {
    ModelConfig: {
        "resolution": "side of the images: 16, 32, 64, 128 or 256",
        "image_channels": "1 (grey) or 3 (colour); the data decides by default",
        "num_classes": "1 trains an unconditional network; the number of classes of the data by default",
        "latent_dim": "length of z",
        "generator_width": "channels of the generator's last block",
        "discriminator_width": "channels of the discriminator's first block",
        "generator_attention": "sides of the feature maps that an attention layer follows, min(32, R/2) by default",
        "discriminator_attention": "the same in the discriminator",
        "residual": "residual blocks; without them the networks are a DCGAN's",
    },
    AttentionConfig: {
        "pattern": "pattern of the heads: dense, fixed, ltr_rtl, strided, butterfly, rotated_blocks, interlaced8, ...",
        "num_heads": "heads of each attention layer",
        "order": "raster, manhattan (ESA), hilbert, morton or snake: the cells' numbering, where the pattern has one",
        "alignment": "how a query cell picks its row of the key grid: pool, tile or rows (the published code)",
        "mode": "parallel (the paper) or sequential steps",
        "head_dim_qk": "channels of one head's queries and keys; the published rule (C/8 for all heads) by default",
        "head_dim_v": "channels of one head's values; the published rule (C/2 for all heads) by default",
        "qk_norm": "queries and keys of unit length times a learned temperature per head",
        "temperature": "where the temperatures of --qk-norm start",
        "scale": "what scores are multiplied by; 0 makes attention uniform over the mask, as a control",
        "spectral_projections": "divide the query and key convolutions by sigma, as published",
    },
    Recipe: {
        "batch_size": "real images per discriminator update, over all processes and micro-batches",
        "generator_lr": "the generator's learning rate",
        "discriminator_lr": "the discriminator's learning rate",
        "betas": "Adam's two decay rates",
        "adam_epsilon": "Adam's epsilon",
        "discriminator_steps": "discriminator updates per generator update",
        "ema_decay": "decay of the generator's moving average",
        "ema_start": "updates before averaging begins; a copy until then",
        "flip": "mirror real images left to right with probability 1/2",
        "augment": "augment what the discriminator sees, differentiably: colour, translation, cutout",
        "temperature_lr_factor": "learning rate of attention's log-temperatures, in those of their networks",
    },
    NumericsConfig: {
        "init": "initial kernels: xavier, orthogonal or normal",
        "batch_norm_epsilon": "added to the variance",
        "batch_norm_decay": "decay of the moving statistics",
        "spectral_norm_epsilon": "smallest squared norm of the power-iteration vectors",
        "bounded_spectral_norm": "divide residual, linear and embedding weights by max(1, sigma) instead of sigma",
    },
    TrainConfig: {
        "steps": "generator updates in all; more steps continue a run",
        "seed": "of every random draw",
        "precision": "float32, or bfloat16 for autocast",
        "accumulation": "micro-batches an update is split into",
        "sync_batch_norm": "batch statistics over all processes",
        "channels_last": "memory layout; often quicker, on CPU too",
        "compile": "torch.compile both networks",
        "checkpoint_every": "steps between checkpoints; 0 = only at the end",
        "sample_every": "steps between sheets of samples; 0 = only at the end",
        "metrics_every": "steps between evaluations (see --features); 0 = only at the end",
        "log_every": "steps that a log line averages over",
        "keep_checkpoints": "how many of the newest checkpoints stay",
        "standing_statistics": "batches on which the averaged generator's batch statistics are measured anew",
    },
}
_GROUPS = {  # in the order of the help: what nearly every command line needs comes first
    TrainConfig: "training",
    ModelConfig: "network",
    AttentionConfig: "attention",
    Recipe: "recipe",
    NumericsConfig: "numerics (part of the recipe)",
}
_PRESET_FIELDS = {"attention", "numerics", "name"}  # filled from the other groups, or by --recipe


def option_fields(part: type) -> list[str]:
    """The fields of a configuration dataclass that have an option."""
    return [f.name for f in fields(part) if f.name not in _PRESET_FIELDS]


def add_config_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--recipe`` and one option per field of the network, attention, recipe, numerics and training."""
    for part, title in _GROUPS.items():
        group = parser.add_argument_group(title)
        if part is Recipe:
            group.add_argument("--recipe", choices=RECIPES, default="paper", help="named preset (default: paper)")
        if part is AttentionConfig:
            group.add_argument("--no-attention", dest="attention", action="store_false", help="networks without any")
        for name in option_fields(part):
            group.add_argument(
                "--" + name.replace("_", "-"),
                default=argparse.SUPPRESS,
                help=f"{HELP[part][name]}{_default_text(part, name)}",
                **argument_kind(part, name),
            )


def config_from_options(arguments: argparse.Namespace, data: str, **data_fields: int) -> RunConfig:
    """The run that the options describe.

    Args:
        data: the data set's name.
        data_fields: fields of ``ModelConfig`` that the data decides where no option does.
    Raises:
        ValueError: a value is refused by its dataclass.
    """
    given = {part: {n: v for n, v in vars(arguments).items() if n in option_fields(part)} for part in _GROUPS}
    recipe = RECIPES[arguments.recipe]
    recipe = replace(recipe, **given[Recipe], numerics=replace(recipe.numerics, **given[NumericsConfig]))
    if not arguments.attention and given[AttentionConfig]:
        raise ValueError(f"{sorted(given[AttentionConfig])} describe an attention layer; leave out --no-attention")
    attention = AttentionConfig(**given[AttentionConfig]) if arguments.attention else None
    if attention and "order" in given[AttentionConfig] and not has_order(attention.pattern):
        raise ValueError(
            f"{attention.pattern} lies on the grid itself and takes no order; leave --order {attention.order} out"
        )
    model = ModelConfig(**{**data_fields, **given[ModelConfig]}, attention=attention)
    return RunConfig(model, recipe, TrainConfig(**given[TrainConfig]), data)


def argument_kind(part: type, name: str) -> dict[str, Any]:
    """How argparse reads the option of a dataclass's field, from the field's type."""
    hint = get_type_hints(part)[name]
    if hint is bool:
        return {"action": argparse.BooleanOptionalAction}  # bool("False") is True
    hint = next(t for t in (*get_args(hint), hint) if t is not type(None)) if get_origin(hint) is UnionType else hint
    if hint in (int, float, str):
        return {"type": SEED if name == "seed" else hint, "metavar": {int: "N", float: "X", str: "NAME"}[hint]}
    if hint == tuple[float, float]:
        return {"type": float, "nargs": 2, "metavar": ("X", "X")}
    item = get_args(hint)[0]  # tuple[item, ...]
    return {"type": item, "nargs": "+", "metavar": {int: "SIDE", str: "NAME"}[item]}


def _default_text(part: type, name: str) -> str:
    if part in (Recipe, NumericsConfig):
        values = {r: getattr(preset if part is Recipe else preset.numerics, name) for r, preset in RECIPES.items()}
        if len(set(values.values())) > 1:
            return " (" + ", ".join(f"{r}: {_shown(value)}" for r, value in values.items()) + ")"
        return f" (default: {_shown(values['paper'])})"
    if name in ("image_channels", "num_classes"):
        return ""
    default = next(f.default for f in fields(part) if f.name == name)
    return "" if default is None or default is MISSING else f" (default: {_shown(default)})"


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(_shown(v) for v in value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
