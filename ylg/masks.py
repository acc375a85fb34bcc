"""Boolean masks as such: read from tensors, arrays or sparse arrays, checked, brought into one form, told apart.

True = may attend, wherever a mask appears. A *step* of a pattern is [n, n] over positions (patterns.py, reach.py); a
*head mask* is [queries, keys] over cells (heads.py, plan.py).
"""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from scipy.sparse import csr_array, issparse
from torch import Tensor

Masks = Tensor | np.ndarray | Sequence[csr_array]

_NO_STEP = "step {} is of {{}}; masks are bool, True = may attend (use `mask > 0`)"


def sparse_steps(masks: Masks) -> tuple[csr_array, ...]:
    """Steps in whichever form they come, as bool csr_arrays [n, n], ``M_1`` first.

    Args:
        masks: bool [p, n, n] (tensor or array), or a sequence of p sparse bool [n, n].

    Raises:
        ValueError: not bool, not square, of different sizes, or no step at all.
    """
    if isinstance(masks, Tensor):
        masks = bool_array(masks, _NO_STEP.format(1))
    if not isinstance(masks, Iterable):
        raise ValueError(f"masks must be bool [num_steps, n, n] or a sequence of steps, got {type(masks).__name__}")
    if isinstance(masks, np.ndarray) and masks.ndim != 3:
        raise ValueError(f"masks of shape {masks.shape} must be [num_steps, n, n]; add the axis of the steps")
    steps = tuple(_sparse_step(step, index) for index, step in enumerate(masks, start=1))
    if not steps:
        raise ValueError("masks holds no step; pass at least one [n, n] step")
    if len({step.shape for step in steps}) > 1:
        raise ValueError(f"the steps have different sizes {[step.shape for step in steps]}; all must be [n, n]")
    return steps


def read_head_masks(masks: Masks) -> list[csr_array]:
    """Head masks in whichever form they come, as canonical bool csr_arrays [num_queries, num_keys].

    Args:
        masks: bool [num_heads, num_queries, num_keys] (tensor or array), or a sequence of num_heads sparse bool
            [num_queries, num_keys].

    Raises:
        ValueError: not bool, of different shapes, or none at all.
    """
    if isinstance(masks, (Tensor, np.ndarray)):
        masks = bool_array(masks, "head masks must be bool (True = may attend), got {}: use masks.bool()")
        if masks.ndim != 3 or 0 in masks.shape:
            raise ValueError(
                f"head masks must have the shape [num_heads, num_queries, num_keys], none of them 0, "
                f"got {list(masks.shape)}"
            )
        return [canonical(csr_array(mask)) for mask in masks]
    if not isinstance(masks, Sequence) or not masks or not all(issparse(mask) for mask in masks):
        raise ValueError(
            f"head masks must be a bool tensor or array [num_heads, num_queries, num_keys], or a non-empty list of "
            f"scipy.sparse arrays [num_queries, num_keys], got {type(masks).__name__}"
        )
    for head, mask in enumerate(masks):
        if mask.dtype != bool:
            raise ValueError(f"head masks must be bool, but head {head} is {mask.dtype}: use mask.astype(bool)")
        if mask.ndim != 2 or 0 in mask.shape or mask.shape != masks[0].shape:
            raise ValueError(
                f"head masks must share one shape [num_queries, num_keys], none of them 0, "
                f"but head {head} has {list(mask.shape)} and head 0 {list(masks[0].shape)}"
            )
    distinct = {id(mask): mask for mask in masks}  # heads that share an object are read once
    read = {key: canonical(_well_formed(mask, "a head mask").copy()) for key, mask in distinct.items()}
    return [read[id(mask)] for mask in masks]


def dense_stack(masks: Sequence[csr_array]) -> np.ndarray:
    """Sparse masks of one shape as one bool array [len(masks), rows, columns], written in place."""
    dense = np.zeros((len(masks), *masks[0].shape), dtype=bool)
    for entry, mask in zip(dense, masks, strict=True):
        mask.toarray(out=entry)
    return dense


def bool_array(masks: Tensor | np.ndarray | csr_array, refusal: str) -> np.ndarray | csr_array:
    """Masks that are bool, as an array where they are a tensor.

    Raises:
        ValueError: another dtype (``refusal`` with its name in place of {}), or a tensor of a sparse layout.
    """
    if isinstance(masks, Tensor) and masks.layout != torch.strided:
        raise ValueError(f"masks of layout {masks.layout} are not read; pass masks.to_dense(), or scipy.sparse arrays")
    if isinstance(masks, Tensor) and masks.is_meta:
        raise ValueError("masks on the meta device hold no entries; make them on another")
    dtype = str(masks.dtype).removeprefix("torch.")
    if dtype != "bool":  # before .numpy(), which has no bfloat16
        raise ValueError(refusal.format(dtype))
    return masks.detach().cpu().numpy() if isinstance(masks, Tensor) else masks


def canonical(mask: csr_array) -> csr_array:
    """The same mask, changed in place: no duplicates, no stored False, indices in ascending order."""
    mask.sum_duplicates()
    mask.eliminate_zeros()
    mask.sort_indices()
    return mask


def content(mask: csr_array) -> bytes:
    """A digest of one mask, the same for equal masks however they were stored."""
    digest = hashlib.sha256(np.diff(mask.indptr).astype(np.int32).tobytes())
    digest.update(mask.indices.astype(np.int32).tobytes())
    return digest.digest()


def _sparse_step(step: object, index: int) -> csr_array:
    step = step if isinstance(step, Tensor) or hasattr(step, "tocsr") else np.asarray(step)
    step = bool_array(step, _NO_STEP.format(index))
    if step.ndim != 2 or step.shape[0] != step.shape[1] or step.shape[0] < 1:
        raise ValueError(f"step {index} has shape {step.shape}; a step is [n, n] over the same n positions")
    sparse = _well_formed(step, f"step {index}")
    if not (sparse.has_canonical_format and sparse.data.all()):  # stored False entries would count as edges
        sparse = canonical(sparse.copy())
    return sparse


def _well_formed(mask: object, name: str) -> csr_array:
    """A sparse or dense mask as csr_array, its indices inside it: those outside would be read as other entries."""
    try:
        for index in (getattr(mask, name) for name in ("indices", "indptr") if hasattr(mask, name)):
            if not np.issubdtype(np.asarray(index).dtype, np.integer):
                raise ValueError("its indices are no whole numbers")
        sparse = csr_array(mask)
        sparse.check_format(full_check=True)
    except ValueError as error:
        raise ValueError(f"{name} is no well-formed sparse array: {error}") from None
    return sparse
