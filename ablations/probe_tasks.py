"""The tasks of the probes: each cell of a grid must say something about cells elsewhere.

Colours are drawn anew for every picture, so nothing can be learnt but where to look, and only attention can look.
``find`` asks whether a pattern reaches, the three ``swap`` whether everything gets through at once, ``near`` what lies
close by. A half-grid shift favours lattices, so the shift comes with an odd number of cells too, and as a reflection.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from ylg.orders import Grid

COLOURS = 8
MARK = 4.0  # bright, or dense attention needs long to notice it
CHANNELS = COLOURS + 1  # of a picture: the colours, one-hot, and a mark
Batch = tuple[Tensor, Tensor]  # pictures [batch, CHANNELS, rows, cols]; shares of colours [batch, COLOURS, rows, cols]


def find(grid: Grid, batch: int, random: Generator) -> Batch:
    """Every cell names the colour of the one marked cell."""
    pictures = _pictures(grid, batch, random)
    marked = torch.randint(grid[0] * grid[1], (batch,), generator=random)
    pictures[:, COLOURS].view(batch, -1)[torch.arange(batch), marked] = MARK
    colours = pictures[:, :COLOURS].flatten(2)[torch.arange(batch), :, marked]
    return pictures, colours[:, :, None, None].expand(-1, -1, *grid)


def near(grid: Grid, batch: int, random: Generator) -> Batch:
    """Every cell tells the share of each colour in the 5x5 cells round it, as far as they lie in the grid."""
    pictures = _pictures(grid, batch, random)
    return pictures, F.avg_pool2d(pictures[:, :COLOURS], 5, stride=1, padding=2, count_include_pad=False)


# What a cell of a swap names: [..., rows, cols] -> the same, at each cell what lies where it must look.
SWAPS: dict[str, Callable[[Tensor], Tensor]] = {
    "swap_half": lambda maps: maps.roll((maps.shape[-2] // 2, maps.shape[-1] // 2), (-2, -1)),
    "swap_odd": lambda maps: maps.roll((maps.shape[-2] // 2 - 1, maps.shape[-1] // 2 - 1), (-2, -1)),
    "swap_reflect": lambda maps: maps.flip((-2, -1)),
}


def swap(elsewhere: Callable[[Tensor], Tensor], grid: Grid, batch: int, random: Generator) -> Batch:
    """Every cell names the colour of one cell far away, and every cell is named once."""
    pictures = _pictures(grid, batch, random)
    return pictures, elsewhere(pictures[:, :COLOURS])


TASKS: dict[str, Callable[[Grid, int, Generator], Batch]] = {
    "find": find,
    **{name: partial(swap, elsewhere) for name, elsewhere in SWAPS.items()},
    "near": near,
}


def score(task: str, logits: Tensor, shares: Tensor) -> float:
    """Share of cells that name the right colour; of ``near`` the share of the variance that is explained."""
    if task == "near":
        return 1 - (F.mse_loss(logits.softmax(1), shares) / shares.var(dim=0, unbiased=False).mean()).item()
    return (logits.argmax(1) == shares.argmax(1)).double().mean().item()


def _pictures(grid: Grid, batch: int, random: Generator) -> Tensor:
    colours = torch.randint(COLOURS, (batch, *grid), generator=random)
    return (
        torch.cat([F.one_hot(colours, COLOURS), torch.zeros(batch, *grid, 1)], dim=3).permute(0, 3, 1, 2).contiguous()
    )
