"""The two data sets that torchvision can download; said before, and refused with a remedy where there is no network."""

import sys
from pathlib import Path
from typing import Any

from sagan_base.files import CACHE, writable_folder


def torchvision_data_set(name: str, root: Path, download: str, remedy: str, **options: Any) -> Any:
    """``torchvision.datasets.NAME`` in ``root``.

    Args:
        download: size of what is downloaded where the files are missing, "170 MB"; empty forbids it.
    Raises:
        ValueError: the files are missing or damaged and cannot be downloaded; ends with ``remedy``.
    """
    from sagan_base.torchvision_compat import declare_missing_operators

    declare_missing_operators()
    from torchvision import datasets

    kind = getattr(datasets, name)
    try:
        return kind(root, download=False, **options)
    except RuntimeError as error:  # torchvision's way of saying that the files are not there or damaged
        if not download:
            raise ValueError(f"{name} in {root} is incomplete or damaged; {remedy}") from error
        writable_folder(CACHE, root)
        print(f"downloading {name} ({download}) into {root}", file=sys.stderr)
    try:
        return kind(root, download=True, **options)
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{name} cannot be downloaded ({error}); {remedy}") from error
