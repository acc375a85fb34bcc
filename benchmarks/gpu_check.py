"""One command on a CUDA machine: are the GPU kernels right there, and how fast are they beside their peers?

    python benchmarks/gpu_check.py              # everything, a few minutes, most of them compilation
    python benchmarks/gpu_check.py --no-timing

First a table of checks, PASS or FAIL, against dense attention in float64 on the same GPU. Then times of forward and
of forward plus backward, ours and the peers' interleaved: as launched from Python, and as a CUDA graph, where only
the GPU's own time is left. The last column is the share of the measured copy bandwidth that ours reaches, counting
every input and every output once. The exit code is 1 if a check failed.

The full comparison, over many grids and with memory, is benchmarks/attention.py.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

import ylg

SCALE = 0.7
# float32 rounds its log-sum-exp to about 7e-6 of values of 64 channels; TF32 would be off by 1e-3
TOLERANCE = {torch.float64: 1e-11, torch.float32: 2e-5, torch.float16: 6e-3, torch.bfloat16: 5e-2}
NAMES = ("out", "attention", "d queries", "d keys", "d values")


# --- checks -------------------------------------------------------------------------------------------------------


def inputs_of(masks_shape: tuple[int, int, int], dims: tuple[int, int], batch: int, dtype: torch.dtype, layout: str):
    """Queries, keys, values with gradients; "cells-last" are views of NCHW feature maps."""
    num_heads, num_queries, num_keys = masks_shape
    shapes = [(num_queries, dims[0]), (num_keys, dims[0]), (num_keys, dims[1])]
    found = [torch.randn(batch, num_heads, *shape, device="cuda", dtype=dtype) for shape in shapes]
    if layout == "cells-last":
        found = [x.mT.contiguous().mT for x in found]
    return [x.requires_grad_() for x in found]


def dense(queries: Tensor, keys: Tensor, values: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    scores = SCALE * queries.double() @ keys.double().mT
    attention = scores.masked_fill(~masks, float("-inf")).softmax(-1)
    return attention @ values.double(), attention


def errors(attend: Callable, masks: Tensor, inputs: list[Tensor]) -> dict[str, float]:
    """Largest error of each result, relative to its largest value."""
    expected = dense(*inputs, masks)
    found = attend(*inputs)
    weights = [torch.randn_like(x) for x in expected]

    def gradients(outputs):
        return torch.autograd.grad(sum((x * w).sum() for x, w in zip(outputs, weights, strict=True)), inputs)

    pairs = zip(NAMES, (*found, *gradients(found)), (*expected, *gradients(expected)), strict=True)
    return {
        name: ((x.double() - y).abs().max() / y.abs().max().clamp_min(1e-3)).item() if x.numel() else 0.0
        for name, x, y in pairs
    }


def report(name: str, check: Callable[[], tuple[bool | None, str]]) -> bool:
    """Runs one check (True, False, or None where it cannot be run here) and prints its line; False is a failure."""
    try:
        good, detail = check()
    except Exception as error:  # a table with one line for every check, whatever happens, is what this is for
        good, detail = False, first_line(error)
    print(f"{'SKIP' if good is None else 'PASS' if good else 'FAIL'}  {name:<58} {detail}", flush=True)
    return good is not False


def first_line(error: Exception) -> str:
    return ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])


def value_checks():
    plans = {}
    for pattern in ("ltr_rtl", "strided", "butterfly", "dense"):
        plans[pattern] = ylg.head_masks(pattern, (16, 16), (8, 8), num_heads=4)
    torch.manual_seed(0)
    irregular = torch.rand(3, 301, 77) < 0.2
    irregular[..., 7], irregular[..., 11] = True, False  # a relay; a key that nobody attends to
    plans["irregular"] = irregular
    cases = [("ltr_rtl", dims, dtype, "cells-last", 2) for dims in ((4, 16), (2, 8)) for dtype in TOLERANCE]
    cases += [("irregular", (d, v), torch.float32, "dims-last", 2) for d, v in
              ((1, 1), (2, 8), (3, 5), (4, 16), (5, 3), (8, 8), (16, 16), (40, 24), (64, 64), (128, 128))]  # fmt: skip
    cases += [("irregular", dims, torch.bfloat16, "dims-last", 2) for dims in ((1, 3), (24, 40), (64, 64), (128, 128))]
    cases += [("irregular", dims, torch.float64, "dims-last", 1) for dims in ((3, 5), (64, 64))]
    cases += [(pattern, (4, 16), torch.float32, "dims-last", 1) for pattern in ("strided", "butterfly", "dense")]
    cases += [("irregular", (4, 16), torch.float32, "dims-last", 0)]
    for pattern, dims, dtype, layout, batch in cases:

        def check(pattern=pattern, dims=dims, dtype=dtype, layout=layout, batch=batch):
            masks = plans[pattern].cuda()
            plan = ylg.attention_plan(plans[pattern])
            inputs = inputs_of(tuple(masks.shape), dims, batch, dtype, layout)

            def attend(*x):
                return ylg.sparse_attention(*x, plan, SCALE, "triton", return_attention=True)

            found = errors(attend, masks, inputs)
            name = max(found, key=found.get)
            return found[name] < TOLERANCE[dtype], f"largest error {found[name]:.1e} ({name})"

        kind = str(dtype).removeprefix("torch.")
        yield f"{pattern}, dims {dims[0]}x{dims[1]}, {kind}, {layout}, batch {batch}", check


def behaviour_checks():
    masks = ylg.head_masks("ltr_rtl", (32, 32), (16, 16))
    plan = ylg.attention_plan(masks)
    inputs = inputs_of(tuple(masks.shape), (4, 16), 4, torch.float32, "cells-last")

    def attend(*x):
        return ylg.sparse_attention(*x, plan, SCALE, "triton")

    def step(function=attend, *x):
        out = function(*(x or inputs))
        return out, *torch.autograd.grad(out.float().square().sum(), x or inputs)

    def same(found, expected):
        return all(torch.equal(x, y) for x, y in zip(found, expected, strict=True)), ""

    def chosen():
        out = ylg.sparse_attention(*inputs, plan, SCALE)
        return torch.equal(out, attend(*inputs)), ""

    def compiled():
        return same(step(torch.compile(attend, fullgraph=True)), step())

    def in_a_graph():
        step()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = step()
        graph.replay()
        return same(found, step())

    def autocast():
        with torch.autocast("cuda", torch.bfloat16):
            out = attend(*inputs)
        d = torch.autograd.grad(out.float().sum(), inputs)
        return out.dtype == torch.bfloat16 and d[0].dtype == torch.float32, ""

    def checkpointed():
        from torch.utils.checkpoint import checkpoint

        return same(step(lambda *x: checkpoint(attend, *x, use_reentrant=False)), step())

    def other_stream():
        expected = step()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            found = step()
        torch.cuda.current_stream().wait_stream(stream)
        return same(found, expected)

    def second_device():
        if torch.cuda.device_count() < 2:
            return None, "one GPU only"
        moved = [x.detach().to("cuda:1").requires_grad_() for x in inputs]
        found = step(attend, *moved)
        return same([x.to("cuda:0") for x in found], step())

    def near(found, expected):
        error = max(((x - y).abs().max() / y.abs().max()).item() for x, y in zip(found, expected, strict=True))
        return error < 1e-4, f"largest difference {error:.1e}"

    def layer():
        found = {}
        for backend in ("triton", "tiles"):
            torch.manual_seed(0)
            block = ylg.SparseAttention2d(64, (32, 32), backend=backend).cuda()
            torch.nn.init.ones_(block.gain)
            x = torch.randn(4, 64, 32, 32, device="cuda").to(memory_format=torch.channels_last)
            with torch.backends.cudnn.flags(allow_tf32=False):
                out, attention = block(x, return_attention=True)
                loss = out.square().sum() + attention.square().sum()
                found[backend] = [out, attention, *torch.autograd.grad(loss, list(block.parameters()))]
        return near(found["triton"], found["tiles"])

    def penalty():
        found = {}
        for backend in ("triton", "tiles"):
            out = ylg.sparse_attention(*inputs, plan, SCALE, backend)
            slopes = torch.autograd.grad(out.square().sum(), inputs, create_graph=True)
            found[backend] = torch.autograd.grad(sum(slope.square().sum() for slope in slopes), inputs)
        return near(found["triton"], found["tiles"])

    yield "the same bits twice", lambda: same(step(), step())
    yield "a layer, its map and its gradients are those of tiles", layer
    yield "a gradient penalty is that of tiles", penalty
    yield 'backend="auto" takes the kernels', chosen
    yield "torch.compile(fullgraph=True), with inductor", compiled
    yield "captured in a CUDA graph", in_a_graph
    yield "autocast to bfloat16", autocast
    yield "activation checkpointing", checkpointed
    yield "on another stream", other_stream
    yield "on a GPU that is not the current one", second_device


# --- timing -------------------------------------------------------------------------------------------------------


def contenders(plan: ylg.AttentionPlan, masks: Tensor | None) -> dict[str, Callable]:
    """Ours and the peers, each from queries, keys, values to the output."""

    def ours(q, k, v):
        return ylg.sparse_attention(q, k, v, plan, SCALE, "triton")

    def tiles(q, k, v):
        return ylg.sparse_attention(q, k, v, plan, SCALE, "tiles")

    def flex(q, k, v):
        return ylg.sparse_attention(q, k, v, plan, SCALE, "flex")

    def widened(*tensors):
        # the fused kernels want contiguous channels, one number of them for all, a multiple of 8
        size = -(-max(x.shape[-1] for x in tensors) // 8) * 8
        return [pad(x, (0, size - x.shape[-1])).contiguous() for x in tensors]

    def masked(q, k, v):
        out = scaled_dot_product_attention(*widened(q, k, v), attn_mask=masks, scale=SCALE)
        return out[..., : v.shape[-1]]

    def dense_flash(q, k, v):
        return scaled_dot_product_attention(*widened(q, k, v), scale=SCALE)[..., : v.shape[-1]]

    found = {"ours": ours, "tiles": tiles, "flex": flex, "masked SDPA": masked, "dense SDPA": dense_flash}
    if masks is None:
        del found["masked SDPA"]
    return found


def milliseconds(runs: dict[str, Callable[[], object]], rounds: int = 15, budget: float = 1000) -> dict[str, float]:
    """Median over interleaved rounds of the mean over some calls; a method takes about ``budget`` ms in all."""

    def mean_of(run: Callable[[], object], calls: int) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(calls):
            run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / calls

    once = {name: max(mean_of(run, 1), 1e-3) for name, run in runs.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds):
        for name, run in runs.items():
            if turn < max(3, budget / once[name]):  # slow methods take fewer turns
                times[name].append(mean_of(run, max(1, min(10, int(budget / rounds / once[name])))))
    return {name: statistics.median(found) for name, found in times.items()}


def graphed(run: Callable[[], object]) -> Callable[[], object]:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return graph.replay


def copy_bandwidth() -> float:
    """Bytes a second, read and written, of copying 1 GiB."""
    source = torch.empty(2**30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * 2**30 / (milliseconds({"copy": lambda: target.copy_(source)})["copy"] / 1e3)


def error_at_size(plan: ylg.AttentionPlan, inputs: list[Tensor]) -> float:
    """Of the last image of a batch, where offsets are largest, relative to the largest value."""
    with torch.no_grad():
        found = ylg.sparse_attention(*inputs, plan, SCALE, "triton")[-1:]
        exact = ylg.sparse_attention(*(x[-1:].double() for x in inputs), plan, SCALE, "tiles")
    return ((found - exact).abs().max() / exact.abs().max()).item()


def time_case(side: int, batch: int, dims: tuple[int, int], dtype: torch.dtype, layout: str, bandwidth: float) -> None:
    masks = ylg.sparse_head_masks("ltr_rtl", (side, side), (side // 2, side // 2))
    plan = ylg.attention_plan(masks)
    # dense masks of larger grids would take gigabytes
    dense_masks = ylg.head_masks("ltr_rtl", (side, side), (side // 2, side // 2)).cuda() if side <= 64 else None
    inputs = inputs_of((8, plan.num_queries, plan.num_keys), dims, batch, dtype, layout)
    weight = torch.randn(batch, 8, plan.num_queries, dims[1], device="cuda", dtype=dtype)
    size = weight.element_size()
    moved = sum(x.numel() for x in inputs) * size, weight.numel() * size
    # forward: inputs and out. With backward: also inputs and d out again, and the gradients of the inputs
    floor = {"forward": sum(moved), "forward + backward": 3 * moved[0] + 2 * moved[1]}
    cache = torch.cuda.get_device_properties(inputs[0].device).L2_cache_size
    kind = str(dtype).removeprefix("torch.")
    grids = f"{side}x{side} queries, {side // 2}x{side // 2} keys"
    print(f"\n{grids}, batch {batch}, dims {dims[0]}x{dims[1]}, {kind}, {layout}")
    print(f"  error of the output at this size {error_at_size(plan, inputs):.1e}, one image against float64 tiles")
    torch._dynamo.reset()  # its limit of recompilations would leave FlexAttention out of later cases
    for what in floor:
        runs = {}
        for name, attend in contenders(plan, dense_masks).items():

            def run(attend=attend, what=what):
                if what == "forward":
                    with torch.no_grad():
                        return attend(*inputs)
                return torch.autograd.grad(attend(*inputs), inputs, weight)

            try:
                run()
                runs[name] = run
            except Exception as error:
                print(f"  {name} does not run here: {first_line(error)}")
        eager = milliseconds(runs)
        graphs = {}
        for name, run in runs.items():
            try:
                graphs[name] = graphed(run)
            except Exception as error:
                print(f"  {name} cannot be captured: {first_line(error)}")
                torch.cuda.synchronize()
        captured = milliseconds(graphs)
        for label, found in (("from Python", eager), ("CUDA graph", captured)):
            cells = "  ".join(f"{name} {found[name]:.3f}" if name in found else f"{name} -" for name in runs)
            peers = [t for name, t in found.items() if name not in ("ours", "tiles")]
            gain = f"{min(peers) / found['ours']:.1f}x the best peer" if peers and "ours" in found else ""
            share = f"{floor[what] / (found['ours'] / 1e3) / bandwidth:.0%} of copy" if "ours" in found else ""
            share += ", all of it in the L2 cache" * (floor[what] < cache)
            print(f"  {what:<18} {label:<11} ms: {cells}   {gain}, {share}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-timing", action="store_true", help="only the checks")
    options = parser.parse_args()
    if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        print(
            "gpu_check.py: error: TRITON_INTERPRET is set, so no kernel would run on the GPU: unset it", file=sys.stderr
        )
        return 2
    if not torch.cuda.is_available():
        print(
            "gpu_check.py: error: PyTorch sees no CUDA device; without one, run python benchmarks/kernel_report.py "
            "and pytest tests/ylg/test_triton.py",
            file=sys.stderr,
        )
        return 2
    import triton

    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}")
    results = [report(name, check) for checks in (value_checks(), behaviour_checks()) for name, check in checks]
    print(f"{sum(results)} of {len(results)} checks passed")
    if not options.no_timing:
        bandwidth = copy_bandwidth()
        print(f"\ncopy bandwidth {bandwidth / 1e9:.0f} GB/s (read and written)")
        for dtype in (torch.float32, torch.bfloat16):
            for side, batch in ((32, 64), (64, 8), (128, 1), (128, 8)):
                for layout in ("dims-last", "cells-last"):
                    time_case(side, batch, (4, 16), dtype, layout, bandwidth)
        time_case(32, 64, (2, 8), torch.bfloat16, "cells-last", bandwidth)
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
