"""A folder of picture files, one sub-folder a class: ``folder:PATH``."""

from pathlib import Path

import torch

from sagan_base.data_sources.decoding import decode
from sagan_base.data_sources.listing import Listing, list_folder
from sagan_base.data_sources.pictures import RESIZE_RULE
from sagan_base.files import user_path
from sagan_base.images import ImageData, fingerprint

USAGE = "folder:PATH"


def load(path: str, resolution: int, channels: int | None, split: str, cache: Path) -> ImageData:
    """See ``list_folder`` for what lies where.

    Raises:
        ValueError: no such folder, no pictures, no such split, or a file that is no readable image.
    """
    if not path:
        raise ValueError("folder: needs a path, as in folder:my_images")
    return load_listing(list_folder(path, split), Path(path), resolution, channels, cache)


def load_listing(listing: Listing, root: Path, resolution: int, channels: int | None, cache: Path) -> ImageData:
    """The listed pictures, decoded; grey where all of them are and ``channels`` is None."""
    decoded = decode(listing, resolution, channels or 3, cache)
    images = torch.from_numpy(decoded.pixels)
    if channels is None and decoded.facts.is_grey:
        images = images[:, :1]
    labels = torch.tensor(listing.labels, dtype=torch.int64)
    notes = listing.notes
    if len(listing.class_names) == 1:
        single = "a single class: networks trained on it are unconditional; for labels, use one sub-folder a class"
        notes = (single, *notes)
    return ImageData(
        name=user_path(root).resolve().name,
        images=images,
        labels=labels,
        class_names=listing.class_names,
        fingerprint=fingerprint(images.shape, decoded.facts.digest, labels, listing.class_names),
        source=f"{listing.root} ({RESIZE_RULE})",
        notes=notes,
    )
