"""Does saliency help? The variants of an inversion's loss, the one question fixed beforehand, and its table.

The question: how far, by EfficientNet-Lite0, is the reconstruction that the loss itself chooses among its restarts,
with saliency against features that nothing weighs, and against weights that uniform attention over the mask would give?
Two paired t tests over held-out pictures, adjusted by Holm. Every other variant stands beside them without a verdict.
The command is ../compare_inversions.py.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import stats

from analysis.inversion.config import EFFORT, InversionConfig, LossConfig
from analysis.inversion.saliency import saliency
from analysis.loading import Model
from sagan_base.attention_health import UNIFORM, Maps
from sagan_base.files import write_text
from sagan_base.holm import holm
from sagan_base.pages import render
from sagan_base.tables import csv, read_csv, rounded, signed, spread
from sagan_base.typed import from_dict, read_json, reading
from ylg import SparseAttention2d

RECORDS, SETTINGS = "inversions.csv", "settings.json"
PICTURES = 50
REFERENCE, AGAINST = "saliency", ("features", "uniform")
VARIANTS = {  # name -> how its loss differs from the default; heads of () are all there are
    "saliency": {},
    "features": {"method": "features"},
    "uniform": {"method": "uniform"},
    "other image's saliency": {"method": "other-image"},
    "all heads": {"heads": ()},
    "squared norm": {"norm": "squared"},
    "all queries": {"queries": "all"},
    "the paper's equation": {"heads": (), "norm": "squared", "queries": "all"},
    "pixel": {"method": "pixel"},
}
DISTANCE = "EfficientNet-Lite0 distance"
LEVEL = 0.05


@dataclass(frozen=True)
class SaliencySays:
    """Types of what ``what_saliency_says`` returns."""

    images: int
    entropy: float
    variation: float
    between_images: float


@dataclass(frozen=True)
class Settings:
    """Types of what the settings' file holds."""

    model: str
    weights: str
    data: str
    data_fingerprint: str
    config: InversionConfig
    saliency: SaliencySays
    command: str
    provenance: dict[str, Any]


def loss_of(variant: str, model: Model) -> LossConfig:
    """The variant's loss for this model's discriminator.

    Raises:
        ValueError: the discriminator has no attention layer.
    """
    changes = dict(VARIANTS[variant])
    if changes.get("heads") == ():
        changes["heads"] = tuple(range(first_attention(model).num_heads))
    return replace(LossConfig(), **changes)


def first_attention(model: Model) -> SparseAttention2d:
    """The layer whose maps weigh.

    Raises:
        ValueError: the discriminator has no attention layer.
    """
    layers = model.discriminator.attention_layers()
    if not layers:
        raise ValueError(f"the discriminator of {model.name} has no attention layer, so there is no saliency")
    return next(iter(layers.values()))


@torch.no_grad()
def what_saliency_says(model: Model, images: torch.Tensor) -> dict[str, Any]:
    """Whether the weights depend on the image at all, on images [N, C, R, R], over the heads that weigh by default.

    Returns:
        ``entropy`` and ``variation`` of the heads' maps as in ``MapHealth``; ``between images``: the share of the
        saliency maps' squared deviation from uniform weights that is variance between images; of ``images`` images.
    """
    maps = Maps(first_attention(model))
    heads = list(LossConfig().heads_of(model.discriminator))
    weights = []
    for batch in images.split(32):
        _, attention = model.discriminator.attention_features(batch.to(model.device))
        maps.add(attention)
        weights.append(saliency(attention[:, heads]).double())
    health, weights = maps.health(), torch.cat(weights)
    deviation = (weights - saliency(maps.uniform[heads])).square().mean(0).sum()
    return {
        "images": len(images),
        "entropy": float(np.mean([health.entropy[head] for head in heads])),
        "variation": float(np.mean([health.variation[head] for head in heads])),
        "between images": float(weights.var(0, correction=0).sum() / deviation) if deviation else 0.0,
    }


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """A line for each variant: its mean numbers, and its difference from saliency on the same pictures.

    Args:
        rows: an inversion each, with ``picture``, ``variant`` and the numbers.
    Returns:
        Among its columns ``difference``, ``low`` and ``high`` of the distance (saliency minus the variant; below 0
        saliency comes nearer) with the 95% interval, and for the primary comparisons ``p`` and ``p (Holm)``.
    """
    distances = rows.pivot(index="picture", columns="variant", values=DISTANCE)
    lines = []
    for variant in [name for name in VARIANTS if name in distances]:
        members = rows[rows["variant"] == variant]
        line = {"variant": variant, "pictures": len(members)}
        for name in (DISTANCE, "PSNR (dB)", "SSIM"):
            line |= {name: members[name].mean(), f"{name} sd": members[name].std()}
        pairs = distances[[REFERENCE, variant]].dropna() if REFERENCE in distances else []
        if variant != REFERENCE and len(pairs) > 1:
            test = stats.ttest_rel(pairs[REFERENCE], pairs[variant])
            low, high = test.confidence_interval(1 - LEVEL)
            line |= {"difference": (pairs[REFERENCE] - pairs[variant]).mean(), "low": low, "high": high}
            line |= {"p": test.pvalue} if variant in AGAINST else {}
        lines.append(line | {"CPU seconds": members["CPU seconds"].mean()})
    columns = ["variant", "pictures", DISTANCE, "difference", "low", "high", "p"]
    frame = pd.DataFrame(lines).pipe(lambda frame: frame.reindex(columns=list(dict.fromkeys([*columns, *frame]))))
    asked = frame["p"].dropna()
    return frame.assign(**{"p (Holm)": pd.Series(holm(asked), asked.index, dtype=float)})


