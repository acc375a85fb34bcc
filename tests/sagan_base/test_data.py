"""Digits, picture files and folders on small real files, and the promises of ImageData."""

import os
import subprocess
import sys
import threading
from inspect import signature
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from sagan_base.data import SOURCES, ImageData, default_cache, evenly_spaced, load_data
from sagan_base.data_sources import decoding
from sagan_base.data_sources.listing import list_folder
from sagan_base.data_sources.pictures import fit_square, read_square

RED, GREEN, BLUE = (200, 30, 30), (30, 200, 30), (30, 30, 200)


def save(path: Path, picture: Image.Image, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, **options)
    return path


def colour_folder(root: Path, per_class: int = 3, size: tuple[int, int] = (20, 20)) -> Path:
    """Three classes, each in its own colour, the images told apart by their brightness."""
    for name, colour in (("red", RED), ("green", GREEN), ("blue", BLUE)):
        for i in range(per_class):
            save(root / name / f"{i}.png", Image.new("RGB", size, tuple(c + i for c in colour)))
    return root


def arrays(images: torch.Tensor, labels: list[int], names: tuple[str, ...] = ("a", "b")) -> ImageData:
    return ImageData("made", images, torch.tensor(labels), names)


@pytest.fixture
def keep_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small folders are kept in the cache too, in chunks of two files."""
    monkeypatch.setattr(decoding, "SMALL_FILES", 0)
    monkeypatch.setattr(decoding, "CHUNK", 2)


# --- digits ---


def test_digits_at_their_own_size_are_scikit_learns_pixels():
    data = load_data("digits", 8)
    original = load_digits()
    expected = np.rint(original.images * 255 / 16).astype(np.uint8)
    row_of = {picture.tobytes(): i for i, picture in enumerate(expected)}
    rows = [row_of[image.numpy().tobytes()] for image in data.images]
    assert data.images.shape == (1442, 1, 8, 8)
    assert original.target[rows].tolist() == data.labels.tolist()


def test_the_splits_of_the_digits_are_all_of_them_and_overlap_nowhere():
    train, test = load_data("digits", 8), load_data("digits", 8, split="test")
    pictures = [image.numpy().tobytes() for data in (train, test) for image in data.images]
    assert sorted(pictures) == sorted(
        picture.tobytes() for picture in np.rint(load_digits().images * 255 / 16).astype(np.uint8)
    )
    assert (test.class_counts.double() / (train.class_counts + test.class_counts) - 0.2).abs().max() < 0.01


def test_enlarged_digits_keep_their_mean_brightness():
    small, large = load_data("digits", 8).images.double(), load_data("digits", 32).images.double()
    # Bicubic resampling keeps the mean up to what is cut off at black and white.
    difference = large.mean((1, 2, 3)) - small.mean((1, 2, 3))
    assert difference.abs().max() < 6 and large.max() == 255 and large.min() == 0


def test_grey_data_can_be_asked_for_in_three_equal_channels():
    data = load_data("digits", 16, channels=3)
    assert data.channels == 3 and (data.images == load_data("digits", 16).images).all()


# --- ImageData ---


def test_a_batch_is_the_pixels_scaled_to_minus_one_and_one_with_their_labels():
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).reshape(3, 1, 1, 1)
    batch, labels = arrays(images, [0, 1, 1]).batch(torch.tensor([2, 0, 1, 1]))
    assert batch.dtype == torch.float32 and batch.flatten().tolist() == pytest.approx([1, -1, -0.6, -0.6])
    assert labels.tolist() == [1, 0, 1, 1]


def test_the_fingerprint_changes_with_a_pixel_a_label_a_name_and_the_size():
    images = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    changed = images.clone()
    changed[1, 0, 3, 3] = 1
    made = [
        arrays(images, [0, 1]), arrays(changed, [0, 1]), arrays(images, [1, 0]), arrays(images, [0, 1], ("a", "c")),
        arrays(images.reshape(8, 1, 2, 2), [0, 1, 0, 0, 0, 0, 0, 0]),
    ]  # fmt: skip
    assert len({data.fingerprint for data in made}) == len(made)
    assert arrays(images.clone(), [0, 1]).fingerprint == made[0].fingerprint


def test_a_description_names_classes_counts_size_and_value_range():
    images = torch.full((3, 1, 4, 4), 7, dtype=torch.uint8)
    images[0] = 99
    text = arrays(images, [0, 1, 1]).describe()
    assert "3 grey images of 4x4" in text and "values 7..99" in text and "a 1, b 2" in text
    assert "warning" not in text
    assert "warning: no images of b" in arrays(images, [0, 0, 0]).describe()


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (torch.zeros(2, 1, 4, 4), [0, 1], "float32"),
        (torch.zeros(2, 2, 4, 4, dtype=torch.uint8), [0, 1], "1 or 3"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), [0], "2 images with labels"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), [0, 2], r"0\.\.2, but there are 2"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), [-1, 0], r"-1\.\.0"),
    ],
)
def test_images_and_labels_that_do_not_fit_are_refused(images: torch.Tensor, labels: list[int], words: str):
    with pytest.raises(ValueError, match=words):
        arrays(images, labels)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"spec": "mnist"}, r"unknown data set 'mnist'; use one of digits, fashion-mnist.*folder:PATH"),
        ({"spec": "digits:8"}, "digits' takes no path"),
        ({"spec": "digits", "split": "dev"}, "split='dev'"),
        ({"spec": "digits", "channels": 2}, "channels=2"),
        ({"spec": "digits", "resolution": 0}, "resolution=0"),
        ({"spec": "folder:"}, "needs a path"),
        ({"spec": "imagenet:"}, "needs a path"),
    ],
)
def test_bad_requests_are_refused_with_the_remedy(arguments: dict, words: str):
    with pytest.raises(ValueError, match=words):
        load_data(**({"resolution": 16} | arguments))


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("YLG_CACHE", raising=False)
    assert default_cache() == tmp_path / "ylg"
    monkeypatch.setenv("YLG_CACHE", str(tmp_path / "mine"))
    assert default_cache() == tmp_path / "mine"


@pytest.mark.parametrize(("count", "most", "kept"), [(10, 4, [0, 2, 5, 7]), (9, 3, [0, 3, 6]), (3, 5, [0, 1, 2])])
def test_some_of_many_are_taken_at_even_distances_and_few_all(count: int, most: int, kept: list[int]):
    assert evenly_spaced(count, most).tolist() == kept


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_says_what_people_type_and_loads_by_the_same_arguments(name: str):
    assert SOURCES[name].USAGE.startswith(name)
    assert list(signature(SOURCES[name].load).parameters) == ["path", "resolution", "channels", "split", "cache"]


# --- picture files ---


def test_transparency_is_laid_on_white(tmp_path: Path):
    clear = Image.new("RGBA", (8, 8), (*RED, 0))
    half = Image.new("RGBA", (8, 8), (0, 0, 0, 128))
    assert (read_square(save(tmp_path / "clear.png", clear), 8, 3) == 255).all()
    assert (abs(read_square(save(tmp_path / "half.png", half), 8, 3).astype(int) - 127) <= 1).all()
    grey = Image.new("LA", (8, 8), (10, 0))
    assert (read_square(save(tmp_path / "grey.png", grey), 8, 1) == 255).all()


def test_palettes_with_and_without_transparency_are_read_as_colours(tmp_path: Path):
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([*BLUE, *RED])
    plain = read_square(save(tmp_path / "plain.png", palette), 8, 3)
    clear = read_square(save(tmp_path / "clear.png", palette, transparency=bytes([255, 0])), 8, 3)
    assert plain[:, 0, 0].tolist() == list(RED) and (clear == 255).all()


def test_sixteen_bits_are_scaled_rather_than_clipped(tmp_path: Path):
    values = np.array([[0, 400], [32896, 65535]], np.uint16)
    path = save(tmp_path / "deep.png", Image.fromarray(values))
    assert read_square(path, 2, 1)[0].tolist() == [[0, 2], [128, 255]]


def test_cmyk_one_bit_and_colour_read_as_grey(tmp_path: Path):
    cmyk = save(tmp_path / "cmyk.jpg", Image.new("CMYK", (16, 16), (0, 255, 255, 0)))
    red, green, blue = read_square(cmyk, 16, 3)[:, 8, 8]
    assert red > 200 and green < 60 and blue < 60
    assert (read_square(save(tmp_path / "bits.png", Image.new("1", (4, 4), 1)), 4, 3) == 255).all()
    luminance = round(0.299 * RED[0] + 0.587 * RED[1] + 0.114 * RED[2])
    assert (
        abs(int(read_square(save(tmp_path / "c.png", Image.new("RGB", (4, 4), RED)), 4, 1)[0, 0, 0]) - luminance) <= 1
    )


def test_a_photograph_is_turned_upright_by_its_exif(tmp_path: Path):
    picture = Image.new("RGB", (32, 32), "black")
    picture.paste("white", (0, 0, 32, 16))  # the upper half
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise: the upper half is then on the right
    pixels = read_square(save(tmp_path / "turned.jpg", picture, exif=exif), 32, 1)[0]
    assert pixels[:, 20:].min() > 230 and pixels[:, :12].max() < 25


@pytest.mark.parametrize(("size", "expected"), [((30, 10), GREEN), ((10, 30), GREEN), ((31, 9), GREEN)])
def test_the_centre_square_is_kept(size: tuple[int, int], expected: tuple[int, int, int]):
    width, height = size
    picture = Image.new("RGB", (3, 1) if width > height else (1, 3))
    picture.putdata([RED, GREEN, BLUE])
    pixels = fit_square(picture.resize(size, Image.Resampling.NEAREST), 4, 3)
    assert (abs(pixels[:, 1:3, 1:3].astype(int) - np.array(expected)[:, None, None]) <= 12).all()


def test_shrinking_averages_instead_of_skipping_pixels():
    board = (np.indices((128, 128)).sum(0) % 2 * 255).astype(np.uint8)
    pixels = fit_square(Image.fromarray(board), 16, 1).astype(int)
    assert abs(pixels - 127.5).max() <= 3  # skipping would give 0 or 255


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (7, 5), (33, 64), (500, 333)])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_size_becomes_the_square_asked_for(size: tuple[int, int], channels: int, tmp_path: Path):
    pixels = read_square(save(tmp_path / "any.jpg", Image.new("RGB", size, GREEN)), 16, channels)
    assert pixels.shape == (channels, 16, 16) and pixels.dtype == np.uint8
    assert pixels.max() - pixels.min() <= (0 if channels == 1 else 255)


def test_unreadable_files_are_named_with_the_remedy(tmp_path: Path):
    whole = save(tmp_path / "whole.jpg", Image.effect_noise((64, 64), 50)).read_bytes()
    for name, content in {"cut.jpg": whole[:-400], "text.png": b"no image", "empty.jpg": b""}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name} cannot be read as an image .*; remove or replace it"):
            read_square(tmp_path / name, 16, 3)
    floats = save(tmp_path / "floats.tiff", Image.fromarray(np.ones((4, 4), np.float32)))
    with pytest.raises(ValueError, match=r"floats\.tiff: .*save it as 8-bit PNG"):
        read_square(floats, 4, 1)


# --- folders ---


def test_a_folder_has_one_class_a_sub_folder_in_alphabetical_order(tmp_path: Path):
    data = load_data(f"folder:{colour_folder(tmp_path / 'colours')}", 8)
    assert data.name == "colours" and data.class_names == ("blue", "green", "red")
    assert data.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3
    assert data.images[:, :, 4, 4].tolist() == [
        [c + i for c in colour] for colour in (BLUE, GREEN, RED) for i in range(3)
    ]


def test_a_folder_of_grey_pictures_has_one_channel_unless_three_are_asked_for(tmp_path: Path):
    for i in range(3):
        save(tmp_path / "a" / f"{i}.png", Image.new("RGB", (8, 8), (i, i, i)))
    assert load_data(f"folder:{tmp_path}", 8).channels == 1
    assert load_data(f"folder:{tmp_path}", 8, channels=3).channels == 3
    save(tmp_path / "a" / "colour.png", Image.new("RGB", (8, 8), RED))
    assert load_data(f"folder:{tmp_path}", 8).channels == 3


def test_train_and_test_sub_folders_are_the_splits(tmp_path: Path):
    colour_folder(tmp_path / "train")
    save(tmp_path / "val" / "red" / "x.png", Image.new("RGB", (8, 8), RED))
    train, test = load_data(f"folder:{tmp_path}", 8), load_data(f"folder:{tmp_path}", 8, split="test")
    assert len(train) == 9 and test.labels.tolist() == [2] and test.class_names == train.class_names
    save(tmp_path / "val" / "yellow" / "x.png", Image.new("RGB", (8, 8)))
    with pytest.raises(ValueError, match="lacks: yellow"):
        load_data(f"folder:{tmp_path}", 8, split="test")


def test_pictures_directly_in_train_are_the_training_split_of_one_class(tmp_path: Path):
    for split, count in (("train", 3), ("test", 2)):
        for i in range(count):
            save(tmp_path / "f" / split / f"{i}.png", Image.new("RGB", (8, 8), (i, i, 50)))
    train, test = (load_data(f"folder:{tmp_path / 'f'}", 8, split=split) for split in ("train", "test"))
    assert (len(train), len(test)) == (3, 2) and train.class_names == test.class_names == ("f",)
    assert "a single class" in train.describe()


def test_other_folders_that_look_like_splits_are_named(tmp_path: Path):
    for name in ("Training", "valid", "bus"):
        save(tmp_path / "a" / name / "x.png", Image.new("RGB", (8, 8), RED))
    data = load_data(f"folder:{tmp_path / 'a'}", 8)
    assert data.num_classes == 3 and "called like splits are taken as classes: Training, valid;" in data.describe()
    save(tmp_path / "vehicles" / "train" / "x.png", Image.new("RGB", (8, 8), RED))
    save(tmp_path / "vehicles" / "bus" / "x.png", Image.new("RGB", (8, 8), RED))
    data = load_data(f"folder:{tmp_path / 'vehicles'}", 8)
    assert data.class_names == ("bus", "train") and "taken as classes: train;" in data.describe()
    colour_folder(tmp_path / "b" / "train")
    save(tmp_path / "b" / "valid" / "red" / "x.png", Image.new("RGB", (8, 8), RED))
    assert "the folders beside it are left out: valid" in load_data(f"folder:{tmp_path / 'b'}", 8).describe()


def test_links_are_followed_into_folders_and_never_in_a_circle(tmp_path: Path):
    colour_folder(tmp_path / "elsewhere")
    root = tmp_path / "linked"
    (root / "green").mkdir(parents=True)
    (root / "red").symlink_to(tmp_path / "elsewhere" / "red")  # a class that is a link
    (root / "green" / "part").symlink_to(tmp_path / "elsewhere" / "green")  # a folder inside a class
    (root / "green" / "single.png").symlink_to(tmp_path / "elsewhere" / "blue" / "0.png")
    for name, target in (("up", root), ("itself", root / "green"), ("again", tmp_path / "elsewhere" / "green")):
        (root / "green" / name).symlink_to(target)
    (root / "gone").symlink_to(tmp_path / "nowhere")
    data = load_data(f"folder:{root}", 8)
    assert data.class_counts.tolist() == [4, 3] and "links to nothing, ignored: gone" in data.describe()
    (root / "red" / "dangling.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(ValueError, match=r"dangling.png cannot be read \(it is a link to nothing\); remove it"):
        load_data(f"folder:{root}", 8)


def test_imagenet_layout_is_required_and_read(tmp_path: Path):
    colour_folder(tmp_path / "flat")
    with pytest.raises(ValueError, match="no folder train"):
        load_data(f"imagenet:{tmp_path / 'flat'}", 8)
    colour_folder(tmp_path / "net" / "train", size=(50, 40))
    colour_folder(tmp_path / "net" / "val", per_class=1)
    assert len(load_data(f"imagenet:{tmp_path / 'net'}", 16)) == 9
    assert load_data(f"imagenet:{tmp_path / 'net'}", 16, split="test").labels.tolist() == [0, 1, 2]
    save(tmp_path / "loose" / "val" / "x.png", Image.new("RGB", (8, 8)))
    colour_folder(tmp_path / "loose" / "train")
    with pytest.raises(ValueError, match=r"it needs the same sub-folders, with the images inside"):
        load_data(f"imagenet:{tmp_path / 'loose'}", 16, split="test")


def test_a_folder_without_images_or_without_a_test_split_is_an_error(tmp_path: Path):
    (tmp_path / "empty" / "class").mkdir(parents=True)
    (tmp_path / "empty" / "class" / "notes.txt").write_text("no picture")
    for spec, split, words in [
        (tmp_path / "missing", "train", "no folder .*missing"),
        (tmp_path / "empty", "train", "has no images; put them into one sub-folder a class"),
        (colour_folder(tmp_path / "colours"), "test", "has no test split"),
    ]:
        with pytest.raises(ValueError, match=words):
            load_data(f"folder:{spec}", 8, split=split)


def test_a_single_class_and_empty_sub_folders_are_warned_of(tmp_path: Path):
    save(tmp_path / "loose" / "x.png", Image.new("RGB", (8, 8), RED))
    data = load_data(f"folder:{tmp_path / 'loose'}", 8)
    assert data.class_names == ("loose",) and "warning: a single class" in data.describe()
    (colour_folder(tmp_path / "colours") / "violet").mkdir()
    text = load_data(f"folder:{tmp_path / 'colours'}", 8).describe()
    assert "ignored: violet" in text and "a single class" not in text and "beside" not in text
    save(tmp_path / "colours" / "x.png", Image.new("RGB", (8, 8), RED))
    text = load_data(f"folder:{tmp_path / 'colours'}", 8).describe()
    assert "1 images beside the class folders belong to no class and are left out" in text


def test_hidden_files_and_other_kinds_are_passed_over(tmp_path: Path):
    colour_folder(tmp_path)
    save(tmp_path / "red" / ".thumbnail.png", Image.new("RGB", (8, 8)))
    (tmp_path / "red" / "Thumbs.db").write_bytes(b"x")
    save(tmp_path / ".trash" / "a.png", Image.new("RGB", (8, 8)))
    save(tmp_path / "red" / "deeper" / "UPPER.PNG", Image.new("RGB", (8, 8), RED))
    listing = list_folder(tmp_path, "train")
    assert len(listing.files) == 10 and listing.files[-1].name == "UPPER.PNG" and listing.labels[-1] == 2


def test_one_unreadable_file_among_many_is_named(tmp_path: Path):
    (colour_folder(tmp_path) / "green" / "1.png").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"green/1\.png cannot be read"):
        load_data(f"folder:{tmp_path}", 8)


# --- the cache of decoded pictures ---


def test_a_kept_folder_equals_the_decoded_one_and_is_opened_without_decoding(
    tmp_path: Path, keep_everything: None, monkeypatch: pytest.MonkeyPatch
):
    spec = f"folder:{colour_folder(tmp_path / 'colours')}"
    first = load_data(spec, 8, cache=tmp_path / "cache")
    with monkeypatch.context() as patch:
        patch.setattr(decoding, "SMALL_FILES", 9)
        direct = load_data(spec, 8)
    monkeypatch.setattr(decoding, "read_square", lambda *_: pytest.fail("decoded again"))
    second = load_data(spec, 8, cache=tmp_path / "cache")
    assert (first.images == direct.images).all() and (second.images == direct.images).all()
    assert len({first.fingerprint, second.fingerprint, direct.fingerprint}) == 1
    second.images[0] = 0  # a caller's change does not reach the file
    assert (load_data(spec, 8, cache=tmp_path / "cache").images == direct.images).all()


def test_a_changed_folder_is_decoded_anew(tmp_path: Path, keep_everything: None):
    root = colour_folder(tmp_path / "colours")
    before = load_data(f"folder:{root}", 8, cache=tmp_path / "cache")
    path = save(root / "red" / "0.png", Image.new("RGB", (20, 20), BLUE))
    os.utime(path, ns=(1, 1))
    after = load_data(f"folder:{root}", 8, cache=tmp_path / "cache")
    assert after.fingerprint != before.fingerprint and after.images[6, :, 0, 0].tolist() == list(BLUE)


def test_decoding_goes_on_where_it_was_stopped(tmp_path: Path, keep_everything: None, monkeypatch: pytest.MonkeyPatch):
    spec, seen = f"folder:{colour_folder(tmp_path / 'colours')}", []

    def stop_at_the_fifth(path: Path, *arguments: int) -> np.ndarray:
        if path.parts[-2:] == ("green", "1.png"):
            raise KeyboardInterrupt
        return read_square(path, *arguments)

    def note(path: Path, *arguments: int) -> np.ndarray:
        seen.append(path)
        return read_square(path, *arguments)

    monkeypatch.setattr(decoding.os, "cpu_count", lambda: 1)
    monkeypatch.setattr(decoding, "read_square", stop_at_the_fifth)
    with pytest.raises(KeyboardInterrupt):
        load_data(spec, 8, cache=tmp_path / "cache")
    kept = [path.name for path in (tmp_path / "cache" / "images").glob("*.npy")]
    assert len(kept) == 1 and kept[0].endswith(".unfinished.npy")
    monkeypatch.setattr(decoding, "read_square", note)
    resumed = load_data(spec, 8, cache=tmp_path / "cache")
    assert 0 < len(seen) < 9 and (resumed.images == load_data(spec, 8).images).all()


def test_decoding_survives_kill_9(tmp_path: Path):
    root = colour_folder(tmp_path / "colours", per_class=20)
    program = (
        "import os, sys\nfrom sagan_base.data import load_data\nfrom sagan_base.data_sources import decoding\n"
        "decoding.SMALL_FILES, decoding.CHUNK, read = 0, 4, decoding.read_square\n"
        "def slow(path, *rest):\n    path.name == '9.png' and path.parent.name == 'green' and os.kill(os.getpid(), 9)\n"
        "    return read(path, *rest)\n"
        "if sys.argv[3] == 'die':\n    decoding.read_square = slow\n"
        "print(load_data('folder:' + sys.argv[1], 8, cache=sys.argv[2]).fingerprint)\n"
    )

    def run(mode: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", program, str(root), str(tmp_path / "cache"), mode]
        return subprocess.run(command, capture_output=True, text=True)

    assert run("die").returncode == -9
    finished = run("live")
    assert finished.stdout.strip() == load_data(f"folder:{root}", 8).fingerprint, finished.stderr


def test_of_several_processes_only_one_decodes(tmp_path: Path, keep_everything: None, monkeypatch: pytest.MonkeyPatch):
    spec, calls, results = f"folder:{colour_folder(tmp_path / 'colours')}", [], []
    monkeypatch.setattr(decoding, "read_square", lambda *a: calls.append(a) or read_square(*a))
    threads = [
        threading.Thread(target=lambda: results.append(load_data(spec, 8, cache=tmp_path / "cache"))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 9 and len({data.fingerprint for data in results}) == 1 and len(results) == 3
