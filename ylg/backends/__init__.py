"""Backends: what executes a plan. Each is a function in a file of its own, imported when first used.

    f(queries, keys, values, plan, scale, return_attention) -> out, or (out, attention)

tiles.py      plain torch on any device, hand-written backward
triton_ops.py fused GPU kernels
flex.py       FlexAttention with padded heads: a peer, and a fallback by name
reference.py  dense softmax(QK^T + mask)V, for tests
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable

import torch

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
TRITON_INSTALLED = importlib.util.find_spec("triton") is not None


def _tiles(*arguments):
    from ylg.backends.tiles import tiles_attention

    return tiles_attention(*arguments)


def _triton(*arguments):
    from ylg.backends.triton_ops import triton_attention

    return triton_attention(*arguments)


def _flex(*arguments):
    from ylg.backends.flex import flex_attention_backend

    return flex_attention_backend(*arguments)


def _reference(*arguments):
    from ylg.backends.reference import reference_attention

    return reference_attention(*arguments)


BACKENDS: dict[str, Callable] = {"tiles": _tiles, "triton": _triton, "flex": _flex, "reference": _reference}


def load_backend(name: str) -> Callable:
    """The function of a backend, by name."""
    if name not in BACKENDS:
        raise ValueError(f"backend={name!r} is unknown; use one of {['auto', *BACKENDS]}")
    return BACKENDS[name]


TRITON_HEAD_DIM = 128  # the largest that its kernels take


def choose_backend(device_type: str, head_dim: int = 1) -> tuple[str, str]:
    """What ``backend="auto"`` takes on a kind of device for heads of at most this dim, and the reason in words."""
    if device_type != "cuda":
        return "tiles", "tiles (plain torch)"
    if not TRITON_INSTALLED:
        return "tiles", "tiles (plain torch, because triton is not installed; pip install triton for fused kernels)"
    if head_dim > TRITON_HEAD_DIM:
        return "tiles", f"tiles (plain torch, because the fused kernels take no head dims above {TRITON_HEAD_DIM})"
    return "triton", f"triton (fused kernels; tiles for head dims above {TRITON_HEAD_DIM})"


_ANNOUNCED: set[str] = set()


def automatic_backend(device_type: str, head_dim: int = 1) -> str:
    """What ``choose_backend`` takes; warns, once per process and reason, where that is less than a device's best."""
    backend, reason = choose_backend(device_type, head_dim)
    if device_type == "cuda" and backend != "triton" and reason not in _ANNOUNCED:
        _ANNOUNCED.add(reason)
        warnings.warn(f"sparse attention on {device_type} tensors runs on {reason}", RuntimeWarning, stacklevel=4)
    return backend
