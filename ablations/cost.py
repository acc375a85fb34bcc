"""What a run will cost: its time, from an update timed on this machine, and its memory, by counting.

Time is that of one real update at the largest batch that takes about a second, scaled to the recipe's batch; large
networks, where convolutions decide, are timed once without their attention and shared by all rows. Memory is weights,
gradients, Adam's moments and the average, plus what autograd keeps for the larger of the two updates. Expect both to be
right within a factor of two.
"""

import time
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from sagan_base.checkpoint import build_networks
from sagan_base.config import ModelConfig, RunConfig
from sagan_base.distributed import processes
from sagan_base.updates import Updates

OPERATIONS_TIMED = {"cpu": 5e10, "cuda": 5e12}  # about a second
PASSES = 3  # G, G and D on real and fake: an update costs about three times one pass through both


@dataclass(frozen=True)
class Cost:
    """Of a whole run, on this machine and one device."""

    seconds: float
    bytes: float

    def __str__(self) -> str:
        return f"{duration(self.seconds)}, {self.bytes / 1e9:.1f} GB"


def estimate(config: RunConfig, device: str | None = None) -> Cost:
    """Time and memory of ``config.training.steps`` updates; the evaluations come on top."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    operations, kept = _per_image(replace(config.model, attention=None, num_classes=1))
    batch = max(1, min(config.recipe.batch_size, int(OPERATIONS_TIMED[device] / (PASSES * operations))))
    timed = config if batch >= 4 else replace(config, model=replace(config.model, attention=None))
    per_image = _seconds_per_image(timed.model, timed.recipe, batch, device)
    weights = sum(p.numel() for network in build_networks(config) for p in network.parameters())
    memory = 4 * 5 * weights + kept * config.recipe.batch_size / config.training.accumulation
    return Cost(per_image * config.recipe.batch_size * config.training.steps, memory)


@lru_cache(maxsize=64)
def _per_image(model: ModelConfig) -> tuple[float, float]:
    """Operations of one pass through both networks and back, and bytes that autograd keeps, per image.

    Of the network without attention and classes, whose shapes depend on no values: nothing is computed, fake tensors
    carry shapes only.
    """
    generator, discriminator = build_networks(RunConfig(model=model))
    kept = [0]

    def keep(tensor: Tensor) -> Tensor:
        kept[0] += tensor.numel() * tensor.element_size()
        return tensor

    batch = 2
    with (
        FakeTensorMode(allow_non_fake_inputs=True),
        FlopCounterMode(display=False) as counter,
        saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        discriminator(generator(torch.randn(batch, model.latent_dim))).sum().backward()
    return counter.get_total_flops() / batch, kept[0] / batch


@lru_cache(maxsize=64)
def _seconds_per_image(model: ModelConfig, recipe, batch: int, device: str) -> float:
    config = RunConfig(model=model, recipe=replace(recipe, batch_size=batch))
    shape = (model.image_channels, model.resolution, model.resolution)

    def images(index: Tensor) -> tuple[Tensor, Tensor]:
        labels = torch.zeros(len(index), dtype=torch.long, device=place.device)
        return torch.zeros(len(index), *shape, device=place.device), labels

    with processes(device) as place:
        updates = Updates(config, place, images, num_images=batch)
        updates.step(1)
        started = time.perf_counter()
        updates.step(2).sum().item()  # waits for the device
        return (time.perf_counter() - started) / batch


def duration(seconds: float) -> str:
    """ "3 min", "5.2 h", "12 days"."""
    for limit, unit, size in ((90, "s", 1), (5400, "min", 60), (172_800, "h", 3600)):
        if seconds < limit:
            value = seconds / size
            return f"{value:.1f} {unit}" if unit == "h" else f"{value:.0f} {unit}"
    return f"{seconds / 86_400:,.0f} days"
