"""Checkpoints: one safetensors file each, whole or absent, checked by a hash before anything is believed.

Tensors are named ``part.name``: ``ema`` and ``discriminator`` are all that a slim export holds; a training checkpoint
adds ``generator``, both optimisers and what training.py keeps. The metadata holds the run's configuration, so that a
file is complete by itself, and the SHA-256 of everything else. Reading runs no code from the file.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from sagan_base.config import RunConfig
from sagan_base.discriminator import Discriminator
from sagan_base.generator import Generator
from sagan_base.network import Network
from sagan_base.run_folder import CHECKPOINT_FOLDER, MODEL_FILE
from sagan_base.stopping import Health
from sagan_base.tensors import read_tensors, write_tensors
from sagan_base.typed import from_dict, parse_json

FORMAT = "ylg checkpoint 1"


@dataclass(frozen=True)
class Seen:
    """The data that networks were trained on."""

    name: str = ""
    fingerprint: str = ""


@dataclass(frozen=True)
class Info:
    """Types of what ``Checkpoint.info`` holds; a slim export needs none of it, a run that goes on all but ``best``."""

    step: int = 0
    seconds: float = 0.0
    window_start: int = 0
    window_seconds: float = 0.0
    health: Health = field(default_factory=Health)
    last_good: str | None = None
    best: dict[str, float] | None = None
    class_names: tuple[str, ...] = ()
    data: Seen = field(default_factory=Seen)
    provenance: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    Attributes:
        tensors: by their full name, on the CPU.
        config: of the run that wrote it.
        info: JSON values beside it, such as the step, the class names and the provenance.
        sha256: of all of that, in hexadecimal digits; empty where no file was read.
    """

    tensors: dict[str, Tensor]
    config: RunConfig
    info: dict[str, Any]
    sha256: str = ""

    def part(self, name: str) -> dict[str, Tensor]:
        """The tensors whose names begin with ``name.``, without that."""
        return {key[len(name) + 1 :]: value for key, value in self.tensors.items() if key.startswith(name + ".")}


def named_part(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of ``Checkpoint.part``."""
    return {f"{name}.{key}": value for key, value in tensors.items()}


def write_checkpoint(
    path: str | Path, tensors: Mapping[str, Tensor], config: RunConfig, info: Mapping[str, Any]
) -> None:
    """Write the file atomically; ``info`` must be JSON."""
    metadata = {"format": FORMAT, "config": json.dumps(config.to_dict()), "info": json.dumps(dict(info))}
    write_tensors(path, tensors, metadata)


def read_checkpoint(path: str | Path, parts: Iterable[str] | None = None) -> Checkpoint:
    """Read and check a file; with ``parts`` only those are kept.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no checkpoint, is truncated or damaged, or is from another version.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file; give a checkpoint (.safetensors) written by training")
    tensors, metadata = read_tensors(path)
    if metadata.get("format") != FORMAT or not metadata.keys() >= {"config", "info", "sha256"}:
        raise ValueError(
            f"{path} is a safetensors file, but no checkpoint of this version (format "
            f"{metadata.get('format')!r}, expected {FORMAT!r}); give one written by this version's training"
        )
    if parts is not None:
        kept = tuple(f"{part}." for part in parts)
        tensors = {name: tensor for name, tensor in tensors.items() if name.startswith(kept)}
    try:
        config, info = from_dict(RunConfig, parse_json(metadata["config"])), parse_json(metadata["info"])
        from_dict(Info, {name: info[name] for name in Info.__annotations__ if name in info})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is no checkpoint of this version ({error}); use another copy or checkpoint") from None
    return Checkpoint(tensors, config, info, metadata["sha256"])


def export_model(path: str | Path, source: "Checkpoint | str | Path") -> Path:
    """Write the slim form of a checkpoint: EMA generator and discriminator in float32, and the configuration.

    Args:
        path: the file to write; ``load_checkpoint`` reads it.
        source: a training checkpoint, or its path.
    """
    checkpoint = source if isinstance(source, Checkpoint) else read_checkpoint(source)
    tensors = {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in checkpoint.tensors.items()
        if name.startswith(("ema.", "discriminator."))
    }
    write_checkpoint(path, tensors, checkpoint.config, checkpoint.info)
    return Path(path)


def load_checkpoint(path: str | Path) -> tuple[Generator, Discriminator, RunConfig]:
    """Read the networks of a training checkpoint or a slim export; no code from the file runs.

    Args:
        path: the file, or a run's folder: then its ``model.safetensors``, else its newest good checkpoint.
    Returns:
        The generator (its EMA) and the discriminator, on the CPU in evaluation mode, and the run's configuration.
    Raises:
        FileNotFoundError: there is no such file, or no checkpoint in the folder.
        ValueError: the file is no checkpoint, is truncated or damaged, or does not fit this version's networks.
    """
    checkpoint = read_checkpoint(model_file(path), ("ema", "discriminator"))
    return network_of(checkpoint, "ema"), network_of(checkpoint, "discriminator"), checkpoint.config


def network_of(checkpoint: Checkpoint, part: str) -> Network:
    """A network of a checkpoint in evaluation mode, on the CPU: the discriminator, or a generator ("ema").

    Raises:
        ValueError: the tensors are not of the sizes that the configuration says.
    """
    kind, model = Discriminator if part == "discriminator" else Generator, checkpoint.config.model
    with torch.device("meta"):  # without memory, because a file may claim any size
        sizes = kind(replace(model, attention=None)).state_dict()
    for name, tensor in checkpoint.part(part).items():
        if name in sizes and sizes[name].shape != tensor.shape:
            raise ValueError(f"{part}.{name} is {tuple(tensor.shape)} in the checkpoint, but {tuple(sizes[name].shape)}"
                             " by its configuration; use another copy")  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        network = kind(model)
    fill_network(network, checkpoint, part)
    return network.eval()


def fill_network(network: nn.Module, checkpoint: Checkpoint, part: str) -> None:
    """Copy the checkpoint's ``part`` into a network.

    Raises:
        ValueError: names or shapes differ.
    """
    try:
        network.load_state_dict(checkpoint.part(part))
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"the checkpoint does not fit the network of its own configuration: {reason}; "
            "use the version of this package that wrote it"
        ) from None


