"""Configurations: refusals, JSON and back, and what makes two runs the same experiment."""

import json
from dataclasses import FrozenInstanceError, fields, replace

import pytest

from sagan_base.config import (
    OPERATIONAL_FIELDS,
    RECIPES,
    AttentionConfig,
    ModelConfig,
    NumericsConfig,
    Recipe,
    RunConfig,
    TrainConfig,
    from_dict,
)

UNUSUAL = RunConfig(
    ModelConfig(
        resolution=64,
        image_channels=1,
        num_classes=7,
        generator_attention=(16, 32),
        discriminator_attention=(),
        attention=AttentionConfig("strided", 4, "hilbert", "tile", "sequential"),
    ),
    RECIPES["biggan"],
    TrainConfig(steps=5, seed=3, precision="bfloat16"),
    data="folder:somewhere",
)


@pytest.mark.parametrize("config", [RunConfig(), UNUSUAL, RunConfig(ModelConfig(attention=None))])
def test_a_run_survives_json(config):
    text = json.dumps(config.to_dict())
    again = RunConfig.from_dict(json.loads(text))
    assert again == config
    assert again.config_hash() == config.config_hash()


def test_fields_that_are_left_out_have_their_defaults():
    assert RunConfig.from_dict({}) == RunConfig()
    assert from_dict(ModelConfig, {"attention": {"num_heads": 4}}).attention == AttentionConfig(num_heads=4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"modle": {}}, r"RunConfig has no field \['modle'\]; its fields are"),
        ({"model": {"resolution": 100}}, "resolution=100 is not one of"),
        ({"model": 3}, "ModelConfig cannot be read from 3; expected an object"),
        ({"model": {"attention": {"mode": "both"}}}, "mode='both' is unknown; use 'parallel'"),
        ({"training": {"steps": 0}}, "steps=0 is not positive"),
        ({"training": {"steps": "many"}}, "steps"),
        ({"training": {"precision": "float16"}}, "use 'float32' or 'bfloat16'"),
        ({"recipe": {"ema_decay": 1.0}}, "ema_decay=1.0"),
        ({"recipe": {"numerics": {"init": "zeros"}}}, "use 'xavier', 'orthogonal' or 'normal'"),
    ],
)
def test_unknown_fields_and_refused_values_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        RunConfig.from_dict(values)


def test_the_hash_names_the_experiment_not_how_it_is_operated():
    base = RunConfig()
    other_values = {int: 77, bool: True}
    for field in fields(TrainConfig):
        value = {"precision": "bfloat16"}.get(field.name, other_values.get(field.type))
        changed = replace(base, training=replace(base.training, **{field.name: value}))
        assert changed != base, field.name
        same_name = field.name in OPERATIONAL_FIELDS
        assert (changed.config_hash(with_steps=False) == base.config_hash(with_steps=False)) == same_name, field.name
    longer = replace(base, training=replace(base.training, steps=77))
    assert longer.config_hash() != base.config_hash()
    for changed in (
        replace(base, data="cifar10"),
        replace(base, recipe=RECIPES["biggan"]),
        replace(base, model=replace(base.model, attention=None)),
        replace(base, model=replace(base.model, attention=AttentionConfig(order="raster"))),
    ):
        assert changed.config_hash() != base.config_hash()


def test_fields_that_came_later_leave_the_names_of_older_runs_alone():
    """The hashes are those of version 0.1."""
    assert RunConfig().config_hash() == "b958662ecd5a"
    assert UNUSUAL.config_hash(with_steps=False) == "dfb31ec5c8d7"
    attending = replace(RunConfig(), model=ModelConfig(attention=AttentionConfig(qk_norm=True)))
    augmented = replace(RunConfig(), recipe=Recipe(augment=("colour",)))
    assert len({run.config_hash() for run in (RunConfig(), attending, augmented)}) == 3


def test_the_recipe_decides_the_numerics_of_the_network():
    assert RunConfig(recipe=RECIPES["biggan"]).model.numerics == RECIPES["biggan"].numerics
    assert RunConfig().model.numerics == RECIPES["paper"].numerics == NumericsConfig()


def test_the_recipes_are_the_published_ones():
    paper, biggan = RECIPES["paper"], RECIPES["biggan"]
    for recipe in (paper, biggan):
        assert (recipe.generator_lr, recipe.discriminator_lr, recipe.batch_size) == (1e-4, 4e-4, 256)
        assert recipe.betas[0] == 0
        assert recipe.numerics.init == "xavier"
    assert (paper.numerics.batch_norm_epsilon, paper.numerics.batch_norm_decay) == (1e-3, 0.999)
    assert paper.numerics.bounded_spectral_norm
    assert (biggan.ema_decay, biggan.ema_start, biggan.flip) == (0.999, 2000, False)
    assert biggan.betas == (0.0, 0.999)
    assert biggan.numerics.batch_norm_epsilon == 1e-5


