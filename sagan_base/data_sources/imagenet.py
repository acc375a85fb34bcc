"""A folder laid out like ImageNet, train/CLASS/ and val/CLASS/: ``imagenet:PATH``, in colour unless asked otherwise."""

from pathlib import Path

from sagan_base.data_sources.folder import load_listing
from sagan_base.data_sources.listing import list_split_folder
from sagan_base.images import ImageData

USAGE = "imagenet:PATH"


def load(path: str, resolution: int, channels: int | None, split: str, cache: Path) -> ImageData:
    """Raises ValueError as ``list_split_folder``, or for a file that is no readable image."""
    if not path:
        raise ValueError("imagenet: needs a path, as in imagenet:/data/ILSVRC2012, the folder that has train/")
    return load_listing(list_split_folder(path, split), Path(path), resolution, channels or 3, cache)
