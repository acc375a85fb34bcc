"""Whether attention attends: how far its maps are from uniform, whether they depend on the image, what that is worth.

A layer whose maps are uniform over its mask is a fixed average, and one whose maps are the same for every image a fixed
filter: nothing trained with either says what attention is worth. Entropy alone does not tell, because a temperature
lowers it for free. So ``watch`` also measures the share of the maps' variation that lies between images, and
``replaced_maps`` lets a network run with other maps than its own: with their mean over images, or another image's.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields

import torch
from torch import Tensor

from sagan_base.data import ImageData, evenly_spaced
from sagan_base.draws import latents, stream
from sagan_base.network import Network
from sagan_base.sampling import class_frequency_labels
from ylg import SparseAttention2d

UNIFORM = 0.05  # total variation below which a head's maps are called uniform
IMAGES = 512
Batches = Iterable[tuple[Tensor, ...]]  # a network's arguments, batch by batch


@dataclass(frozen=True)
class MapHealth:
    """How one layer's heads attend, a value per head.

    Attributes:
        entropy: of a query's probabilities over the logarithm of the number of its keys, mean over images and the
            queries with two keys or more; 1 is uniform, 0 a single key.
        variation: total variation distance, half the sum of absolute differences, from uniform over the mask; 0 to 1.
        between: sum of the probabilities' variances over images, divided by the sum of their mean squared deviations
            from uniform; 0 where every image has the same map, at most 1.
    """

    entropy: tuple[float, ...]
    variation: tuple[float, ...]
    between: tuple[float, ...]

    def __post_init__(self) -> None:
        if not 0 < len(self.entropy) == len(self.variation) == len(self.between):
            raise ValueError(f"{self} does not have one value of each measure for a head")

    def means(self) -> dict[str, float]:
        """Each measure's mean over the heads."""
        return {measure: sum(getattr(self, measure)) / len(self.entropy) for measure in MEASURES}

    @property
    def depends_on_image(self) -> bool:
        """Whether some head both leaves uniform and differs from image to image."""
        return any(v >= UNIFORM and b >= UNIFORM for v, b in zip(self.variation, self.between, strict=True))


MEASURES = tuple(measure.name for measure in fields(MapHealth))


@dataclass(frozen=True)
class LayerHealth(MapHealth):
    """How one layer attends, and what that is worth.

    Attributes:
        untrained: the same layer before training: initial maps are not uniform by themselves.
        output_changes: of its network by the interventions; ``output_changes()`` below.
        distance: of the generator's samples under each of them; empty in a discriminator.
    """

    untrained: MapHealth
    output_changes: dict[str, float]
    distance: dict[str, float] = field(default_factory=dict)


class Maps:
    """Sums over the maps of one layer, image by image, from which its health and its mean map follow.

    Attributes:
        uniform: the layer's map where every score is 0, [num_heads, num_queries, num_keys]; in sequential mode the
            product of the steps' uniform maps.
    """

    def __init__(self, layer: SparseAttention2d) -> None:
        weight = layer.output.weight
        zero = torch.zeros(1, layer.channels, *layer.grid, dtype=weight.dtype, device=weight.device)
        self.uniform = layer.forward(zero, return_attention=True)[1][0].double()  # no bias: zero has zero scores
        keys = (self.uniform > 0).sum(-1)
        self._asking = keys >= 2
        self._most_entropy = keys.clamp_min(2).double().log()
        self._count, self._deviations = 0, torch.zeros_like(self.uniform)
        self._squares, self._entropy, self._variation = self.uniform.new_zeros(3, len(self.uniform))

    def add(self, attention: Tensor) -> None:
        """Take the maps [images, num_heads, num_queries, num_keys] into account."""
        for image in attention.double():
            deviation = image - self.uniform
            self._count += 1
            self._deviations += deviation
            self._squares += deviation.square().sum((1, 2))
            entropy = torch.special.entr(image).sum(-1) / self._most_entropy
            self._entropy += (entropy * self._asking).sum(1)
            self._variation += (deviation.abs().sum(-1) / 2 * self._asking).sum(1)

    @property
    def mean(self) -> Tensor:
        """The mean map over images, [num_heads, num_queries, num_keys], float64."""
        return self.uniform + self._deviations / self._count

    def health(self) -> MapHealth:
        """The measures over all images added."""
        asking = self._count * self._asking.sum(1).clamp_min(1)
        of_the_mean = (self._deviations / self._count).square().sum((1, 2))
        mean_square = self._squares / self._count
        between = torch.where(mean_square > 0, 1 - of_the_mean / mean_square, 0).clamp(0, 1)
        values = (self._entropy / asking, self._variation / asking, between)
        return MapHealth(*(tuple(value.tolist()) for value in values))


@torch.no_grad()
def watch(network: Network, batches: Batches) -> dict[str, Maps]:
    """Run the network on the batches, in evaluation mode, and sum up the maps of each attention layer by its name."""
    layers = network.attention_layers()
    if not layers:
        return {}
    was_training = network.training
    network.eval()  # training mode would move batch statistics and power iterations
    maps = {name: Maps(layer) for name, layer in layers.items()}

    def look(name: str) -> Callable[..., None]:
        return lambda layer, inputs, _: maps[name].add(layer.forward(inputs[0], return_attention=True)[1])

    hooks = [layer.register_forward_hook(look(name)) for name, layer in layers.items()]
    try:
        for inputs in batches:
            network(*inputs)
    finally:
        for hook in hooks:
            hook.remove()
        network.train(was_training)
    return maps


