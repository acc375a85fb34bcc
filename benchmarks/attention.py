"""Attention, ours against every peer that runs here, each at its best: time, memory, exactness, growth with the grid.

    python benchmarks/attention.py                                  every case, on a CPU about a quarter of an hour
    python benchmarks/attention.py --cases grid-32 grid-64 --device cpu

Three ratios answer three questions: against the same masks applied to dense attention, against as many dense heads,
and against one dense head of the same channels, which is what SAGAN has. Each is against the fastest way to run that
peer, which the table names. On a CPU scaled_dot_product_attention (SDPA) has a fused path only where queries, keys
and values share one head dim and a mask has four axes, so every peer runs padded and unpadded, and masks are given
with three axes, with four, and as numbers to be added. Beside SDPA stand plain operators, softmax between two
products (under torch.compile one head took 0.9 to 1.1 of their time, and eight heads 1.7 times that of SDPA and more,
but at 16x16), and the same masks by gathering the keys of every query.

Methods of a case take turns on the same inputs and are compared round by round (timing.py); on a CPU one thread
runs, since the CPU time of several would count their waiting. What a method keeps between calls (plans, masks) is
counted as memory beside the peak of a call. Before it is timed, every method is checked in float64 against softmax
by its definition. One that would need more than --memory by arithmetic is not run, nor one that by its time on an
earlier case would take more than --limit seconds a call, or HOPELESS times as long as another way to the same; the
table says so.

Prints a table; writes it as JSON, and a plot of time against the number of queries, to --out.
"""

from __future__ import annotations

import gc
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from sagan_base.cli import Parser, command, find_device, usage_errors, writable_file

import numpy as np
import pandas as pd
import torch
from cases import CASES, ON_A_CPU, Case
from comparison import ONE_HEAD, OURS, growth, plot, summary, table
from methods import Candidate, Method, candidates
from timing import captured, copy_bandwidth, described, held_bytes, in_turns, peak_bytes, quartiles, ratios
from torch import Tensor

from sagan_base.files import write_json
from sagan_base.provenance import provenance
from sagan_base.tables import text
from sagan_base.typed import read_json, reading

RESULTS = Path("runs/benchmarks")  # those in benchmarks/results are what RESULTS.md quotes: replace them on purpose
HOPELESS = 2.5
TOLERANCE = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 1e-1}  # of the largest value; what is further off is wrong


def measure(
    name: str,
    case: Case,
    device: torch.device,
    rounds: int,
    budget: float,
    limit: float,
    memory: float,
    before: Sequence[dict] = (),
) -> list[dict]:
    """One row per method, the first of them ours with the first pattern: the one that the others are compared with.

    ``before`` are the rows of earlier cases, from which is predicted what takes too long.
    """
    given = {one_head: case.inputs(device, one_head) for one_head in (False, True)}
    *inputs, out = (x.nbytes for x in given[False])
    # Every input and output once: forward; with backward all of them again, and the gradients of the inputs
    traffic = sum(inputs) + out, 3 * sum(inputs) + 2 * out
    torch._dynamo.reset()  # its limit of recompilations would leave FlexAttention out of later cases
    ways, rows, steps = list(candidates(case, device)), [], {}
    predicted = {way: predicted_seconds(way, before) for way in ways if way.kind != OURS}
    for candidate in ways:
        row = {"case": name, **asdict(case), "kind": candidate.kind, "method": candidate.name}
        row |= {"pattern": candidate.pattern, "work": candidate.work}
        rows.append(row)
        if candidate.needs > memory:
            row["left_out"] = f"would need {candidate.needs / 1e9:.0f} GB, not run"
            continue
        if takes := predicted.get(candidate):
            others = [x for way, x in predicted.items() if way.kind == candidate.kind and x and way.needs <= memory]
            if takes > min(limit, HOPELESS * min(others)):
                row["left_out"] = f"predicted {takes:.2g} s a call, not run"
                continue
        *inputs, d_out = given[candidate.kind == ONE_HEAD]
        try:
            method = candidate.make()
            started = time.process_time()
            row |= errors(method, case, candidate, inputs, d_out)
            took = time.process_time() - started
            if took > limit and candidate.kind != OURS:
                row["left_out"] = f"takes {took:.0f} s a call"
                continue
            row["kept_mb"] = held_bytes(method) / 1e6
            for timed, step in passes(method, inputs, d_out if candidate.backward else None, device):
                row[f"{timed}_peak_mb"] = peak_bytes(step, device) / 1e6
                steps[len(rows) - 1, timed] = step
        except Exception as error:  # out of memory, no compiler, an unsupported size: each has a class of its own
            if isinstance(error, AssertionError) or candidate.kind == OURS:
                raise
            row["left_out"] = " ".join(["does not run here:", *str(error).strip().splitlines()[:1]])[:120]
            method = step = None
            gc.collect()
    for (index, timed), taken in (times := in_turns(steps, device, rounds, budget)).items():
        if (0, timed) in times:
            milliseconds = [1e3 * x for x in quartiles(taken)]
            rows[index] |= {f"{timed}_ms": milliseconds, f"{timed}_rounds": len(taken)}
            rows[index][f"{timed}_ratio"] = ratios(taken, times[0, timed])
            rows[index][f"{timed}_gb_per_s"] = traffic[timed.startswith("both")] / 1e6 / milliseconds[1]
    return rows


def predicted_seconds(way: Candidate, before: Sequence[dict]) -> float | None:
    """Of a call, from the last case in which this way ran."""
    for row in reversed(before):
        if (row["kind"], row["method"]) == (way.kind, way.name) and "forward_ms" in row:
            return row.get("both_ms", row["forward_ms"])[1] / 1e3 * way.work / row["work"]
    return None


