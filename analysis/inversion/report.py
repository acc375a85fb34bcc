"""What an inversion leaves behind: pictures, the latent code, numbers, and the page to explore."""

import io
import json
import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from analysis.explorer import Page, discriminator_views, generator_views, write_page
from analysis.inversion.distances import Distance, decibels, psnr, ssim
from analysis.inversion.saliency import saliency_maps
from analysis.inversion.search import Inversion
from analysis.inversion.targets import Target
from analysis.loading import Model
from sagan_base.files import atomic_write, save_image
from sagan_base.sampling import to_image

TUNED = "generator tuned to this image"
MOST_POINTS = 600  # of a curve in the page
PLAIN_NAMES = {"psnr": "PSNR (dB)", "ssim": "SSIM", "seconds": "time (s)"}


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


def summary(model: Model, target: Target, found: Inversion, distance: Distance, class_given: bool) -> dict[str, Any]:
    """Everything about one inversion as JSON; ``tuned`` is kept apart, because it is another kind of result."""
    losses = found.losses
    numbers = {
        "picture": target.name,
        "source": target.source,
        "notes": list(target.notes),
        "model": model.name,
        "trained_on": model.trained_on,
        "method": found.config.loss.method,
        "label": found.label,
        "class": model.class_names[found.label],
        "true_class": None if target.label is None else model.class_names[target.label],
        "class_given": "given" if class_given else None,
        "chosen_restart": found.chosen,
        "chosen_by": found.chosen_by,
        "distances": found.distances.tolist(),
        "loss_first": float(losses[0].min()) if len(losses) else None,
        "loss_last": float(losses.min(0)[found.chosen]) if len(losses) else None,
        "steps_done": len(losses),
        "stopped": found.stopped,
        "seconds": found.seconds,
        **similarity(model, found.image, target.image, distance),
    }
    if target.latent is not None:
        numbers["latent error"] = float((found.latent - target.latent).square().mean().sqrt())
    if found.tuned is not None:
        numbers[TUNED] = similarity(model, found.tuned, target.image, distance)
    return numbers | {"config": asdict(found.config), "target_sha256": target.fingerprint}


def write_inversion(
    model: Model, target: Target, found: Inversion, numbers: dict[str, Any], out: Path, warnings: list[str]
) -> int:
    """All files of one inversion into a folder; metrics.json last, as the sign that the others are whole.

    Returns:
        The size of explorer.html in bytes.
    """
    save_image(out / "reconstruction.png", to_image(found.image))
    if found.tuned is not None:
        save_image(out / "reconstruction_generator_tuned.png", to_image(found.tuned))
    save_image(out / "comparison.png", comparison(model, target, found))
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        latent=found.latent.numpy(),
        label=np.int64(found.label),
        latents=found.latents.numpy(),
        labels=found.labels.numpy(),
        losses=found.losses,
        pixel_distances=found.pixel_distances,
    )
    _save_bytes(buffer.getvalue(), out / "latent.npz")
    size = write_page(inversion_page(model, target, found, numbers, warnings), out / "explorer.html")
    _save_bytes((json.dumps(numbers, indent=2, allow_nan=False) + "\n").encode(), out / "metrics.json")
    return size


def _save_bytes(content: bytes, path: Path) -> None:
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)


# ---- comparison.png ----


def comparison(model: Model, target: Target, found: Inversion, side: int = 256) -> Image.Image:
    """Real image, reconstruction (and that of the tuned generator), and the saliency laid over the real image."""
    panels = [("real", to_image(target.image)), ("reconstruction", to_image(found.image))]
    if found.tuned is not None:
        panels.append((TUNED, to_image(found.tuned)))
    panels.append(_saliency_panel(model, target.image, found))
    scale = math.ceil(side / panels[0][1].width)
    side, gap, caption = scale * panels[0][1].width, 8, 22
    sheet = Image.new("RGB", (len(panels) * (side + gap) + gap, side + gap + caption + gap), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=14)
    for index, (text, image) in enumerate(panels):
        left = gap + index * (side + gap)
        sheet.paste(image.convert("RGB").resize((side, side), Image.Resampling.NEAREST), (left, gap))
        draw.text((left, side + gap + 3), text, fill="black", font=font)
    return sheet


@torch.no_grad()
def _saliency_panel(model: Model, real: Tensor, found: Inversion) -> tuple[str, Image.Image]:
    if not model.discriminator.attention_layers():
        return "difference", to_image((found.image - real).abs() - 1)
    heads = weighing_heads(model, found)
    _, attention = model.discriminator.attention_features(real[None].to(model.device))
    shown = saliency_maps(attention[:, list(heads)], real.shape[-2:])[0].mean(0).cpu()
    used = "" if found.config.loss.method == "saliency" else " (not used)"
    return f"saliency, mean of heads {_span(heads)}{used}", overlay(real, shown)


