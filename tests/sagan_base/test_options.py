"""``python -m sagan_base.train``: an option per field, each with its effect."""

import json
from dataclasses import fields, replace

import pytest

from sagan_base import train as command
from sagan_base.config import RECIPES, AttentionConfig, ModelConfig, NumericsConfig, Recipe, RunConfig, TrainConfig
from sagan_base.options import HELP, config_from_options, option_fields
from sagan_base.training import TrainingInterrupted, TrainingRun, TrainingStopped

SMALL = ["--resolution", "16", "--generator-width", "4", "--discriminator-width", "4", "--latent-dim", "8"]
SMALL += ["--pattern", "ltr", "--num-heads", "2", "--batch-size", "8"]


def parsed(*options: str) -> RunConfig:
    return config_from_options(command.build_parser().parse_args(options), "digits")


@pytest.mark.parametrize("part", [ModelConfig, AttentionConfig, Recipe, NumericsConfig, TrainConfig])
def test_every_field_has_an_option_and_its_help(part):
    assert list(HELP[part]) == option_fields(part)
    text = command.build_parser().format_help()
    assert all("--" + name.replace("_", "-") in text for name in option_fields(part))


OTHER = {
    "resolution": "64",
    "image_channels": "1",
    "generator_attention": "16 32",
    "discriminator_attention": "16 32",
    "mode": "sequential",
    "betas": "0.5 0.99",
    "augment": "colour cutout",
    "head_dim_qk": "4",
    "head_dim_v": "4",
    "init": "normal",
    "precision": "bfloat16",
}


