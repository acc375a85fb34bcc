"""The Triton backend: ``ylg::tile_attention``, a PyTorch operator around the kernels of triton_kernels.py.

Being a registered operator with shape ("fake") and gradient formulas, it stays one node under torch.compile, and
works with activation checkpointing, DDP and autocast. The plan travels as its tensors; what kernels read instead
(tile tables) is made from them on first use and kept by the content of the masks.

Gradients are of first order. Deterministic: nothing is added atomically.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from math import log2

import torch
import triton
from torch import Tensor

from ylg.backends import triton_kernels as kernels
from ylg.backends.tile_table import TileTable, tile_table
from ylg.plan import AttentionPlan, TileGroup

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
MAX_HEAD_DIM = 128


def triton_attention(
    queries: Tensor, keys: Tensor, values: Tensor, plan: AttentionPlan, scale: float, return_attention: bool
) -> Tensor | tuple[Tensor, Tensor]:
    """Sparse attention by fused kernels, one launch forward and two (at most three) backward.

    Args:
        queries, keys, values: ``[B, H, Nq, Dqk]``, ``[B, H, Nk, Dqk]``, ``[B, H, Nk, Dv]`` of one dtype (float16,
            bfloat16, float32 or float64), on a CUDA device, with any strides; head dims from 1 to 128. Under autocast
            they are cast first, as scaled_dot_product_attention does.
        return_attention: also return the probabilities ``[B, H, Nq, Nk]``, differentiable; memory for them, and for
            their gradient, is used only then.
    Returns:
        ``[B, H, Nq, Dv]``, with dimensions in memory in the order of the queries' strides.
    Raises:
        ValueError: unsupported device, dtype or head dim.
    """
    device = queries.device.type
    if device != "cuda" and not kernels.INTERPRETED.value:
        raise ValueError(f"backend='triton' needs CUDA tensors, got {device}; use backend='tiles' there")
    if torch.is_autocast_enabled(device) and queries.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device)
        queries, keys, values = queries.to(dtype), keys.to(dtype), values.to(dtype)
    if not (queries.dtype == keys.dtype == values.dtype) or queries.dtype not in DTYPES:
        raise ValueError(
            f"queries, keys and values must share one of the dtypes float16, bfloat16, float32, float64, "
            f"got {queries.dtype}, {keys.dtype}, {values.dtype}: cast them to one"
        )
    if max(queries.shape[-1], values.shape[-1]) > MAX_HEAD_DIM or 0 in (queries.shape[-1], values.shape[-1]):
        raise ValueError(
            f"backend='triton' takes head dims from 1 to {MAX_HEAD_DIM}, got {queries.shape[-1]} (queries, keys) and "
            f"{values.shape[-1]} (values); use backend='tiles'"
        )
    tensors, heads = plan_arguments(plan)
    out, logsumexp = tile_attention(queries, keys, values, tensors, heads, plan.digest, scale)
    if not return_attention:
        return out
    return out, attention_map(queries, keys, logsumexp.detach(), tensors, heads, plan.digest, scale)


def plan_arguments(plan: AttentionPlan) -> tuple[list[Tensor], list[int]]:
    """How the operators receive a plan: three tensors a group, and the heads and masks of each, flattened."""
    tensors = [t for group in plan.groups for t in (group.query_index, group.key_index, group.tile_mask)]
    heads = [n for group in plan.groups for n in (len(group.heads), *group.heads, *group.mask_of_head)]
    return tensors, heads


# --- tile tables ------------------------------------------------------------------------------------------------

_TABLES: OrderedDict[tuple, TileTable] = OrderedDict()
_TABLES_KEPT = 128


def _table(plan: Sequence[Tensor], heads: Sequence[int], digest: str, sizes: tuple[int, int, int], transposed: bool):
    """The table of a plan on its device; from the cache, or made (which waits for the device) and put there.

    Operators receive a plan as tensors, so that compiled graphs hold nothing else, and ``digest``, its content.
    """
    key = (digest, plan[0].device, transposed)
    if key not in _TABLES:
        whole = _plan_from_tensors(plan, heads, digest, sizes)
        _TABLES[key] = tile_table(whole.transposed, split_columns=True) if transposed else tile_table(whole)
        if len(_TABLES) > _TABLES_KEPT:
            _TABLES.popitem(last=False)
    _TABLES.move_to_end(key)
    return _TABLES[key]


def _plan_from_tensors(
    tensors: Sequence[Tensor], heads: Sequence[int], digest: str, sizes: tuple[int, int, int]
) -> AttentionPlan:
    groups, at = [], 0
    for i in range(0, len(tensors), 3):
        count = heads[at]
        names, masks = tuple(heads[at + 1 : at + 1 + count]), tuple(heads[at + 1 + count : at + 1 + 2 * count])
        groups.append(TileGroup(names, masks, *tensors[i : i + 3]))
        at += 1 + 2 * count
    num_edges = sum(int(group.tile_mask[list(group.mask_of_head)].sum()) for group in groups)
    return AttentionPlan(*sizes, tuple(groups), num_edges, digest)


# --- launching ----------------------------------------------------------------------------------------------------


def _empty_like_order(shape: Sequence[int], like: Tensor) -> Tensor:
    """Uninitialised ``shape``, its dimensions in memory in the order of ``like``'s strides: NCHW stays NCHW."""
    order = sorted(range(len(shape)), key=lambda d: (-like.stride(d), d))
    inverse = [order.index(d) for d in range(len(shape))]
    return like.new_empty([shape[d] for d in order]).permute(inverse)