def passes(method: Method, inputs: list[Tensor], d_out: Tensor | None, device: torch.device) -> Iterator[tuple]:
    """What is timed: forward, and with the gradient of the output both ways; on a GPU as CUDA graphs too."""

    def forward() -> Tensor:
        with torch.no_grad():
            return method(*inputs)

    found = {"forward": forward}
    if d_out is not None:
        found["both"] = lambda: torch.autograd.grad(method(*inputs), inputs, d_out)
    for timed, step in found.items():
        yield timed, step
        if device.type == "cuda" and (replay := captured(step)):
            yield f"{timed}_graph", replay


def errors(method: Method, case: Case, candidate: Candidate, inputs: list[Tensor], d_out: Tensor) -> dict[str, float]:
    """Largest errors of output and gradients, relative to the largest value; further off than rounding is refused.

    Of the first image, and at a few hundred queries: the gradient of other outputs is set to zero, so that the exact
    gradients are cheap on every grid, and still those of every key.
    """
    rows = torch.randperm(case.num_queries, generator=torch.Generator().manual_seed(0))[:256].to(d_out.device)
    some = torch.zeros_like(d_out)
    some[:1, :, rows] = d_out[:1, :, rows]
    one = [x[:1].detach().double().requires_grad_() for x in inputs]
    scores = one[0][:, :, rows] @ one[1].mT / math.sqrt(one[0].shape[-1])
    if candidate.pattern != "dense":
        allowed = np.stack([mask[rows.cpu().numpy()].toarray() for mask in case.masks(candidate.pattern)])
        scores = scores.masked_fill(~torch.from_numpy(allowed).to(scores.device), -math.inf)
    exact = scores.softmax(-1) @ one[2]
    expected = [exact, *torch.autograd.grad(exact, one, some[:1, :, rows].double())]
    with torch.set_grad_enabled(candidate.backward):
        out = method(*inputs)
    found = [out[:, :, rows], *(torch.autograd.grad(out, inputs, some) if candidate.backward else ())]
    off = [((x[:1] - y).abs().max() / y.abs().max()).item() for x, y in zip(found, expected, strict=False)]
    assert max(off) < TOLERANCE[case.dtype], f"{candidate.name} is wrong by {max(off):.1e} of the largest value"
    return {"error": off[0]} | ({"gradient_error": max(off[1:])} if candidate.backward else {})


def write(result: dict, stem: Path) -> None:
    """The JSON and, where there is growth to show, the plot."""
    slopes = {kind: slope for kind, (_, _, slope) in growth(result["rows"]).items() if slope is not None}
    write_json(stem.with_suffix(".json"), result | {"summary": summary(result["rows"]), "growth": slopes})
    if slopes:
        plot(result["rows"], result["device"], stem.with_suffix(".png"))


@command()
def main(argv: list[str] | None = None) -> int:
    parser = Parser("python benchmarks/attention.py", __doc__.split("\n\n")[0])
    parser.add_argument("--cases", nargs="+", metavar="CASE", help=f"of {', '.join(CASES)} (default: for the device)")
    parser.add_argument("--device", help="cpu or cuda (default: a GPU where there is one)")
    parser.add_argument("--rounds", type=int, default=9, help="in which all methods take turns (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=2, help="after which a way takes no more turns (default: 2)")
    parser.add_argument("--limit", type=float, default=25, help="seconds a call may take (default: %(default)s)")
    parser.add_argument("--memory", type=float, default=6, help="GB that a method may need (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of JSON and plot (default: %(default)s)")
    parser.add_argument("--name", help="file name of the results (default: attention-cpu or attention-GPU)")
    parser.add_argument("--redraw", type=Path, nargs="+", metavar="FILE", help="plot these JSON files again, and stop")
    options = parser.parse_args(argv)
    with usage_errors():
        for path in options.redraw or ():
            with reading(path):
                stored = read_json(path)
                print(table(stored["rows"]))
                write(stored, path.with_suffix(""))
        if options.redraw:
            return 0
        device = find_device(options.device)
        names = options.cases or (ON_A_CPU if device.type == "cpu" else list(CASES))
        unknown = [name for name in names if name not in CASES]
        if unknown:
            raise ValueError(f"unknown case {unknown[0]!r}; use some of {', '.join(CASES)}")
        if min(options.rounds, options.seconds, options.limit, options.memory) <= 0:
            raise ValueError(
                f"--rounds {options.rounds} --seconds {options.seconds:g} --limit {options.limit:g} --memory "
                f"{options.memory:g}: each must be above 0"
            )
        writable_file("--out", options.out / f"{options.name or 'attention'}.json")
    if device.type == "cpu":
        torch.set_num_threads(1)
    machine, bandwidth = described(device), copy_bandwidth(device) / 1e9
    result = {"device": machine, "copy_gb_per_s": bandwidth, **provenance(seed=0), "rows": []}
    print(f"{machine}; torch {torch.__version__}; copies at {bandwidth:.1f} GB/s")
    kind = "cpu" if device.type == "cpu" else machine.replace(" ", "-")
    stem = options.out / (options.name or f"attention-{kind}")
    for name in names:
        limits = options.rounds, options.seconds, options.limit, options.memory * 1e9
        rows = measure(name, CASES[name], device, *limits, result["rows"])
        print(f"\n{table(rows)}", flush=True)
        result["rows"] += rows
        write(result, stem)  # after each case: a large one may take minutes, and be stopped
    print(f"\nforward and backward:\n{text(pd.DataFrame(summary(result['rows'])))}\nwritten: {stem}.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
