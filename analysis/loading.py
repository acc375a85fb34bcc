"""The model a command works on: one that ships with the package, a checkpoint, or the authors' published weights."""

import argparse
import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from sagan_base.cli import find_device, shared_option, whole, writable_folder

import torch

from sagan_base.checkpoint import load_checkpoint, model_file, read_checkpoint
from sagan_base.data import ImageData, load_data
from sagan_base.discriminator import Discriminator
from sagan_base.generator import Generator
from sagan_base.models import DEFAULT_MODEL, model_card, model_names, resolve_model
from sagan_base.published_weights import load_published_weights
from sagan_base.sample import find_classes
from sagan_base.trained_on import in_class_order, names_of_classes, warn_of_other_data

SMALL = 32  # resolution up to which one thread is enough


@dataclass(frozen=True, eq=False)
class Model:
    """Networks in evaluation mode, and what is known about them.

    Attributes:
        name: of the shipped model, or of the file. path: the file.
        data: as given to ``load_data``; None where the file does not say.
        class_names: one a class; numbers where the file does not say.
        trained_on: one line for people; None where the file does not say.
        info: of the file, see ``Checkpoint``.
    """

    generator: Generator
    discriminator: Discriminator
    name: str
    path: Path
    data: str | None = None
    class_names: tuple[str, ...] = field(default=())
    trained_on: str | None = None
    info: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def device(self) -> torch.device:
        return next(self.generator.parameters()).device

    @cached_property
    def generator_fingerprint(self) -> str:
        """Hex SHA-256 of the generator's weights: a code means something to these only."""
        digest = hashlib.sha256()
        for name, value in self.generator.state_dict().items():
            digest.update(name.encode())
            digest.update(value.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def class_name(self, label: int) -> str:
        name = self.class_names[label]
        return name if name == str(label) else f"{label} ({name})"

    def describe(self) -> str:
        """One line: the model, its size and what it was trained on."""
        config = self.generator.config
        kind = "grey" if config.image_channels == 1 else "colour"
        classes = "1 class" if config.num_classes == 1 else f"{config.num_classes} classes"
        origin = f"trained on {self.trained_on}" if self.trained_on else "training data not stated in the file"
        return f"{self.name}: {config.resolution}x{config.resolution} {kind}, {classes}, {origin}"

    def label(self, text: str | None) -> int | None:
        """A class by number or name; None stays None.

        Raises:
            ValueError: there is no such class.
        """
        return None if text is None else find_classes([text], self.class_names)[0]

    def training_data(self, split: str = "train", spec: str | None = None, labelled: bool = True) -> ImageData:
        """The data set the model was trained on, or ``spec``, at the model's size; other images are warned of.

        Args:
            labelled: number the classes as the model does; without it they may be any.
        Raises:
            ValueError: it is unknown or not here, or has other classes.
        """
        spec = spec or self.data
        if spec is None:
            raise ValueError(f"{self.path} does not say what it was trained on; name the data with --data")
        config = self.generator.config
        data = load_data(spec, config.resolution, config.image_channels, split)
        if labelled:
            data = in_class_order(data, self.info, config.num_classes)
        if split == "train":
            warn_of_other_data(data, self.info)
        return data


def add_common_arguments(
    parser: argparse.ArgumentParser, results: str | None, seed_of: str | None = None, default: str = DEFAULT_MODEL
) -> None:
    """A group of ``--model``, ``--checkpoint``, ``--out``, ``--seed`` (where something is drawn), and the machine's.

    Args:
        results: the folder below ``runs`` where results go by default; None: they go to the cache.
        default: says which model is taken.
    """
    group = parser.add_argument_group("model, results and machine")
    model, models = group.add_mutually_exclusive_group(), ", ".join(model_names())
    model.add_argument("--model", metavar="NAME", help=f"a model that ships: {models} (default: {default})")
    model.add_argument("--checkpoint", type=Path, metavar="FILE", help="a .safetensors file or run folder written by "
                       "training; or the authors' TensorFlow variables (.npz, checkpoint prefix)")  # fmt: skip
    shared_option(group, "--out", f"results (default: {f'runs/{results}/NAME' if results else 'the cache'})")
    if seed_of:
        shared_option(group, "--seed", f"of {seed_of} (default: 0)", default=0)
    shared_option(group, "--device")
    group.add_argument("--threads", type=whole(1), metavar="N", help=f"of a CPU (default: 1 up to {SMALL}x{SMALL}, "
                       "PyTorch's choice above)")  # fmt: skip
    parser.set_defaults(results=results)


def out_folder(arguments: argparse.Namespace, name: str) -> Path:
    """Where the results go, made and found writable: ``--out``, or ``runs``, the command's own folder and ``name``.

    Raises:
        ValueError: nothing can be written there.
    """
    out = arguments.out or Path("runs") / arguments.results / name
    writable_folder("--out", out)
    return out


def model_of(arguments: argparse.Namespace) -> Model:
    """The model that the options of ``add_common_arguments`` name, on its device; sets PyTorch's threads.

    Raises:
        ValueError, OSError: there is no such model, file or device.
    """
    return open_model(arguments.model, arguments.checkpoint, arguments.device, arguments.threads)


def open_model(name: str | None, checkpoint: Path | None, device: str | None, threads: int | None) -> Model:
    """As ``load_model``, on a device (None: the GPU where there is one), with so many threads (None: a good number)."""
    model = load_model(name, checkpoint)
    target = find_device(device)
    # Work this small gains little from more threads and, on a busy machine, loses much by their waiting for each
    # other (13 s against 321 s for one inversion). One thread also gives the same bits whatever the number of cores.
    if threads or model.generator.resolution <= SMALL:
        torch.set_num_threads(threads or 1)
    model.generator.to(target)
    model.discriminator.to(target)
    return model


def load_model(name: str | None = None, checkpoint: Path | None = None) -> Model:
    """A shipped model by name (None: the default one), or a checkpoint.

    Raises:
        ValueError, OSError: there is no such model or file, or it is not one.
    """
    path = resolve_model(name) if checkpoint is None else checkpoint
    data, info, trained_on = None, {}, None
    if path.suffix in (".npz", ".index") or path.with_name(path.name + ".index").is_file():
        generator, discriminator = load_published_weights(path)
    else:
        generator, discriminator, config = load_checkpoint(path)
        info = read_checkpoint(model_file(path), ()).info
        data = trained_on = config.data
    if checkpoint is None:
        trained_on = model_card(path.stem).data
    shown = path.stem if checkpoint is None else path.name
    names = names_of_classes(info, generator.num_classes)
    return Model(generator, discriminator, shown, path, data, names, trained_on, info)
