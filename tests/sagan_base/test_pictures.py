"""Every kind of image file is read to the pixels it shows, or refused by one line that names it."""

import os
import struct
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from sagan_base.data import load_data
from sagan_base.data_sources import pictures
from sagan_base.data_sources.pictures import MAX_PIXELS, fit_picture, read_picture, read_square

RED = (200, 30, 40)


def saved(folder, image, name, **options):
    path = folder / name
    image.save(path, **options)
    return path


def fitted(path, resolution, channels):
    pixels, notes = fit_picture(read_picture(path), resolution, channels)
    return SimpleNamespace(pixels=pixels, notes=notes)


def pixel(path, channels=3):
    """The first pixel of a picture of 4x4, in which nothing is resampled."""
    values = fitted(path, 4, channels).pixels[:, 0, 0].tolist()
    return tuple(values) if channels == 3 else values[0]


@pytest.mark.parametrize("name", ["p.png", "p.bmp", "p.tif", "p.webp", "p.ppm"])
def test_a_colour_file_of_any_lossless_format_keeps_its_colours(tmp_path, name):
    options = {"lossless": True} if name.endswith("webp") else {}
    assert pixel(saved(tmp_path, Image.new("RGB", (4, 4), RED), name, **options)) == RED


def test_grey_palette_and_bilevel_files_are_read_as_what_they_show(tmp_path):
    assert pixel(saved(tmp_path, Image.new("L", (4, 4), 77), "l.png"), 1) == 77
    assert pixel(saved(tmp_path, Image.new("RGB", (4, 4), RED).quantize(4), "p.png")) == RED
    assert pixel(saved(tmp_path, Image.new("1", (4, 4), 1), "b.png"), 1) == 255


@pytest.mark.parametrize(
    ("mode", "value", "seen"),
    [
        ("RGBA", (*RED, 0), (255, 255, 255)),
        ("RGBA", (0, 0, 0, 128), (127, 127, 127)),
        ("RGBA", (*RED, 255), RED),
        ("LA", (0, 0), (255, 255, 255)),
    ],
)
def test_transparent_parts_are_laid_over_white(tmp_path, mode, value, seen):
    path = saved(tmp_path, Image.new(mode, (4, 4), value), "alpha.png")
    assert pixel(path) == seen
    assert any("over white" in note for note in fitted(path, 4, 3).notes) == (value[-1] < 255)


def test_a_transparent_palette_entry_is_laid_over_white(tmp_path):
    image = Image.new("P", (4, 4), 0)
    image.putpalette([*RED, 1, 2, 3])
    assert pixel(saved(tmp_path, image, "p.png", transparency=0)) == (255, 255, 255)
    grey = saved(tmp_path, Image.new("L", (4, 4), 9), "l.png", transparency=9)
    assert pixel(grey, 1) == 255


def test_sixteen_bits_are_scaled_to_eight_and_what_lies_outside_is_said(tmp_path):
    values = np.array([[0, 65535], [32768, 257]])
    picture = fitted(saved(tmp_path, Image.fromarray(values.astype(np.uint16)), "i16.png"), 2, 1)
    assert picture.pixels[0].tolist() == [[0, 255], [128, 1]]
    assert picture.notes == ("its 16-bit values were scaled to 8 bits",)
    wide = saved(tmp_path, Image.fromarray((values * 2 - 300).astype(np.int32)), "i.tif")
    assert fitted(wide, 2, 1).pixels[0].tolist() == [[0, 255], [254, 1]]
    assert "below 0 became black and those above 65535 white" in fitted(wide, 2, 1).notes[1]


def test_cmyk_is_converted_and_said_so(tmp_path):
    path = saved(tmp_path, Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "c.jpg", quality=100)
    red, green, blue = pixel(path)
    assert red > 240
    assert green < 20
    assert blue < 20
    assert fitted(path, 4, 3).notes == ("its CMYK colours were converted to RGB",)


