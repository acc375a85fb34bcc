"""Does saliency help: the variants, the one question with its adjusted answers, and records that go on and are kept."""

import numpy as np
import pandas as pd
import pytest
import torch

from analysis import compare_inversions as command
from analysis.inversion import comparison
from analysis.inversion.comparison import AGAINST, DISTANCE, VARIANTS, loss_of, table, verdict, what_saliency_says
from analysis.inversion.config import LossConfig
from analysis.loading import load_model
from sagan_base.files import write_json
from sagan_base.typed import read_json

QUICK = ["--pictures", "2", "--steps", "2", "--restarts", "2", "--draws", "4", "--variants", "saliency", "features"]


def rows_of(differences):
    """Records of two variants whose distances differ by these."""
    lines = []
    for index, difference in enumerate(differences):
        for variant, value in (("saliency", index + difference), ("features", float(index))):
            lines.append({"picture": str(index), "variant": variant, DISTANCE: value, "PSNR (dB)": 1.0, "SSIM": 0.5,
                          "CPU seconds": 2.0})  # fmt: skip
    return pd.DataFrame(lines)


def test_the_difference_is_paired_and_its_interval_is_students():
    differences = np.array([-1.0, -2.0, -3.0])
    line = table(rows_of(differences)).set_index("variant").loc["features"]
    half = 4.302653 * differences.std(ddof=1) / np.sqrt(3)  # t of 2 degrees of freedom at 97.5%
    assert line[["difference", "low", "high"]].tolist() == pytest.approx([-2, -2 - half, -2 + half], rel=1e-5)
    assert line["p"] == pytest.approx(0.0741799, rel=1e-4)  # t = -3.4641


def test_a_verdict_asks_the_adjusted_value():
    line = pd.Series({"difference": -1.0, "p": 0.03, "p (Holm)": 0.06})
    assert verdict(line) == "no difference shown"
    assert verdict(line.replace(0.06, 0.04)) == "saliency comes nearer"
    assert verdict(line.replace(0.06, 0.04).replace(-1.0, 1.0)) == "saliency stays farther"


def test_only_the_primary_comparisons_are_judged(checkpoint):
    lines = [
        {"picture": str(i), "variant": name, DISTANCE: float(i * (1 + j)), "PSNR (dB)": 1.0, "SSIM": 0.5,
         "CPU seconds": 1.0}
        for i in range(4) for j, name in enumerate(VARIANTS)
    ]  # fmt: skip
    frame = table(pd.DataFrame(lines))
    assert tuple(frame[frame["p"].notna()]["variant"]) == AGAINST
    assert frame[frame["difference"].notna()]["variant"].tolist() == [name for name in VARIANTS if name != "saliency"]


def test_the_variants_are_the_losses_they_are_called_after(checkpoint):
    model = load_model(checkpoint=checkpoint)
    assert loss_of("saliency", model) == LossConfig()
    every = tuple(range(8))
    assert loss_of("the paper's equation", model) == LossConfig(heads=every, norm="squared", queries="all")
    losses = [loss_of(name, model) for name in VARIANTS]
    assert len(set(losses)) == len(losses)


def test_saliency_of_one_picture_has_no_variance_between_images_and_that_of_several_has(checkpoint):
    model = load_model(checkpoint=checkpoint)
    for layer in model.discriminator.attention_layers().values():
        torch.nn.init.normal_(layer.query.weight, std=3.0)
    images = torch.rand(4, 1, 16, 16) * 2 - 1
    assert what_saliency_says(model, images[:1].expand(3, -1, -1, -1))["between images"] == pytest.approx(0, abs=1e-9)
    says = what_saliency_says(model, images)
    assert 0 < says["between images"] < 1
    assert says["images"] == 4


def test_a_comparison_goes_on_where_it_was_stopped_and_its_table_comes_from_the_records(
    checkpoint, tmp_path, capsys, monkeypatch
):
    out = tmp_path / "out"
    asked = ["--checkpoint", str(checkpoint), "--out", str(out), *QUICK]
    measured, calls = command.measured, []

    def interrupted(*arguments):
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(arguments[3])
        return measured(*arguments)

    monkeypatch.setattr(command, "measured", interrupted)
    assert command.main(asked) == 130
    assert "3 inversions are kept" in capsys.readouterr().err
    assert len(pd.read_csv(out / "inversions.csv")) == 3
    monkeypatch.setattr(command, "measured", lambda *arguments: calls.append(arguments[3]) or measured(*arguments))
    assert command.main(asked) == 0
    assert calls == ["saliency", "features"] * 2
    said = capsys.readouterr().out
    assert "3 inversions are there, 1 to do" in said
    assert "A shortened run: 2 pictures instead of 50, 2 steps instead of 300" in said
    written = {name: (out / name).read_bytes() for name in ("table.csv", "table.md")}
    for name in written:
        (out / name).unlink()
    assert command.main(["--table", "--out", str(out)]) == 0
    assert {name: (out / name).read_bytes() for name in written} == written
    with pytest.raises(SystemExit):
        command.main([*asked, "--seed", "1"])
    assert "holds a comparison that differs in config" in capsys.readouterr().err
    whole = read_json(out / "settings.json")
    write_json(out / "settings.json", {name: value for name, value in whole.items() if name != "command"})
    with pytest.raises(ValueError, match=r"settings\.json is damaged"):
        comparison.read_comparison(out)
    write_json(out / "settings.json", whole)
    for name, content in (("settings.json", "5"), ("inversions.csv", "picture,variant\na,b\n")):
        whole = (out / name).read_bytes()
        (out / name).write_text(content)
        for options in (["--table", "--out", str(out)], asked):
            with pytest.raises(SystemExit) as stop:
                command.main(options)
            said = capsys.readouterr().err
            assert stop.value.code == 2 and name in said and said.count("\n") == 1
        (out / name).write_bytes(whole)


def test_a_dry_run_says_the_hours_and_leaves_no_records(checkpoint, tmp_path, capsys):
    assert command.main(["--checkpoint", str(checkpoint), "--out", str(tmp_path / "out"), *QUICK, "--dry-run"]) == 0
    assert "4 to do: about" in capsys.readouterr().out
    assert not list((tmp_path / "out").iterdir())


def test_a_table_without_records_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        command.main(["--table", "--out", str(tmp_path)])
    assert stop.value.code == 2
    assert "holds no inversions.csv" in capsys.readouterr().err


def test_heads_that_are_uniform_are_said_first():
    settings = {
        "model": "m", "command": "c", "data": "d", "config": {"steps": 300, "restarts": 8, "draws": 512},
        "saliency": {"images": 4, "entropy": 1.0, "variation": 0.01, "between images": 0.0},
    }  # fmt: skip
    text = comparison.as_text(table(rows_of([1.0, 2.0] * 25)), settings, 1)
    assert text.splitlines()[2].startswith("**The heads that weigh are uniform over their masks.**")
    assert "shortened" not in text