def weighing_heads(model: Model, found: Inversion) -> tuple[int, ...]:
    """The discriminator's heads whose saliency the loss uses, or would use."""
    layer = next(iter(model.discriminator.attention_layers().values()))
    return found.config.loss.heads or tuple(range(max(layer.num_heads // 2, 1)))


def _span(heads: tuple[int, ...]) -> str:
    consecutive = len(heads) > 2 and heads == tuple(range(heads[0], heads[-1] + 1))
    return f"{heads[0]}-{heads[-1]}" if consecutive else ", ".join(map(str, heads))


def overlay(image: Tensor, weights: Tensor) -> Image.Image:
    """Weights [R, R] >= 0 as heat over an image [C, R, R] in [-1, 1]; their maximum is the brightest."""
    from matplotlib import colormaps

    grey = (image.expand(3, -1, -1).permute(1, 2, 0).numpy() + 1) / 2
    heat = colormaps["inferno"](np.asarray(weights / weights.max().clamp(min=1e-12)))[:, :, :3]
    return Image.fromarray(np.rint(255 * (0.4 * grey + 0.6 * heat)).astype(np.uint8))


# ---- explorer.html ----


def inversion_page(
    model: Model, target: Target, found: Inversion, numbers: dict[str, Any], warnings: list[str]
) -> Page:
    """The page: pictures and numbers, how it was found, and where each head of both networks looks."""
    config, loss = found.config, found.config.loss
    weighs = ()
    if model.discriminator.attention_layers() and loss.method == "saliency":
        weighs = weighing_heads(model, found)
    pictures = [
        ("the target, as the model sees it", target.image),
        ("reconstruction from z alone", found.image),
    ]
    if found.tuned is not None:
        pictures.append((f"{TUNED}, {len(found.tuned_losses)} steps: not a reconstruction by z alone", found.tuned))
    pictures.append((f"difference, mean {float((found.image - target.image).abs().mean() / 2):.3f} of the range",
                     (found.image - target.image).abs() - 1))  # fmt: skip
    given = "given" if len(set(found.draw_labels.tolist())) == 1 else "found by search"
    trained = f"The model was trained on {model.trained_on}"
    if model.trained_on is None:
        trained = "The file does not say what the model was trained on"
    restarts = len(found.latents)
    notes = [*target.notes]
    notes.append(
        f"{restarts} restarts from the best of {len(found.draw_losses)} random codes, {len(found.losses)} steps, "
        f"ended by: {found.stopped}; restart {found.chosen} was chosen by {found.chosen_by}, which was not minimised"
    )
    warnings = [
        *warnings,
        f"{trained}. A picture of anything else comes out as the nearest thing that it can draw.",
    ]
    return Page(
        title=f"Inversion of {target.name}",
        subtitle=f"{model.describe()}. Class {model.class_name(found.label)}, {given}. Method: {_method(found)}.",
        notes=notes,
        warnings=warnings,
        pictures=pictures,
        tables=[_number_table(numbers)],
        frames=[(step, images[found.chosen]) for step, images in found.frames],
        curves=_curves(found),
        views=[
            *discriminator_views(model.discriminator, target.image, "Discriminator · target", weighs),
            *generator_views(model.generator, found.latent, found.label, "Generator · reconstruction"),
            *discriminator_views(model.discriminator, found.image, "Discriminator · reconstruction"),
        ],
        details={**numbers, "config": asdict(config)},
    )


def _method(found: Inversion) -> str:
    loss = found.config.loss
    names = {
        "saliency": f"discriminator features weighted by saliency ({loss.weighting})",
        "features": "discriminator features, unweighted",
        "pixel": "pixels",
    }
    return f"{names[loss.method]}, norm per {loss.norm}" if loss.norm != "l1" else f"{names[loss.method]}, L1"


def _number_table(numbers: dict[str, Any]) -> dict[str, Any]:
    skipped = {"loss_first", "loss_last", "seconds"}
    shown = [k for k, v in numbers.items() if isinstance(v, float) and k not in skipped]
    columns, rows = (
        ["", *(PLAIN_NAMES.get(name, name) for name in shown)],
        [["z alone", *(numbers[name] for name in shown)]],
    )
    if TUNED in numbers:
        rows.append([TUNED, *(numbers[TUNED].get(name) for name in shown)])
    return {"columns": columns, "rows": rows}


def _curves(found: Inversion) -> list[dict[str, Any]]:
    if not len(found.losses):
        return []
    curves = []
    for title, values in (("loss of each restart", found.losses), ("mean squared pixel difference, not minimised",
                                                                   found.pixel_distances)):  # fmt: skip
        if title.startswith("mean") and found.config.loss.method == "pixel":
            title = "mean squared pixel difference"
        every = math.ceil(len(values) / MOST_POINTS)
        series = [{"values": line[::every].tolist(), "chosen": i == found.chosen} for i, line in enumerate(values.T)]
        curves.append({"title": f"{title}; the chosen one in colour", "every": every, "series": series})
    if found.tuned_losses:
        halves = [value / 2 for value in found.tuned_losses]  # they are sums of two ratios
        curves.append({"title": f"tuning stage: {TUNED}; loss relative to its start", "every": 1,
                       "series": [{"values": halves, "chosen": True}]})  # fmt: skip
    return curves


def shorten(path: Path) -> str:
    """A path relative to the current folder where that is shorter."""
    relative = os.path.relpath(path)
    return relative if len(relative) < len(str(path)) else str(path)
