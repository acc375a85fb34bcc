"""CIFAR-10 (Krizhevsky, 2009): 50,000 training and 10,000 test photographs of 32x32, read by torchvision.

Found in the folder given (the one that holds ``cifar-10-batches-py``, or that folder itself), else downloaded by
torchvision into the cache. torchvision compares the files' checksums before it opens them, which matters, because
they are pickles.
"""

import warnings
from pathlib import Path

from sagan_base.data_sources.arrays import from_arrays
from sagan_base.data_sources.downloads import torchvision_data_set
from sagan_base.files import user_path
from sagan_base.images import ImageData

USAGE = "cifar10[:FOLDER]"
BATCHES = "cifar-10-batches-py"


def load(path: str, resolution: int, channels: int | None, split: str, cache: Path) -> ImageData:
    """The photographs, in colour by default.

    Raises:
        ValueError: the folder lacks the files, or they are damaged.
    """
    root = user_path(path) if path else cache / "downloads"
    if root.name == BATCHES:
        root = root.parent
    if path and not (root / BATCHES).is_dir():
        raise ValueError(
            f"{root} has no folder {BATCHES}; give the folder that has it, 'cifar10' alone to download it, "
            "or folder:PATH for image files"
        )
    remedy = f"unpack cifar-10-python.tar.gz elsewhere and give cifar10:FOLDER, the folder that holds {BATCHES}"
    with warnings.catch_warnings():
        # NumPy remarks on how these pickles of 2009 wrote their arrays' types.
        warnings.filterwarnings("ignore", message=r".*align should be passed")
        batches = torchvision_data_set("CIFAR10", root, "" if path else "170 MB", remedy, train=split == "train")
    source = f"CIFAR-10 in {root}"
    return from_arrays(
        "cifar10", batches.data, batches.targets, tuple(batches.classes), source, resolution, channels or 3
    )
