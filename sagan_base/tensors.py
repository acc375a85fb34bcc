"""Tensors in a safetensors file beside the SHA-256 of all that it holds, so that reading finds a flipped byte.

checkpoint.py writes checkpoints with it; metrics/ what it keeps of real images and classifiers.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sagan_base.files import atomic_write

_FIRST = ("format", "config", "info")  # of a checkpoint, in the order in which its hash takes them


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write the file atomically, with the hash as ``sha256`` in its metadata."""
    plain = {name: tensor.detach().to("cpu").contiguous() for name, tensor in tensors.items()}
    with atomic_write(path) as temporary:
        save_file(plain, temporary, {**metadata, "sha256": digest(plain, metadata)})


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file, which is believed without a hash where it has none.

    Raises:
        ValueError: it is no safetensors file, truncated, or not what was written.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a checkpoint, or is truncated ({error}); give a .safetensors file written by training"
        ) from None
    if "sha256" in metadata and metadata["sha256"] != digest(tensors, metadata):
        raise ValueError(f"{path} is damaged: its contents do not match its SHA-256; use another copy or checkpoint")
    return tensors, metadata


def digest(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Hex SHA-256 of everything but the hash itself."""
    hashed = hashlib.sha256()
    for key in (*_FIRST, *sorted(metadata.keys() - {*_FIRST, "sha256"})):
        if key in metadata:
            hashed.update(f"{key}={metadata[key]}\n".encode())
    for name, tensor in sorted(tensors.items()):
        hashed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        hashed.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return hashed.hexdigest()