@pytest.mark.parametrize(
    ("resolution", "generator", "discriminator"),
    [
        (16, {4: 2, 8: 2, 16: 1}, {8: 1, 4: 2}),
        (32, {4: 4, 8: 4, 16: 2, 32: 1}, {16: 1, 8: 2, 4: 4}),
        (128, {4: 16, 8: 16, 16: 8, 32: 4, 64: 2, 128: 1}, {64: 1, 32: 2, 16: 4, 8: 8, 4: 16}),
        (256, {4: 16, 8: 16, 16: 16, 32: 8, 64: 4, 128: 2, 256: 1}, {128: 1, 64: 2, 32: 4, 16: 8, 8: 16, 4: 16}),
    ],
)
def test_channels_double_as_sides_halve_up_to_sixteen_widths(resolution, generator, discriminator):
    config = ModelConfig(resolution=resolution, generator_width=10, discriminator_width=100)
    assert {side: config.generator_channels(side) for side in generator} == {s: 10 * m for s, m in generator.items()}
    assert {side: config.discriminator_channels(side) for side in discriminator} == {
        s: 100 * m for s, m in discriminator.items()
    }
    assert (4, *config.generator_sides) == tuple(generator)
    assert config.discriminator_sides == tuple(discriminator)


@pytest.mark.parametrize(("resolution", "side"), [(16, 8), (32, 16), (64, 32), (128, 32), (256, 32)])
def test_attention_sits_where_the_paper_has_it_unless_told(resolution, side):
    config = ModelConfig(resolution=resolution)
    assert config.generator_attention == config.discriminator_attention == (side,)


def test_sides_given_as_a_list_are_the_same_configuration():
    listed = ModelConfig(generator_attention=[16, 32])
    assert listed == ModelConfig(generator_attention=(16, 32))
    assert hash(listed) == hash(ModelConfig(generator_attention=(16, 32)))


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        (ModelConfig, "resolution", 120),
        (ModelConfig, "image_channels", 2),
        (ModelConfig, "num_classes", 0),
        (ModelConfig, "latent_dim", 0),
        (ModelConfig, "generator_attention", (128, 2)),
        (ModelConfig, "discriminator_attention", (128,)),
        (AttentionConfig, "num_heads", 0),
        (AttentionConfig, "head_dim_qk", 0),
        (AttentionConfig, "temperature", -4.0),
        (AttentionConfig, "scale", -1.0),
        (NumericsConfig, "batch_norm_decay", 1.0),
        (Recipe, "batch_size", 0),
        (Recipe, "augment", ("colour", "blur")),
        (Recipe, "augment", ("colour", "colour")),
        (TrainConfig, "seed", -1),
    ],
)
def test_impossible_values_are_refused_by_name(part, field, value):
    with pytest.raises(ValueError, match=field):
        part(**{field: value})


def test_configurations_are_frozen():
    with pytest.raises(FrozenInstanceError):
        RunConfig().data = "other"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model": {"resolution": 32.0}}, "ModelConfig.resolution=32.0 is no int"),
        ({"model": {"residual": 1}}, "ModelConfig.residual=1 is no bool"),
        ({"training": {"steps": "5"}}, "TrainConfig.steps='5' is no int"),
        ({"training": {"steps": True}}, "TrainConfig.steps=True is no int"),
        ({"recipe": None}, "Recipe cannot be read from None"),
        ({"recipe": {"betas": [0.0]}}, r"Recipe.betas=\[0.0\] does not have 2 parts"),
        ({"recipe": {"betas": 0.5}}, "Recipe.betas=0.5 is no tuple"),
        ({"model": {"attention": [1]}}, "AttentionConfig cannot be read from"),
        ({"data": ["digits"]}, r"RunConfig.data=\['digits'\] is no str"),
    ],
)
def test_a_value_of_another_type_than_its_field_declares_is_refused_by_name(values, words):
    with pytest.raises(ValueError, match=words):
        RunConfig.from_dict(values)


def test_whole_numbers_stand_for_numbers_and_absent_parts_for_none():
    config = RunConfig.from_dict(
        {"recipe": {"generator_lr": 1}, "model": {"attention": None, "generator_attention": [8]}}
    )
    assert config.recipe.generator_lr == 1 and config.model.attention is None
    assert config.model.generator_attention == (8,)
