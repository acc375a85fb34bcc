"""Images per second of a whole training step, sparse against dense attention, and what attention costs in it.

Question: how much of a SAGAN's training time is attention, and how much of that does the sparse layer save?
A step is one discriminator and one generator update with Adam and the moving average, on images that are in memory.
The share of attention is measured by leaving it out: 1 - (time without attention layers) / (time with them). The cases
take turns, one step each, and are compared round by round (timing.py); on a CPU one thread runs and its time counts.

    python benchmarks/training.py                                   # 32x32, a minute or two on a CPU
    python benchmarks/training.py --resolution 128 --width 64 --batch-size 64 --precision bfloat16   # a GPU
"""

import argparse
import itertools
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sagan_base.cli import Parser, command, find_device, usage_errors, writable_file

import pandas as pd
import torch
from timing import described, in_turns, quartiles
from tqdm import tqdm

from sagan_base.config import AttentionConfig, ModelConfig, Recipe, RunConfig, TrainConfig
from sagan_base.data import ImageData
from sagan_base.distributed import Processes
from sagan_base.files import write_json
from sagan_base.provenance import provenance
from sagan_base.tables import text
from sagan_base.updates import Updates

NUM_CLASSES = 10


@dataclass(frozen=True)
class Case:
    """``backend`` as in ``ylg.sparse_attention``; None as ``attention`` is a network without such layers."""

    name: str
    attention: AttentionConfig | None
    backend: str = "auto"


CASES = (
    Case("no attention", None),
    Case("dense, 1 head (SAGAN)", AttentionConfig(pattern="dense", num_heads=1)),
    Case("dense, 8 heads", AttentionConfig(pattern="dense", num_heads=8)),
    Case("LTR + RTL, 8 heads (YLG)", AttentionConfig(pattern="ltr_rtl", num_heads=8)),
    Case("LTR + RTL by masking dense", AttentionConfig(pattern="ltr_rtl", num_heads=8), backend="reference"),
)


def build(case: Case, precision: str, options: argparse.Namespace, device: torch.device) -> Updates:
    """Networks and optimisers of a case, and noise for images."""
    model = ModelConfig(
        resolution=options.resolution,
        num_classes=NUM_CLASSES,
        generator_width=options.width,
        discriminator_width=options.width,
        attention=case.attention,
    )
    training = TrainConfig(precision=precision, channels_last=options.channels_last, compile=options.compile)
    config = RunConfig(model, Recipe(batch_size=options.batch_size), training, "noise")
    count = 4 * options.batch_size
    images = torch.randint(256, (count, 3, model.resolution, model.resolution), dtype=torch.uint8, device=device)
    labels = torch.arange(count, device=device) % NUM_CLASSES
    data = ImageData("noise", images, labels, tuple(map(str, range(NUM_CLASSES))), fingerprint="noise")
    updates = Updates(config, Processes(0, 1, device), lambda index: data.batch(index, device), count)
    for network in (updates.generator, updates.discriminator):
        for layer in network.attention_layers().values():
            layer.backend = case.backend
    return updates


def measure(options: argparse.Namespace, device: torch.device) -> list[dict[str, object]]:
    """One row per precision and case."""
    if options.compile:  # the cases share their code, and beyond the limit a network would run uncompiled
        torch._dynamo.config.recompile_limit = 8 * len(CASES) * len(options.precision)
    steps = {}
    for precision in options.precision:
        for case in CASES:
            updates, count = build(case, precision, options, device), itertools.count(1)
            steps[precision, case.name] = lambda updates=updates, count=count: updates.step(next(count))
    for step in tqdm(list(steps.values()) * options.warmup, desc="warming up", unit="step"):
        step()
    times = in_turns(steps, device, options.steps)
    return [
        {"precision": precision, "case": case} | figures(taken, times[precision, CASES[0].name], options.batch_size)
        for (precision, case), taken in times.items()
    ]


def figures(taken: list[float], without: list[float], batch_size: int) -> dict[str, object]:
    """Of the seconds of a case's steps and those of the network without attention, round by round.

    The share of attention compares the two steps of each round, which ran one after the other: what slows a whole
    round down cancels. Its quartiles say how far to trust it.
    """
    low, share, high = quartiles(1 - w / t for w, t in zip(without, taken, strict=True))
    median = statistics.median(taken)
    return {
        "milliseconds": 1e3 * median,
        "images_per_second": batch_size / median,
        "share_of_attention": share,
        "share_quartiles": [low, high],
    }


def summary(rows: Sequence[dict[str, object]]) -> list[dict[str, object]]:
    """The lines that a reader sees."""
    return [
        {
            "network": row["case"],
            "precision": row["precision"],
            "milliseconds": row["milliseconds"],
            "images/s": row["images_per_second"],
            "attention's share (quartiles)": "{:.0%} ({:.0%} to {:.0%})".format(
                row["share_of_attention"], *row["share_quartiles"]
            ),
        }
        for row in rows
    ]


@command()
def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser("python benchmarks/training.py", __doc__.split("\n\n")[0])
    parser.add_argument("--resolution", type=int, default=32, help="side of the images (default: 32)")
    parser.add_argument("--width", type=int, default=32, help="channels of both networks' widest map (default: 32)")
    parser.add_argument("--batch-size", type=int, default=16, help="images per update (default: 16)")
    parser.add_argument("--steps", type=int, default=10, help="measured steps of each case (default: 10)")
    parser.add_argument("--warmup", type=int, default=3, help="steps before that (default: 3)")
    parser.add_argument(
        "--precision", nargs="+", default=["float32"], help="float32, bfloat16 or both (default: float32)"
    )
    parser.add_argument("--channels-last", action="store_true", help="memory layout")
    parser.add_argument("--compile", action="store_true", help="torch.compile both networks")
    parser.add_argument("--device", help="cpu or cuda (default: a GPU where there is one)")
    parser.add_argument("--out", type=Path, help="write the figures, with versions and machine, to this JSON file")
    options = parser.parse_args(argv)
    with usage_errors():
        if options.steps < 2 or options.warmup < 1:
            raise ValueError(f"--steps {options.steps} --warmup {options.warmup}: use at least two steps after one")
        device = find_device(options.device)
        for precision in options.precision:
            build(CASES[0], precision, options, device)
        if options.out is not None:
            writable_file("--out", options.out)
    if device.type == "cpu":
        torch.set_num_threads(1)
    rows = measure(options, device)
    shown = summary(rows)
    size = f"{options.resolution}x{options.resolution}, width {options.width}, batch {options.batch_size}"
    print(f"{size}, {described(device)}\n{text(pd.DataFrame(shown))}")
    if options.out is not None:
        settings = {name: value for name, value in vars(options).items() if name not in ("out", "device")}
        origin = {"settings": settings, "device": device.type, **provenance()}
        write_json(options.out, {**origin, "summary": shown, "rows": rows})
        print(f"written to {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
