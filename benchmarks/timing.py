"""Fair timing: what is compared takes turns, and on a CPU its own time counts, not that of other programs.

A busy machine slows everything down, and not evenly. So methods run in rounds, each once a round, and are compared
within a round: what slows a whole round cancels. Memory is counted here too, and the bandwidth of a plain copy.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Hashable, Iterable
from types import FunctionType, ModuleType
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from sagan_base.provenance import machine_kind

FEWEST_ROUNDS = 3
LONG_ENOUGH = 0.02  # seconds of calls that the clock and the launch of one do not blur

Step = Callable[[], object]
Name = TypeVar("Name", bound=Hashable)


def in_turns(
    steps: dict[Name, Step], device: torch.device, rounds: int, budget: float = math.inf
) -> dict[Name, list[float]]:
    """Seconds a call of every step, one figure a round; entries of one index were measured side by side.

    Each step has been called before, so that it is warm; in the first round each is called once, and then as often as
    the clock needs. One that has taken ``budget`` seconds in all takes part in no more than FEWEST_ROUNDS, and one
    that takes so long for a single call in one: its list is shorter.
    """
    times = {name: [seconds(step, device)] for name, step in steps.items()}
    calls = {name: max(1, round(LONG_ENOUGH / max(once, 1e-6))) for name, (once,) in times.items()}
    names = list(steps)
    for turn in range(1, rounds):
        start = turn % len(names)  # who comes first changes: the first finds the caches of the last
        for name in names[start:] + names[:start]:
            taken = sum(times[name]) * calls[name]
            if taken < budget or (turn < FEWEST_ROUNDS and times[name][0] < budget):
                times[name].append(seconds(steps[name], device, calls[name]))
    return times


def seconds(step: Step, device: torch.device, calls: int = 1) -> float:
    """Of one call: the process's CPU time, or on a GPU the time between two events."""
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        start.record()
        for _ in range(calls):
            step()
        end.record()
        torch.cuda.synchronize(device)
        return start.elapsed_time(end) / 1e3 / calls
    start = time.process_time()
    for _ in range(calls):
        step()
    elapsed = time.process_time() - start
    return max(elapsed, time.get_clock_info("process_time").resolution) / calls  # a clock that stood still saw no less


def quartiles(values: Iterable[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    return tuple(np.quantile(list(values), (0.25, 0.5, 0.75)).tolist())


def ratios(times: list[float], others: list[float]) -> tuple[float, float, float]:
    """Quartiles of ``times / others``, round by round, over the rounds that both took part in."""
    return quartiles(a / b for a, b in zip(times, others, strict=False))


def captured(step: Step) -> Step | None:
    """The step as a CUDA graph: what is left is the GPU's own time, without Python's launches. None if it resists."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            step()
    except RuntimeError:  # what waits for the GPU, to look at a number, cannot be captured
        torch.cuda.synchronize()
        return None
    return graph.replay


def peak_bytes(step: Step, device: torch.device) -> int:
    """Most memory allocated at once during a call, beyond what was allocated before."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        step()
    events = [event for event in trace.profiler.kineto_results.events() if event.name() == "[memory]"]
    changes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return int(max(np.cumsum(changes), default=0))


def held_bytes(root: object) -> int:
    """Bytes of the tensors and arrays that an object keeps alive, each piece of memory counted once.

    Follows what objects refer to, and of a function what it closes over, not the module that it lives in.
    """
    seen, pieces, left = set(), {}, [root]
    while left:
        item = left.pop()
        if id(item) in seen or isinstance(item, (type, ModuleType)):
            continue
        seen.add(id(item))
        if isinstance(item, Tensor):
            storage = item.untyped_storage()
            pieces[storage.data_ptr()] = storage.nbytes()
        elif isinstance(item, np.ndarray):
            left.append(item.base) if item.base is not None else pieces.update({item.ctypes.data: item.nbytes})
        elif isinstance(item, FunctionType):
            left += [cell.cell_contents for cell in item.__closure__ or ()]
        else:
            left += gc.get_referents(item)
    return sum(pieces.values())


def copy_bandwidth(device: torch.device) -> float:
    """Bytes a second of copying 256 MiB, read and written: the most that memory gives."""
    source = torch.zeros(2**26, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / statistics.median(seconds(lambda: target.copy_(source), device) for _ in range(7))


def described(device: torch.device) -> str:
    """The machine in words, as tables name it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    machine = machine_kind()
    return f"CPU, {machine.threading}, {machine.cpu}"
