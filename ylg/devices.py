"""What a device can run: the dtypes of attention, and which backend ``backend="auto"`` takes there.

Imports nothing of ylg, so that a plan can say what will execute it and backends can read the same limits.
"""

from __future__ import annotations

import importlib.util
import warnings

import torch
from torch import Tensor

DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
TRITON_INSTALLED = importlib.util.find_spec("triton") is not None
TRITON_HEAD_DIM = 128  # the largest that its kernels take

_ANNOUNCED: set[str] = set()


def choose_backend(device_type: str, head_dim: int = 1) -> tuple[str, str]:
    """What ``backend="auto"`` takes on a kind of device for heads of at most this dim, and the reason in words."""
    if device_type != "cuda":
        return "tiles", "tiles (plain torch)"
    if not TRITON_INSTALLED:
        return "tiles", "tiles (plain torch, because triton is not installed; pip install triton for fused kernels)"
    if head_dim > TRITON_HEAD_DIM:
        return "tiles", f"tiles (plain torch, because the fused kernels take no head dims above {TRITON_HEAD_DIM})"
    return "triton", f"triton (fused kernels; tiles for head dims above {TRITON_HEAD_DIM})"


def automatic_backend(device_type: str, head_dim: int = 1) -> str:
    """What ``choose_backend`` takes; warns, once per process and reason, where that is less than a device's best."""
    backend, reason = choose_backend(device_type, head_dim)
    if device_type == "cuda" and backend != "triton" and reason not in _ANNOUNCED:
        _ANNOUNCED.add(reason)
        warnings.warn(f"sparse attention on {device_type} tensors runs on {reason}", RuntimeWarning, stacklevel=4)
    return backend


def autocasted(*tensors: Tensor) -> tuple[Tensor, ...]:
    """As they enter attention under autocast: in its dtype, as for scaled_dot_product_attention; float64 stays."""
    device = tensors[0].device.type
    if not torch.is_autocast_enabled(device) or tensors[0].dtype == torch.float64:
        return tensors
    return tuple(x.to(torch.get_autocast_dtype(device)) for x in tensors)


def wide(x: Tensor) -> Tensor:
    """float16 and bfloat16 as float32, which they are computed in; others as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
