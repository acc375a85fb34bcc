"""What an inversion leaves behind: pictures, the latent code, numbers, and the page to explore."""

import math
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from analysis.explorer import Curve, Page, discriminator_views, generator_views, write_page
from analysis.inversion.config import WEIGHTED
from analysis.inversion.distances import Distance, decibels, psnr, ssim
from analysis.inversion.saliency import saliency_maps
from analysis.inversion.search import Inversion
from analysis.inversion.targets import Target
from analysis.loading import Model
from analysis.overlay import against_uniform, at_least, captioned, overlay
from sagan_base.attention_health import UNIFORM, Maps
from sagan_base.files import atomic_write, read_arrays, save_image, write_json
from sagan_base.sampling import to_image
from sagan_base.typed import reading

LATENT, METRICS, RECONSTRUCTION = "latent.npz", "metrics.json", "reconstruction.png"
TUNED = "generator tuned to this image"
EXPLAINED = {
    "psnr": "PSNR (dB; higher is nearer)",
    "ssim": "SSIM (1: equal)",
    "feature distance": "distance in the discriminator's features (0: equal)",
    "latent error": "root mean square error of z (0: equal)",
}
NORM_NAMES = {
    "restart": "a Euclidean norm for each restart",
    "batch": "one Euclidean norm of all restarts, as published",
    "squared": "squared norm, as in the paper's equation",
    "l1": "sum of absolute differences",
}
METHOD_NAMES = {
    "saliency": "discriminator features weighted by saliency",
    "uniform": "discriminator features weighted as uniform attention over the mask would, a control",
    "other-image": "discriminator features weighted by another image's saliency, a control",
    "features": "discriminator features, unweighted",
    "pixel": "pixels",
}


@torch.no_grad()
def similarity(model: Model, image: Tensor, real: Tensor, distance: Distance) -> dict[str, float]:
    """PSNR, SSIM, perceptual and feature distance of one image [C, R, R] to the real one; JSON numbers.

    The feature distance is the root mean square difference of the discriminator's features before attention.
    """
    image, real = image[None], real[None]
    numbers = {
        "psnr": decibels(psnr(image, real).item()),
        "ssim": ssim(image, real).item(),
        distance.name: distance(image.to(model.device), real.to(model.device)).item(),
    }
    if model.discriminator.attention_layers():
        pair = torch.cat([image, real]).to(model.device)
        features, _ = model.discriminator.attention_features(pair)
        numbers["feature distance"] = (features[0] - features[1]).square().mean().sqrt().item()
    return numbers


def summary(
    model: Model, target: Target, inversion: Inversion, distance: Distance, class_given: bool
) -> dict[str, Any]:
    """Everything about one inversion as JSON; ``tuned`` is kept apart, because it is another kind of result."""
    losses = inversion.losses[:, inversion.chosen]
    finite = losses[np.isfinite(losses)]
    first = inversion.losses[:1][np.isfinite(inversion.losses[:1])]
    numbers = {
        "picture": target.name,
        "source": target.source,
        "notes": list(target.notes),
        "model": model.name,
        "trained_on": model.trained_on,
        "method": inversion.config.loss.method,
        "label": inversion.label,
        "class": model.class_names[inversion.label],
        "true_class": None if target.label is None else model.class_names[target.label],
        "class_given": "given" if class_given else None,
        "chosen_restart": inversion.chosen,
        "chosen_by": inversion.chosen_by,
        "distances": [value if math.isfinite(value) else None for value in inversion.distances.tolist()],
        "loss_first": float(first.min()) if len(first) else None,
        "loss_last": float(finite.min()) if len(finite) else None,
        "steps_done": len(inversion.losses),
        "stopped": inversion.stopped,
        "seconds": inversion.seconds,
        **similarity(model, inversion.image, target.image, distance),
    }
    if target.latent is not None:
        numbers["latent error"] = float((inversion.latent - target.latent).square().mean().sqrt())
    if inversion.tuned is not None:
        numbers[TUNED] = similarity(model, inversion.tuned, target.image, distance)
    return numbers | {"config": asdict(inversion.config), "target_sha256": target.fingerprint}


