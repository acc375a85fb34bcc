"""Classifiers trained on the data set itself: features that know its classes, and a judge of samples.

The *classifier*, of plain convolutions, gives the features of distances: about ten seconds for the digits. The *judge*,
a residual network and stronger (half an hour for CIFAR-10), says whether samples show the class they were asked for,
because the network whose features chose a checkpoint should not. Each is trained once per data set, then kept as
safetensors under the data's fingerprint; always on the CPU from a fixed seed, so that every machine measures with
nearly the same network.
"""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from sagan_base.data import ImageData, evenly_spaced
from sagan_base.files import kept
from sagan_base.tensors import read_tensors, write_tensors

NUM_FEATURES = 64
SIDE = 32  # larger images are averaged down to this


@dataclass(frozen=True)
class ClassifierConfig:
    """Everything that decides the trained weights; part of the cache's file name.

    Attributes:
        network: a key of ``NETWORKS``.
        epochs: as many as lie between ``min_steps`` and ``max_steps``.
        held_out: every tenth image of each class is kept for the accuracy.
        max_shift: training images are moved by up to this part of the side.
        mirrored: training images are turned left to right at random.
    """

    network: str = "plain"
    width: int = 24
    min_steps: int = 250
    max_steps: int = 4000
    epochs: int = 6
    batch_size: int = 128
    learning_rate: float = 4e-3
    weight_decay: float = 1e-2
    seed: int = 0
    held_out: int = 10
    max_shift: float = 1 / 16
    mirrored: bool = False

    def path(self, data: ImageData, cache: Path) -> Path:
        """Where the classifier of a data set is kept."""
        values = {name: f"{value:g}" for name, value in asdict(self).items() if name != "network"}
        if self.network == "plain":
            del values["mirrored"]  # never is; files of before have no such part in their names
        name = f"{data.name[:40]}-{data.fingerprint[:16]}-{'-'.join(values.values())}.safetensors"
        return cache / {"plain": "classifiers", "residual": "judges"}[self.network] / name


def judge_config(data: ImageData) -> ClassifierConfig:
    """The judge of a data set. Photographs, but not signs, show the same in a mirror: colour tells them apart here."""
    return ClassifierConfig(
        "residual", width=24, min_steps=150, max_steps=40_000, epochs=10, learning_rate=3e-3, weight_decay=5e-2,
        max_shift=1 / 8, mirrored=data.channels == 3,
    )  # fmt: skip


class Classifier(nn.Module):
    """Four convolutions and two linear layers.

    The features are scaled so that those of the training images have a mean variance of 1, which makes distances
    between them comparable among data sets.

    Shape:
        input uint8 [B, channels, R, R], output (features [B, 64], logits [B, num_classes]), float32.
    """

    def __init__(self, channels: int, num_classes: int, resolution: int, width: int):
        super().__init__()
        self.channels = channels
        first_stride = 1 if resolution <= 16 else 2

        def block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
            convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
            return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())

        self.body = nn.Sequential(
            block(channels, width, first_stride), block(width, 2 * width, 2), block(2 * width, 4 * width, 2),
            block(4 * width, 4 * width, 2), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        )  # fmt: skip
        self.features = nn.Linear(16 * width, NUM_FEATURES)
        self.logits = nn.Linear(NUM_FEATURES, num_classes)
        self.register_buffer("scale", torch.ones(()))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(self.body(_network_input(images)))
        return features * self.scale, self.logits(F.relu(features))


class _ResidualBlock(nn.Module):
    """Norm, ReLU, convolution, twice (He et al., arXiv:1603.05027); the shortcut is pooled, then a 1x1 convolution.

    Pooled, not strided: strided 1x1 convolutions of 4 channels corrupted the heap of PyTorch 2.13 on a CPU with AVX2.
    """

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut = nn.Sequential(nn.AvgPool2d(stride), nn.Conv2d(inputs, outputs, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(x))
        return self.conv2(F.relu(self.norm2(self.conv1(x)))) + self.shortcut(x)


class ResidualClassifier(nn.Module):
    """A convolution, five residual blocks, the mean over cells and a linear layer; otherwise as ``Classifier``.

    Shape:
        input uint8 [B, channels, R, R], output (features [B, 8 * width], logits [B, num_classes]), float32.
    """

    def __init__(self, channels: int, num_classes: int, resolution: int, width: int):
        super().__init__()
        self.channels = channels
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1, bias=False),
            _ResidualBlock(width, 2 * width, 2),
            _ResidualBlock(2 * width, 4 * width, 2), _ResidualBlock(4 * width, 4 * width, 1),
            _ResidualBlock(4 * width, 8 * width, 2), _ResidualBlock(8 * width, 8 * width, 1),
            nn.BatchNorm2d(8 * width), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )  # fmt: skip
        self.logits = nn.Linear(8 * width, num_classes)
        self.register_buffer("scale", torch.ones(()))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(_network_input(images))
        return features * self.scale, self.logits(features)


def _network_input(images: Tensor) -> Tensor:
    x = images.float() / 127.5 - 1
    if x.shape[-1] > SIDE:
        x = F.interpolate(x, size=(SIDE, SIDE), mode="bilinear", antialias=True)
    return x


NETWORKS = {"plain": Classifier, "residual": ResidualClassifier}