@pytest.mark.parametrize(
    ("part", "name"),
    # the temperature needs another option, and has a test of its own
    [(p, n) for p in (ModelConfig, AttentionConfig, Recipe, NumericsConfig, TrainConfig) for n in option_fields(p)
     if n != "temperature"],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_every_option_changes_its_field_and_no_other(part, name):
    def place(config: RunConfig) -> object:
        return {
            ModelConfig: config.model,
            AttentionConfig: config.model.attention,
            Recipe: config.recipe,
            NumericsConfig: config.recipe.numerics,
            TrainConfig: config.training,
        }[part]

    plain = parsed()
    before = getattr(place(plain), name)
    option = "--" + name.replace("_", "-")
    if isinstance(before, bool):
        given = [("--no-" if before else "--") + name.replace("_", "-")]
    elif name in OTHER:
        given = [option, *OTHER[name].split()]
    elif isinstance(before, float):
        given = [option, str(before * 0.5)]
    else:
        given = [option, "snake" if isinstance(before, str) else str(before + 3)]
    changed = place(parsed(*given))
    assert getattr(changed, name) != before
    derived = {"resolution": {"generator_attention", "discriminator_attention"}}.get(name, set())
    same = {f.name for f in fields(part)} - {name} - derived - {"attention", "numerics"}
    assert all(getattr(changed, other) == getattr(place(plain), other) for other in same)


def test_a_temperature_needs_qk_norm():
    assert parsed("--qk-norm", "--temperature", "7").model.attention.temperature == 7
    with pytest.raises(ValueError, match=r"temperature=7\.0 is read by qk_norm alone"):
        parsed("--temperature", "7")


def test_without_options_the_run_is_the_papers():
    assert parsed() == RunConfig(data="digits")
    assert parsed("--recipe", "biggan").recipe == RECIPES["biggan"]


def test_an_option_overrides_its_recipe():
    config = parsed("--recipe", "biggan", "--ema-start", "7", "--batch-norm-decay", "0.5")
    numerics = replace(RECIPES["biggan"].numerics, batch_norm_decay=0.5)
    assert config.recipe == replace(RECIPES["biggan"], ema_start=7, numerics=numerics)
    assert config.model.numerics == numerics


def test_networks_without_attention_can_be_asked_for():
    assert parsed("--no-attention").model.attention is None
    with pytest.raises(ValueError, match="leave out --no-attention"):
        parsed("--no-attention", "--num-heads", "4")


def test_an_order_is_refused_only_where_it_is_asked_for_and_means_nothing():
    assert parsed("--pattern", "interlaced8").model.attention.pattern == "interlaced8"
    assert parsed("--pattern", "ltr", "--order", "raster").model.attention.order == "raster"
    with pytest.raises(ValueError, match=r"interlaced8 .* takes no order; leave --order raster out"):
        parsed("--pattern", "interlaced8", "--order", "raster")


def test_a_dry_run_prints_the_configuration_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command.main([*SMALL, "--dry-run"]) == 0
    config = RunConfig.from_dict(json.loads(capsys.readouterr().out))
    assert config.model.num_classes == 10 and config.model.image_channels == 1  # as the digits are
    assert not list(tmp_path.iterdir())


def test_the_command_trains_says_where_things_are_and_does_not_train_twice(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = [*SMALL, "--steps", "2", "--device", "cpu", "--precision", "bfloat16"]
    assert command.main(options) == 0
    said = capsys.readouterr().out
    (out,) = (tmp_path / "runs").iterdir()
    assert out.name.startswith("digits-") and (out / "model.safetensors").is_file()
    assert "10 classes" in said and "finished: 2 steps" in said and f"runs/{out.name}/model.safetensors" in said
    assert command.main(options) == 0
    again = capsys.readouterr().out
    assert "was finished already: 2 steps" in again and "the image" in again  # what its maps depend on


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--features", "classifier", "--num-samples", "5"], "num_samples=5 is too few"),
        (["--features", "inception", "--inception-weights", "/nowhere.pth"], "/nowhere.pth"),
        (
            ["--features", "classifier", "--inception-weights", "w.pth"],
            "the classifier's weights are trained on digits",
        ),
        (["--batch-norm-epsilon", "-1"], "batch_norm_epsilon=-1.0 is not positive"),
        (["--data", "nothing"], "unknown data set 'nothing'"),
        (["--pattern", "zigzag"], "unknown pattern 'zigzag'"),
        (["--pattern", "zigzag", "--dry-run"], "unknown pattern 'zigzag'"),
        (["--pattern", "zigzag", "--data", "folder:/nowhere"], "unknown pattern 'zigzag'"),  # before any data is read
        (["--num-heads", "3"], "num_heads=3"),
        (["--betas", "0", "1.5"], "betas=(0.0, 1.5) are not both in [0, 1)"),
        (["--num-samples", "0"], "argument --num-samples: 0 is too small"),
        (["--num-samples", "5"], "need --features"),
        (["--out", __file__], "--out: nothing can be written into"),
        (["--cache", __file__], "--cache: nothing can be written into"),
        (["--resolution", "48"], "resolution=48 is not one of"),
        (["--steps", "0"], "steps=0 is not positive"),
        (["--steps", "many"], "argument --steps: invalid int value: 'many'"),
        (["--step", "3"], "there is no option --step; near it: --steps"),
        (["--metrics-every", "5"], "need --features"),
        (["--batch-size", "7", "--accumulation", "2"], "batch_size=7 does not divide"),
        (["--device", "nowhere"], "--device nowhere"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2_before_anything_is_written(
    tmp_path, monkeypatch, capsys, options, message
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        command.main([*SMALL, *options])
    said = capsys.readouterr().err
    assert stopped.value.code == 2
    assert message in said and said.count("\n") == 1 and said.startswith("error: ")
    assert not list(tmp_path.iterdir())


def test_a_run_that_had_to_stop_exits_with_1_and_one_that_was_stopped_with_130(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for error, code in ((TrainingStopped("the losses are gone"), 1), (TrainingInterrupted("until later", 2), 130)):

        def fail(self, error=error):
            raise error

        monkeypatch.setattr(TrainingRun, "train", fail)
        assert command.main([*SMALL, "--steps", "1"]) == code
        assert capsys.readouterr().err == f"{error}\n"
