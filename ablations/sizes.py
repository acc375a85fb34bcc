"""Sizes of the rows' networks: counted by building them, and asserted equal where the paper compares equal ones."""

from functools import lru_cache

import torch

from ablations.experiment import Experiment
from ablations.rows import ROWS
from sagan_base.checkpoint import build_networks
from sagan_base.config import RunConfig
from sagan_base.data import ImageData


@lru_cache(maxsize=64)
def parameter_counts(config: RunConfig) -> tuple[int, int]:
    """Trained numbers of generator and discriminator, but for attention's temperatures, one a head.

    Raises:
        ValueError: the networks cannot be built, such as heads that do not divide the channels.
    """
    try:
        with torch.device("meta"):  # shapes alone: nothing is drawn, so the paper's network takes no second
            networks = build_networks(config)
    except ValueError as error:
        attention = config.model.attention
        if attention is None or "num_heads" not in str(error):
            raise
        raise ValueError(
            f"{attention.num_heads} heads do not fit {attention.pattern!r} in this network ({error})"
        ) from None
    return tuple(
        sum(p.numel() for name, p in network.named_parameters() if not name.endswith("log_temperature"))
        for network in networks
    )


def require_equal_sizes(runs: list[Experiment], data: ImageData | None = None) -> None:
    """Build every row's networks once and compare them with those of the row that it must equal in size.

    Raises:
        ValueError: two rows that the paper compares at equal size differ.
    """
    for run in {run.row.name: run for run in runs}.values():
        here = parameter_counts(Experiment(run.row, run.setting, 0).config(data))  # all seeds of a row share a count
        if run.row.same_size_as is None:
            continue
        other = Experiment(ROWS[run.row.same_size_as], run.setting, 0)
        there = parameter_counts(other.config(data))
        if here != there:
            raise ValueError(
                f"row {run.row.name!r} has {here} parameters (generator, discriminator), but {other.row.name!r}, to "
                f"which it is compared at equal size, has {there}; use more channels or fewer heads"
            )
