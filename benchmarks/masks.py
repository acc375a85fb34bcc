"""Build time and memory of the head masks: sparse, dense, and by loops over cells, in one run.

Question: what does it cost to build the masks of 8 LTR + RTL heads, and does it ever stand in the way of a large grid?
Every case runs in a process of its own, so that the peak of one does not hide the next; memory is the growth of the
process's peak resident size, above what importing the package takes. The loop version asks the definition of a step
for every pair of key positions, and lays the result on the queries as dense arrays, as the paper's program does. All
three must give the same entries, or the benchmark stops.

    python benchmarks/masks.py                      # about a minute: up to 256x256 queries over 128x128 keys
    python benchmarks/masks.py --sizes 16 32        # smaller: sides of the key grid
"""

import argparse
import hashlib
import json
import math
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

from sagan_base.cli import usage_errors, writable_folder
from ylg import grid_order, head_masks, patterns, sparse_head_masks

NUM_HEADS = 8


def sparse(side: int) -> list[csr_array]:
    """Ours."""
    return sparse_head_masks("ltr_rtl", (2 * side, 2 * side), (side, side), NUM_HEADS)


def dense(side: int) -> np.ndarray:
    """Ours, in its dense form."""
    return head_masks("ltr_rtl", (2 * side, 2 * side), (side, side), NUM_HEADS).numpy()


def loops(side: int) -> np.ndarray:
    """By the definitions, pair by pair; the four distinct steps once each."""
    n = side * side
    s = math.isqrt(n)
    definitions: list[Callable[[int, int], bool]] = [
        lambda i, j: i // s == j // s and j >= i,
        lambda i, j: j % s == 0 or i == j,
        lambda i, j: i // s == j // s and j <= i,
        lambda i, j: j % s == s - 1 or i == j,
    ]
    cells = grid_order(side, side).numpy()
    queries = 2 * side
    pooled = [(query // queries // 2) * side + query % queries // 2 for query in range(queries * queries)]
    masks = []
    for allowed in definitions:
        mask = np.zeros((n, n), dtype=bool)
        for i in range(n):
            for j in range(n):
                if allowed(i, j):
                    mask[cells[i], cells[j]] = True
        masks.append(mask[pooled])
    return np.stack([masks[index] for index in (0, 1, 0, 1, 2, 3, 2, 3)])


BUILDERS = {"sparse": sparse, "dense": dense, "loops": loops}
LARGEST_SIDE = {"sparse": 128, "dense": 64, "loops": 64}  # beyond: 8.6 GB of dense masks, minutes of loops


def measure(builder: str, side: int, repeats: int) -> dict[str, float | str]:
    """Time and memory of one case, in this process; the digest is that of the entries of all heads."""
    before = _peak_mib()
    times = []
    for _ in range(repeats):
        masks = None  # or the last repeat's masks would stand beside the new ones
        _forget()
        start = time.perf_counter()
        masks = BUILDERS[builder](side)
        times.append(time.perf_counter() - start)
    grown = _peak_mib() - before
    return {"seconds": statistics.median(times), "mib": grown, "digest": _digest(masks)}


def _forget() -> None:
    """Drop what the package keeps between calls, so that every repeat builds from nothing."""
    patterns._checked_steps.cache_clear()


def _peak_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


def _digest(masks: Sequence[csr_array] | np.ndarray) -> str:
    digest = hashlib.sha256()
    for mask in masks:
        taken = csr_array(mask)
        digest.update(taken.indptr.astype(np.int64).tobytes())
        digest.update(taken.indices.astype(np.int64).tobytes())
    return digest.hexdigest()


def in_its_own_process(builder: str, side: int, repeats: int) -> dict[str, float | str]:
    command = [sys.executable, __file__, "--measure", builder, "--sizes", str(side), "--repeats", str(repeats)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[16, 32, 64, 128], help="sides of the key grid")
    parser.add_argument("--repeats", type=int, default=3, help="runs of which the median time is taken")
    parser.add_argument("--json", action="store_true", help="print one JSON object a line instead of the table")
    parser.add_argument("--out", type=Path, help="write the figures, with versions and machine, to this JSON file")
    parser.add_argument("--measure", choices=list(BUILDERS), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    with usage_errors():
        if min(options.sizes) < 1 or options.repeats < 1:
            raise ValueError("--sizes and --repeats must be 1 or more")
        if options.out:
            writable_folder("--out", options.out.parent)
    if options.measure:
        print(json.dumps(measure(options.measure, options.sizes[0], options.repeats)))
        return
    if not options.json:
        print(f"{NUM_HEADS} heads, ltr_rtl, {platform.machine()}, Python {platform.python_version()}", end=", ")
        print(", ".join(f"{name} {version(name)}" for name in ("numpy", "scipy", "torch")))
        print(f"{'queries':>9} {'keys':>9}  {'version':7} {'seconds':>9} {'MiB':>8}  {'against loops':>13}")
    rows = []
    for side in options.sizes:
        cases = [name for name in ("loops", "dense", "sparse") if side <= LARGEST_SIDE[name]]
        found = {name: in_its_own_process(name, side, 1 if name == "loops" else options.repeats) for name in cases}
        if len({result["digest"] for result in found.values()}) > 1:
            raise SystemExit(f"error: at {side}x{side} keys the versions differ: {found}")
        for name, result in found.items():
            faster = found["loops"]["seconds"] / result["seconds"] if "loops" in found else None
            rows.append({"version": name, "key_side": side, **result, "against_loops": faster})
            if options.json:
                print(json.dumps(rows[-1]), flush=True)
                continue
            grids = f"{f'{2 * side}x{2 * side}':>9} {f'{side}x{side}':>9}"
            ratio = "-" if faster is None else f"{faster:.3g}x"
            print(f"{grids}  {name:7} {result['seconds']:9.3f} {result['mib']:8.1f}  {ratio:>13}", flush=True)
    if options.out:
        # Not above: what is imported there is memory that the measuring processes start with.
        from sagan_base.files import atomic_write
        from sagan_base.provenance import provenance

        record = {"device": "cpu", "num_heads": NUM_HEADS, **provenance(), "rows": rows}
        with atomic_write(options.out) as path:
            path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
