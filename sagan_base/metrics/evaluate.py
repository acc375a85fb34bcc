"""Fréchet distance, Inception-Score-style score, KID, precision and recall of a generator, by torch-fidelity.

The five measures compare features of generated images with features of the real training images; whose features they
are is in the name of every column, and bare "FID" and "IS" mean Inception's. They depend on the number of samples
and, a little, on the seed: compare only figures with the same number.

torch-fidelity's own routes for generators and caches are avoided on purpose: its class-conditional generator needs
NumPy < 1.24, and its cache names hold neither the weights nor the size. Its extractors and its measures are used.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric
from torch_fidelity.utils import get_featuresdict_from_dataset
from tqdm import tqdm

from sagan_base.data import ImageData, default_cache, evenly_spaced
from sagan_base.data_sources.pictures import RESIZE_RULE
from sagan_base.files import kept
from sagan_base.generator import Generator
from sagan_base.metrics.features import FeatureChoice, choose_features
from sagan_base.metrics.names import column
from sagan_base.sampling import GeneratedImages, class_frequency_labels
from sagan_base.tensors import read_tensors, write_tensors

FEWEST = 10  # images, real or drawn; precision and recall look at 3 neighbours
MOST_REAL_IMAGES = 50_000  # evenly spaced ones of a larger data set
MOST_COMPARED = 10_000  # images of each kind for KID, precision and recall, whose cost is quadratic


@dataclass(frozen=True)
class RealStatistics:
    """Features of the real images: mean float64 [d], covariance float64 [d, d], some features float32 [n, d]."""

    mean: Tensor
    covariance: Tensor
    features: Tensor


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a measurement found, and what it was made of, so that nobody draws and measures the same samples again.

    Attributes:
        values: by name; see ``evaluate``.
        features: of the samples, float32 [N, d].
        labels: classes of the samples, int64 [N].
        real: what they were compared with.
    """

    values: dict[str, float]
    features: Tensor
    labels: Tensor
    real: RealStatistics


def evaluate(
    generator: Generator,
    data: ImageData,
    features: str = "classifier",
    num_samples: int | None = None,
    seed: int = 0,
    batch_size: int = 64,
    cache: Path | None = None,
    weights: Path | None = None,
    progress: bool = True,
    reference: ImageData | None = None,
) -> Evaluation:
    """Compare samples of the generator, in evaluation mode, with the images of ``data``.

    Classes are drawn as often as ``data`` has them, z from N(0, 1) by a random number generator of its own; samples
    are rounded to 8 bits as a picture file would hold them. The caller's random state and the generator's mode are
    left as they were.

    Args:
        features: "classifier", "efficientnet" or "inception"; see features.py.
        num_samples: None means as many as ``data`` has, at most 50,000.
        cache: folder for the classifier and the real statistics; None means ``sagan_base.data.default_cache()``.
        weights: file of the extractor's weights, where it does not come by itself.
        reference: images to compare with instead, of the same classes; a classifier is still that of ``data``.
    Returns:
        The values are {"FD (LABEL)", "IS-style (LABEL)", "KID (LABEL)", "precision (LABEL)", "recall (LABEL)"}, with
        "FID", "IS" and "KID" for Inception.
    Raises:
        ValueError: fewer than 10 samples, data of another size than the generator's images, no such features.
    """
    reference = data if reference is None else reference
    num_samples = _checked_samples(reference, num_samples, generator)
    device = next(generator.parameters()).device
    choice, extractor, real = _prepared(data, features, cache, weights, device, batch_size, progress, reference)
    labels = class_frequency_labels(reference, num_samples, seed)
    with GeneratedImages(generator, labels, seed, batch_size, progress) as samples:
        return _compared(extract(samples, extractor, batch_size), choice, labels, real)


def evaluate_images(
    images: ImageData,
    data: ImageData,
    features: str = "classifier",
    batch_size: int = 64,
    cache: Path | None = None,
    weights: Path | None = None,
    progress: bool = True,
    reference: ImageData | None = None,
) -> Evaluation:
    """``evaluate`` with real images in the place of samples: the floor below which no generator should be expected."""
    choice, extractor, real = _prepared(data, features, cache, weights, "cpu", batch_size, progress, reference)
    with RealImages(images, batch_size, progress) as shown:
        labels = images.labels[evenly_spaced(len(images), MOST_REAL_IMAGES)]
        return _compared(extract(shown, extractor, batch_size), choice, labels, real)


def _compared(found: dict[str, Tensor], choice: FeatureChoice, labels: Tensor, real: RealStatistics) -> Evaluation:
    measured, logits = (found[layer] for layer in choice.layers)
    values = {column(name, choice.label): value for name, value in measures(measured, logits, real).items()}
    return Evaluation(values, measured, labels, real)


def within_class_spread(features: Tensor, labels: Tensor) -> float:
    """Mean Euclidean distance of two images of a class, averaged over the classes that have two.

    Beside the same of real images it tells how much of their variety a generator has: 0 where each class is one image.

    Args:
        features: float [N, d].
        labels: int64 [N].
    """
    of_classes = (features[labels == label] for label in labels.unique())
    return float(torch.stack([F.pdist(some).mean() for some in of_classes if len(some) > 1]).mean())


def check_evaluation(
    data: ImageData,
    features: str,
    num_samples: int | None = None,
    weights: Path | None = None,
    generator: Generator | None = None,
    cache: Path | None = None,
    device: torch.device | str = "cpu",
    reference: ImageData | None = None,
) -> None:
    """Refuse before any work what ``evaluate`` would refuse, by doing the part of it that needs no samples.

    So the classifier is trained and the real statistics are measured now, where the cache lacks them.

    Raises:
        ValueError: as ``evaluate``.
    """
    _checked_samples(data if reference is None else reference, num_samples, generator)
    _prepared(data, features, cache, weights, device, reference=reference)


