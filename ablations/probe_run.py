"""One run of a probe: a layer of ylg alone in a tiny network, trained on one task."""

import time

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ablations.probe_rows import ProbeRow, mode_of
from ablations.probe_tasks import CHANNELS, COLOURS, TASKS, score
from ylg import SparseAttention2d
from ylg.orders import Grid

WIDTH, HEAD_DIM, BATCH, LEARNING_RATE = 32, 8, 16, 6e-3
STEPS = {"find": 900, "swap_half": 600, "swap_odd": 600, "swap_reflect": 600, "near": 500}
TESTED = 256  # pictures


class ProbeNetwork(nn.Module):
    """Colours and places in, an attention layer, colours out: what a cell says of another came through the layer.

    Two convolutions of one cell stand before it, so that a value can hold "marked and red"; the gain starts at 1. The
    answer has a linear part: behind a nonlinearity alone some seeds of dense attention took two colours for one, and
    a linear one alone did not learn *find* through relays.
    """

    def __init__(self, row: ProbeRow, grid: Grid, mode: str):
        super().__init__()
        self.cells = nn.Sequential(nn.Conv2d(CHANNELS, WIDTH, 1), nn.GELU(), nn.Conv2d(WIDTH, WIDTH, 1))
        self.places = nn.Parameter(waves(grid))
        channels = row.num_heads * HEAD_DIM
        self.attention = SparseAttention2d(
            WIDTH, grid, row.pattern, row.num_heads, row.order, mode=mode, pool=1, qk_channels=channels,
            v_channels=channels, qk_norm=True, temperature=10.0,
        )  # fmt: skip
        nn.init.ones_(self.attention.gain)
        self.answer = nn.Conv2d(WIDTH, COLOURS, 1)
        self.correction = nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 1), nn.GELU(), nn.Conv2d(WIDTH, COLOURS, 1))

    def forward(self, pictures: Tensor) -> Tensor:
        told = self.attention(self.cells(pictures) + self.places)
        return self.answer(told) + self.correction(told)


def waves(grid: Grid) -> Tensor:
    """Where a cell lies, to start with: [1, WIDTH, rows, cols], sine and cosine of whole waves along both axes.

    In these a shift and a reflection are linear. From random places dense attention could not learn every swap.
    """
    channels = []
    for axis, side in enumerate(grid):
        place = torch.arange(side).reshape((-1, 1) if axis == 0 else (1, -1)).expand(grid)
        for frequency in range(1, WIDTH // 4 + 1):
            turn = 2 * torch.pi * frequency * place / side
            channels += [turn.sin(), turn.cos()]
    return torch.stack(channels)[None]


def run(row: ProbeRow, task: str, grid: Grid, seed: int, steps: int | None = None) -> dict[str, float]:
    """Train and test: the ``score`` and the CPU seconds it took. The same seed gives the same run."""
    start, steps = time.process_time(), steps or STEPS[task]
    torch.manual_seed(seed)
    random = torch.Generator().manual_seed(1000 + seed)
    network = ProbeNetwork(row, grid, mode_of(task))
    optimizer = torch.optim.Adam(network.parameters(), LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, steps)
    for _ in range(steps):
        pictures, shares = TASKS[task](grid, BATCH, random)
        optimizer.zero_grad()
        F.cross_entropy(network(pictures), shares).backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        pictures, shares = TASKS[task](grid, TESTED, random)
        measured = score(task, network(pictures), shares)
    return {"score": round(measured, 4), "seconds": round(time.process_time() - start, 1)}
