"""Screening: trials differ in what they name, finished ones are kept, and those whose maps matter most come first."""

import math
from dataclasses import replace

import pandas as pd
import pytest
from scipy import stats

from ablations import screening
from ablations.records import write_record
from ablations.screening import TRIALS
from sagan_base.attention_health import LayerHealth, MapHealth


def test_every_trial_is_another_network_or_training_of_heads_of_the_same_size():
    configs = [trial.experiment(name, 0, 300).config() for name, trial in TRIALS.items()]
    assert len({config.config_hash() for config in configs}) == len(TRIALS) <= 20
    assert {(c.model.attention.alignment, c.model.attention.head_dim_qk) for c in configs} == {("pool", 4)}
    assert TRIALS["from8-rate10"].experiment("x", 0, 300).config().recipe.temperature_lr_factor == 10
    assert TRIALS["from8-8x8"].experiment("x", 0, 300).config().model.discriminator_attention == (8,)


@pytest.fixture
def trained(canned_run, monkeypatch):
    """The trials that were trained; a mean map costs as many times the FD as the trial's temperature."""
    names, canned = [], canned_run("ylg", distance=2.0)

    def quick(experiment, data, held_out, out, measure, group):
        names.append(experiment.name)
        config = experiment.config(data)
        matters = config.model.attention.temperature
        untrained = MapHealth((0.99,), (0.99,), (0.99,))
        health = LayerHealth((0.5, 0.7), (0.2, 0.4), (0.1, 0.3), untrained, {"mean map": matters / 10})
        layers = {
            "generator.attention.16": replace(health, distance={"mean map": matters}),
            "discriminator.attention.16": health,
        }
        row, setting, folder = experiment.row, experiment.setting.conditions(data), out / experiment.name
        record = replace(canned, row=row.name, title=row.title, seed=experiment.seed, config=config, setting=setting)
        write_record(replace(record, attention_health=layers, folder=folder))

    monkeypatch.setattr(screening, "run_experiment", quick)
    return names


def test_runs_are_kept_in_one_table_and_the_trials_whose_maps_matter_most_come_first(trained, tmp_path, capsys):
    places = ["--out", str(tmp_path / "runs"), "--csv", str(tmp_path / "screening.csv")]
    screening.main(["--trials", "from2", "from16", "from8", *places])
    screening.main(["--trials", "from8", "from16", "--seeds", "1", "2", "--steps", "1000", *places])
    screening.main(["--trials", "from2", "from16", "from8", *places])
    assert len(trained) == 3 + 2 * 2  # none twice
    runs = pd.read_csv(tmp_path / "screening.csv")
    assert list(runs["steps"]) == [300] * 3 + [1000] * 4 and set(runs["seed"]) == {100, 1, 2}
    of_16 = runs[runs["trial"] == "from16"].iloc[0]
    shown = of_16[["times, mean map", "D output change, mean map", "G entropy", "D untrained between"]]
    assert shown.tolist() == [16, 1.6, 0.6, 0.99]
    said = capsys.readouterr().out.splitlines()[-6:]
    assert [line.split()[0] for line in said] == ["from16"] * 2 + ["from8"] * 2 + ["from2"] * 2
    screening.main(["--trials", "from4", "--out", str(tmp_path / "elsewhere"), *places[2:]])
    assert list(pd.read_csv(tmp_path / "screening.csv")["trial"]) == [*runs["trial"], "from4"]  # the others stay
    assert "0.600 (0.990)" in said[0] and "FD x 16.00" in said[0] and "logits by 1.600 sd" in said[1]


def test_finalists_are_told_by_the_geometric_mean_of_their_distance_and_its_ratio():
    logs = {"from8": [0.0, 0.2, 0.4], "from4": [0.5, 0.7, 0.9], "from2": [3.0]}
    rows = [(name, seed, 2000, math.exp(x)) for name, values in logs.items() for seed, x in enumerate(values)]
    table = screening.finalists(pd.DataFrame(rows, columns=["trial", "seed", "steps", "FD"]))
    assert table["trial"].tolist() == ["from8", "from4"]  # a single run ranks nothing
    found = stats.ttest_ind(logs["from4"], logs["from8"]).confidence_interval()
    low, high = (100 * math.exp(x) - 100 for x in (found.low, found.high))
    assert table["against the lowest [95%]"].tolist() == ["lowest", f"+65% [{low:+.1f}%, {high:+.0f}%]"]
    half = stats.t.ppf(0.975, 4) * 0.2 / math.sqrt(3)
    assert table["FD [95%]"][0] == f"1.22 [{math.exp(0.2 - half):.3f}, {math.exp(0.2 + half):.2f}]"


@pytest.mark.parametrize(("options", "words"), [(["--steps", "0"], "--steps"), (["--seeds", "-1"], "--seeds")])
def test_a_mistake_is_refused_before_any_run(trained, options, words, capsys, tmp_path):
    with pytest.raises(SystemExit) as stop:
        screening.main([*options, "--out", str(tmp_path / "runs")])
    assert stop.value.code == 2 and words in capsys.readouterr().err and not trained
