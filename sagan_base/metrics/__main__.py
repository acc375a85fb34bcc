"""Measure a trained model: ``python -m sagan_base.metrics RUN``.

Prints the five measures of evaluate.py for each kind of features, the spread within classes, and class accuracies. With
``--untrained`` the same network with its initial weights stands beside it, to see how far training got; with
``--held-out`` images that training never saw are what samples are compared with, and other such images stand beside
the samples: the floor.
"""

import argparse
import hashlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sagan_base.cli import (
    CACHE_HELP,
    Parser,
    command,
    find_device,
    shared_option,
    usage_errors,
    writable_file,
    writable_folder,
)

from torch import nn

from sagan_base.checkpoint import build_networks, model_file, network_of, read_checkpoint
from sagan_base.data import ImageData, default_cache, load_data
from sagan_base.files import write_json
from sagan_base.generator import Generator
from sagan_base.images import halves
from sagan_base.metrics.class_accuracy import (
    CLASS_ACCURACY,
    JUDGED,
    class_accuracy,
    judged_accuracy,
    svm_accuracy,
    train_svm,
)
from sagan_base.metrics.classifier import (
    check_classifier_data,
    classifier_accuracy,
    classifier_for,
    judge_config,
    load_classifier,
)
from sagan_base.metrics.evaluate import check_evaluation, evaluate, evaluate_images, within_class_spread
from sagan_base.metrics.features import FEATURES, features_label
from sagan_base.metrics.names import column
from sagan_base.provenance import provenance
from sagan_base.trained_on import in_class_order, warn_of_other_data


def build_parser() -> argparse.ArgumentParser:
    """Every option of the command."""
    parser = Parser("python -m sagan_base.metrics", "Measure samples of a trained model against the real images.")
    parser.add_argument("checkpoint", type=Path, help="a .safetensors file of a run, or the run's folder")
    shared_option(parser, "--data", "digits, folder:PATH, ... (default: what it was trained on)")
    parser.add_argument(
        "--features",
        nargs="+",
        choices=FEATURES,
        metavar="NAME",
        default=["classifier"],
        help="classifier (trained on the data itself; default), efficientnet, inception",
    )
    shared_option(parser, "--inception-weights", "torch-fidelity's Inception weights; adds --features inception")
    shared_option(parser, "--num-samples", "default: as many as there are real images, at most 50,000")
    shared_option(parser, "--seed", "of the samples (default: 0)", default=0)
    shared_option(parser, "--batch-size", "images at once (default: 64)", default=64)
    parser.add_argument(
        "--held-out",
        nargs="?",
        const="",
        metavar="SPEC",
        help="compare with one half of these images instead, and measure the other half as the floor; without SPEC the "
        "data's own test split",
    )
    parser.add_argument("--judge", action="store_true", help="class accuracy by a residual network too, trained once "
                        "on the data (half an hour of one core for CIFAR-10)")  # fmt: skip
    parser.add_argument("--untrained", action="store_true", help="measure the network's initial weights too")
    shared_option(parser, "--cache", CACHE_HELP)
    told = "write the figures there too, with the SHA-256 of the weights"
    parser.add_argument("--json", type=Path, metavar="FILE", help=told)
    shared_option(parser, "--device")
    return parser