def _accumulator(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _constants(queries: Tensor, values: Tensor | None, table: TileTable) -> dict:
    """Compile-time arguments of a launch, and its size.

    One warp a program as long as its registers hold the tiles: programs are then so many and so small that the device
    hides their memory latency by switching among them, which beats pipelining inside one (num_stages=1 needs fewer
    instructions and registers) and needs no barrier between warps. Wider heads take more warps and, where products
    run on ordinary units, fewer columns at a time; chosen so that nothing spills, by benchmarks/kernel_report.py.
    """
    size = queries.dtype.itemsize
    smallest = 8 if size == 2 else 1  # channels that a matrix product can have in its result
    padded = [max(smallest, triton.next_power_of_2(x.shape[-1])) for x in (queries, values) if x is not None]
    channels = sum(padded)
    warps = channels // {2: 64, 4: 16, 8: 8}[size]
    constants = {
        "DIM_QK": queries.shape[-1],
        "PADDED_QK": padded[0],
        "BLOCK_ROWS": table.block_rows,
        "BLOCK_COLUMNS": 16 if table.max_columns <= 16 or (size > 2 and channels > 64) else 32,
        "ACC": kernels.tl.float64 if size == 8 else kernels.tl.float32,
        "ROWS_LAST": size > 2,
        "num_warps": min(8, triton.next_power_of_2(max(1, warps))),
        "num_stages": 1,
        "enable_fp_fusion": True,
    }
    constants["ONE_BLOCK"] = table.max_columns <= constants["BLOCK_COLUMNS"]
    if values is not None:
        constants |= {"DIM_V": values.shape[-1], "PADDED_V": padded[1]}
    return constants


def _check_offsets(*tensors: Tensor) -> None:
    for x in tensors:
        if (x.shape[2] - 1) * x.stride(2) + (x.shape[3] - 1) * x.stride(3) >= 2**31:
            raise ValueError(
                f"one head of a tensor of shape {list(x.shape)}, strides {list(x.stride())} spans more than 2^31 "
                f"elements, which the kernels' 32-bit offsets cannot reach; use backend='tiles'"
            )


class _on:
    """Launches on the tensor's device, which need not be the current one."""

    def __init__(self, tensor: Tensor) -> None:
        self.context = torch.cuda.device(tensor.device) if tensor.is_cuda else None

    def __enter__(self) -> None:
        if self.context:
            self.context.__enter__()

    def __exit__(self, *error) -> None:
        if self.context:
            self.context.__exit__(*error)


@torch.library.custom_op("ylg::tile_attention", mutates_args=())
def tile_attention(
    queries: Tensor, keys: Tensor, values: Tensor, plan: Sequence[Tensor], heads: Sequence[int], digest: str,
    scale: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """out ``[B, H, Nq, Dv]`` and base-2 log-sum-exps of the scaled scores ``[B, H, Nq]`` (not differentiable)."""
    batch, num_heads, num_queries, _ = queries.shape
    out, logsumexp = _forward_outputs(queries, values)
    _check_offsets(queries, keys, values, out)
    table = _table(plan, heads, digest, (num_heads, num_queries, keys.shape[2]), transposed=False)
    if batch:
        with _on(queries):
            kernels.forward[(table.num_items * batch,)](
                queries, keys, values, out, logsumexp, table.buffer,
                *queries.stride(), *keys.stride(), *values.stride(), *out.stride(),
                table.num_items, num_heads, num_queries, scale * log2(torch.e),
                **_constants(queries, values, table),
            )  # fmt: skip
    return out, logsumexp


def _forward_outputs(queries: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    out = _empty_like_order((*queries.shape[:3], values.shape[3]), queries)
    return out, queries.new_empty(queries.shape[:3], dtype=_accumulator(queries.dtype))


@tile_attention.register_fake
def _(queries, keys, values, plan, heads, digest, scale):
    return _forward_outputs(queries, values)


@torch.library.custom_op("ylg::tile_attention_backward", mutates_args=())
def tile_attention_backward(
    d_out: Tensor, queries: Tensor, keys: Tensor, values: Tensor, out: Tensor, logsumexp: Tensor,
    plan: Sequence[Tensor], heads: Sequence[int], digest: str, scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """d queries, d keys, d values."""
    batch, num_heads, num_queries, dim = queries.shape
    sizes = (num_heads, num_queries, keys.shape[2])
    table = _table(plan, heads, digest, sizes, transposed=False)
    transposed = _table(plan, heads, digest, sizes, transposed=True)
    d_queries, d_keys, d_values = _backward_outputs(queries, keys, values)
    _check_offsets(d_out)
    if not transposed.covers_all_rows:
        d_keys.zero_(), d_values.zero_()
    if not batch:
        return d_queries, d_keys, d_values
    delta = torch.empty_like(logsumexp)
    slots = (batch, transposed.num_slots, transposed.block_rows, dim + values.shape[3])
    partial = torch.empty(slots, dtype=logsumexp.dtype, device=logsumexp.device)
    strides = *queries.stride(), *keys.stride(), *values.stride()
    gradient_strides = *d_keys.stride(), *d_values.stride()
    scales = scale * log2(torch.e), scale
    with _on(queries):
        kernels.query_gradient[(table.num_items * batch,)](
            queries, keys, values, out, d_out, logsumexp, delta, d_queries, table.buffer,
            *strides, *out.stride(), *d_out.stride(), *d_queries.stride(),
            table.num_items, num_heads, num_queries, *scales,
            **_constants(queries, values, table),
        )  # fmt: skip
        constants = _constants(queries, values, transposed)
        kernels.key_value_gradient[(transposed.num_items * batch,)](
            queries, keys, values, d_out, logsumexp, delta, d_keys, d_values, partial, transposed.buffer,
            *strides, *d_out.stride(), *gradient_strides,
            transposed.num_items, transposed.num_slots, num_heads, num_queries, *scales,
            **constants,
        )  # fmt: skip
        if transposed.num_merges:
            for name in ("BLOCK_COLUMNS", "ONE_BLOCK", "ROWS_LAST"):
                del constants[name]
            kernels.merge[(transposed.num_merges * batch,)](
                partial, d_keys, d_values, transposed.buffer, *gradient_strides,
                transposed.num_items, transposed.num_merges, transposed.num_slots, **constants,
            )  # fmt: skip
    return d_queries, d_keys, d_values


def _backward_outputs(queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(_empty_like_order(x.shape, x) for x in (queries, keys, values))


@tile_attention_backward.register_fake
def _(d_out, queries, keys, values, out, logsumexp, plan, heads, digest, scale):
    return _backward_outputs(queries, keys, values)


def _save_for_backward(ctx, inputs, output) -> None:
    queries, keys, values, plan, ctx.heads, ctx.digest, ctx.scale = inputs
    ctx.save_for_backward(queries, keys, values, *output, *plan)


def _backward(ctx, d_out: Tensor, d_logsumexp: Tensor):
    queries, keys, values, out, logsumexp, *plan = ctx.saved_tensors
    gradients = tile_attention_backward(
        d_out, queries, keys, values, out, logsumexp, plan, ctx.heads, ctx.digest, ctx.scale
    )
    return *gradients, [None] * len(plan), None, None, None


tile_attention.register_autograd(_backward, setup_context=_save_for_backward)


# --- attention maps -----------------------------------------------------------------------------------------------


@torch.library.custom_op("ylg::attention_map", mutates_args=())
def attention_map(
    queries: Tensor, keys: Tensor, logsumexp: Tensor, plan: Sequence[Tensor], heads: Sequence[int], digest: str,
    scale: float,
) -> Tensor:  # fmt: skip
    """Probabilities ``[B, H, Nq, Nk]``, zero outside the masks. ``logsumexp`` only saves work: it is taken to be that
    of these queries and keys, and the gradients of those two are the whole derivative."""
    batch, num_heads, num_queries, _ = queries.shape
    num_keys = keys.shape[2]
    probabilities = queries.new_zeros((batch, num_heads, num_queries, num_keys))
    table = _table(plan, heads, digest, (num_heads, num_queries, num_keys), transposed=False)
    if batch:
        with _on(queries):
            kernels.attention_map[(table.num_items * batch,)](
                queries, keys, logsumexp, probabilities, table.buffer, *queries.stride(), *keys.stride(),
                table.num_items, num_heads, num_queries, num_keys, scale * log2(torch.e),
                **_constants(queries, None, table),
            )  # fmt: skip
    return probabilities


@attention_map.register_fake
def _(queries, keys, logsumexp, plan, heads, digest, scale):
    return queries.new_empty((*queries.shape[:3], keys.shape[2]))


def _save_map_for_backward(ctx, inputs, output) -> None:
    queries, keys, _, plan, _, _, ctx.scale = inputs
    ctx.num_plan_tensors = len(plan)
    ctx.save_for_backward(queries, keys, output)


def _map_backward(ctx, d_probabilities: Tensor):
    """Plain matrix products: whoever asked for the dense map has room for its gradient."""
    queries, keys, probabilities = ctx.saved_tensors
    d_scores = torch.ops.aten._softmax_backward_data(d_probabilities, probabilities, -1, probabilities.dtype)
    d_queries = ctx.scale * (d_scores @ keys)
    d_keys = ctx.scale * (d_scores.mT @ queries)
    return d_queries, d_keys, None, [None] * ctx.num_plan_tensors, None, None, None


attention_map.register_autograd(_map_backward, setup_context=_save_map_for_backward)