def write_inversion(
    model: Model, target: Target, inversion: Inversion, numbers: dict[str, Any], out: Path, warnings: Sequence[str]
) -> int:
    """All files of one inversion into a folder; metrics.json last, as the sign that the others are whole.

    Returns:
        The size of explorer.html in bytes.
    """
    save_image(out / RECONSTRUCTION, to_image(inversion.image))
    if inversion.tuned is not None:
        save_image(out / "reconstruction_generator_tuned.png", to_image(inversion.tuned))
    save_image(out / "comparison.png", comparison(model, target, inversion))
    with atomic_write(out / LATENT) as temporary:
        np.savez_compressed(
            temporary,
            latent=inversion.latent.numpy(),
            label=np.int64(inversion.label),
            latents=inversion.latents.numpy(),
            labels=inversion.labels.numpy(),
            losses=inversion.losses,
            pixel_distances=inversion.pixel_distances,
            generator=np.array(model.generator_fingerprint),
        )
    size = write_page(inversion_page(model, target, inversion, numbers, warnings), out / "explorer.html")
    write_json(out / METRICS, numbers)
    return size


def read_latent(path: Path, model: Model) -> tuple[Tensor, int]:
    """The code [latent_dim] that ``write_inversion`` stored, and its class.

    Raises:
        ValueError: the file is not one of these, or the code is of another model.
    """
    with reading(path):
        stored = read_arrays(path)
        code, label = torch.from_numpy(stored["latent"].astype(np.float32)), int(stored["label"])
    if "generator" not in stored:
        print(f"note: {path} does not say which model its code belongs to", file=sys.stderr)
    elif str(stored["generator"]) != model.generator_fingerprint:
        raise ValueError(
            f"the code in {path} belongs to another model than {model.name}, to which it means nothing; name its own "
            "model by --model or --checkpoint, or invert the picture again"
        )
    shape, classes = (model.generator.latent_dim,), model.generator.num_classes
    if code.shape != shape or not code.isfinite().all() or not 0 <= label < classes:
        raise ValueError(
            f"{path} holds a code of shape {tuple(code.shape)} and class {label}; {model.name} needs finite numbers of "
            f"shape {shape} and a class below {classes}"
        )
    return code, label


def pictures_of(model: Model, target: Target, inversion: Inversion) -> Iterator[tuple[str, Image.Image]]:
    """From what the person gave to where the heads look, each with its caption."""
    if target.photograph is not None:
        yield target.photograph.caption, target.photograph.shown
        if target.photograph.crop is not target.photograph.shown:
            yield "what was taken", target.photograph.crop
    yield "what the network saw", to_image(target.image)
    yield "reconstruction from z alone", to_image(inversion.image)
    if inversion.tuned is not None:
        yield f"{TUNED}: no reconstruction by z alone", to_image(inversion.tuned)
    difference = (inversion.image - target.image).abs()
    yield f"difference, mean {float(difference.mean() / 2):.3f} of the range", to_image(difference - 1)
    if model.discriminator.attention_layers():
        yield where_heads_look(model, target.image, inversion)


@torch.no_grad()
def where_heads_look(model: Model, real: Tensor, inversion: Inversion) -> tuple[str, Image.Image]:
    """Saliency of the heads that weigh, or would, against that of uniform attention over their masks."""
    layer = next(iter(model.discriminator.attention_layers().values()))
    heads = list(inversion.config.loss.heads_of(model.discriminator))
    _, attention = model.discriminator.attention_features(real[None].to(model.device))
    maps = Maps(layer)
    maps.add(attention)
    health = maps.health()
    entropy, variation = (np.mean([each[head] for head in heads]) for each in (health.entropy, health.variation))
    both = (attention[0].double(), maps.uniform)
    ratios = against_uniform(*(saliency_maps(each[None, heads].cpu(), layer.key_grid)[0].mean(0) for each in both))
    picture, end = overlay(real, ratios)
    used = "" if inversion.config.loss.method == "saliency" else " (not used)"
    return (
        f"saliency of heads {_span(heads)}{used} against uniform attention: orange up to {end:.2f} times, "
        f"blue down to {1 / end:.2f}; entropy {entropy:.1%} of the largest"
        + (", which is uniform" if variation < UNIFORM else ""),
        picture,
    )


