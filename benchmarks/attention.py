"""Attention, ours against every peer that runs here: time, memory, bandwidth, exactness, and growth with the grid.

    python benchmarks/attention.py                                  every case that fits this machine
    python benchmarks/attention.py --cases grid-32 grid-64 --device cpu

All methods of a case run in one process, taking turns, on the same inputs; times are medians. A method that would
need more memory than there is, or longer than --limit a run, is left out of a case, and the table says so. Prints
a table; writes it as JSON, and a plot of time against the number of queries, to --out.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention
from torch.profiler import ProfilerActivity, profile

from sagan_base.cli import usage_errors, writable_folder
from sagan_base.files import atomic_write
from sagan_base.provenance import provenance
from ylg import AttentionPlan, attention_plan, sparse_attention, sparse_head_masks

RESULTS = Path("runs/benchmarks")  # those in benchmarks/results are what RESULTS.md quotes: replace them on purpose


@dataclass(frozen=True)
class Case:
    """One attention layer: queries on ``grid``, keys on half of it each way, 8 heads."""

    grid: int
    batch: int
    head_dim_qk: int = 4
    head_dim_v: int = 16
    pattern: str = "ltr_rtl"
    dtype: str = "float32"
    num_heads: int = 8


CASES = {
    "grid-16": Case(16, 8),
    "grid-32": Case(32, 8),
    "grid-64": Case(64, 8),
    "grid-128": Case(128, 1),
    "grid-256": Case(256, 1),
    "discriminator-32": Case(32, 8, 2, 8),
    "strided-32": Case(32, 8, pattern="strided"),
    "grid-32-batch-64": Case(32, 64),
    "grid-32-batch-64-bfloat16": Case(32, 64, dtype="bfloat16"),
}
GROWTH = ("grid-16", "grid-32", "grid-64", "grid-128", "grid-256")  # what the plot shows, per batch element

Method = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Peer:
    """A way to compute attention."""

    label: str
    make: Callable[[AttentionPlan, torch.device], Method]
    dense_bytes: bool  # does it keep a [queries, keys] array per head?
    computes: str  # "plan" or "dense": whether its result is that of the masks
    devices: tuple[str, ...] = ("cpu", "cuda")
    backward_on: tuple[str, ...] = ("cpu", "cuda")

    @property
    def grows_as_dense(self) -> bool:
        return self.dense_bytes or self.computes == "dense"


def _ours(backend: str) -> Callable[[AttentionPlan, torch.device], Method]:
    return lambda plan, device: lambda q, k, v: sparse_attention(q, k, v, plan, backend=backend)


def _sdpa(device: torch.device, mask: Tensor | None = None) -> Method:
    """On a GPU with the channels that its fused kernels want: one number for all, a multiple of 8."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        size = -(-max(q.shape[-1], v.shape[-1]) // 8) * 8
        scale = 1 / math.sqrt(q.shape[-1])
        wide = [pad(x, (0, size - x.shape[-1])) for x in (q, k, v)]
        return scaled_dot_product_attention(*wide, attn_mask=mask, scale=scale)[..., : v.shape[-1]]

    if device.type == "cuda":
        return attend
    return lambda q, k, v: scaled_dot_product_attention(q, k, v, attn_mask=mask)


PEERS = (
    Peer("ours (tiles)", _ours("tiles"), False, "plan"),
    Peer("ours (triton)", _ours("triton"), False, "plan", ("cuda",)),
    Peer("FlexAttention, compiled", _ours("flex"), False, "plan", backward_on=("cuda",)),
    Peer("SDPA, masked", lambda plan, device: _sdpa(device, plan.dense_masks().to(device)), True, "plan"),
    Peer("SDPA, dense", lambda plan, device: _sdpa(device), False, "dense"),
)


