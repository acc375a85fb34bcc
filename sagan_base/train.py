"""Train a SAGAN: ``python -m sagan_base.train --data digits --resolution 32 --steps 2000``.

The same command goes on with a run that was stopped, and under ``torchrun --nproc-per-node N -m sagan_base.train``
it trains on N GPUs. The run's folder holds config.json, metrics.jsonl, tensorboard/, samples/, samples.png,
checkpoints/ and, at the end, model.safetensors (for ``python -m sagan_base.sample``).
"""

import argparse
import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from sagan_base.cli import CACHE_HELP, Parser, command, find_device, shared_option, usage_errors, writable_folder

from sagan_base.attention_health import logged_health, verdict
from sagan_base.blocks import check_attention
from sagan_base.checkpoint import read_checkpoint
from sagan_base.config import ModelConfig, RunConfig
from sagan_base.data import ImageData, load_data
from sagan_base.distributed import Processes, processes
from sagan_base.generator import Generator
from sagan_base.init_from import Start
from sagan_base.metrics.evaluate import check_evaluation, evaluate
from sagan_base.metrics.features import FEATURES, features_label
from sagan_base.metrics.names import column
from sagan_base.models import find_model
from sagan_base.options import add_config_options, config_from_options
from sagan_base.run_folder import SAMPLES_FILE
from sagan_base.training import TrainingInterrupted, TrainingRun, TrainingStopped, TrainResult


def build_parser() -> argparse.ArgumentParser:
    """Every option of the command."""
    parser = Parser(
        "python -m sagan_base.train",
        "Train a SAGAN with sparse or dense attention. The same command resumes a run that was stopped.",
    )
    parser.epilog = (
        "The defaults are the paper's network for ImageNet and made for GPUs. For other data or a CPU give at "
        "least --resolution, the two widths, --batch-size and --steps; docs/guide.md has a run for two CPU cores."
    )
    shared_option(parser, "--data", "digits, folder:PATH, ... (default: digits)", default="digits")
    shared_option(parser, "--out", "the run's folder (default: runs/DATA-HASH, HASH of the configuration)")
    shared_option(parser, "--device")
    shared_option(parser, "--cache", CACHE_HELP)
    parser.add_argument("--features", choices=FEATURES, metavar="NAME", help=f"evaluate on them: {', '.join(FEATURES)} "
                        "(default: no evaluation)")  # fmt: skip
    shared_option(parser, "--inception-weights", "for --features inception")
    shared_option(parser, "--num-samples", "of an evaluation (default: as many as data)")
    parser.add_argument(
        "--init-from", type=Path, metavar="MODEL", help="start from the weights of a .safetensors file, a run's folder "
        "or a shipped model, also of other data, classes or resolution (see sagan_base/init_from.py)"
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="print the configuration as JSON and stop")
    add_config_options(parser)
    return parser


@command()
def main(argv: list[str] | None = None) -> int:
    """Run the command; returns its exit code: 0, 1 (the run had to stop), 130 or 143 (it was asked to)."""
    arguments = build_parser().parse_args(argv)
    with usage_errors():
        find_device(arguments.device)
    with processes(arguments.device) as group:
        with usage_errors():
            run = _prepare(arguments, group)
        if run is None:
            return 0
        try:
            result = run.train()
        except (TrainingStopped, TrainingInterrupted) as stop:
            if group.is_first:
                print(stop, file=sys.stderr)
            return stop.exit_code
        if group.is_first:
            print(summary(result))
        return 0


def _prepare(arguments: argparse.Namespace, group: Processes) -> TrainingRun | None:
    """Everything that can be wrong with the options; None after a dry run."""
    if arguments.features is None and (
        arguments.inception_weights or arguments.num_samples is not None or "metrics_every" in arguments
    ):
        raise ValueError(
            f"--metrics-every, --num-samples and --inception-weights need --features; give one of {FEATURES}"
        )
    check_attention(config_from_options(arguments, arguments.data).model)  # bad values, before the data is read
    if arguments.cache is not None and group.is_first:
        writable_folder("--cache", arguments.cache)
    resolution = getattr(arguments, "resolution", ModelConfig.resolution)
    with group.first_before_others():
        data = load_data(arguments.data, resolution, getattr(arguments, "image_channels", None), cache=arguments.cache)
    config = config_from_options(arguments, arguments.data, image_channels=data.channels, num_classes=data.num_classes)
    start = None
    if arguments.init_from is not None:
        start = Start(read_checkpoint(find_model(arguments.init_from)), data.class_names)
        config = replace(config, init_from=str(start))
    if arguments.dry_run:
        if group.is_first:
            print(json.dumps(config.to_dict(), indent=2))
        return None
    out = arguments.out or default_folder(config)
    measured = arguments.features and column("FD", features_label(arguments.features, data))
    run = TrainingRun(config, data, out, group, _evaluation(arguments, data), evaluated_as=measured, start=start)
    if group.is_first:
        writable_folder("--out", out, keep=False)
        if arguments.features is not None:  # process 0 alone evaluates
            check_evaluation(data, arguments.features, arguments.num_samples, arguments.inception_weights,
                             cache=arguments.cache, device=group.device)  # fmt: skip
        where = f"{group.count} processes, " if group.count > 1 else ""
        print(f"{data.describe()}\nrun: {out}, {where}{group.device.type}, {parameters(run)}", flush=True)
        if run.started:
            print(f"starting from {start}\n{run.started}", flush=True)
    return run


def _evaluation(arguments: argparse.Namespace, data: ImageData) -> Callable[[Generator, int], dict[str, float]] | None:
    if arguments.features is None:
        return None
    return lambda generator, step: (
        evaluate(
            generator,
            data,
            arguments.features,
            num_samples=arguments.num_samples,
            cache=arguments.cache,
            weights=arguments.inception_weights,
        ).values
    )


def default_folder(config: RunConfig) -> Path:
    """``runs/DATA-HASH``: the hash leaves out the number of steps, so that a longer run continues the shorter one."""
    name = re.sub(r"[^A-Za-z0-9.]+", "-", config.data.rstrip("/").rsplit("/", 1)[-1]).strip("-")
    return Path("runs") / f"{name}-{config.config_hash(with_steps=False)}"


def parameters(run: TrainingRun) -> str:
    """The sizes of the networks, for a person."""
    networks = {"generator": run.updates.generator, "discriminator": run.updates.discriminator}
    counts = {name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()}
    return "; ".join(f"{name} {count:,} parameters" for name, count in counts.items())


def summary(result: TrainResult) -> str:
    """What a person wants to know at the end."""
    done = "was finished already" if result.resumed_from == result.steps else "finished"
    shown = {name: value for name, value in result.metrics.items() if name not in ("step", "seconds")}
    width = max(map(len, shown), default=0)
    return "\n".join(
        [
            f"{done}: {result.steps:,} steps in {result.seconds:.0f} s of training, "
            f"{result.images_per_second:.0f} images/s",
            *(f"  {name:{width}}  {value:.4g}" for name, value in shown.items()),
            verdict(logged_health(result.metrics)),
            f"samples: {result.out / SAMPLES_FILE}",
            f"model:   {result.model}",
            f"more:    python -m sagan_base.sample {result.model} --sheet sheet.png",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
