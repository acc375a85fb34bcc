"""How far a picture is from what a model draws, beside how far the held-out pictures of the model's own data are.

A distance alone tells a person nothing. So the distance from a picture to the nearest of some random images is measured
for hundreds of held-out pictures too, once: "farther than 99% of them" means that the model cannot draw the like, and
that its reconstruction will be the nearest thing it can. The records of the models that ship lie in ../results, others
in the cache; ../calibrate.py makes both.
"""

import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from analysis.inversion.distances import Distance
from analysis.loading import Model
from sagan_base.data import ImageData, default_cache, evenly_spaced
from sagan_base.files import write_json
from sagan_base.sampling import draw_any
from sagan_base.typed import read_typed

DRAWS = 128
RESULTS = Path(__file__).parents[1] / "results"
FAR = 0.99


@lru_cache(maxsize=4)
@torch.no_grad()
def _drawn(model: Model, distance: Distance) -> list[Any]:
    return [distance.embed(part.to(model.device)) for part in draw_any(model.generator, DRAWS).split(32)]


@torch.no_grad()
def nearest_draw(model: Model, image: Tensor, distance: Distance) -> float:
    """From an image [C, R, R] to the nearest of ``DRAWS`` random images of the model."""
    seen = distance.embed(image[None].to(model.device))
    return min(float(distance.compare(part, seen).min()) for part in _drawn(model, distance))


@dataclass(frozen=True)
class Calibration:
    """``nearest_draw`` of held-out pictures.

    Attributes:
        weights: fingerprint of the generator. distance: its name. data: the pictures' data set.
        values: ascending, one a picture.
    """

    weights: str
    distance: str
    data: str
    values: tuple[float, ...]

    def beyond(self, value: float) -> float:
        """How much farther a picture is than nearly all of these."""
        return max(0.0, value - float(np.quantile(self.values, FAR)))

    def told(self, value: float) -> tuple[str, bool]:
        """Where a picture's own value stands, for people, and whether it is far outside what the model can draw."""
        share = float(np.searchsorted(self.values, value) / len(self.values))
        which = f"farther than {int(100 * share)}% of" if share < 1 else "farther than all"
        if share < 1 - FAR:
            which = "nearer than all" if share == 0 else f"nearer than {FAR:.0%} of"
        stands = (
            f"the nearest of {DRAWS} random images that the model draws is {value:.2f} away ({self.distance}), {which} "
            f"{len(self.values)} held-out pictures of {self.data}"
        )
        if share < FAR:
            return stands, False
        return f"{stands}: far outside what the model can draw, so expect the nearest thing it can", True


def standing(model: Model, image: Tensor, distance: Distance) -> tuple[str, bool]:
    """As ``Calibration.told``; "" where the model has no record."""
    calibration = stored_calibration(model, distance)
    return calibration.told(nearest_draw(model, image, distance)) if calibration else ("", False)


def calibrate(model: Model, distance: Distance, data: ImageData, pictures: int) -> Calibration:
    """Measure evenly spaced pictures of ``data``, with a bar."""
    index = tqdm(evenly_spaced(len(data), pictures), unit="picture", leave=False)
    values = sorted(nearest_draw(model, data.batch(i[None])[0][0], distance) for i in index)
    rounded = tuple(float(f"{value:.4g}") for value in values)
    return Calibration(model.generator_fingerprint, distance.name, data.name, rounded)


def write_calibration(calibration: Calibration, name: str, folder: Path | None = None) -> Path:
    """Into ``folder``, or the cache; returns the file."""
    path = (folder or default_cache() / "calibrations") / f"calibration_{name}.json"
    write_json(path, asdict(calibration) | {"values": list(calibration.values)})
    return path


def stored_calibration(model: Model, distance: Distance) -> Calibration | None:
    """The record of these very weights and this distance; None where there is none."""
    wanted = (model.generator_fingerprint, distance.name)
    return next((each for each in _stored() if (each.weights, each.distance) == wanted), None)


def _stored() -> Iterator[Calibration]:
    for folder in (RESULTS, default_cache() / "calibrations"):
        for path in sorted(folder.glob("calibration_*.json")):
            try:
                yield read_typed(Calibration, path)
            except ValueError as error:
                print(f"note: {error}; it is passed over", file=sys.stderr)
