"""``python -m sagan_base.sample``: pictures from nothing but the checkpoint."""

import numpy as np
import pytest
import torch
from PIL import Image

from sagan_base.sample import load_generator, main
from sagan_base.sampling import draw_class, sample_sheet, to_uint8
from sagan_base.training import train


@pytest.fixture(scope="module")
def model(tmp_path_factory, tiny_config, tiny_data):
    return train(tiny_config(steps=1), tiny_data, tmp_path_factory.mktemp("run"), progress=False).model


def test_a_sheet_has_a_row_per_class_in_the_order_asked_for(model, tmp_path, capsys):
    assert main([str(model), "--class", "two", "0", "--number", "5", "--sheet", str(tmp_path / "s.png")]) == 0
    assert "10 images, a row per class (two, zero)" in capsys.readouterr().out
    with Image.open(tmp_path / "s.png") as sheet:
        pixels = np.asarray(sheet)
    assert pixels.shape == (2 * 18 + 2, 5 * 18 + 2)
    generator, _ = load_generator(model)
    expected = to_uint8(draw_class(generator, 0, 5))[3, 0].numpy()
    assert np.array_equal(pixels[20:36, 2 + 3 * 18 : 18 + 3 * 18], expected)


def test_a_folder_holds_a_picture_per_image_in_a_folder_per_class(model, tmp_path):
    assert main([str(model), "--number", "2", "--folder", str(tmp_path / "drawn")]) == 0
    names = sorted(str(path.relative_to(tmp_path / "drawn")) for path in (tmp_path / "drawn").rglob("*.png"))
    assert names == [f"{i:04d}_{name}/{k:05d}.png" for i, name in enumerate(("zero", "one", "two")) for k in (0, 1)]
    with Image.open(tmp_path / "drawn" / names[0]) as image:
        assert image.size == (16, 16) and image.mode == "L"


def test_an_image_depends_on_seed_class_and_number_only(model):
    generator, _ = load_generator(model)
    few, many = draw_class(generator, 1, 3, seed=4), draw_class(generator, 1, 7, seed=4, batch_size=2)
    torch.testing.assert_close(few, many[:3], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(few, draw_class(generator, 1, 3, seed=5))


def test_truncation_bounds_the_latents(model):
    generator, _ = load_generator(model)
    seen = []
    generator.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    draw_class(generator, 0, 50, truncation=0.5)
    draw_class(generator, 0, 50)
    assert seen[0].abs().max() <= 0.5 < seen[1].abs().max()


def test_a_run_folder_is_as_good_as_its_file(model, tmp_path):
    for source in (model, model.parent):
        assert main([str(source), "--sheet", str(tmp_path / f"{source.name}.png")]) == 0
    sheets = [(tmp_path / f"{source.name}.png").read_bytes() for source in (model, model.parent)]
    assert sheets[0] == sheets[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--class", "3"], "--class 3 is not a class of this model; use 0 ... 2 or one of zero, one, two"),
        (["--number", "0"], "argument --number: 0 is too small; use 1 or more"),
        (["--truncation", "-1"], "argument --truncation: -1 is not positive"),
        (["--seed", "-1"], "argument --seed: -1 is too small; use 0 or more"),
        (["--number", "9999"], "29,997 images are too many for one sheet"),
        (["--sheet", "out.txt"], "is not a picture's name; end it in .png"),
        (["--folder", "a", "--sheet", "b.png"], "not allowed with argument"),
        (["--device", "nowhere"], "--device nowhere"),
        (["--folder", __file__], "it is a file"),
        (["--sheet", f"{__file__}/sheet.png"], "test_sample.py"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(model, capsys, options, message):
    with pytest.raises(SystemExit) as stopped:
        main([str(model), *options])
    said = capsys.readouterr().err
    assert stopped.value.code == 2
    assert message in said and said.count("\n") == 1 and said.startswith("error: ")


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path, capsys):
    (tmp_path / "x.safetensors").write_bytes(b"not one")
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path / "x.safetensors")])
    assert stopped.value.code == 2 and "is not a checkpoint, or is truncated" in capsys.readouterr().err


def test_pixels_cover_the_range_of_a_picture_file():
    values = torch.tensor([-1.5, -1.0, -1 + 1 / 127.5, 0.0, 1.0, 2.0])
    assert to_uint8(values).tolist() == [0, 0, 1, 128, 255, 255]


def test_a_sheet_of_colour_images_keeps_their_channels():
    images = torch.full((3, 3, 4, 4), -1.0)
    images[1, 2] = 1.0  # the second is blue
    sheet = sample_sheet(images, columns=2, border=1)
    assert sheet.size == (11, 11) and sheet.getpixel((6, 1)) == (0, 0, 255) and sheet.getpixel((1, 6)) == (0, 0, 0)


def test_without_a_checkpoint_the_best_of_the_shipped_models_is_drawn(tmp_path, capsys):
    assert main(["--sheet", str(tmp_path / "sheet.png"), "--number", "1", "--device", "cpu"]) == 0
    assert "airplane" in capsys.readouterr().out and (tmp_path / "sheet.png").is_file()
