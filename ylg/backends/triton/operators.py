"""The Triton backend: ``ylg::tile_attention``, a PyTorch operator around the kernels of kernels.py.

Being a registered operator with shape ("fake") and gradient formulas, it stays one node under torch.compile, and
works with activation checkpointing, DDP and autocast. The plan travels as its tensors; what kernels read instead
(tile tables) is made from them on first use and kept by the content of the masks.

Registered by torch.library.Library and not by its custom_op wrapper, which does the same at several times the cost:
at 32x32 the kernels take tens of microseconds, and so would the wrapper, every call.

Deterministic: nothing is added atomically. Gradients of gradients are plain torch and take its memory; see
tiles/plain.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache

import torch
import triton
from torch import Tensor

from ylg.backends.tiles.plain import second_gradients
from ylg.backends.triton import kernels
from ylg.backends.triton.table import TileTable, tile_table
from ylg.devices import TRITON_HEAD_DIM, autocasted
from ylg.plan import AttentionPlan, plan_of_arguments

LOG2_E = math.log2(math.e)  # the kernels' softmax runs in base 2
NOT_OF_MERGE = ("BLOCK_COLUMNS", "ONE_BLOCK", "ROWS_LAST")


def triton_attention(
    queries: Tensor, keys: Tensor, values: Tensor, plan: AttentionPlan, scale: float, return_attention: bool
) -> Tensor | tuple[Tensor, Tensor]:
    """See :func:`ylg.sparse_attention`. One launch forward and two (at most three) backward.

    The result's dimensions lie in memory in the order of the queries' strides. Under autocast, inputs are cast first,
    as scaled_dot_product_attention does.

    Raises:
        ValueError: no CUDA tensors, or head dims beyond what the kernels take.
    """
    device = queries.device.type
    if device != "cuda" and not kernels.INTERPRETED.value:
        raise ValueError(f"backend='triton' needs CUDA tensors, got {device}; use backend='tiles' there")
    queries, keys, values = autocasted(queries, keys, values)
    if max(queries.shape[-1], values.shape[-1]) > TRITON_HEAD_DIM:
        raise ValueError(
            f"backend='triton' takes head dims from 1 to {TRITON_HEAD_DIM}, got {queries.shape[-1]} (queries, keys) "
            f"and {values.shape[-1]} (values); use backend='tiles'"
        )
    tensors, heads = plan.as_arguments()
    out, softmax = tile_attention(queries, keys, values, tensors, heads, plan.digest, scale)
    if not return_attention:
        return out
    return out, attention_map(queries, keys, softmax.detach(), tensors, heads, plan.digest, scale)


# --- tile tables ------------------------------------------------------------------------------------------------

TABLE, TRANSPOSED_TABLE = "tile table", "tile table of the transposed plan"


def _table(
    plan: Sequence[Tensor], heads: Sequence[int], digest: str, sizes: tuple[int, int, int], transposed: bool
) -> TileTable:
    """The table of a plan on its device: kept with the plan, or made (which waits for the device).

    Operators receive a plan as tensors, so that compiled graphs hold nothing else, and ``digest``, its content.
    """
    whole = plan_of_arguments(plan, heads, sizes, digest)
    if transposed:
        return whole.derived(TRANSPOSED_TABLE, lambda p: tile_table(p.transposed, split_columns=True))
    return whole.derived(TABLE, tile_table)


# --- launching ----------------------------------------------------------------------------------------------------


def _empty_like_order(shape: Sequence[int], like: Tensor) -> Tensor:
    """Uninitialised ``shape``, its dimensions in memory in the order of ``like``'s strides: NCHW stays NCHW."""
    strides = like.stride()
    order = sorted(range(len(shape)), key=lambda d: (-strides[d], d))
    inverse = [order.index(d) for d in range(len(shape))]
    return like.new_empty([shape[d] for d in order]).permute(inverse)


