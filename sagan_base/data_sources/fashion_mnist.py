"""Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017): 60,000 training and 10,000 test pictures of clothes, grey, 28x28.

Found, in this order: in the folder given; where Debian's package ``dataset-fashion-mnist`` puts it; downloaded by
torchvision into the cache. The files are read here, because torchvision wants them unpacked.
"""

import gzip
import zlib
from pathlib import Path

import numpy as np

from sagan_base.data_sources.arrays import from_arrays
from sagan_base.data_sources.downloads import torchvision_data_set
from sagan_base.files import user_path
from sagan_base.images import ImageData

USAGE = "fashion-mnist[:FOLDER]"
CLASS_NAMES = (
    "T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
PREFIX = {"train": "train", "test": "t10k"}


def load(path: str, resolution: int, channels: int | None, split: str, cache: Path) -> ImageData:
    """The pictures, grey by default.

    Raises:
        ValueError: the folder lacks the files, or they are damaged.
    """
    root = user_path(path) if path else DEBIAN
    files = _files(root, split)
    if None in files and path:
        raise ValueError(
            f"{root} lacks {PREFIX[split]}-images-idx3-ubyte[.gz] or {PREFIX[split]}-labels-idx1-ubyte[.gz]; "
            "give the folder of Fashion-MNIST's four files, or 'fashion-mnist' alone to have them found or downloaded"
        )
    if None in files:
        remedy = "install the Debian package dataset-fashion-mnist, or give a folder as fashion-mnist:FOLDER"
        root = Path(torchvision_data_set("FashionMNIST", cache / "downloads", "30 MB", remedy).raw_folder)
        files = _files(root, split)
    pictures, labels = map(read_idx, files)
    if pictures.ndim != 3 or labels.shape != pictures.shape[:1] or labels.max(initial=0) > 9:
        raise ValueError(f"{files[0]} {pictures.shape} and {files[1]} {labels.shape} do not belong together")
    source = f"Fashion-MNIST in {root}"
    return from_arrays("fashion-mnist", pictures, labels, CLASS_NAMES, source, resolution, channels or 1)


def read_idx(path: Path) -> np.ndarray:
    """An array of bytes in the IDX format of MNIST, packed by gzip or not.

    Raises:
        ValueError: the file is damaged or of another format.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        zeros, kind, num_axes = int.from_bytes(content[:2], "big"), content[2], content[3]
        shape = np.frombuffer(content, ">u4", num_axes, offset=4)
        if zeros or kind != 8:
            raise ValueError("it holds no array of bytes")
        return np.frombuffer(content, np.uint8, offset=4 + 4 * num_axes).reshape(shape)
    except (OSError, EOFError, IndexError, ValueError, zlib.error) as error:
        raise ValueError(f"{path} is no IDX file of bytes ({error}); copy it again") from error


def _files(root: Path, split: str) -> list[Path | None]:
    """The files of pictures and of labels, packed or not; None for one that is missing."""
    names = [f"{PREFIX[split]}-{kind}-ubyte" for kind in ("images-idx3", "labels-idx1")]
    return [next((p for p in (root / f"{name}.gz", root / name) if p.is_file()), None) for name in names]
