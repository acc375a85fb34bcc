"""What an inversion is asked to reproduce: picture files, held-out images of a data set, or images the model made."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from analysis.inversion.photograph import Crop, Photograph, cropped
from analysis.loading import Model
from sagan_base.data_sources.pictures import fit_picture, read_picture, read_square
from sagan_base.sampling import draw_any, generate


@dataclass(frozen=True, eq=False)
class Target:
    """One image to invert.

    Attributes:
        name: for tables and folders. source: "file", "held-out" or "generated".
        image: [C, R, R] in [-1, 1]. notes: what was done to it.
        label: its class, where it is known. latent: the z it was made of, where there is one.
        photograph: of a file, what a person sees of it.
    """

    name: str
    source: str
    image: Tensor
    notes: tuple[str, ...] = ()
    label: int | None = None
    latent: Tensor | None = None
    photograph: Photograph | None = None

    @property
    def fingerprint(self) -> str:
        """Hex SHA-256 of the pixels."""
        return hashlib.sha256(self.image.contiguous().numpy().tobytes()).hexdigest()


def from_file(
    path: Path, model: Model, negative: bool = False, name: str | None = None, crop: Crop | None = None
) -> Target:
    """A picture file; its class is the name of its folder, where that is the name of one.

    Raises:
        ValueError: as ``read_picture`` and ``cropped``.
    """
    config = model.generator.config
    crop = crop or Crop()
    square, photograph = cropped(read_picture(path), crop)
    pixels, notes = fit_picture(square, config.resolution, config.image_channels)
    if crop == Crop():  # exactly as training would have read the file
        pixels = read_square(path, config.resolution, config.image_channels)
    image, notes = torch.tensor(pixels) / 127.5 - 1, list(notes)
    if negative:
        image = -image
        notes.append("light and dark were exchanged (--negative)")
    folder = path.resolve().parent.name
    label = model.class_names.index(folder) if folder in model.class_names else None
    return Target(name or path.stem, "file", image, tuple(notes), label, photograph=photograph)


def files_in(folder: Path) -> Iterator[Path]:
    """Every file below a folder that is not hidden, sorted, so that results do not depend on the file system."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path


def from_folder(
    folder: Path, model: Model, limit: int | None, negative: bool = False, crop: Crop | None = None
) -> tuple[list[Target], list[str]]:
    """Every picture below a folder, and one line for each file that is none.

    Raises:
        ValueError: the folder holds no picture at all.
    """
    targets, refused = [], []
    for path in files_in(folder):
        if limit is not None and len(targets) == limit:
            break
        try:
            name = str(path.relative_to(folder).with_suffix("")).replace("/", "_")
            targets.append(from_file(path, model, negative, name, crop))
        except ValueError as error:
            refused.append(str(error))
    if not targets:
        more = f" ({refused[0]})" if refused else ""
        raise ValueError(f"{folder} holds no picture that can be read{more}; name a folder of image files")
    names = [target.name for target in targets]
    if len(set(names)) < len(names):  # a.png beside a.jpg
        targets = [replace(target, name=f"{target.name}_{i}") for i, target in enumerate(targets)]
    return targets, refused


def held_out(model: Model, count: int, spec: str | None = None) -> list[Target]:
    """``count`` images of the test split of the model's data, spread evenly over the classes.

    Raises:
        ValueError: the data are unknown or not here, or have fewer images.
    """
    data = model.training_data("test", spec)
    if count > len(data):
        raise ValueError(f"--held-out {count}: the test split of {data.name} has {len(data)} images; ask for fewer")
    labels = data.labels.numpy()
    within = pd.Series(labels).groupby(labels).cumcount()
    chosen = np.lexsort((labels, within))[:count]  # the first of every class, then the second of every class, ...
    images, labels = data.batch(torch.from_numpy(chosen))
    return [
        Target(f"{data.name}_test_{index:05d}", "held-out", image, (), int(label))
        for index, image, label in zip(chosen, images, labels, strict=True)
    ]


def generated(model: Model, count: int, seed: int, label: int | None = None) -> Iterator[Target]:
    """Images of the model itself, of which z and class are known: here the right answer exists.

    Args:
        label: of all of them; None takes the classes in turn.
    """
    for index, (z, chosen) in enumerate(zip(*codes(model, count, seed, label), strict=True)):
        image = generate(model.generator, z[None], chosen[None])[0]
        yield Target(f"generated_{index:03d}", "generated", image, (), int(chosen), z)


def codes(model: Model, count: int, seed: int, label: int | None = None) -> tuple[Tensor, Tensor]:
    """The z [count, latent_dim] and classes [count] of ``generated`` images."""
    random = np.random.default_rng([seed, 20])  # not the draws that the inversion with this seed begins with
    z = torch.from_numpy(random.standard_normal((count, model.generator.latent_dim), dtype=np.float32))
    classes = torch.arange(count) % model.generator.num_classes
    return z, classes if label is None else torch.full_like(classes, label)


def brightness_warning(model: Model, image: Tensor) -> str | None:
    """A picture as light as nothing the model draws, whose negative would fit: most often ink on the wrong paper."""
    low, high = _brightness(model)
    mean = float(image.mean())
    if low <= mean <= high or not low <= -mean <= high:
        return None
    kind = "lighter" if mean > high else "darker"
    return f"the picture is much {kind} than anything this model draws; --negative exchanges light and dark"


@lru_cache(maxsize=1)
def _brightness(model: Model) -> tuple[float, float]:
    """Between what means of its pixels the images of a model lie, by and large."""
    means = draw_any(model.generator, 64).mean((1, 2, 3))
    return float(means.min()) - 0.1, float(means.max()) + 0.1