def check_classifier_data(data: ImageData, config: ClassifierConfig | None = None) -> None:
    """Raises ValueError where no classifier can be trained: fewer than two classes, or too few images to hold some
    out."""
    config = config or ClassifierConfig()
    if data.num_classes < 2:
        raise ValueError(
            f"{data.name} has a single class, so no classifier can be trained on it; "
            "use features 'efficientnet' or 'inception'"
        )
    if not len(_split(data.labels.cpu(), config.held_out)[1]):
        raise ValueError(
            f"{data.name} has fewer than {config.held_out} images in every class, too few for a classifier; "
            "use features 'efficientnet' or 'inception'"
        )


def classifier_for(data: ImageData, cache: Path, config: ClassifierConfig | None = None, progress: bool = True) -> Path:
    """The file of the classifier of this data set, trained now where ``cache`` lacks it.

    Raises:
        ValueError: fewer than two classes, or too few images to hold some out.
    """
    config = config or ClassifierConfig()
    path = config.path(data, cache)

    def make() -> None:
        model, accuracy = train_classifier(data, config, progress)
        metadata = {
            "network": config.network, "width": config.width, "channels": data.channels,
            "num_classes": data.num_classes, "resolution": data.resolution, "accuracy": accuracy,
            "data": data.name, "fingerprint": data.fingerprint,
        }  # fmt: skip
        write_tensors(path, model.state_dict(), {key: json.dumps(value) for key, value in metadata.items()})

    kept(path, load_classifier, make)
    return path


def load_classifier(path: str | Path) -> tuple[nn.Module, float]:
    """A kept classifier in evaluation mode, and its accuracy on the images held out."""
    state, metadata = read_tensors(path)
    metadata = {key: json.loads(value) for key, value in metadata.items() if key != "sha256"}
    with torch.random.fork_rng(devices=[]):  # a new network draws initial weights
        network = NETWORKS[metadata.get("network", "plain")]
        model = network(metadata["channels"], metadata["num_classes"], metadata["resolution"], metadata["width"])
    model.load_state_dict(state)
    return model.eval(), metadata["accuracy"]


def train_classifier(data: ImageData, config: ClassifierConfig, progress: bool = True) -> tuple[nn.Module, float]:
    """Train from the seed, without touching the caller's random numbers; returns the network and its accuracy."""
    check_classifier_data(data, config)
    training, held_out = _split(data.labels.cpu(), config.held_out)
    steps = min(max(config.epochs * len(training) // config.batch_size, config.min_steps), config.max_steps)
    with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
        torch.manual_seed(config.seed)
        model = NETWORKS[config.network](data.channels, data.num_classes, data.resolution, config.width)
        optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=steps)
        order = _endless_batches(training, config.batch_size)
        bar = tqdm(range(steps), desc=f"{data.name}, {config.network} classifier", leave=False, disable=not progress)
        for _ in bar:
            index = next(order)
            images = _shift(data.images[index].cpu(), config.max_shift)
            if config.mirrored:
                images = torch.where((torch.rand(len(images)) < 0.5)[:, None, None, None], images.flip(-1), images)
            _, logits = model(images)
            loss = F.cross_entropy(logits, data.labels[index].cpu())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()
    some = training[evenly_spaced(len(training), 5000)]
    with torch.no_grad():
        features = torch.cat([model(data.images[part].cpu())[0] for part in some.split(500)])
    model.scale.copy_(features.var(0).mean().rsqrt())
    return model, classifier_accuracy(model, data, held_out)


@torch.no_grad()
def classifier_accuracy(model: nn.Module, data: ImageData, index: Tensor | None = None) -> float:
    """Share of these images (all of them by default) given their own label."""
    index = torch.arange(len(data)) if index is None else index
    hits = [(model(data.images[part].cpu())[1].argmax(1) == data.labels[part].cpu()).sum() for part in index.split(500)]
    return float(sum(hits)) / len(index)


def _split(labels: Tensor, held_out: int) -> tuple[Tensor, Tensor]:
    """Indices for training and of every ``held_out``-th image of each class."""
    by_class = labels.argsort(stable=True)
    counts = torch.bincount(labels)
    rank = torch.cat([torch.arange(int(count)) for count in counts])
    is_held_out = rank % held_out == held_out - 1
    return by_class[~is_held_out], by_class[is_held_out]


def _endless_batches(index: Tensor, batch_size: int):
    batch_size = min(batch_size, len(index))
    while True:
        yield from index[torch.randperm(len(index))].split(batch_size)[: len(index) // batch_size]


def _shift(images: Tensor, max_shift: float) -> Tensor:
    """Move each image by its own number of pixels, repeating the border."""
    reach = max(1, math.ceil(max_shift * images.shape[-1]))
    side = images.shape[-1]
    padded = F.pad(images.float(), (reach,) * 4, mode="replicate").to(torch.uint8)
    rows, columns = torch.randint(0, 2 * reach + 1, (2, len(images)))
    cells = torch.arange(side)
    batch = torch.arange(len(images))[:, None, None]
    return padded.permute(0, 2, 3, 1)[
        batch, (rows[:, None] + cells)[:, :, None], (columns[:, None] + cells)[:, None, :]
    ].permute(0, 3, 1, 2)
