"""Whether data are those that a model was trained on: its file says the names of its classes and a fingerprint."""

import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from sagan_base.images import ImageData


def in_class_order(data: ImageData, info: Mapping[str, Any], num_classes: int) -> ImageData:
    """The data with the labels that a model's classes have; unchanged where its file does not name them all.

    Args:
        info: of the model's file, see ``Checkpoint``.
        num_classes: of the model; an unconditional one takes any classes.
    Raises:
        ValueError: the classes have other names; both lists are said.
    """
    names = tuple(info.get("class_names", ()))
    if num_classes == 1 or len(names) != num_classes or data.class_names == names:
        return data
    if sorted(data.class_names) != sorted(names):
        raise ValueError(
            f"{data.name} has the classes {', '.join(data.class_names)}, but the model was trained on "
            f"{', '.join(names)}; give data whose classes have the model's names"
        )
    print(f"note: the classes of {data.name} are numbered as the model's: {', '.join(names)}", file=sys.stderr)
    order = torch.tensor([names.index(name) for name in data.class_names])
    return replace(data, labels=order[data.labels], class_names=names, fingerprint="")


def names_of_classes(info: Mapping[str, Any], num_classes: int) -> tuple[str, ...]:
    """One a class: as a model's file names them, numbers where it does not name so many.

    An unconditional network may have seen data with classes.
    """
    names = tuple(info.get("class_names", ()))
    return names if len(names) == num_classes else tuple(map(str, range(num_classes)))


def warn_of_other_data(data: ImageData, info: Mapping[str, Any]) -> None:
    """Say on standard error that training images are not those that the model saw."""
    known = info.get("data", {}).get("fingerprint", data.fingerprint)
    if known != data.fingerprint:
        print(
            f"warning: {data.name} is not what the model was trained on (fingerprint {known[:12]} in its file, "
            f"{data.fingerprint[:12]} here)",
            file=sys.stderr,
        )
