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
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from sagan_base.cli import Parser, command, find_device, usage_errors, writable_file

import numpy as np
import pandas as pd
import torch
from comparison import DENSE, MASKED, ONE_HEAD, OURS, growth, plot, summary, table
from scipy.sparse import csr_array
from timing import captured, copy_bandwidth, described, held_bytes, in_turns, peak_bytes, quartiles, ratios
from torch import Tensor
from torch.nn.functional import embedding, pad, scaled_dot_product_attention

from sagan_base.files import write_json
from sagan_base.provenance import provenance
from sagan_base.tables import text
from sagan_base.typed import read_json, reading
from ylg import attention_plan, sparse_attention, sparse_head_masks
from ylg.devices import choose_backend

RESULTS = Path("runs/benchmarks")  # those in benchmarks/results are what RESULTS.md quotes: replace them on purpose
HOPELESS = 2.5
TOLERANCE = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 1e-1}  # of the largest value; what is further off is wrong


@dataclass(frozen=True)
class Case:
    """One attention layer: queries on ``grid``, keys on half of it each way; the first pattern is the peers' too."""

    grid: int
    batch: int
    patterns: tuple[str, ...] = ("ltr_rtl",)
    head_dim_qk: int = 4
    head_dim_v: int = 16
    dtype: str = "float32"
    num_heads: int = 8
    key_grid: int | None = None

    @property
    def num_queries(self) -> int:
        return self.grid**2

    @property
    def num_keys(self) -> int:
        return (self.key_grid or self.grid // 2) ** 2

    @property
    def scores(self) -> int:
        """Of dense attention: what a method that keeps them keeps."""
        return self.batch * self.num_heads * self.num_queries * self.num_keys

    def masks(self, pattern: str) -> list[csr_array]:
        if pattern in OWN_MASKS:
            return [OWN_MASKS[pattern](self.grid)] * self.num_heads
        key_grid = (self.key_grid or self.grid // 2,) * 2
        return sparse_head_masks(pattern, (self.grid,) * 2, key_grid, self.num_heads)

    def inputs(self, device: torch.device, one_head: bool) -> list[Tensor]:
        """Queries, keys, values, and the gradient of the output."""
        heads, wider = (1, self.num_heads) if one_head else (self.num_heads, 1)
        qk, v = wider * self.head_dim_qk, wider * self.head_dim_v
        shapes = [(self.num_queries, qk), (self.num_keys, qk), (self.num_keys, v), (self.num_queries, v)]
        random = torch.Generator().manual_seed(0)
        made = [torch.randn(self.batch, heads, *shape, generator=random) for shape in shapes]
        *inputs, d_out = (x.to(device, getattr(torch, self.dtype)) for x in made)
        return [*(x.requires_grad_() for x in inputs), d_out]


def neighbourhood(grid: int, side: int = 7) -> csr_array:
    """Every cell attends to the side x side cells around it, and at the border to the nearest such square."""
    start = np.clip(np.arange(grid) - side // 2, 0, grid - side)
    near = start[:, None] + np.arange(side)
    keys = (near[:, None, :, None] * grid + near[None, :, None, :]).reshape(grid**2, side**2)
    rows = np.arange(grid**2).repeat(side**2)
    return csr_array((np.ones(keys.size, bool), (rows, keys.ravel())), shape=(grid**2, grid**2))


def windows(grid: int, in_a_row: bool, side: int = 8) -> csr_array:
    """Every cell attends to its window of side x side cells; ``in_a_row``: cells are enumerated window by window."""
    window = np.arange(grid**2) // side**2
    if not in_a_row:
        row, column = np.divmod(np.arange(grid**2), grid)
        window = row // side * (grid // side) + column // side
    return csr_array(window[:, None] == window)


WINDOWS = "windows in a row"
OWN_MASKS: dict[str, Callable[[int], csr_array]] = {
    "neighbourhood": neighbourhood,
    WINDOWS: partial(windows, in_a_row=True),
    "windows of a raster": partial(windows, in_a_row=False),
}
PATTERNS = ("ltr_rtl", "strided", "butterfly", "rotated_blocks", "interlaced8")
CASES = {
    "grid-16": Case(16, 8),
    "grid-32": Case(32, 8, PATTERNS),
    "grid-64": Case(64, 2, PATTERNS),
    "grid-128": Case(128, 1),
    "grid-256": Case(256, 1),
    "discriminator-32": Case(32, 8, head_dim_qk=2, head_dim_v=8),
    "neighbourhood-64": Case(64, 1, ("neighbourhood",), key_grid=64),
    "windows-64": Case(64, 2, (WINDOWS, "windows of a raster"), key_grid=64),
    # enough work for a GPU
    "grid-32-batch-64": Case(32, 64, PATTERNS),
    "grid-32-batch-64-bfloat16": Case(32, 64, PATTERNS, dtype="bfloat16"),
    "grid-64-batch-16-bfloat16": Case(64, 16, PATTERNS, dtype="bfloat16"),
}
ON_A_CPU = tuple(name for name in CASES if "batch" not in name)

Method = Callable[[Tensor, Tensor, Tensor], Tensor]


# --- methods ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Candidate:
    """A way to compute attention, and the memory that it needs by arithmetic."""

    kind: str
    name: str
    pattern: str
    make: Callable[[], Method]
    work: int  # what its time grows with
    needs: int = 0  # bytes
    backward: bool = True


def candidates(case: Case, device: torch.device) -> Iterator[Candidate]:
    """Ours, for every pattern of the case, and then the peers."""

    def planned(pattern: str, backend: str) -> Callable[[], Method]:
        def make() -> Method:
            plan = copy(attention_plan(case.masks(pattern))).to(device)  # without what another backend keeps in it
            return lambda q, k, v: sparse_attention(q, k, v, plan, backend=backend)

        return make

    first = case.patterns[0]
    for pattern in case.patterns:
        for backend in dict.fromkeys((choose_backend(device.type)[0], "tiles")):
            yield Candidate(OURS, f"ours ({backend}), {pattern}", pattern, planned(pattern, backend), 0)
    flex, dense = planned(first, "flex"), case.scores
    yield Candidate(MASKED, "FlexAttention, compiled", first, flex, dense, backward=device.type == "cuda")

    def masked(form: str, attend: Callable[[Tensor], Method]) -> Callable[[], Method]:
        def make() -> Method:
            allowed = torch.from_numpy(np.stack([mask.toarray() for mask in case.masks(first)])).to(device)
            if form == "to add":
                numbers = torch.zeros(allowed.shape, device=device, dtype=getattr(torch, case.dtype))
                allowed = numbers.masked_fill_(~allowed, -math.inf)
            return attend(allowed if form == "of 3 axes" else allowed[None])

        return make

    # Scores, probabilities and a gradient of them at once, in float32, where the path is not fused. The fused one of a
    # CPU keeps none, but turns a mask into numbers first.
    unfused, mask = 12 * case.scores, case.scores // case.batch
    for padded, form, needs in (
        (True, "of 4 axes", 5 * mask),
        (True, "of 3 axes", mask + unfused),
        (True, "to add", 4 * mask),
        (False, "of 4 axes", mask + unfused),
        (False, "of 3 axes", mask + unfused),
    ):
        way = f"SDPA, {'padded' if padded else 'unpadded'}, mask {form}"
        yield Candidate(MASKED, way, first, masked(form, partial(sdpa, padded)), dense, needs)
    yield Candidate(MASKED, "plain operators, mask to add", first, masked("to add", plain), dense, 4 * mask + unfused)
    masks = case.masks(first)
    gathers = case.batch * case.num_queries * case.num_heads * most_keys(masks) * (case.head_dim_qk + case.head_dim_v)
    yield Candidate(MASKED, "keys gathered by query", first, lambda: gathered(masks, device), gathers, 8 * gathers)
    if first == WINDOWS:
        size = most_keys(masks)
        for way, attend in ("SDPA, padded", sdpa(True)), ("SDPA, unpadded", sdpa(False)), ("plain operators", plain()):
            yield Candidate(MASKED, f"{way}, every window a head", first, partial(by_window, attend, size), 0)
    for kind, scores in ((DENSE, unfused), (ONE_HEAD, unfused // case.num_heads)):
        yield Candidate(kind, "SDPA, padded", "dense", lambda: sdpa(True), dense)
        yield Candidate(kind, "SDPA, unpadded", "dense", lambda: sdpa(False), dense, scores)
        yield Candidate(kind, "plain operators", "dense", plain, dense, scores)


def sdpa(padded: bool, mask: Tensor | None = None) -> Method:
    """Padded: one number of channels for all, which the fused path of a CPU asks for, and a multiple of 16.

    A GPU's asks for a multiple of 8; on a CPU heads of 8 take 1.7 times as long as the same heads padded to 16.
    """

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scale = 1 / math.sqrt(q.shape[-1])
        width = -(-max(q.shape[-1], v.shape[-1]) // 16) * 16
        wide = [pad(x, (0, width - x.shape[-1])) for x in (q, k, v)] if padded else (q, k, v)
        return scaled_dot_product_attention(*wide, attn_mask=mask, scale=scale)[..., : v.shape[-1]]

    return attend


def plain(mask: Tensor | None = None) -> Method:
    """As SAGAN writes it. SDPA's unfused path does the same and more: it multiplies both sides by the scale's root."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        scores = q / math.sqrt(q.shape[-1]) @ k.mT
        return (scores if mask is None else scores + mask).softmax(-1) @ v

    return attend


def by_window(attend: Method, size: int) -> Method:
    """Dense attention in windows of ``size`` cells that follow each other, as Swin has it."""

    def folded(*tensors: Tensor) -> Tensor:
        parts = (x.unflatten(2, (-1, size)).flatten(1, 2) for x in tensors)
        return attend(*parts).view(*tensors[0].shape[:3], -1)

    return folded


def most_keys(masks: list[csr_array]) -> int:
    return max(int(np.diff(mask.indptr).max()) for mask in masks)


def gathered(masks: list[csr_array], device: torch.device) -> Method:
    """Every query has a copy of its keys and values, all as many as the one that sees most."""
    num_queries, num_keys = masks[0].shape
    key = np.zeros((len(masks), num_queries, most_keys(masks)), dtype=np.int64)
    bias = np.full(key.shape, -np.inf, dtype=np.float32)
    for head, mask in enumerate(masks):
        query = np.repeat(np.arange(num_queries), np.diff(mask.indptr))
        place = head, query, np.arange(mask.nnz) - mask.indptr[query]
        key[place], bias[place] = head * num_keys + mask.indices, 0
    key, bias = (torch.from_numpy(x).to(device) for x in (key, bias))

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        first = torch.arange(len(q), device=device).view(-1, 1, 1, 1) * len(masks) * num_keys
        k, v = (embedding(first + key, x.flatten(0, 2)) for x in (k, v))
        scores = (k @ (q / math.sqrt(q.shape[-1]))[..., None]).squeeze(-1)
        return ((scores + bias.to(scores.dtype)).softmax(-1)[..., None, :] @ v).squeeze(-2)

    return attend


# --- measuring --------------------------------------------------------------------------------------------------------


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


# --- the command ------------------------------------------------------------------------------------------------------


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
