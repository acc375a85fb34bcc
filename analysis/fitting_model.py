"""Which of the shipped models fits a picture: of those that draw in its colours, the one that comes nearest by chance.

A picture in colour is for models in colour. Where several are left, each draws some random images, and the model is
taken whose nearest one is nearest to the picture, in the perceptual distance that also chooses between the restarts of
an inversion. Models from which the picture is farther than their own held-out pictures are come last: a photograph in
grey is no digit, however near one of them may lie.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import Tensor

from analysis.inversion.calibration import nearest_draw, stored_calibration
from analysis.inversion.distances import Distance, choose_distance
from analysis.inversion.targets import from_file
from analysis.loading import Model, model_of, open_model
from sagan_base.models import DEFAULT_MODEL, model_names

DEFAULT_CHOICE = f"the one that fits the picture; {DEFAULT_MODEL} without one"
COLOURED = 0.04  # mean difference between a pixel's channels, of a range of 2: five levels of 255
MOST_PICTURES = 8  # of a folder; more would not change the choice and take longer


def fitting_model(
    arguments: argparse.Namespace, pictures: Sequence[Path], distance: Distance | None = None, **reading: Any
) -> tuple[Model, str]:
    """The model that fits the pictures, where neither ``--model`` nor ``--checkpoint`` decides.

    Args:
        arguments: with the options of ``add_common_arguments``.
        pictures: files; those that cannot be read do not count.
        distance: None takes ``choose_distance()``.
        reading: options of ``from_file``.
    Returns:
        The model on its device, and one line about the choice ("" where there was none).
    Raises:
        ValueError, OSError: as ``model_of``; or no picture can be read.
    """
    if arguments.model or arguments.checkpoint or not pictures:
        return model_of(arguments), ""
    distance = distance or choose_distance()
    models = [open_model(name, None, arguments.device, arguments.threads) for name in model_names()]
    seen = {model.name: _readable(pictures, model, **reading) for model in models}
    colour = [model for model in models if model.generator.config.image_channels == 3]
    if any(_is_in_colour(image) for model in colour for image in seen[model.name]):
        models = colour
    if len(models) == 1:
        return models[0], f"model {models[0].name} draws in colour, as the picture is; --model NAME chooses another"

    def misfit(model: Model) -> tuple[float, float]:
        values = [nearest_draw(model, image, distance) for image in seen[model.name]]
        record = stored_calibration(model, distance)
        return fmean(map(record.beyond, values)) if record else 0.0, fmean(values)

    best, *others = sorted(models, key=misfit)
    names = ", ".join(model.name for model in others)
    return best, f"model {best.name} fits best of those that ship; --model NAME chooses another ({names})"


def _readable(pictures: Sequence[Path], model: Model, **reading: Any) -> list[Tensor]:
    """The first of the pictures as the model takes them; those that cannot be read are passed over, unless none can."""
    images, problems = [], []
    for path in pictures:
        try:
            images.append(from_file(path, model, **reading).image)
        except ValueError as error:
            problems.append(error)
        if len(images) == MOST_PICTURES:
            break
    if not images:
        raise problems[0]
    return images


def _is_in_colour(image: Tensor) -> bool:
    """Whether the channels differ by more than a scanner or JPEG makes them."""
    return float((image.amax(0) - image.amin(0)).mean()) > COLOURED