def comparison(model: Model, target: Target, inversion: Inversion, side: int = 256) -> Image.Image:
    """``pictures_of`` in one row."""
    side = at_least(side, target.image.shape[-1])
    return captioned([("", list(pictures_of(model, target, inversion)))], side)


def _span(heads: list[int]) -> str:
    consecutive = len(heads) > 2 and heads == list(range(heads[0], heads[-1] + 1))
    return f"{heads[0]}-{heads[-1]}" if consecutive else ", ".join(map(str, heads))


def class_line(model: Model, inversion: Inversion, numbers: dict[str, Any]) -> str:
    """ "3 (cat), which fits best"."""
    return f"{model.class_name(inversion.label)}, {numbers['class_given'] or 'which fits best'}"


def inversion_page(
    model: Model, target: Target, inversion: Inversion, numbers: dict[str, Any], warnings: Sequence[str]
) -> Page:
    """The page: pictures and numbers, how it was found, and where each head of both networks looks."""
    loss = inversion.config.loss
    weighs = loss.heads_of(model.discriminator) if loss.method in WEIGHTED else ()
    weighting = f" ({loss.weighting})" if loss.method in WEIGHTED else ""
    searched = (
        f"{inversion.effort()}; restarts begin with the best of {len(inversion.draw_losses)} random codes"
        f"{'; the distance was not minimised' if inversion.config.choose == 'distance' else ''}"
    )
    return Page(
        title=f"Inversion of {target.name}",
        subtitle=f"{model.describe()}. Class {class_line(model, inversion, numbers)}. "
        f"Method: {METHOD_NAMES[loss.method]}{weighting}, {NORM_NAMES[loss.norm]}.",
        notes=[*target.notes, searched],
        warnings=[*warnings]
        or ["a picture of anything but what the model was trained on comes out as the nearest thing that it can draw"],
        pictures=list(pictures_of(model, target, inversion)),
        tables={"how near the reconstruction comes": _number_table(numbers)},
        frames=[(step, images[inversion.chosen]) for step, images in inversion.frames],
        curves=_curves(inversion),
        views=[
            *discriminator_views(model.discriminator, target.image, "Discriminator · target", weighs),
            *generator_views(model.generator, inversion.latent, inversion.label, "Generator · reconstruction"),
            *discriminator_views(model.discriminator, inversion.image, "Discriminator · reconstruction"),
        ],
        details=numbers,
    )


def _number_table(numbers: dict[str, Any]) -> pd.DataFrame:
    skipped = ("loss_first", "loss_last", "seconds")
    shown = [name for name, value in numbers.items() if isinstance(value, float) and name not in skipped]
    explained = {name: EXPLAINED.get(name, f"{name} (0: equal)") for name in shown}
    kinds = {"z alone": numbers} | ({TUNED: numbers[TUNED]} if TUNED in numbers else {})
    return pd.DataFrame(
        {"": kind} | {explained[name]: values.get(name) for name in shown} for kind, values in kinds.items()
    )


def _curves(inversion: Inversion) -> list[Curve]:
    minimised = "" if inversion.config.loss.method == "pixel" else ", not minimised"
    curves = [
        Curve("loss of each restart; the chosen one in colour", inversion.losses, inversion.chosen),
        Curve(
            f"mean squared pixel difference{minimised}; the chosen one in colour",
            inversion.pixel_distances,
            inversion.chosen,
        ),
        # Losses of the tuning stage are sums of two ratios.
        Curve(f"tuning stage: {TUNED}; loss relative to its start", np.array([inversion.tuned_losses]).T / 2),
    ]
    return [curve for curve in curves if len(curve.values)]


def shorten(path: Path) -> str:
    """A path relative to the current folder where that is shorter."""
    relative = os.path.relpath(path)
    return relative if len(relative) < len(str(path)) else str(path)