def measure(name: str, case: Case, device: torch.device, runs: int, limit: float, known: dict) -> list[dict]:
    """One row per method. ``known`` maps methods to seconds per dense score, as the cases so far had it."""
    start = time.perf_counter()
    masks = sparse_head_masks(case.pattern, (case.grid,) * 2, (case.grid // 2,) * 2, case.num_heads)
    plan = attention_plan(masks).to(device)
    planning = time.perf_counter() - start
    generator = torch.Generator().manual_seed(0)
    shapes = [
        (plan.num_queries, case.head_dim_qk),
        (plan.num_keys, case.head_dim_qk),
        (plan.num_keys, case.head_dim_v),
        (plan.num_queries, case.head_dim_v),
    ]
    tensors = [
        torch.randn(case.batch, case.num_heads, *shape, generator=generator).to(device, getattr(torch, case.dtype))
        for shape in shapes
    ]
    *inputs, d_out = tensors
    inputs = [x.requires_grad_() for x in inputs]
    forward_bytes = sum(x.numel() * x.element_size() for x in tensors)  # q, k, v read once, output written once
    both_bytes = forward_bytes + 2 * forward_bytes  # backward reads them and the output's gradient, writes three
    exact = _exact(plan, inputs, d_out)

    torch._dynamo.reset()  # its limit of recompilations would leave FlexAttention out of later cases
    rows, timed = [], []
    for peer in PEERS:
        if device.type not in peer.devices:
            continue
        row = {"case": name, **asdict(case), "method": peer.label, "computes": peer.computes, "planning_s": planning}
        rows.append(row)
        reason = _reason_to_skip(peer, case, device, limit, known)
        if reason:
            row["left_out"] = reason
            continue
        try:
            method = peer.make(plan, device)
            steps = {"forward": _forward(method, inputs)}
            if device.type in peer.backward_on:
                steps["both"] = _both(method, inputs, d_out)
            for step in steps.values():  # warm-up, compilation, plans
                step()
            row["forward_peak_mb"] = _peak_bytes(steps["forward"], device) / 1e6
            if "both" in steps:
                row["both_peak_mb"] = _peak_bytes(steps["both"], device) / 1e6
            if peer.computes == "plan":
                row["error"] = _error(steps["forward"]().unsqueeze(0), exact[:1])
                if "both" in steps:
                    row["gradient_error"] = _error(steps["both"](), exact[1:])
        except Exception as error:  # out of memory, no compiler, an unsupported size: each has a class of its own
            first = " ".join(str(error).strip().splitlines()[:1]) or type(error).__name__
            row["left_out"] = f"does not run here: {first[:100]}"
            gc.collect()
            continue
        timed += [(row, kind, step, []) for kind, step in steps.items()]
    for turn in range(runs):
        for _, _, step, times in timed[turn % len(timed) :] + timed[: turn % len(timed)]:
            if turn >= 3 and sum(times) > limit:
                continue  # slow methods take fewer turns
            times.append(_seconds(step, device))
    for row, kind, _, times in timed:
        row[f"{kind}_ms"] = 1e3 * statistics.median(times)
        row[f"{kind}_runs"] = len(times)
        moved = forward_bytes if kind == "forward" else both_bytes
        row[f"{kind}_gb_per_s"] = moved / statistics.median(times) / 1e9
        if kind == "both" or "both_ms" not in row:
            known[row["method"]] = statistics.median(times) / _dense_scores(case)
    return rows


def _forward(method: Method, inputs: list[Tensor]) -> Callable:
    def run():
        with torch.no_grad():
            return method(*inputs)

    return run


def _both(method: Method, inputs: list[Tensor], d_out: Tensor) -> Callable:
    return lambda: torch.autograd.grad(method(*inputs), inputs, d_out)


def _exact(plan: AttentionPlan, inputs: list[Tensor], d_out: Tensor) -> list[Tensor]:
    """Output and gradients in float64 by the definition where it fits in memory, else by our tiles in float64."""
    small = plan.num_heads * plan.num_queries * plan.num_keys <= 2**23
    one = [x[:1].detach().double().requires_grad_() for x in inputs]
    out = sparse_attention(*one, plan, backend="reference" if small else "tiles")
    return [out, *torch.autograd.grad(out, one, d_out[:1].double())]


def _error(found, exact) -> float:
    """Largest deviation in the first batch element, relative to the largest exact value."""
    pairs = zip(found, exact, strict=True)
    return max(((a[:1] - b).abs().max() / b.abs().max()).item() for a, b in pairs)


def _seconds(step: Callable, device: torch.device) -> float:
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        start.record()
        step()
        end.record()
        torch.cuda.synchronize(device)
        return start.elapsed_time(end) / 1e3
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def _peak_bytes(step: Callable, device: torch.device) -> int:
    """Most memory allocated at once during a run, beyond what was allocated before."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        step()
    events = [e for e in trace.profiler.kineto_results.events() if e.name() == "[memory]"]
    changes = [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]
    return int(max(np.cumsum(changes), default=0))


def _reason_to_skip(peer: Peer, case: Case, device: torch.device, limit: float, known: dict[str, float]) -> str | None:
    scores = _dense_scores(case)
    if peer.dense_bytes:
        needed = 16 * scores  # scores, probabilities and the gradients of both, in float32
        if needed > 0.7 * _free_bytes(device):
            return f"would need {needed / 1e9:.0f} GB"
    if peer.grows_as_dense and known.get(peer.label, 0) * scores > limit:
        return f"would take about {known[peer.label] * scores:.0f} s a run"
    return None


def _dense_scores(case: Case) -> int:
    return case.batch * case.num_heads * case.grid**2 * (case.grid // 2) ** 2


def _free_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    for line in Path("/proc/meminfo").read_text().splitlines() if Path("/proc/meminfo").exists() else []:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 8 * 2**30  # not told: assume a small machine


def copy_bandwidth(device: torch.device) -> float:
    """GB/s of a plain copy, reading and writing counted."""
    source = torch.zeros(2**26, device=device)
    target = torch.empty_like(source)
    times = [_seconds(lambda: target.copy_(source), device) for _ in range(7)]
    return 2 * source.numel() * 4 / statistics.median(times) / 1e9


def table(rows: list[dict]) -> str:
    lines = [
        f"{'case':26} {'method':24} {'forward':>10} {'fwd+bwd':>10} {'x SDPA masked':>14} {'peak MB':>9} {'GB/s':>7} "
        f"{'error':>8} {'grad err':>8}"
    ]
    for row in rows:
        start = f"{row['case']:26} {row['method']:24}"
        if "left_out" in row:
            lines.append(f"{start} {row['left_out']}")
            continue
        (peer,) = [r for r in rows if r["case"] == row["case"] and r["method"] == "SDPA, masked"]
        ratio = peer["both_ms"] / row["both_ms"] if "both_ms" in row and "both_ms" in peer else None
        lines.append(
            f"{start} {_cell(row, 'forward_ms', 10, '.2f')} {_cell(row, 'both_ms', 10, '.2f')} "
            f"{'-' if ratio is None else f'{ratio:.1f}':>14} "
            f"{_cell(row, 'both_peak_mb' if 'both_peak_mb' in row else 'forward_peak_mb', 9, '.1f')} "
            f"{_cell(row, 'both_gb_per_s' if 'both_ms' in row else 'forward_gb_per_s', 7, '.2f')} "
            f"{_cell(row, 'error', 8, '.0e')} {_cell(row, 'gradient_error', 8, '.0e')}"
        )
    return "\n".join(lines)


def _cell(row: dict, key: str, width: int, form: str) -> str:
    return f"{row[key]:{form}}".rjust(width) if key in row else "-".rjust(width)


def exponents(rows: list[dict], kind: str = "both_ms") -> dict[str, tuple[list[int], list[float], float]]:
    """Per method: numbers of queries, milliseconds per batch element, and the slope of their logarithms.

    The slope is fitted over grids from 32, where fixed costs no longer hide the growth; None with fewer than two.
    """
    found = {}
    for method in dict.fromkeys(row["method"] for row in rows):
        points = sorted(
            (row["grid"] ** 2, row[kind] / row["batch"])
            for row in rows
            if row["method"] == method and row["case"] in GROWTH and kind in row
        )
        if points:
            n, ms = map(list, zip(*points, strict=True))
            large = [i for i, size in enumerate(n) if size >= 32**2]
            slope = None
            if len(large) > 1:
                slope = float(np.polyfit(np.log([n[i] for i in large]), np.log([ms[i] for i in large]), 1)[0])
            found[method] = (n, ms, slope)
    return found


def plot(rows: list[dict], device_name: str, path: Path) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.4), sharey=True, layout="constrained")
    for axis, kind, title in zip(axes, ("forward_ms", "both_ms"), ("forward", "forward + backward"), strict=True):
        for number, (method, (n, ms, slope)) in enumerate(exponents(rows, kind).items()):
            label = method if slope is None else f"{method}: n^{slope:.2f}"
            colour = f"C{[peer.label for peer in PEERS].index(method)}"
            width = 2.2 if method.startswith("ours") else 1.3
            axis.plot(n, ms, "o-", color=colour, label=label, linewidth=width, zorder=9 - number)
        axis.set(xscale="log", yscale="log", xlabel="queries n (keys: n / 4)", title=title)
        grids = [CASES[name].grid for name in GROWTH]
        axis.set_xticks([grid**2 for grid in grids], [f"{grid}\u00b2" for grid in grids])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    axes[0].set_ylabel("milliseconds per image")
    figure.suptitle(f"8 heads, LTR + RTL, float32, {device_name}", fontsize=10)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=130)
    plt.close(figure)


def describe(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    model = platform.machine()
    if Path("/proc/cpuinfo").exists():
        named = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        model = named[0].split(":", 1)[1].strip() if named else model
    return f"CPU, {torch.get_num_threads()} threads, {model}"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=list(CASES), metavar="CASE", help=f"of {', '.join(CASES)}")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default: %(default)s")
    parser.add_argument("--runs", type=int, default=15, help="timed runs of each method, default %(default)s")
    parser.add_argument("--limit", type=float, default=20, help="seconds one run may take, default %(default)s")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of JSON and plot, default %(default)s")
    parser.add_argument("--name", help="file name of the results, default attention-cpu or attention-<GPU>")
    parser.add_argument("--redraw", type=Path, nargs="+", metavar="FILE", help="plot these JSON files again, and stop")
    options = parser.parse_args(argv)
    if options.redraw:
        for path in options.redraw:
            with usage_errors():
                stored = read_results(path)
            print(table(stored["rows"]))
            plot(stored["rows"], stored["device"], path.with_suffix(".png"))
        return
    with usage_errors():
        unknown = [name for name in options.cases if name not in CASES]
        if unknown:
            raise ValueError(f"unknown case {unknown[0]!r}; use some of {', '.join(CASES)}")
        if options.runs < 1 or options.limit <= 0:
            raise ValueError(f"--runs and --limit must be positive, got {options.runs} and {options.limit}")
        try:
            device = torch.empty(0, device=options.device).device
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"--device {options.device}: {str(error).splitlines()[0]}") from None
        writable_folder("--out", options.out)

    name = describe(device)
    print(f"{name}; torch {torch.__version__}; copies at {(bandwidth := copy_bandwidth(device)):.1f} GB/s\n")
    stem = options.out / (options.name or f"attention-{'cpu' if device.type == 'cpu' else name.replace(' ', '-')}")
    described = {"device": name, "copy_gb_per_s": bandwidth, **provenance(seed=0), "runs": options.runs}
    rows, known = [], {}
    for case in options.cases:
        rows += (new := measure(case, CASES[case], device, options.runs, options.limit, known))
        lines = table(new).splitlines()
        print("\n".join(lines if len(rows) == len(new) else lines[1:]), flush=True)
        write(described, rows, name, stem)  # after each case: a large one may take minutes, and be stopped
    fitted = fitted_exponents(rows)
    print("\ntime grows with the number of queries n, forward + backward, grids from 32 on: ", end="")
    print(", ".join(f"{method} n^{slope}" for method, slope in fitted.items()) or "too few grids to say")
    print(f"\nwritten: {stem}.json{' and .png' if exponents(rows) else ''}")


def read_results(path: Path) -> dict:
    """What ``write`` stored. Raises ValueError where the file holds something else."""
    try:
        stored = json.loads(path.read_text())
        table(stored["rows"]), stored["device"]
    except (ValueError, TypeError, KeyError):
        raise ValueError(f"--redraw {path} holds no results of this benchmark; give the JSON file it wrote") from None
    return stored


def fitted_exponents(rows: list[dict]) -> dict[str, float]:
    """Slope of log time over log n of each method that was measured on enough grids."""
    return {method: round(slope, 2) for method, (_, _, slope) in exponents(rows).items() if slope is not None}


def write(described: dict, rows: list[dict], device_name: str, stem: Path) -> None:
    """The JSON and, where there is growth to show, the plot."""
    result = described | {"exponents_forward_backward": fitted_exponents(rows), "rows": rows}
    with atomic_write(stem.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(result, indent=1) + "\n")
    if exponents(rows):
        plot(rows, device_name, stem.with_suffix(".png"))


if __name__ == "__main__":
    main()