def verdict(line: pd.Series) -> str:
    """Of a primary comparison."""
    if not line["p (Holm)"] < LEVEL:
        return "no difference shown"
    return f"saliency {'comes nearer' if line['difference'] < 0 else 'stays farther'}"


def read_records(folder: Path) -> pd.DataFrame:
    """The inversions that a folder holds, a line each.

    Raises:
        ValueError: there are none.
    """
    if not (folder / RECORDS).is_file():
        raise ValueError(f"{folder} holds no {RECORDS}; name the --out of a comparison")
    return read_csv(folder / RECORDS, ["picture", "class", "variant"], [DISTANCE, "PSNR (dB)", "SSIM", "CPU seconds"])


def read_comparison(folder: Path, level: int = 1) -> tuple[pd.DataFrame, str]:
    """The table of a folder's records, rounded, and its text with a heading of this level.

    Raises:
        ValueError: there are no records, or not the settings they were made by.
    """
    frame = rounded(table(read_records(folder)))
    with reading(folder / SETTINGS):
        settings = read_json(folder / SETTINGS)
        from_dict(Settings, settings)
        return frame, as_text(frame, settings, level)


def write_table(folder: Path) -> str:
    """Write table.csv and table.md from the records of a comparison; returns the Markdown.

    Raises:
        ValueError: as ``read_comparison``.
    """
    frame, text = read_comparison(folder)
    write_text(folder / "table.csv", csv(frame))
    write_text(folder / "table.md", text)
    return text


def as_text(frame: pd.DataFrame, settings: dict[str, Any], level: int) -> str:
    """The table for people: whether saliency says anything, the question, and what stands beside it.

    Args:
        level: of its heading.
    """
    whole = {"pictures": PICTURES} | {name: getattr(InversionConfig(), name) for name in EFFORT}
    here = settings["config"] | {"pictures": int(frame["pictures"].min())}
    shown = frame.assign(
        **{
            name: [spread(mean, deviation) for mean, deviation in zip(frame[name], frame[f"{name} sd"], strict=True)]
            for name in (DISTANCE, "PSNR (dB)", "SSIM")
        },
        **{"saliency minus it, 95% interval": [_interval(line) for _, line in frame.iterrows()]},
    )
    primary = shown[frame["p"].notna()]
    answers = primary.assign(verdict=[verdict(line) for _, line in primary.iterrows()]).rename(
        columns={"variant": "saliency against"}
    )
    asked = ["saliency against", "pictures", "saliency minus it, 95% interval", "p", "p (Holm)", "verdict"]
    beside = ["variant", "pictures", DISTANCE, "saliency minus it, 95% interval", "PSNR (dB)", "SSIM", "CPU seconds"]
    return render(
        "analysis",
        "comparison.md",
        heading="#" * level,
        settings=settings,
        says=settings["saliency"],
        config=settings["config"],
        uniform=UNIFORM,
        shortened=[f"{here[name]} {name} instead of {value}" for name, value in whole.items() if here[name] < value],
        answers=answers[asked],
        beside=shown[beside],
        distance=DISTANCE,
    )


def _interval(line: pd.Series) -> str | None:
    if pd.isna(line["difference"]):
        return None
    return f"{signed(line['difference'])} [{signed(line['low'])}, {signed(line['high'])}]"
