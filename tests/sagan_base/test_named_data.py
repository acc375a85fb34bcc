"""Fashion-MNIST and CIFAR-10, from files as their publishers, Debian and torchvision lay them out."""

import gzip
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from sagan_base.data import load_data
from sagan_base.data_sources import cifar10, fashion_mnist
from sagan_base.data_sources.listing import list_folder
from sagan_base.data_sources.pictures import read_square


def write_idx(path: Path, array: np.ndarray) -> None:
    content = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_fashion_mnist_files_are_read_from_a_folder(tmp_path: Path, suffix: str):
    pictures = np.random.default_rng(0).integers(0, 256, (12, 28, 28), np.uint8)
    labels = np.arange(12, dtype=np.uint8) % 10
    write_idx(tmp_path / f"train-images-idx3-ubyte{suffix}", pictures)
    write_idx(tmp_path / f"train-labels-idx1-ubyte{suffix}", labels)
    data = load_data(f"fashion-mnist:{tmp_path}", 28)
    assert (data.images[:, 0].numpy() == pictures).all() and data.labels.tolist() == labels.tolist()
    assert data.class_names[9] == "ankle boot"
    with pytest.raises(ValueError, match=r"lacks t10k-images-idx3-ubyte\[.gz\]"):
        load_data(f"fashion-mnist:{tmp_path}", 28, split="test")


def test_damaged_fashion_mnist_files_are_refused(tmp_path: Path):
    images, labels = tmp_path / "train-images-idx3-ubyte.gz", tmp_path / "train-labels-idx1-ubyte.gz"
    write_idx(labels, np.zeros(4, np.uint8))
    for content in (b"", gzip.compress(b"\0\0\x08\x03\0\0\0\x02" + bytes(9)), gzip.compress(bytes(40))[:-9], b"text"):
        images.write_bytes(content)
        with pytest.raises(ValueError, match="is no IDX file of bytes"):
            load_data(f"fashion-mnist:{tmp_path}", 28)
    write_idx(images, np.zeros((3, 28, 28), np.uint8))
    with pytest.raises(ValueError, match="do not belong together"):
        load_data(f"fashion-mnist:{tmp_path}", 28)


@pytest.mark.skipif(not fashion_mnist.DEBIAN.is_dir(), reason="no Debian package dataset-fashion-mnist here")
def test_debians_fashion_mnist_is_found_by_itself():
    data = load_data("fashion-mnist", 28, split="test")
    assert len(data) == 10_000 and data.class_counts.tolist() == [1000] * 10 and data.images.max() == 255


def torchvision_cifar10() -> type:
    """The class, imported as the package does it: also where torchvision does not fit torch."""
    from sagan_base.torchvision_compat import declare_missing_operators

    declare_missing_operators()
    from torchvision.datasets import CIFAR10

    return CIFAR10


@pytest.fixture
def fake_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Six training pictures and one test picture in torchvision's files; returns the training pixels."""
    cifar10_class = torchvision_cifar10()
    folder = tmp_path / cifar10.BATCHES
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (6, 3, 32, 32), np.uint8)
    for name, part in (("one", pixels[:3]), ("two", pixels[3:]), ("test", pixels[:1])):
        batch = {"data": part.reshape(len(part), -1), "labels": list(range(len(part)))}
        (folder / name).write_bytes(pickle.dumps(batch))
    (folder / "meta").write_bytes(pickle.dumps({"label_names": [f"class {i}" for i in range(10)]}))
    monkeypatch.setattr(cifar10_class, "train_list", [("one", None), ("two", None)])
    monkeypatch.setattr(cifar10_class, "test_list", [("test", None)])
    monkeypatch.setattr(cifar10_class, "meta", {"filename": "meta", "key": "label_names", "md5": None})
    return pixels


def test_cifar10_is_read_from_torchvisions_files(tmp_path: Path, fake_cifar10: np.ndarray):
    data = load_data(f"cifar10:{tmp_path}", 32)
    assert (data.images.numpy() == fake_cifar10).all() and data.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert data.class_names[1] == "class 1" and len(load_data(f"cifar10:{tmp_path / cifar10.BATCHES}", 32)) == 6
    assert len(load_data(f"cifar10:{tmp_path}", 32, split="test")) == 1


def test_a_given_folder_without_cifar10_is_refused_and_nothing_is_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    cifar10_class = torchvision_cifar10()
    monkeypatch.setattr(cifar10_class, "download", lambda self: pytest.fail("downloaded"))
    with pytest.raises(ValueError, match="has no folder cifar-10-batches-py"):
        load_data(f"cifar10:{tmp_path}", 32)
    (tmp_path / cifar10.BATCHES).mkdir()
    with pytest.raises(ValueError, match="incomplete or damaged"):
        load_data(f"cifar10:{tmp_path}", 32)


def test_a_download_is_announced_and_its_failure_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    cifar10_class = torchvision_cifar10()

    def no_network(self: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(cifar10_class, "download", no_network)
    with pytest.raises(ValueError, match=r"cannot be downloaded \(no network\); unpack cifar-10-python.tar.gz"):
        load_data("cifar10", 32, cache=tmp_path)
    assert "downloading CIFAR10 (170 MB)" in capsys.readouterr().err


def test_the_trial_cifar10_folder_is_fifty_thousand_images(repository: Path):
    root = repository / "data" / "cifar10_jpeg"
    if not root.is_dir():
        pytest.skip("no data/cifar10_jpeg: unpack the trial data there to run this")
    listing = list_folder(root, "train")
    assert len(listing.files) == 50_000 and listing.class_names[:2] == ("airplane", "automobile")
    assert read_square(listing.files[0], 32, 3).std() > 5
