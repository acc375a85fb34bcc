"""Do the samples show the class they were asked for? Judged by those who had no part in training.

An RBF support vector machine from scikit-learn learns the classes from pixels of real images (at most 5,000, evenly
spaced, averaged down to 32x32 where larger), then names the class of each sample. On digits it is right for 98% of
held-out real images; on photographs for about half, so read its figure beside ``svm_accuracy``, or ask the judge of
classifier.py.
"""

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.svm import SVC
from torch import Tensor, nn

from sagan_base.data import ImageData, evenly_spaced
from sagan_base.generator import Generator
from sagan_base.sampling import GeneratedImages

CLASS_ACCURACY = "class accuracy (SVM on real images)"
JUDGED = "class accuracy (residual judge)"
MOST_TRAINING_IMAGES = 5000
SIDE = 32


def class_accuracy(
    generator: Generator, data: ImageData, num_samples: int = 500, seed: int = 0, progress: bool = False
) -> float:
    """Share of samples, as many of each class, that the machine assigns to the class asked for.

    Raises:
        ValueError: a single class, or another number of classes than the generator's.
    """
    if data.num_classes < 2 or generator.num_classes != data.num_classes:
        raise ValueError(
            f"the generator has {generator.num_classes} classes and {data.name} has {data.num_classes}; "
            "class accuracy needs the same number, two or more"
        )
    machine = train_svm(data)
    labels = torch.arange(num_samples) % data.num_classes
    with GeneratedImages(generator, labels, seed, progress=progress) as samples:
        pixels = torch.stack([samples[i] for i in range(num_samples)])
    return float(machine.score(_rows(pixels[:, : data.channels]), labels.numpy()))


@torch.no_grad()
def judged_accuracy(judge: nn.Module, generator: Generator, labels: Tensor, seed: int = 0) -> float:
    """Share of the samples of these labels, int64 [N], that a judge of classifier.py assigns to the class asked for."""
    hits = 0
    with GeneratedImages(generator, labels, seed) as samples:
        for part in torch.arange(len(labels)).split(500):
            pixels = torch.stack([samples[int(i)] for i in part])
            hits += int((judge(pixels[:, : judge.channels])[1].argmax(1) == labels[part]).sum())
    return hits / len(labels)


@lru_cache(maxsize=1)
def train_svm(data: ImageData) -> SVC:
    """The machine, trained on pixels of real images; once for all that is measured on one data set."""
    index = evenly_spaced(len(data), MOST_TRAINING_IMAGES)
    return SVC(C=10.0).fit(_rows(data.images[index]), data.labels[index].cpu().numpy())


def svm_accuracy(machine: SVC, held_out: ImageData) -> float:
    """Share of at most 5,000 held-out real images that the machine assigns to their own class."""
    index = evenly_spaced(len(held_out), MOST_TRAINING_IMAGES)
    return float(machine.score(_rows(held_out.images[index]), held_out.labels[index].cpu().numpy()))


def _rows(images: Tensor) -> np.ndarray:
    """float32 [N, channels * side * side] in [0, 1], as scikit-learn wants it."""
    x = images.cpu().float() / 255
    if x.shape[-1] > SIDE:
        x = F.interpolate(x, size=(SIDE, SIDE), mode="bilinear", antialias=True)
    return x.flatten(1).numpy()
