"""Compiles every GPU kernel for a named GPU, on a machine that has none, and prints what each one costs there.

    python benchmarks/kernel_report.py                    # sm_90 (H100, H200), SAGAN's head dims
    python benchmarks/kernel_report.py --capability 80 --dtypes float16 --dims 64x64

Triton's compiler and NVIDIA's assembler run without a device. The kernels are reached through the operators
themselves, so what is compiled is what a GPU would be given; only the launch is left out. The interpreter that the
tests use checks values but not types, layouts, registers or shared memory: this checks those.

Columns: registers a thread; spilled bytes a thread (should be 0); shared memory a program; programs that fit on one
multiprocessor at a time; and instructions in the machine code, all of them and by kind, each counted once however
often a loop repeats it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

from sagan_base.cli import Parser, command, usage_errors

with usage_errors():  # before triton is imported, which asks once
    if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        raise ValueError("TRITON_INTERPRET is set, so kernels would be interpreted: unset it")

import pandas as pd
import torch
import triton
from triton.backends.compiler import GPUTarget

import ylg
from sagan_base.tables import text
from ylg.backends.triton.operators import attention_map, tile_attention, tile_attention_backward
from ylg.devices import DTYPES, TRITON_HEAD_DIM

KINDS = {  # machine instructions by what keeps them waiting
    "tensor": r"HMMA|DMMA|HGMMA|WGMMA",
    "fma": r"FFMA|DFMA|FMUL|FADD|DMUL|DADD",
    "ldg/stg": r"LDG|STG",
    "lds/sts": r"LDS|STS|LDSM|STSM",
    "shuffle": r"SHFL",
    "barrier": r"BAR",
    "ldl/stl": r"LDL|STL",
}


class OfflineDriver:
    """Tells Triton which GPU to compile for; there is none to ask."""

    def __init__(self, capability: int) -> None:
        self.target = GPUTarget("cuda", capability, 32)

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def compile_kernels(run, capability: int) -> dict[str, triton.compiler.CompiledKernel]:
    """What ``run()`` launches, compiled instead; by kernel name."""
    compiled = {}
    launch = triton.runtime.JITFunction.run

    def compile_only(self, *args, **kwargs):
        compiled[self.__name__] = launch(self, *args, **(kwargs | {"warmup": True}))

    triton.runtime.driver.set_active(OfflineDriver(capability))
    triton.runtime.JITFunction.run = compile_only
    try:
        run()
    finally:
        triton.runtime.JITFunction.run = launch
    return compiled


def costs(kernel: triton.compiler.CompiledKernel) -> dict[str, int]:
    """Registers, spills, shared memory and instruction counts, read from the machine code."""
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(kernel.asm["cubin"])

        def ask(tool: str, *options: str) -> str:
            return subprocess.run([tools / tool, *options, cubin], capture_output=True, text=True, check=True).stdout

        usage = dict(re.findall(r"\b(REG|STACK|LOCAL):(\d+)", ask("cuobjdump", "-res-usage")))
        code = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?\s*([A-Z][A-Z0-9_.]*)", ask("nvdisasm"), re.M)
    registers, threads = int(usage["REG"]), 32 * kernel.metadata.num_warps
    # one multiprocessor of Hopper: 64 warps, 65536 registers given out in units of 256 a warp, 32 programs, 227 KiB
    warps_by_registers = 65536 // (-(-registers * 32 // 256) * 256)
    shared = kernel.metadata.shared
    programs = min(32, 64 * 32 // threads, warps_by_registers * 32 // threads, 227 * 1024 // (shared + 1024))
    instructions = Counter(opcode for opcode in code if not opcode.startswith("NOP"))
    by_kind = {
        kind: sum(count for opcode, count in instructions.items() if re.match(pattern, opcode))
        for kind, pattern in KINDS.items()
    }
    return {
        "registers": registers,
        "spills": int(usage["STACK"]) + int(usage["LOCAL"]),
        "shared": shared,
        "programs": programs,
        "code": sum(instructions.values()),
        **by_kind,
    }


LAYOUTS = {  # how the axes of [B, H, N, D] lie in memory
    "cells-last": (0, 1, 3, 2),  # views of NCHW maps
    "dims-last": (0, 1, 2, 3),
    "tokens": (0, 2, 1, 3),  # of channels-last maps and of [B, N, C]
}


def everything(plan, dtype: torch.dtype, dim_qk: int, dim_v: int, layout: str):
    """All operators, forward and backward, on small tensors on the CPU: only shapes, strides and types matter."""

    def tensor(n: int, d: int) -> torch.Tensor:
        axes, shape = LAYOUTS[layout], (2, plan.num_heads, n, d)
        return torch.zeros([shape[axis] for axis in axes], dtype=dtype).permute(axes)  # each its own inverse

    queries, keys = tensor(plan.num_queries, dim_qk), tensor(plan.num_keys, dim_qk)
    values, out = tensor(plan.num_keys, dim_v), tensor(plan.num_queries, dim_v)
    tensors, heads = plan.as_arguments()

    def run() -> None:
        _, softmax = tile_attention(queries, keys, values, tensors, heads, plan.digest, 1.0)
        tile_attention_backward(out, queries, keys, values, out, softmax, tensors, heads, plan.digest, 1.0, True)
        attention_map(queries, keys, softmax, tensors, heads, plan.digest, 1.0)

    return run


CAPABILITIES = (75, 80, 86, 87, 89, 90, 100, 103, 120, 121)  # Turing to Blackwell; the compiler aborts on others


def head_dims(word: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)x(\d+)", word)
    if not found or not all(1 <= int(dim) <= TRITON_HEAD_DIM for dim in found.groups()):
        raise argparse.ArgumentTypeError(f"{word!r} is not two head dims from 1 to {TRITON_HEAD_DIM}, as in 4x16")
    return int(found[1]), int(found[2])


@command()
def main() -> None:
    parser = Parser("python benchmarks/kernel_report.py", __doc__.split("\n\n")[0])
    add = parser.add_argument
    add("--capability", type=int, default=90, choices=CAPABILITIES, help="compute capability of the GPU (default: 90)")
    add("--grid", type=int, default=32, help="side of the query grid; keys have half (default: 32)")
    add("--pattern", default="ltr_rtl", help="pattern of the heads (default: ltr_rtl)")
    add("--dims", type=head_dims, default=[(4, 16), (2, 8)], nargs="+", metavar="QKxV", help="(default: 4x16 2x8)")
    dtypes = [str(dtype)[6:] for dtype in DTYPES]
    add("--dtypes", choices=dtypes, default=["float32", "bfloat16"], nargs="+", help="(default: float32 bfloat16)")
    add("--layouts", choices=LAYOUTS, default=["cells-last", "tokens"], nargs="+", help="(default: cells-last tokens)")
    add("--json", action="store_true", help="one JSON object a kernel instead of the table")
    options = parser.parse_args()
    side = options.grid
    with usage_errors():
        if side < 2 or side % 2:
            raise ValueError(f"--grid {side} is not an even number from 2 up (keys have half the side)")
        plan = ylg.attention_plan(ylg.sparse_head_masks(options.pattern, (side, side), (side // 2, side // 2)))
    rows = []
    for dims, dtype, layout in itertools.product(options.dims, options.dtypes, options.layouts):
        run = everything(plan, getattr(torch, dtype), *dims, layout)
        for name, kernel in compile_kernels(run, options.capability).items():
            row = {"kernel": name, "dims": f"{dims[0]}x{dims[1]}", "dtype": dtype, "layout": layout}
            rows.append(row | {"warps": kernel.metadata.num_warps, **costs(kernel)})
            if options.json:
                print(json.dumps(rows[-1]), flush=True)
    if not options.json:
        print(text(pd.DataFrame(rows)))


if __name__ == "__main__":
    main()