@command()
def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    arguments = build_parser().parse_args(argv)
    if arguments.inception_weights and "inception" not in arguments.features:
        arguments.features = [*arguments.features, "inception"]
    weights = {"inception": arguments.inception_weights}
    with usage_errors():
        if arguments.cache:
            writable_folder("--cache", arguments.cache)
        checkpoint = read_checkpoint(model_file(arguments.checkpoint), ("ema", "discriminator"))
        config, info = checkpoint.config, checkpoint.info
        trained, _ = (network_of(checkpoint, part) for part in ("ema", "discriminator"))  # a model is whole, or refused
        spec, channels = arguments.data or config.data, config.model.image_channels
        data = load_data(spec, trained.resolution, channels, cache=arguments.cache)
        data = in_class_order(data, info, trained.num_classes)
        reference = floor = None
        if arguments.held_out is not None:
            split = "train" if arguments.held_out else "test"  # of a data set named anew all images are held out
            held_out = _held_out(arguments.held_out or spec, split, data, info, arguments.cache)
            if held_out.fingerprint == data.fingerprint:
                raise ValueError(
                    f"--held-out {arguments.held_out or spec} holds the very images of the training data; give others"
                )
            reference, floor = halves(held_out)
        if arguments.judge:
            check_classifier_data(data)
            if trained.num_classes == 1:
                raise ValueError("--judge asks for the class of samples, but the model is unconditional; leave it out")
        device = find_device(arguments.device)
        if arguments.json:
            writable_file("--json", arguments.json)
        for name in arguments.features:
            check_evaluation(
                data, name, arguments.num_samples, weights.get(name), trained, arguments.cache, device, reference
            )
    print(data.describe(), file=sys.stderr)
    warn_of_other_data(data, info)
    measured: dict[str, Generator | ImageData] = {"trained": trained.to(device)}
    if arguments.untrained:
        measured["untrained"] = build_networks(config)[0].to(device)
    if floor is not None:
        measured["real"] = floor
    judge = None
    if arguments.judge:
        judge, _ = load_classifier(classifier_for(data, arguments.cache or default_cache(), judge_config(data)))
    figures = {column: _measure(what, data, reference, judge, arguments) for column, what in measured.items()}
    print(_table(figures))
    if floor is not None:
        print(f"(compared with {len(reference):,} held-out images; real: {len(floor):,} other ones)")
    elif CLASS_ACCURACY in figures["trained"]:
        print(_reference(spec, data, info, arguments.cache))
    if arguments.json:
        weights_file = hashlib.sha256(model_file(arguments.checkpoint).read_bytes()).hexdigest()
        write_json(arguments.json, {**figures, "weights": weights_file, "provenance": provenance(arguments.seed)})
    return 0


def _measure(
    what: Generator | ImageData,
    data: ImageData,
    reference: ImageData | None,
    judge: nn.Module | None,
    arguments: argparse.Namespace,
) -> dict[str, float]:
    """Every figure of a generator's samples, or of real images in their place."""
    values, real = {}, isinstance(what, ImageData)
    common = {"batch_size": arguments.batch_size, "cache": arguments.cache, "reference": reference}
    for name in arguments.features:
        weights = arguments.inception_weights if name == "inception" else None
        found = (
            evaluate_images(what, data, name, weights=weights, **common)
            if real
            else evaluate(what, data, name, arguments.num_samples, arguments.seed, weights=weights, **common)
        )
        values |= found.values
        if what.num_classes > 1:
            label = column("within-class spread", features_label(name, data))
            values[label] = within_class_spread(found.features, found.labels)
    if data.num_classes > 1 and what.num_classes == data.num_classes:
        values[CLASS_ACCURACY] = (
            svm_accuracy(train_svm(data), what) if real else class_accuracy(what, data, seed=arguments.seed)
        )
    if judge is not None:
        values[JUDGED] = (
            classifier_accuracy(judge, what) if real else judged_accuracy(judge, what, found.labels, arguments.seed)
        )
    return values


def _held_out(spec: str, split: str, data: ImageData, info: Mapping[str, Any], cache: Path | None) -> ImageData:
    """Images that training never saw, their classes numbered as the model's."""
    held_out = load_data(spec, data.resolution, data.channels, split=split, cache=cache)
    return in_class_order(held_out, info, data.num_classes)


def _table(figures: dict[str, dict[str, float]]) -> str:
    """A row a measure, a column a generator."""
    names = list(figures["trained"])
    width = max(len(name) for name in names)
    rows = [f"{'':{width}} " + "".join(f"{column:>12}" for column in figures)]
    rows += [f"{name:{width}} " + "".join(f"{values[name]:12.4f}" for values in figures.values()) for name in names]
    return "\n".join(rows)


def _reference(spec: str, data: ImageData, info: Mapping[str, Any], cache: Path | None) -> str:
    """What the support vector machine reaches on real images, without which its verdict on samples says little."""
    try:
        held_out = _held_out(spec, "test", data, info, cache)
    except ValueError as error:
        return f"(the machine's accuracy on real images is unknown: {error})"
    share = svm_accuracy(train_svm(data), held_out)
    return f"(of {len(held_out):,} held-out real images the machine names the class of {share:.1%})"


if __name__ == "__main__":
    raise SystemExit(main())