@lru_cache(maxsize=1024)
def _constants(dim_qk: int, dim_v: int | None, size: int, aligned: int, block_rows: int, max_columns: int) -> dict:
    """Compile-time arguments of a launch, and its size. ``size`` is the bytes of an element.

    One warp a program as long as its registers hold the tiles: programs are then so many and so small that the device
    hides their memory latency by switching among them, which beats pipelining inside one (num_stages=1 needs fewer
    instructions and registers) and needs no barrier between warps. Wider heads take more warps and, where products
    run on ordinary units, fewer columns at a time; channels that do not lie together count for more, since each
    takes a register for where it lies. Chosen so that little spills, by benchmarks/kernel_report.py.
    """
    # channels that a matrix product can have in its result
    smallest = 16 if kernels.BEFORE_3_5.value else 8 if size == 2 else 1
    padded = [max(smallest, triton.next_power_of_2(dim)) for dim in (dim_qk, dim_v) if dim is not None]
    channels = sum(padded)
    block_columns = 16 if max_columns <= 16 or (size > 2 and channels > 64) else 32
    held = channels if aligned > 1 else channels * 8 // 5
    warps = triton.next_power_of_2(max(1, held // {2: 64, 4: 16, 8: 4}[size]))
    constants = {
        "DIM_QK": dim_qk,
        "PADDED_QK": padded[0],
        "BLOCK_ROWS": block_rows,
        "BLOCK_COLUMNS": block_columns,
        "ONE_BLOCK": max_columns <= block_columns,
        "ACC": kernels.tl.float64 if size == 8 else kernels.tl.float32,
        "ROWS_LAST": size > 2,
        "ALIGNED": aligned,
        "num_warps": min(8, warps),
        "num_stages": 1,
        "enable_fp_fusion": True,
    }
    return constants if dim_v is None else constants | {"DIM_V": dim_v, "PADDED_V": padded[1]}


def _launch_constants(table: TileTable, queries: Tensor, keys: Tensor, values: Tensor | None = None, *others: Tensor):
    """Of a launch that reads and writes these tensors."""
    dim_v = None if values is None else values.shape[-1]
    aligned = math.gcd(*map(_alignment, (queries, keys, *(() if values is None else (values, *others)))))
    sizes = queries.dtype.itemsize, aligned, table.block_rows, table.max_columns
    return _constants(queries.shape[-1], dim_v, *sizes)


def _alignment(x: Tensor) -> int:
    """Bytes, at most 16, at whose multiples the channels of every cell begin; 1 where a cell's do not lie together."""
    if x.stride(3) != 1:
        return 1
    return math.gcd(16, x.data_ptr(), *(stride * x.itemsize for stride in x.stride()[:3]))


def _check_offsets(*tensors: Tensor) -> None:
    for x in tensors:
        if x.shape[2] * x.stride(2) + x.shape[3] * x.stride(3) >= 2**31:
            raise ValueError(
                f"one head of a tensor of shape {list(x.shape)}, strides {list(x.stride())} spans more than 2^31 "
                f"elements, which the kernels' 32-bit offsets cannot reach; use backend='tiles'"
            )


def _on(tensor: Tensor) -> AbstractContextManager:
    """Launches go to the current device, which need not be the tensor's."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda else nullcontext()


# --- the operators --------------------------------------------------------------------------------------------------


def _tile_attention(
    queries: Tensor, keys: Tensor, values: Tensor, plan: Sequence[Tensor], heads: Sequence[int], digest: str,
    scale: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """out ``[B, H, Nq, Dv]`` and of every row the largest score (in base 2) and 1 / the softmax's
    sum ``[B, H, Nq, 2]`` (not differentiable)."""
    batch, num_heads, num_queries, _ = queries.shape
    out, softmax = _forward_outputs(queries, keys, values)
    _check_offsets(queries, keys, values, out)
    table = _table(plan, heads, digest, (num_heads, num_queries, keys.shape[2]), transposed=False)
    if batch:
        with _on(queries):
            kernels.forward[(table.num_items * batch,)](
                queries, keys, values, out, softmax, table.buffer,
                *queries.stride(), *keys.stride(), *values.stride(), *out.stride(),
                table.num_items, num_heads, num_queries, scale * LOG2_E,
                **_launch_constants(table, queries, keys, values, out),
            )  # fmt: skip
    return out, softmax


def _forward_outputs(queries: Tensor, keys: Tensor, values: Tensor, *_) -> tuple[Tensor, Tensor]:
    out = _empty_like_order((*queries.shape[:3], values.shape[3]), queries)
    dtype = torch.float64 if queries.dtype == torch.float64 else torch.float32
    return out, queries.new_empty((*queries.shape[:3], 2), dtype=dtype)


def _tile_attention_backward(
    d_out: Tensor, queries: Tensor, keys: Tensor, values: Tensor, out: Tensor, softmax: Tensor,
    plan: Sequence[Tensor], heads: Sequence[int], digest: str, scale: float, keys_too: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """d queries; d keys and d values, or empty tensors unless ``keys_too``."""
    batch, num_heads, num_queries, dim = queries.shape
    sizes = (num_heads, num_queries, keys.shape[2])
    table = _table(plan, heads, digest, sizes, transposed=False)
    d_queries, d_keys, d_values = _backward_outputs(d_out, queries, keys, values, keys_too)
    if queries.stride(3) == 1 != d_out.stride(3):  # read several times, so worth a copy that lies as the queries do
        d_out = _empty_like_order(d_out.shape, queries).copy_(d_out)
    _check_offsets(d_out)
    if not batch:
        return d_queries, d_keys, d_values
    delta = torch.empty_like(softmax[..., 0])
    strides = *queries.stride(), *keys.stride(), *values.stride()
    scales = scale * LOG2_E, scale
    with _on(queries):
        kernels.query_gradient[(table.num_items * batch,)](
            queries, keys, values, out, d_out, softmax, delta, d_queries, table.buffer,
            *strides, *out.stride(), *d_out.stride(), *d_queries.stride(),
            table.num_items, num_heads, num_queries, *scales,
            **_launch_constants(table, queries, keys, values, out, d_out, d_queries),
        )  # fmt: skip
        if not keys_too:
            return d_queries, d_keys, d_values
        transposed = _table(plan, heads, digest, sizes, transposed=True)
        if not transposed.covers_all_rows:
            d_keys.zero_()
            d_values.zero_()
        partial = softmax.new_empty(batch, transposed.num_slots, transposed.block_rows, dim + values.shape[3])
        gradient_strides = *d_keys.stride(), *d_values.stride()
        constants = _launch_constants(transposed, queries, keys, values, d_out, d_keys, d_values)
        kernels.key_value_gradient[(transposed.num_items * batch,)](
            queries, keys, values, d_out, softmax, delta, d_keys, d_values, partial, transposed.buffer,
            *strides, *d_out.stride(), *gradient_strides,
            transposed.num_items, transposed.num_slots, num_heads, num_queries, *scales,
            **constants,
        )  # fmt: skip
        if transposed.num_merges:
            kernels.merge[(transposed.num_merges * batch,)](
                partial, d_keys, d_values, transposed.buffer, *gradient_strides,
                transposed.num_items, transposed.num_merges, transposed.num_slots,
                **{name: x for name, x in constants.items() if name not in NOT_OF_MERGE},
            )  # fmt: skip
    return d_queries, d_keys, d_values


def _backward_outputs(d_out: Tensor, queries: Tensor, keys: Tensor, values: Tensor, *rest):
    *_, keys_too = rest
    others = (_empty_like_order(x.shape, x) if keys_too else x.new_empty(0) for x in (keys, values))
    return _empty_like_order(queries.shape, queries), *others


class _TileAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, queries, keys, values, plan, heads, digest, scale):
        with torch._C._AutoDispatchBelowAutograd():
            out, softmax = tile_attention(queries, keys, values, plan, heads, digest, scale)
        ctx.save_for_backward(queries, keys, values, out, softmax)
        ctx.plan = plan, heads, digest, scale
        ctx.mark_non_differentiable(softmax)
        return out, softmax

    @staticmethod
    def backward(ctx, d_out, _):
        keys_too = any(ctx.needs_input_grad[1:3])
        gradients = tile_attention_backward(d_out, *ctx.saved_tensors, *ctx.plan, keys_too)
        return *(gradients if keys_too else (gradients[0], None, None)), None, None, None, None


class _TileAttentionBackward(torch.autograd.Function):
    """The gradients, themselves differentiable with respect to d_out, queries, keys and values: what ``out`` and
    ``softmax`` say of those is part of the derivative already."""

    @staticmethod
    def forward(ctx, d_out, queries, keys, values, out, softmax, plan, heads, digest, scale, keys_too):
        with torch._C._AutoDispatchBelowAutograd():
            gradients = tile_attention_backward(
                d_out, queries, keys, values, out, softmax, plan, heads, digest, scale, keys_too
            )
        ctx.save_for_backward(d_out, queries, keys, values)
        ctx.plan = plan, heads, (*queries.shape[1:3], keys.shape[2]), digest
        ctx.scale, ctx.wanted = scale, (True, keys_too, keys_too)
        return gradients

    @staticmethod
    def backward(ctx, *dd):
        d_out, *inputs = ctx.saved_tensors
        plan = plan_of_arguments(*ctx.plan)
        d_d_out, _, *d_inputs = second_gradients(d_out, None, *inputs, plan, ctx.scale, dd, ctx.wanted)
        return d_d_out, *d_inputs, *[None] * 7


def _attention_map(
    queries: Tensor, keys: Tensor, softmax: Tensor, plan: Sequence[Tensor], heads: Sequence[int], digest: str,
    scale: float,
) -> Tensor:  # fmt: skip
    """Probabilities ``[B, H, Nq, Nk]``, zero outside the masks. ``softmax`` only saves work: it is taken to be that
    of these queries and keys, and the gradients of those two are the whole derivative."""
    batch, num_heads, num_queries, _ = queries.shape
    num_keys = keys.shape[2]
    probabilities = queries.new_zeros((batch, num_heads, num_queries, num_keys))
    table = _table(plan, heads, digest, (num_heads, num_queries, num_keys), transposed=False)
    if batch:
        with _on(queries):
            kernels.attention_map[(table.num_items * batch,)](
                queries, keys, softmax, probabilities, table.buffer, *queries.stride(), *keys.stride(),
                table.num_items, num_heads, num_queries, num_keys, scale * LOG2_E,
                **_launch_constants(table, queries, keys),
            )  # fmt: skip
    return probabilities


class _AttentionMap(torch.autograd.Function):
    @staticmethod
    def forward(ctx, queries, keys, softmax, plan, heads, digest, scale):
        with torch._C._AutoDispatchBelowAutograd():
            probabilities = attention_map(queries, keys, softmax, plan, heads, digest, scale)
        ctx.save_for_backward(queries, keys, probabilities)
        ctx.scale = scale
        return probabilities

    @staticmethod
    def backward(ctx, d_probabilities):
        """Plain matrix products: whoever asked for the dense map has room for its gradient."""
        queries, keys, probabilities = ctx.saved_tensors
        with torch.autocast(queries.device.type, enabled=False):  # backward() may be called under it
            d_scores = torch.ops.aten._softmax_backward_data(d_probabilities, probabilities, -1, probabilities.dtype)
            # outside the masks 0, whatever a row or a key holds that is not finite
            d_scores = d_scores.masked_fill(probabilities == 0, 0)
            queries, keys = (x.where(x.isfinite(), 0) for x in (queries, keys))
            d_queries, d_keys = ctx.scale * (d_scores @ keys), ctx.scale * (d_scores.mT @ queries)
        return d_queries, d_keys, None, None, None, None, None


_library = torch.library.Library("ylg", "FRAGMENT")


def _register(signature: str, function: Callable, fake: Callable, gradient: type | None = None) -> Callable:
    _library.define(signature)
    name = signature.split("(")[0]
    for device in ("CUDA", "CPU"):  # on the CPU for the interpreter and the offline compiler; see triton_attention
        _library.impl(name, function, device)
    torch.library.register_fake(f"ylg::{name}", fake, lib=_library)
    if gradient is not None:
        _library.impl(name, gradient.apply, "Autograd")
    return getattr(torch.ops.ylg, name).default


_PLAN = "Tensor[] plan, int[] heads, str digest, float scale"
tile_attention = _register(
    f"tile_attention(Tensor queries, Tensor keys, Tensor values, {_PLAN}) -> (Tensor, Tensor)",
    _tile_attention,
    _forward_outputs,
    _TileAttention,
)
tile_attention_backward = _register(
    f"tile_attention_backward(Tensor d_out, Tensor queries, Tensor keys, Tensor values, Tensor out, Tensor softmax, "
    f"{_PLAN}, bool keys_too) -> (Tensor, Tensor, Tensor)",
    _tile_attention_backward,
    _backward_outputs,
    _TileAttentionBackward,
)
attention_map = _register(
    f"attention_map(Tensor queries, Tensor keys, Tensor softmax, {_PLAN}) -> Tensor",
    _attention_map,
    lambda queries, keys, *_: queries.new_empty((*queries.shape[:3], keys.shape[2])),
    _AttentionMap,
)
