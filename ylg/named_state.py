"""Layers whose state dict says which masks its weights were trained with, so that those of others are refused."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import torch
from torch import Tensor, nn

from ylg.heads import HeadPattern, head_steps
from ylg.orders import Grid, Order, grid_order

INFORMS = ("pattern", "grid")  # said in messages, never compared: heads have one meaning under several spellings


class NamedState(nn.Module):
    """A module whose extra state is its ``identity()``."""

    def identity(self) -> dict[str, str | None]:
        """What must be equal for weights to mean the same, and ``INFORMS``."""
        raise NotImplementedError

    def get_extra_state(self) -> Tensor:
        """What the weights are trained with, as the bytes of JSON: files take tensors only."""
        return torch.from_numpy(np.frombuffer(json.dumps(self.identity()).encode(), dtype=np.uint8).copy())

    def set_extra_state(self, state: Tensor) -> None:
        """Raises ValueError where the state is that of a layer with other masks; the grid may be another."""
        try:
            theirs, ours = json.loads(bytes(state.cpu().tolist())), self.identity()
            differing = [name for name in ours if theirs[name] != ours[name] and name not in INFORMS]
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"this is not the state of an attention layer ({type(error).__name__}: {error})") from None
        if differing:
            said = [", ".join(f"{name} {x[name]!r}" for name in x) for x in (theirs, ours)]
            raise ValueError(
                f"this state belongs to an attention layer of {said[0]}; here is one of {said[1]}: build it with the "
                f"same {' and '.join(differing)}"
            )

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing_keys, *others):
        name = f"{prefix}_extra_state"
        if name in state_dict:
            self.set_extra_state(state_dict[name])  # before anything is copied
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys, *others)
        if name in missing_keys:  # older files and published weights do not name their masks
            missing_keys.remove(name)


def masks_of_heads(pattern: HeadPattern, num_heads: int, order: str, stride: object) -> dict[str, str | None]:
    """The part of an identity that both layers share."""
    steps = head_steps(pattern, num_heads)
    return {
        "pattern": pattern if isinstance(pattern, str) else str(pattern),
        "heads": " ".join(f"{chosen.name}{step + 1}" for chosen, step in steps),
        "order": order,
        "stride": None if stride is None else str(stride),
    }


def order_name(order: Order, grid: Grid) -> str:
    if isinstance(order, str):
        return order
    cells = grid_order(*grid, order).numpy()
    return f"a permutation of the caller's own, {hashlib.sha256(cells.tobytes()).hexdigest()[:12]}"
