"""A picture's distance beside those of held-out pictures: measured as defined, told as counted, of the very weights."""

import json

import pytest
import torch
from PIL import Image

from analysis import calibrate as command
from analysis import invert
from analysis.inversion.calibration import DRAWS, RESULTS, Calibration, nearest_draw, stored_calibration
from analysis.inversion.distances import Distance, efficientnet_distance
from analysis.loading import load_model
from sagan_base.sampling import draw_any


def test_the_nearest_draw_is_the_nearest_of_all_draws(checkpoint):
    model = load_model(checkpoint=checkpoint)
    squared = Distance("squared", lambda images, real: (images - real).square().mean((1, 2, 3)))
    image = torch.rand(1, 16, 16) * 2 - 1
    expected = min(float((draw - image).square().mean()) for draw in draw_any(model.generator, DRAWS))
    assert nearest_draw(model, image, squared) == pytest.approx(expected, rel=1e-5)


def test_a_picture_is_told_how_many_held_out_ones_are_nearer():
    calibration = Calibration("w", "d", "mice", tuple(float(i) for i in range(200)))
    for value, words, is_far in (
        (-1.0, "nearer than all 200 held-out pictures of mice", False),
        (0.5, "nearer than 99% of 200", False),
        (49.5, "farther than 25% of 200", False),
        (196.5, "farther than 98% of 200", False),
        (198.5, "farther than 99% of 200", True),
        (500.0, "farther than all 200", True),
    ):
        stands, far = calibration.told(value)
        assert words in stands and far == is_far == ("far outside what the model can draw" in stands)


@pytest.mark.slow
def test_a_model_of_ones_own_is_calibrated_by_a_command_and_every_later_inversion_says_where_a_picture_stands(
    checkpoint, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("YLG_CACHE", str(tmp_path / "cache"))
    Image.new("RGB", (20, 20), (250, 5, 200)).save(tmp_path / "a.png")
    quick = ["--checkpoint", str(checkpoint), "--steps", "2", "--restarts", "2", "--draws", "4"]
    invert.main([str(tmp_path / "a.png"), *quick, "--out", str(tmp_path / "before")])
    assert "held-out pictures" not in capsys.readouterr().out
    assert command.main(["--checkpoint", str(checkpoint), "--pictures", "8"]) == 0
    assert "quartiles" in capsys.readouterr().out
    invert.main([str(tmp_path / "a.png"), *quick, "--out", str(tmp_path / "after")])
    said = "".join(capsys.readouterr())
    line = next(line for line in said.splitlines() if "8 held-out pictures of digits" in line)
    assert line[line.index("the nearest of") :] in (tmp_path / "after" / "explorer.html").read_text()


def test_a_record_of_other_weights_is_not_taken_and_a_damaged_one_is_passed_over(
    checkpoint, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("YLG_CACHE", str(tmp_path))
    command.main(["--checkpoint", str(checkpoint), "--pictures", "2"])
    model, distance = load_model(checkpoint=checkpoint), efficientnet_distance()
    assert stored_calibration(model, distance)
    (path,) = (tmp_path / "calibrations").glob("*.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"weights": "others"}))
    assert stored_calibration(model, distance) is None
    for damaged in ("[" * 100_000, "", "5", '{"values": ["far"]}'):
        path.write_text(damaged)
        assert stored_calibration(model, distance) is None
        said = capsys.readouterr().err
        assert path.name in said and said.count("\n") == 1


def test_too_many_pictures_are_refused(checkpoint, capsys):
    with pytest.raises(SystemExit) as stop:
        command.main(["--checkpoint", str(checkpoint), "--pictures", "99999"])
    assert stop.value.code == 2
    assert "ask for fewer --pictures" in capsys.readouterr().err


def test_the_records_that_ship_are_many_and_ascend():
    records = [json.loads(path.read_text()) for path in RESULTS.glob("calibration_*.json")]
    assert len(records) >= 3
    for record in records:
        assert len(record["values"]) >= 100
        assert record["values"] == sorted(record["values"])