def build_networks(config: RunConfig) -> tuple[Generator, Discriminator]:
    """Both networks with initial weights drawn from the run's seed; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.training.seed)
        return Generator(config.model), Discriminator(config.model)


def model_file(path: str | Path) -> Path:
    """``path`` itself, or of a run's folder its slim export, else its newest good checkpoint.

    Raises:
        FileNotFoundError: a folder without either.
    """
    path = Path(path)
    if not path.is_dir():
        return path
    if (path / MODEL_FILE).is_file():
        return path / MODEL_FILE
    newest = latest_checkpoint(path / CHECKPOINT_FOLDER)
    if newest is None:
        raise FileNotFoundError(f"{path} holds neither {MODEL_FILE} nor a checkpoint; give a file or a run's folder")
    return newest


def checkpoint_path(folder: str | Path, step: int) -> Path:
    """``folder/step_00001234.safetensors``"""
    return Path(folder) / f"step_{step:08d}.safetensors"


def checkpoint_files(folder: str | Path) -> list[Path]:
    """The checkpoints of a folder, newest first by their number, unchecked; files of anybody else are passed over."""
    by_step = {step: path for path in Path(folder).glob("step_*") if (step := _step_of(path)) is not None}
    return [by_step[step] for step in sorted(by_step, reverse=True) if not _is_anothers(by_step[step], step)]


def newest_step(folder: str | Path) -> int:
    """The step of the newest checkpoint, by its name; 0 without any."""
    return max(map(_step_of, checkpoint_files(folder)), default=0)


def useless_files(folder: str | Path, step: int) -> list[Path]:
    """Damaged checkpoints: those after ``step``, that of the newest good one."""
    return [path for path in checkpoint_files(folder) if _step_of(path) > step]


def _step_of(path: Path) -> int | None:
    """The step in the name of a checkpoint; None where the name, to the letter, is not one or is a folder's."""
    digits = path.stem.removeprefix("step_")
    is_number = digits.isascii() and digits.isdecimal()
    return int(digits) if is_number and path == checkpoint_path(path.parent, int(digits)) and path.is_file() else None


def _is_anothers(path: Path, step: int) -> bool:
    """Whether training wrote something else than this whole file: a slim export, or a copy under another number."""
    try:
        with safe_open(path, framework="pt") as file:
            names, info = file.keys(), parse_json((file.metadata() or {}).get("info", "{}"))
        return info.get("step") != step or not any(name.startswith("generator.") for name in names)
    except (AttributeError, OSError, SafetensorError, ValueError):
        return False  # damaged, which reading it says


def latest_checkpoint(folder: str | Path) -> Path | None:
    """Path of the newest checkpoint that is whole, or None; a damaged one is passed over and said in one line."""
    newest = read_latest(folder)
    return newest[0] if newest else None


def read_latest(folder: str | Path) -> tuple[Path, Checkpoint] | None:
    """The newest checkpoint that is whole, read; a damaged one is passed over and said in one line."""
    files = checkpoint_files(folder)
    for position, path in enumerate(files):
        try:
            return path, read_checkpoint(path)
        except ValueError as error:
            older = files[position + 1 :]
            remedy = f"using the one before it, {older[0].name}" if older else "no older one is left"
            print(f"warning: {error}; {remedy}", flush=True)
    return None


def remove_old_checkpoints(folder: str | Path, keep: int, protected: Path | None = None) -> None:
    """Delete all but the ``keep`` newest, and ``protected``."""
    for path in checkpoint_files(folder)[keep:]:
        if path != protected:
            path.unlink(missing_ok=True)