def _prepared(
    data: ImageData,
    features: str,
    cache: Path | None,
    weights: Path | None,
    device: torch.device | str,
    batch_size: int = 64,
    progress: bool = True,
    reference: ImageData | None = None,
) -> tuple[FeatureChoice, FeatureExtractorBase, RealStatistics]:
    """What samples are measured with; raises ValueError where the real images have no statistics to compare with."""
    cache = Path(cache) if cache else default_cache()
    choice = choose_features(features, data, cache, weights)
    extractor = choice.create(device)
    real = real_statistics(data if reference is None else reference, choice, extractor, cache, batch_size, progress)
    if not real.covariance.isfinite().all():
        raise ValueError(f"the features of {data.name} are not finite: are its images all alike? Give more, or others")
    return choice, extractor, real


def _checked_samples(data: ImageData, num_samples: int | None, generator: Generator | None) -> int:
    """How many samples are drawn."""
    if len(data) < FEWEST:
        raise ValueError(f"{data.name} has {len(data)} images, too few to compare anything with; give {FEWEST} or more")
    num_samples = min(len(data), MOST_REAL_IMAGES) if num_samples is None else num_samples
    if num_samples < FEWEST:
        raise ValueError(f"num_samples={num_samples} is too few to estimate anything; use 500 or more")
    if generator is None:
        return num_samples
    if generator.resolution != data.resolution:
        raise ValueError(
            f"the generator makes {generator.resolution}x{generator.resolution} images, {data.name} was loaded at "
            f"{data.resolution}x{data.resolution}; load the data at the generator's size"
        )
    if generator.num_classes not in (1, data.num_classes):
        raise ValueError(
            f"the generator has {generator.num_classes} classes, {data.name} has {data.num_classes}; "
            "evaluate on the data it was trained on"
        )
    return num_samples


def measures(features: Tensor, logits: Tensor, real: RealStatistics) -> dict[str, float]:
    """The five measures by torch-fidelity from features [N, d] and logits [N, k] of generated images.

    IS uses one split a thousand samples, from 1 to 10. KID is the mean over 100 random subsets of at most 1000
    images (half of the smaller set where that is less), precision and recall use 3 neighbours.
    """
    statistics = {"mu": real.mean.numpy(), "sigma": real.covariance.numpy()}
    distance = fid_statistics_to_metric(_mean_and_covariance(features), statistics, verbose=False)
    splits = min(10, max(1, len(logits) // 1000))
    score = isc_features_to_metric(logits, splits=splits, shuffle=True)
    some, some_real = features[evenly_spaced(len(features), MOST_COMPARED)], real.features
    subset = min(1000, len(some) // 2, len(some_real) // 2)
    kernel = kid_features_to_metric(
        some.double(), some_real.double(), kid_subsets=100, kid_subset_size=subset, verbose=False
    )
    neighbours = prc_features_to_metric(some, some_real, prc_neighborhood=3, save_cpu_ram=True, verbose=False)
    return {
        "FD": distance["frechet_inception_distance"],
        "IS-style": score["inception_score_mean"],
        "KID": kernel["kernel_inception_distance_mean"],
        "precision": neighbours["precision"],
        "recall": neighbours["recall"],
    }


def real_statistics(
    data: ImageData,
    choice: FeatureChoice,
    extractor: FeatureExtractorBase,
    cache: Path,
    batch_size: int = 64,
    progress: bool = True,
) -> RealStatistics:
    """Statistics of the real images, kept in ``cache`` under a hash of the data, the resize rule and the extractor."""
    parts = (data.fingerprint, RESIZE_RULE, choice.fingerprint(), MOST_REAL_IMAGES, MOST_COMPARED)
    key = hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
    path = cache / "statistics" / f"{data.name[:40]}-{choice.registered}-{key}.safetensors"

    def make() -> None:
        with RealImages(data, batch_size, progress) as images:
            features = extract(images, extractor, batch_size)[choice.layers[0]]
        moments = _mean_and_covariance(features)
        tensors = {
            "mean": torch.from_numpy(moments["mu"]),
            "covariance": torch.from_numpy(moments["sigma"]),
            "features": features[evenly_spaced(len(features), MOST_COMPARED)],
        }
        write_tensors(path, tensors, {})

    return kept(path, lambda path: RealStatistics(**read_tensors(path)[0]), make)


class RealImages(Dataset[Tensor]):
    """The images of a data set, at most ``MOST_REAL_IMAGES`` evenly spaced ones, as uint8 [3, R, R]."""

    def __init__(self, data: ImageData, batch_size: int, progress: bool = True):
        self._images = data.images
        self._index = evenly_spaced(len(data), MOST_REAL_IMAGES).tolist()
        self._bar = tqdm(total=len(self), unit="image", desc="real features", leave=False, disable=not progress)

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, i: int) -> Tensor:
        self._bar.update(i >= self._bar.n)
        return self._images[self._index[i]].expand(3, -1, -1).cpu()

    def __enter__(self) -> "RealImages":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()


@torch.no_grad()
def extract(images: Dataset[Tensor], extractor: FeatureExtractorBase, batch_size: int) -> dict[str, Tensor]:
    """Each layer's features float32 [N, d] on the CPU; the caller's random state is left as it was."""
    cuda = next(extractor.parameters()).is_cuda
    with torch.random.fork_rng(devices=[]):  # a DataLoader draws a number
        return get_featuresdict_from_dataset(images, extractor, batch_size, cuda, save_cpu_ram=True, verbose=False)


def _mean_and_covariance(features: Tensor) -> dict[str, np.ndarray]:
    return fid_features_to_statistics(features.double())

