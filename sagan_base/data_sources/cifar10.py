"""CIFAR-10 (Krizhevsky, 2009): 50,000 training and 10,000 test photographs of 32x32, read by torchvision.

Found in the folder given (the one that holds ``cifar-10-batches-py``, or that folder itself), else downloaded by
torchvision into the cache. torchvision compares the files' checksums before it opens them, which matters, because
they are pickles.
"""

import warnings
from pathlib import Path

import numpy as np

from sagan_base.data_sources.arrays import resample
from sagan_base.data_sources.downloads import torchvision_data_set

BATCHES = "cifar-10-batches-py"


def load(
    folder: str, resolution: int, channels: int | None, split: str, cache: Path
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...], str]:
    """Images uint8 [N, channels, R, R] (colour by default), labels int64 [N], class names, source.

    Raises:
        ValueError: the folder lacks the files, or they are damaged.
    """
    root = Path(folder).expanduser() if folder else cache / "downloads"
    if root.name == BATCHES:
        root = root.parent
    if folder and not (root / BATCHES).is_dir():
        raise ValueError(
            f"{root} has no folder {BATCHES}; give the folder that has it, 'cifar10' alone to download it, "
            "or folder:PATH for image files"
        )
    remedy = f"unpack cifar-10-python.tar.gz elsewhere and give cifar10:FOLDER, the folder that holds {BATCHES}"
    with warnings.catch_warnings():
        # NumPy remarks on how these pickles of 2009 wrote their arrays' types.
        warnings.filterwarnings("ignore", message=r".*align should be passed")
        found = torchvision_data_set("CIFAR10", root, "" if folder else "170 MB", remedy, train=split == "train")
    images = resample(found.data, resolution, channels or 3)
    return images, np.asarray(found.targets), tuple(found.classes), f"CIFAR-10 in {root}"