@contextmanager
def replaced_maps(network: Network, change: Callable[[str, Tensor], Tensor]) -> Iterator[None]:
    """Within it, each attention layer mixes its values by ``change(name, maps)`` in place of its own maps.

    Args:
        change: from a layer's name and its maps [batch, num_heads, num_queries, num_keys] to others of that shape, or
            of batch 1. It is for plain forward passes: maps that are asked for are still the network's own.
    """

    def replace(name: str) -> Callable[..., Tensor]:
        def hook(layer: SparseAttention2d, inputs: tuple[Tensor, ...], _: Tensor) -> Tensor:
            (x,) = inputs
            return layer.with_attention(x, change(name, layer.forward(x, return_attention=True)[1]))

        return hook

    hooks = [layer.register_forward_hook(replace(name)) for name, layer in network.attention_layers().items()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def interventions(maps: dict[str, Maps]) -> dict[str, Callable[[str, Tensor], Tensor]]:
    """The two changes for ``replaced_maps`` that show what dependence on the image is worth.

    "mean map": the mean over the images that were watched. "another image's map": that of the image before it in the
    batch, which must hold two images or more.
    """
    return {
        "mean map": lambda name, own: maps[name].mean.to(own)[None],
        "another image's map": lambda name, own: own.roll(1, 0),
    }


@torch.no_grad()
def output_changes(network: Network, batches: list[tuple[Tensor, ...]], maps: dict[str, Maps]) -> dict[str, float]:
    """How far each intervention moves the network's output (logits or images): root mean square over its standard
    deviation over images."""

    def outputs() -> Tensor:
        return torch.cat([network(*inputs).double() for inputs in batches])

    own = outputs()
    spread = own.var(0).mean().sqrt()
    changes = {}
    for name, change in interventions(maps).items():
        with replaced_maps(network, change):
            changes[name] = ((outputs() - own).square().mean().sqrt() / spread).item()
    return changes


def real_batches(data: ImageData, count: int = IMAGES, device: torch.device | str = "cpu") -> list[tuple[Tensor, ...]]:
    """Evenly spaced real images [B, C, R, R] in [-1, 1] with their labels, for a discriminator."""
    return [data.batch(index, device) for index in evenly_spaced(len(data), count).split(32)]


def sample_batches(
    network: Network, data: ImageData, count: int = IMAGES, seed: int = 0, device: torch.device | str = "cpu"
) -> list[tuple[Tensor, ...]]:
    """z [B, latent_dim] and labels of the data's frequencies, for a generator."""
    z = latents(stream(seed, "health"), count, network.latent_dim).to(device)
    labels = class_frequency_labels(data, count, seed).to(device)
    return list(zip(z.split(32), labels.split(32), strict=True))


def attention_health(
    generator: Network,
    discriminator: Network,
    untrained: tuple[Network, Network],
    data: ImageData,
    distance: Callable[[], float] | None = None,
    count: int = IMAGES,
) -> dict[str, LayerHealth]:
    """Every layer's measures, by its name ("generator.attention.16"), on ``count`` real images or samples.

    Args:
        generator, discriminator: on one device.
        untrained: the same networks before training.
        distance: measures the generator's samples; called once within each intervention on it.
    """
    device = next(generator.parameters()).device
    report = {}
    for part, network, initial in (
        ("generator", generator, untrained[0].to(device)), ("discriminator", discriminator, untrained[1].to(device))
    ):  # fmt: skip
        if not network.attention_layers():
            continue
        batches = (
            sample_batches(network, data, count, device=device) if part == "generator" else
            real_batches(data, count, device)
        )  # fmt: skip
        maps, before = watch(network, batches), watch(initial, batches)
        changes, distances = output_changes(network, batches, maps), {}
        if part == "generator" and distance is not None:
            for name, change in interventions(maps).items():
                with replaced_maps(network, change):
                    distances[name] = distance()
        for name in maps:
            health, initially = asdict(maps[name].health()), before[name].health()
            report[f"{part}.{name}"] = LayerHealth(**health, untrained=initially, output_changes=changes,
                                                   distance=distances)  # fmt: skip
    return report


def logged_health(metrics: dict[str, float]) -> dict[str, MapHealth]:
    """The means over heads that a run logged ("entropy/generator.attention.16"), as of one head."""
    layers = dict.fromkeys(key.partition("/")[2] for key in metrics if key.partition("/")[0] in MEASURES)
    logged = {layer: [(metrics.get(f"{measure}/{layer}", math.nan),) for measure in MEASURES] for layer in layers}
    return {layer: MapHealth(*values) for layer, values in logged.items()}


def verdict(report: Mapping[str, MapHealth]) -> str:
    """One line for a person: whether the maps depend on the image, or which layers' do not."""
    if not report:
        return "no attention layer"
    fixed = [layer for layer, health in report.items() if not health.depends_on_image]
    if not fixed:
        return "attention depends on the image in every layer"
    return (
        f"the maps of {', '.join(fixed)} do not depend on the image (uniform, or the same for every image): nothing "
        "measured here says what attention is worth"
    )
