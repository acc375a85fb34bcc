"""Build time and memory of the head masks: sparse, dense, and by loops over cells, in one run.

Question: what does it cost to build the masks of 8 LTR + RTL heads, and does it ever stand in the way of a large grid?
The loop version asks the definition of a step for every pair of key positions, and lays the result on the queries as
dense arrays, as the paper's program does. All three must give the same entries, or the benchmark stops. Time is the
process's CPU time; memory, counted in a run of its own, the peak of what Python and NumPy allocate.

    python benchmarks/masks.py                      # about a minute: up to 256x256 queries over 128x128 keys
    python benchmarks/masks.py --sizes 16 32        # smaller: sides of the key grid
"""

import hashlib
import math
import statistics
import sys
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sagan_base.cli import Parser, command, usage_errors, writable_file

import numpy as np
import pandas as pd
import torch
from scipy.sparse import csr_array
from timing import seconds

from sagan_base.files import write_json
from sagan_base.provenance import provenance
from sagan_base.tables import text
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
    """Time and memory of one case; the digest is that of the entries of all heads."""

    def build() -> Sequence[csr_array] | np.ndarray:
        patterns._checked_steps.cache_clear()  # every repeat builds from nothing
        return BUILDERS[builder](side)

    times = [seconds(build, torch.device("cpu")) for _ in range(repeats)]
    row = {"seconds": statistics.median(times)}
    if builder != "loops":  # counting makes loops ten times slower; their arrays are those of "dense"
        tracemalloc.start()
        build()
        row["mib"] = tracemalloc.get_traced_memory()[1] / 2**20
        tracemalloc.stop()
    return row | {"digest": _digest(build())}


def _digest(masks: Sequence[csr_array] | np.ndarray) -> str:
    digest = hashlib.sha256()
    for mask in masks:
        taken = csr_array(mask)
        digest.update(taken.indptr.astype(np.int64).tobytes())
        digest.update(taken.indices.astype(np.int64).tobytes())
    return digest.hexdigest()


@command()
def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser("python benchmarks/masks.py", __doc__.split("\n\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[16, 32, 64, 128], help="sides of the key grid")
    parser.add_argument("--repeats", type=int, default=3, help="of which the median time is taken (default: 3)")
    parser.add_argument("--out", type=Path, help="write the figures, with versions and machine, to this JSON file")
    options = parser.parse_args(argv)
    with usage_errors():
        if min(options.sizes) < 1 or options.repeats < 1:
            raise ValueError("--sizes and --repeats must be 1 or more")
        if options.out:
            writable_file("--out", options.out)
    rows = []
    for side in options.sizes:
        cases = [name for name in ("loops", "dense", "sparse") if side <= LARGEST_SIDE[name]]
        found = {name: measure(name, side, 1 if name == "loops" else options.repeats) for name in cases}
        if len({result["digest"] for result in found.values()}) > 1:
            raise SystemExit(f"error: at {side}x{side} keys the versions differ: {found}")
        for name, result in found.items():
            faster = found["loops"]["seconds"] / result["seconds"] if "loops" in found else None
            rows.append({"version": name, "key_side": side, **result, "against_loops": faster})
    shown = summary(rows)
    print(text(pd.DataFrame(shown)))
    if options.out:
        origin = {"device": "cpu", "num_heads": NUM_HEADS, **provenance()}
        write_json(options.out, {**origin, "summary": shown, "rows": rows})
    return 0


def summary(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines that a reader sees."""
    return [
        {
            "queries over keys": "{0}x{0} over {1}x{1}".format(2 * row["key_side"], row["key_side"]),
            "masks": row["version"],
            "seconds": row["seconds"],
            "MiB": row.get("mib"),
            "faster than loops": "-" if row["against_loops"] is None else f"{row['against_loops']:.3g}x",
        }
        for row in rows
    ]


if __name__ == "__main__":
    sys.exit(main())
