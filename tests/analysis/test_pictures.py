"""Every kind of image file is read to the pixels it shows, or refused by one line that names it."""

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from analysis.pictures import MAX_PIXELS, files_in, fit_picture, read_picture, to_image

RED = (200, 30, 40)


def saved(folder, image, name, **options):
    path = folder / name
    image.save(path, **options)
    return path


def pixel(path):
    return read_picture(path).image.getpixel((0, 0))


@pytest.mark.parametrize("name", ["p.png", "p.bmp", "p.tif", "p.webp", "p.ppm"])
def test_a_colour_file_of_any_lossless_format_keeps_its_colours(tmp_path, name):
    options = {"lossless": True} if name.endswith("webp") else {}
    assert pixel(saved(tmp_path, Image.new("RGB", (5, 4), RED), name, **options)) == RED


def test_grey_palette_and_bilevel_files_are_read_as_what_they_show(tmp_path):
    assert read_picture(saved(tmp_path, Image.new("L", (4, 4), 77), "l.png")).image.getpixel((1, 1)) == 77
    assert pixel(saved(tmp_path, Image.new("RGB", (4, 4), RED).quantize(4), "p.png")) == RED
    assert pixel(saved(tmp_path, Image.new("1", (4, 4), 1), "b.png")) == 255


@pytest.mark.parametrize(
    ("mode", "value", "seen"),
    [
        ("RGBA", (*RED, 0), (255, 255, 255)),
        ("RGBA", (0, 0, 0, 128), (127, 127, 127)),
        ("RGBA", (*RED, 255), RED),
        ("LA", (0, 0), 255),
    ],
)
def test_transparent_parts_are_laid_over_white(tmp_path, mode, value, seen):
    picture = read_picture(saved(tmp_path, Image.new(mode, (4, 4), value), "alpha.png"))
    assert picture.image.getpixel((0, 0)) == seen
    assert any("over white" in note for note in picture.notes) == (value[-1] < 255)


def test_a_transparent_palette_entry_is_laid_over_white(tmp_path):
    image = Image.new("P", (4, 4), 0)
    image.putpalette([*RED, 1, 2, 3])
    assert pixel(saved(tmp_path, image, "p.png", transparency=0)) == (255, 255, 255)
    grey = saved(tmp_path, Image.new("L", (4, 4), 9), "l.png", transparency=9)
    assert pixel(grey) == 255


def test_sixteen_bit_and_floating_point_greys_are_scaled_to_eight_bits(tmp_path):
    values = np.array([[0, 65535], [32768, 257]], dtype=np.uint16)
    picture = read_picture(saved(tmp_path, Image.fromarray(values), "i16.png"))
    assert np.array_equal(np.asarray(picture.image), [[0, 255], [128, 1]])
    assert "16-bit" in picture.notes[0]
    unit = Image.fromarray(np.array([[0.0, 1.0], [0.5, 0.25]], dtype=np.float32))
    assert np.array_equal(np.asarray(read_picture(saved(tmp_path, unit, "f.tif")).image), [[0, 255], [128, 64]])
    wide = Image.fromarray(np.array([[-10, 10], [0, 5]], dtype=np.int32))
    assert np.array_equal(np.asarray(read_picture(saved(tmp_path, wide, "i.tif")).image), [[0, 255], [128, 191]])
    endless = Image.fromarray(np.array([[0.0, np.inf]], dtype=np.float32))
    with pytest.raises(ValueError, match="not finite"):
        read_picture(saved(tmp_path, endless, "inf.tif"))


def test_cmyk_is_converted_and_said_so(tmp_path):
    picture = read_picture(saved(tmp_path, Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "c.jpg", quality=100))
    red, green, blue = picture.image.getpixel((1, 1))
    assert red > 240
    assert green < 20
    assert blue < 20
    assert picture.notes == ("its CMYK colours were converted to RGB",)


def test_a_picture_rotated_by_exif_comes_out_upright(tmp_path):
    image = Image.new("RGB", (6, 4))
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the stored top left belongs at the top right
    picture = read_picture(saved(tmp_path, image, "turned.png", exif=exif))
    assert picture.image.size == (4, 6)
    assert picture.image.getpixel((3, 0)) == (255, 255, 255)
    assert any("upright" in note for note in picture.notes)


def test_of_an_animation_the_first_frame_is_used_and_said_so(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, (0, 0, 255), (0, 255, 0))]
    picture = read_picture(saved(tmp_path, frames[0], "a.gif", save_all=True, append_images=frames[1:]))
    assert picture.image.getpixel((0, 0)) == RED
    assert "3 frames" in picture.notes[0]