def test_a_picture_rotated_by_exif_comes_out_upright(tmp_path):
    image = Image.new("RGB", (4, 4))
    image.putpixel((0, 0), (255, 255, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: the stored top left belongs at the top right
    picture = fitted(saved(tmp_path, image, "turned.png", exif=exif), 4, 3)
    assert picture.pixels[:, 0, 3].tolist() == [255, 255, 255]
    assert picture.notes == ("it was turned upright as its EXIF data say",)
    wide = fitted(saved(tmp_path, image.resize((6, 4)), "wide.jpg", exif=exif), 4, 3)
    assert "the central 4x4 of its 4x6 pixels were taken" in wide.notes


def test_of_an_animation_the_first_frame_is_used_and_said_so(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, (0, 0, 255), (0, 255, 0))]
    path = saved(tmp_path, frames[0], "a.gif", save_all=True, append_images=frames[1:])
    assert pixel(path) == RED
    assert "3 frames" in fitted(path, 4, 3).notes[0]


def test_one_pixel_is_enough_and_a_thin_strip_is_cropped(tmp_path):
    picture = fitted(saved(tmp_path, Image.new("RGB", (1, 1), RED), "one.png"), 16, 3)
    assert (picture.pixels == np.array(RED)[:, None, None]).all()
    assert "enlarged from 1x1 to 16x16" in picture.notes[-1]
    strip = fitted(saved(tmp_path, Image.new("L", (900, 1)), "strip.png"), 16, 1)
    assert "the central 1x1 of its 900x1 pixels" in strip.notes[0]


def test_the_centre_is_cropped_and_the_middle_of_a_wide_picture_is_kept(tmp_path):
    image = Image.new("RGB", (30, 10), "black")
    image.paste("white", (10, 0, 20, 10))
    assert (fitted(saved(tmp_path, image, "wide.png"), 10, 1).pixels == 255).all()


def test_a_picture_of_the_right_size_passes_unchanged_to_the_last_bit(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    picture = fitted(saved(tmp_path, Image.fromarray(values), "exact.png"), 16, 3)
    assert picture.notes == ()
    assert np.array_equal(picture.pixels.transpose(1, 2, 0), values)


def test_grey_models_get_luma_and_colour_models_get_three_equal_channels(tmp_path):
    colour = saved(tmp_path, Image.new("RGB", (16, 16), RED), "c.png")
    picture = fitted(colour, 16, 1)
    assert picture.pixels[0, 0, 0] == pytest.approx(0.299 * 200 + 0.587 * 30 + 0.114 * 40, abs=1)
    assert "made grey" in picture.notes[0]
    assert fitted(saved(tmp_path, Image.new("RGB", (16, 16), (9, 9, 9)), "n.png"), 16, 1).notes == ()
    grey = fitted(saved(tmp_path, Image.new("L", (16, 16), 50), "g.png"), 16, 3)
    assert (grey.pixels == 50).all()
    assert "three colour channels" in grey.notes[0]
    with pytest.raises(ValueError, match="channels=2"):
        fitted(colour, 16, 2)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["p.png", "p.jpg"])
def test_training_reads_the_same_pixels_in_one_step_and_a_jpeg_nearly_so_by_decoding_it_smaller(
    tmp_path, name, channels
):
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    path = saved(tmp_path, Image.fromarray(noise).resize((800, 600)), name)
    whole, drafted = fitted(path, 16, channels).pixels, read_square(path, 16, channels)
    difference = np.abs(whole.astype(int) - drafted).max()
    assert difference == 0 if name == "p.png" else 0 < difference <= 24  # of noise


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
        ("evil.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "can read as BMP, GIF"),
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
        fitted(path, 16, 3)
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
            fitted(cut, 16, 3)
        except ValueError as error:
            assert "cut" in str(error)
            refused += 1
    assert refused > 20


def test_the_format_of_the_content_counts_and_not_the_name(tmp_path):
    image = Image.new("RGB", (4, 4), RED)
    image.save(tmp_path / "bitmap.jpg", format="BMP")
    assert pixel(tmp_path / "bitmap.jpg") == RED


def test_what_is_no_regular_file_is_refused_without_waiting_for_it(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    for path, problem in ((tmp_path / "pipe.png", "is no regular file"), (tmp_path, "is a folder")):
        with pytest.raises(ValueError, match=problem):
            fitted(path, 16, 3)


def test_training_data_have_the_same_limits(tmp_path):
    for content, problem in ((bomb(20_000, 6_000), "more than 100,000,000"), (b"%!PS-Adobe-3.0", "can read as BMP")):
        (tmp_path / "a.png").write_bytes(content)
        with pytest.raises(ValueError, match=problem):
            load_data(f"folder:{tmp_path}", 16)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "P with transparency", "1", "I;16", "CMYK", "RGB", "L"])
def test_a_large_picture_is_converted_strip_by_strip_to_the_same_pixels(mode, tmp_path, monkeypatch):
    """12 KB of PNG may hold 100 million pixels; whole, a conversion of 16 bits took 2.7 GB."""
    noise = np.random.default_rng(0).integers(0, 256, (23, 17, 4), np.uint8)
    path, more = tmp_path / f"a.{'tif' if mode == 'CMYK' else 'png'}", {}
    picture = Image.fromarray(noise, "CMYK" if mode == "CMYK" else "RGBA")
    if mode.startswith("P"):
        picture, more = picture.convert("RGB").quantize(40), {"transparency": 3} if " " in mode else {}
    elif mode == "I;16":
        picture = Image.fromarray(noise[..., 0].astype(np.uint16) * 257)
    else:
        picture = picture.convert("RGB").convert("1") if mode == "1" else picture.convert(mode)
    picture.save(path, **more)
    whole, sizes, convert = read_picture(path), [], pictures._converted
    monkeypatch.setattr(pictures, "STRIP", 60)
    monkeypatch.setattr(pictures, "_converted", lambda part: (sizes.append(part.size), convert(part))[1])
    strips = read_picture(path)
    assert (np.asarray(strips.image) == np.asarray(whole.image)).all() and strips.notes == whole.notes
    assert set(sizes) == (set() if mode in ("RGB", "L") else {(17, 3), (17, 2)})
