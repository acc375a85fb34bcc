"""One process or many: the same command under ``torchrun --nproc-per-node N``.

Each process trains on its slice of the global batch; DistributedDataParallel averages the gradients. Process 0 alone
reads checkpoints and writes files.
"""

import atexit
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sagan_base.cli import find_device

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

# Process 0 evaluates alone while the others wait for it, which on ImageNet takes longer than the default 10 minutes.
TIMEOUT = timedelta(hours=2)


@dataclass(frozen=True)
class Processes:
    """This process among all: ``rank`` 0 ... ``count`` - 1, and its device."""

    rank: int
    count: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def part(self, batch: Tensor) -> Tensor:
        """This process's equal share of a global (micro-)batch, along the first axis."""
        return batch if self.count == 1 else batch.chunk(self.count)[self.rank]

    def any(self, flag: bool) -> bool:
        """Whether the flag is raised in any process; every process must ask."""
        if self.count == 1:
            return flag
        raised = torch.tensor([float(flag)], device=self.device)
        dist.all_reduce(raised, dist.ReduceOp.MAX)
        return bool(raised.item())

    def mean(self, values: Tensor) -> Tensor:
        """The values averaged over the processes; every process must ask."""
        if self.count == 1:
            return values
        total = values.clone()
        dist.all_reduce(total)
        return total / self.count

    def from_first(self, value: Any) -> Any:
        """The first process's value, in every process."""
        if self.count == 1:
            return value
        holder = [value]
        dist.broadcast_object_list(holder, src=0, device=self.device)
        return holder[0]

    @contextmanager
    def first_before_others(self) -> Iterator[None]:
        """Process 0 does the block alone, then the others: what it put into a cache, they find there."""
        if not self.is_first:
            self.wait()
        yield
        if self.is_first:
            self.wait()

    def wait(self) -> None:
        """Return when every process has come here."""
        if self.count > 1:
            dist.barrier(device_ids=[self.device.index] if self.device.type == "cuda" else None)


def _fresh_store() -> dist.Store:
    """Where the processes find each other: torchrun's store, without what a failed attempt left in it.

    Some versions of torchrun keep one store over restarts, and the new processes then look for the old ones. On one
    machine the number of the restart tells attempts apart. On several it may differ between machines: there, set
    TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 for torchrun.
    """
    store, _, _ = next(rendezvous("env://", timeout=TIMEOUT))
    one_machine = os.environ.get("GROUP_WORLD_SIZE") == "1"
    return dist.PrefixStore(f"attempt {os.environ['TORCHELASTIC_RESTART_COUNT']}", store) if one_machine else store


@contextmanager
def processes(device: str | torch.device | None = None) -> Iterator[Processes]:
    """Join the process group that torchrun announces, or stand alone; leave it at the end.

    Args:
        device: None takes a GPU where there is one (each process its own), else the CPU.
    Raises:
        ValueError: there is no such device.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    device = find_device(device)
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", device.index or 0)))
        torch.cuda.set_device(device)
    if dist.is_initialized():  # by a caller, who will also leave it
        yield Processes(dist.get_rank(), dist.get_world_size(), device)
        return
    if count == 1:
        yield Processes(0, 1, device)
        return
    backend = "nccl" if device.type == "cuda" else "gloo"
    # Networks in cycles keep the group and gloo's threads, one of which may abort a process that is already ending.
    atexit.register(gc.collect)
    dist.init_process_group(
        backend, timeout=TIMEOUT, store=_fresh_store(), rank=int(os.environ["RANK"]), world_size=count
    )
    group = Processes(dist.get_rank(), dist.get_world_size(), device)
    try:
        yield group
        group.wait()  # torch 2.6 deadlocks in leaving while gloo still holds tensors of the last exchange
    finally:
        dist.destroy_process_group()
