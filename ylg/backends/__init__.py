"""Backends: what executes a plan. Each is a function in a file of its own, imported when first used.

    f(queries, keys, values, plan, scale, return_attention) -> out, or (out, attention)

tiles.py      plain torch on any device, hand-written backward
triton_ops.py fused GPU kernels
flex.py       FlexAttention with padded heads: a peer, and a fallback by name
reference.py  dense softmax(QK^T + mask)V, for tests
"""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Callable
from functools import cache

BACKENDS = {
    "tiles": "ylg.backends.tiles:tiles_attention",
    "triton": "ylg.backends.triton_ops:triton_attention",
    "flex": "ylg.backends.flex:flex_attention_backend",
    "reference": "ylg.backends.reference:reference_attention",
}


@cache
def load_backend(name: str) -> Callable:
    """The function of a backend, by name."""
    if name not in BACKENDS:
        raise ValueError(f"backend={name!r} is unknown; use one of {['auto', *BACKENDS]}")
    module, function = BACKENDS[name].split(":")
    return getattr(importlib.import_module(module), function)


@cache
def triton_is_installed() -> bool:
    return importlib.util.find_spec("triton") is not None


def choose_backend(device_type: str) -> tuple[str, str]:
    """What ``backend="auto"`` takes on a kind of device, and the reason in words."""
    if device_type == "cuda":
        if triton_is_installed():
            return "triton", "triton (fused kernels)"
        return "tiles", "tiles (plain torch, because triton is not installed; pip install triton for fused kernels)"
    return "tiles", "tiles (plain torch)"


@cache
def announce(device_type: str) -> None:
    """Warns, once per process, when automatic choice gives a device less than its best backend."""
    name, reason = choose_backend(device_type)
    if device_type == "cuda" and name != "triton":
        warnings.warn(f"sparse attention on {device_type} tensors runs on {reason}", RuntimeWarning, stacklevel=4)
