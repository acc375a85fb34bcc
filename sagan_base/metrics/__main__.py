"""Measure a trained model: ``python -m sagan_base.metrics RUN``.

Prints the five measures of evaluate.py for each kind of features, and the class accuracy of class_accuracy.py. With
``--untrained`` the same network with its initial weights stands beside it, to see how far training got.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sagan_base.checkpoint import build_networks, load_checkpoint, model_file, read_checkpoint
from sagan_base.cli import Parser, command, find_device, usage_errors, writable_file, writable_folder
from sagan_base.data import ImageData, load_data
from sagan_base.files import write_json
from sagan_base.generator import Generator
from sagan_base.metrics.class_accuracy import CLASS_ACCURACY, class_accuracy, svm_accuracy, train_svm
from sagan_base.metrics.evaluate import check_evaluation, evaluate
from sagan_base.metrics.features import FEATURES
from sagan_base.trained_on import in_class_order, warn_of_other_data


def build_parser() -> argparse.ArgumentParser:
    """Every option of the command."""
    parser = Parser("python -m sagan_base.metrics", "Measure samples of a trained model against the real images.")
    parser.add_argument("checkpoint", type=Path, help="a .safetensors file of a run, or the run's folder")
    parser.add_argument("--data", metavar="SPEC", help="digits, folder:PATH, ... (default: what it was trained on)")
    parser.add_argument(
        "--features",
        nargs="+",
        choices=FEATURES,
        metavar="NAME",
        default=["classifier"],
        help="classifier (trained on the data itself; default), efficientnet, inception",
    )
    parser.add_argument("--inception-weights", type=Path, metavar="FILE", help="torch-fidelity's Inception weights; "
                        "adds --features inception")  # fmt: skip
    parser.add_argument(
        "--num-samples", type=int, metavar="N", help="default: as many as there are real images, at most 50,000"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the samples (default: 0)")
    parser.add_argument("--batch-size", type=int, default=64, metavar="N", help="images at once (default: 64)")
    parser.add_argument("--untrained", action="store_true", help="measure the network's initial weights too")
    parser.add_argument("--cache", type=Path, metavar="DIR", help="for classifiers and statistics of real images "
                        "(default: $YLG_CACHE, or ylg in the user's cache folder)")  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: a GPU where there is one)")
    return parser


@command()
def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    arguments = build_parser().parse_args(argv)
    if arguments.inception_weights and "inception" not in arguments.features:
        arguments.features = [*arguments.features, "inception"]
    weights = {"inception": arguments.inception_weights}
    with usage_errors():
        if arguments.batch_size < 1:
            raise ValueError(f"--batch-size {arguments.batch_size} is not positive")
        if arguments.cache:
            writable_folder("--cache", arguments.cache)
        trained, _, config = load_checkpoint(arguments.checkpoint)
        info = read_checkpoint(model_file(arguments.checkpoint), ()).info
        spec, channels = arguments.data or config.data, config.model.image_channels
        data = load_data(spec, trained.resolution, channels, cache=arguments.cache)
        data = in_class_order(data, info, trained.num_classes)
        for name in arguments.features:
            check_evaluation(data, name, arguments.num_samples, weights.get(name), trained)
        device = find_device(arguments.device)
        if arguments.json:
            writable_file("--json", arguments.json)
    print(data.describe(), file=sys.stderr)
    warn_of_other_data(data, info)
    generators = {"trained": trained}
    if arguments.untrained:
        generators["untrained"] = build_networks(config)[0]
    figures = {column: _measure(g.to(device), data, arguments) for column, g in generators.items()}
    print(_table(figures))
    if CLASS_ACCURACY in figures["trained"]:
        print(_reference(spec, data, info, arguments.cache))
    if arguments.json:
        write_json(arguments.json, figures)
    return 0


def _measure(generator: Generator, data: ImageData, arguments: argparse.Namespace) -> dict[str, float]:
    values = {}
    for name in arguments.features:
        weights = arguments.inception_weights if name == "inception" else None
        values |= evaluate(
            generator, data, name, arguments.num_samples, arguments.seed, arguments.batch_size, arguments.cache, weights
        ).values
    if data.num_classes > 1 and generator.num_classes == data.num_classes:
        values[CLASS_ACCURACY] = class_accuracy(generator, data, seed=arguments.seed)
    return values


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
        held_out = load_data(spec, data.resolution, data.channels, split="test", cache=cache)
        held_out = in_class_order(held_out, info, data.num_classes)
    except ValueError as error:
        return f"(the machine's accuracy on real images is unknown: {error})"
    share = svm_accuracy(train_svm(data), held_out)
    return f"(of {len(held_out):,} held-out real images the machine names the class of {share:.1%})"


if __name__ == "__main__":
    raise SystemExit(main())
