"""Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017): 60,000 training and 10,000 test pictures of clothes, grey, 28x28.

Found, in this order: in the folder given; where Debian's package ``dataset-fashion-mnist`` puts it; downloaded by
torchvision into the cache. The files are read here, because torchvision wants them unpacked.
"""

import gzip
import zlib
from pathlib import Path

import numpy as np

from sagan_base.data_sources.arrays import resample
from sagan_base.data_sources.downloads import torchvision_data_set

CLASS_NAMES = (
    "T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
PREFIX = {"train": "train", "test": "t10k"}


def load(
    folder: str, resolution: int, channels: int | None, split: str, cache: Path
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...], str]:
    """Images uint8 [N, channels, R, R] (grey by default), labels uint8 [N], class names, source.

    Raises:
        ValueError: the folder lacks the files, or they are damaged.
    """
    root = Path(folder).expanduser() if folder else DEBIAN
    found = [_find(root, f"{PREFIX[split]}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1")]
    if None in found and folder:
        raise ValueError(
            f"{root} lacks {PREFIX[split]}-images-idx3-ubyte[.gz] or {PREFIX[split]}-labels-idx1-ubyte[.gz]; "
            "give the folder of Fashion-MNIST's four files, or 'fashion-mnist' alone to have them found or downloaded"
        )
    if None in found:
        remedy = "install the Debian package dataset-fashion-mnist, or give a folder as fashion-mnist:FOLDER"
        root = Path(torchvision_data_set("FashionMNIST", cache / "downloads", "30 MB", remedy).raw_folder)
        found = [_find(root, f"{PREFIX[split]}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1")]
    pictures, labels = read_idx(found[0]), read_idx(found[1])
    if pictures.ndim != 3 or labels.shape != pictures.shape[:1] or labels.max(initial=0) > 9:
        raise ValueError(f"{found[0]} {pictures.shape} and {found[1]} {labels.shape} do not belong together")
    return resample(pictures, resolution, channels or 1), labels, CLASS_NAMES, f"Fashion-MNIST in {root}"


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


def _find(root: Path, name: str) -> Path | None:
    return next((p for p in (root / f"{name}.gz", root / name) if p.is_file()), None)
