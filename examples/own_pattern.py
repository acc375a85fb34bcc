"""A pattern of your own: written, checked, compared and probed, in a minute.

    python examples/own_pattern.py

Axial attention: a cell attends to its row, then what came of that to its column.
"""

import numpy as np
import torch

import ylg
from ablations.probe_rows import ProbeRow, predictions
from ablations.probe_run import run


def axial(grid: tuple[int, int], block: tuple[int, int]) -> np.ndarray:
    """Two steps [2, n, n], True where the cell of the row may attend to the cell of the column."""
    row, col = np.divmod(np.arange(grid[0] * grid[1]), grid[1])
    return np.stack([row[:, None] == row, col[:, None] == col])


def main(steps: int | None = None, grid: tuple[int, int] = (8, 8)) -> None:
    ylg.register_pattern("axial", axial, on_grid=True)

    print("Full information on 12 x 20:", ylg.has_full_information(ylg.step_masks("axial", (12, 20))))
    for name, size in (("ltr", grid[0] * grid[1]), ("axial", grid), ("rotated_blocks", grid)):
        report = ylg.flow_report(ylg.step_masks(name, size), grid)
        print(
            f"{name}: {report['edges']} edges, flow {report['flow_right']} from left to right, "
            f"{report['covered_3x3']:.0%} of the 3x3 neighbourhood seen"
        )

    layer = ylg.SparseAttention2d(channels=64, grid=(16, 16), pattern="axial", num_heads=4)
    print("A layer:", tuple(layer(torch.randn(1, 64, 16, 16)).shape))

    row = ProbeRow("axial", "axial")
    expected = predictions((row,), grid).set_index("task")["predicted"]
    for task in ("find", "near"):
        score = run(row, task, grid, seed=3, steps=steps)["score"]
        print(f"Probe {task}: predicted {expected[task]:.2f}, measured {score:.2f}")


if __name__ == "__main__":
    main()