def test_one_pixel_is_enough_and_a_thin_strip_is_cropped(tmp_path):
    pixels, fitted = fit_picture(read_picture(saved(tmp_path, Image.new("RGB", (1, 1), RED), "one.png")), 16, 3)
    assert torch.equal(pixels, torch.tensor(RED).view(3, 1, 1).expand(3, 16, 16) / 127.5 - 1)
    assert "enlarged from 1x1 to 16x16" in fitted.notes[-1]
    _, fitted = fit_picture(read_picture(saved(tmp_path, Image.new("L", (900, 1)), "strip.png")), 16, 1)
    assert "the central 1x1 of its 900x1 pixels" in fitted.notes[0]


def test_the_centre_is_cropped_and_the_middle_of_a_wide_picture_is_kept(tmp_path):
    image = Image.new("RGB", (30, 10), "black")
    image.paste("white", (10, 0, 20, 10))
    pixels, _ = fit_picture(read_picture(saved(tmp_path, image, "wide.png")), 10, 1)
    assert torch.equal(pixels, torch.ones(1, 10, 10))


def test_a_picture_of_the_right_size_passes_unchanged_to_the_last_bit(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    path = saved(tmp_path, Image.fromarray(values), "exact.png")
    pixels, fitted = fit_picture(read_picture(path), 16, 3)
    assert fitted.notes == ()
    assert np.array_equal(np.asarray(to_image(pixels)), values)


def test_grey_models_get_luma_and_colour_models_get_three_equal_channels(tmp_path):
    colour = read_picture(saved(tmp_path, Image.new("RGB", (16, 16), RED), "c.png"))
    pixels, fitted = fit_picture(colour, 16, 1)
    assert float((pixels[0, 0, 0] + 1) * 127.5) == pytest.approx(0.299 * 200 + 0.587 * 30 + 0.114 * 40, abs=1)
    assert "made grey" in fitted.notes[0]
    grey = read_picture(saved(tmp_path, Image.new("L", (16, 16), 50), "g.png"))
    pixels, fitted = fit_picture(grey, 16, 3)
    assert torch.equal(pixels[0], pixels[2])
    assert "three colour channels" in fitted.notes[0]
    with pytest.raises(ValueError, match="channels=2"):
        fit_picture(grey, 16, 2)


def test_a_large_reduction_keeps_the_mean_brightness(tmp_path):
    checkers = np.indices((512, 512)).sum(0) % 2 * 255
    path = saved(tmp_path, Image.fromarray(checkers.astype(np.uint8)), "checkers.png")
    pixels, _ = fit_picture(read_picture(path), 16, 1)
    assert pixels.abs().max() < 0.01


def bomb(width, height):
    """A valid PNG header that claims any size, and nothing behind it."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.png", None, "does not exist"),
        ("empty.png", b"", "is empty"),
        ("words.jpg", b"these are only words", "is not an image that Pillow can read"),
        ("large.png", bomb(20_000, MAX_PIXELS // 20_000 + 1), "more than 100,000,000"),
        ("bomb.png", bomb(100_000, 100_000), "more than 100,000,000"),
        ("cut.png", bomb(64, 64), "damaged or truncated"),
    ],
)
def test_what_cannot_be_read_is_refused_by_one_line_that_names_it(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as refusal:
        read_picture(path)
    assert name in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("kind", ["jpg", "png", "gif", "webp", "tif"])
def test_a_file_cut_anywhere_is_refused_or_read_but_never_crashes(tmp_path, kind):
    noise = np.random.default_rng(1).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    whole = saved(tmp_path, Image.fromarray(noise), f"whole.{kind}").read_bytes()
    refused = 0
    for length in range(1, len(whole), max(len(whole) // 40, 1)):
        cut = tmp_path / f"cut.{kind}"
        cut.write_bytes(whole[:length])
        try:
            read_picture(cut)
        except ValueError as error:
            assert "cut" in str(error)
            refused += 1
    assert refused > 20


def test_a_folder_is_no_picture_and_its_files_are_listed_in_order_without_hidden_ones(tmp_path):
    (tmp_path / "b").mkdir()
    for name in ("z.png", "b/a.png", ".hidden.png", "a.txt"):
        (tmp_path / name).write_bytes(b"x")
    assert [str(path.relative_to(tmp_path)) for path in files_in(tmp_path)] == ["a.txt", "b/a.png", "z.png"]
    with pytest.raises(ValueError, match="is a folder"):
        read_picture(tmp_path)
