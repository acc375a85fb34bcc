"""Sparse attention: each query attends to the keys that its head's mask allows, and to nothing else.

The masks come as a plan (plan.py); backends/ holds what executes it. Read next: layer.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from ylg.devices import DTYPES, autocasted, automatic_backend, wide
from ylg.plan import AttentionPlan


def sparse_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    plan: AttentionPlan,
    scale: float | None = None,
    backend: str = "auto",
    return_attention: bool = False,
    *,
    key_mask: Tensor | None = None,
    score_bias: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """softmax(scale * queries keys^T) values over the keys of each head's mask, exactly.

    Args:
        queries: ``[batch, num_heads, num_queries, head_dim_qk]``, float64, float32, float16 or bfloat16, any strides.
        keys: ``[batch, num_heads, num_keys, head_dim_qk]``.
        values: ``[batch, num_heads, num_keys, head_dim_v]``. Head dims from 1 up.
        plan: of the head masks, from :func:`ylg.attention_plan`; moved to the tensors' device (and kept there).
        scale: what scores are multiplied by; None = ``1 / sqrt(head_dim_qk)``, as in scaled_dot_product_attention.
        backend: "auto" (triton on CUDA where it is installed and head dims are at most 128, else tiles;
            ``plan.explain()`` says which), "tiles", "triton", "flex" or "reference".
        return_attention: also return the probabilities, for which memory is taken only then.
        key_mask: bool ``[batch, num_keys]``, False where no query of that sample may attend (padding, say), whatever
            the plan allows; a query left without any key gives zeros, and what such a key holds, NaN even, reaches
            nobody.
        score_bias: ``score_bias(head, query, key)`` of int64 ``[edges]`` each gives what is added to the scaled scores
            of those edges, ``[edges]``, the same in every sample; differentiable. With a bias or a key mask attention
            is computed in plain operators on any device ("auto" and "tiles"), and keeps its scores for the backward.
    Returns:
        ``[batch, num_heads, num_queries, head_dim_v]``; with ``return_attention`` also the probabilities
        ``[batch, num_heads, num_queries, num_keys]``, exactly zero outside the mask, differentiable.
        Tiles, triton and reference can be differentiated as often as asked (gradient penalties). Tiles also under
        torch.func's reverse mode and batching (``grad``, ``vjp``, ``jacrev``, ``vmap``); forward mode (``jvp``,
        ``jacfwd``, ``hessian``) raises.
        torch.export, torch.onnx.export(dynamo=True) and torch.jit.trace meet plain operators, whatever the backend.
        inf and NaN in a key or value reach the queries that may attend to it and no others, and likewise in gradients
        (but not in derivatives beyond the first, nor with a bias or key mask, nor in flex; in triton what is not finite
        in the output's gradient reaches the values' gradients of all keys that share a tile with its query).
    Raises:
        ValueError: shapes, dtypes or devices that do not fit each other or the plan; an unknown backend; a scale that
            is not a number.
    """
    _check(queries, keys, values, plan)
    check_scale(scale)
    check_backend(backend)
    if scale is None:
        scale = 1 / math.sqrt(queries.shape[-1])
    exporting, plain = _exporting(), key_mask is not None or score_bias is not None
    if plain:
        _check_extras(key_mask, score_bias, queries, plan, backend)
    if _holds_no_numbers(queries) and not exporting and not torch.compiler.is_compiling():
        return _shapes_only(queries, keys, values, return_attention)
    if torch.compiler.is_dynamo_compiling():
        from ylg.backends.compiling import make_ready  # only here: its decorator imports the compiler, for 2 seconds

        make_ready(plan.digest, str(queries.device), plain)
    plan = plan if plan.device == queries.device else plan.to(queries.device)
    if plain or exporting:
        return _plain(queries, keys, values, plan, float(scale), return_attention, key_mask, score_bias)
    if backend == "auto":
        backend = automatic_backend(queries.device.type, max(queries.shape[-1], values.shape[-1]))
    return BACKENDS[backend](queries, keys, values, plan, float(scale), return_attention)


def _tiles(*arguments):
    from ylg.backends.tiles.attention import tiles_attention

    return tiles_attention(*arguments)


def _triton(*arguments):
    from ylg.backends.triton.operators import triton_attention

    return triton_attention(*arguments)


def _flex(*arguments):
    from ylg.backends.flex import flex_attention_backend

    return flex_attention_backend(*arguments)


def _reference(*arguments):
    from ylg.backends.reference import reference_attention

    return reference_attention(*arguments)


def _plain(queries: Tensor, keys: Tensor, values: Tensor, plan: AttentionPlan, *arguments):
    """Plain operators, in the dtype that autocast asks for, float16 and bfloat16 computed in float32."""
    from ylg.backends.tiles.plain import plain_attention

    queries, keys, values = autocasted(queries, keys, values)
    with torch.autocast(queries.device.type, enabled=False):
        found = plain_attention(*map(wide, (queries, keys, values)), plan, *arguments)
    found = tuple(x.to(queries.dtype) for x in found)
    return found if len(found) > 1 else found[0]


_is_exporting = getattr(torch.compiler, "is_exporting", torch.onnx.is_in_onnx_export)  # the former from torch 2.7 on


def _exporting() -> bool:
    """torch.export, torch.onnx.export and torch.jit.trace want operators that everybody knows."""
    return _is_exporting() or torch.jit.is_tracing()


def _holds_no_numbers(x: Tensor) -> bool:
    return x.is_meta or isinstance(x, FakeTensor)


def _shapes_only(queries: Tensor, keys: Tensor, values: Tensor, return_attention: bool):
    """For meta and fake tensors: the right shapes and derivatives, by the one formula that needs no plan."""
    attention = (queries @ keys.mT).softmax(-1)
    out = attention @ values
    return (out, attention) if return_attention else out


BACKENDS: dict[str, Callable] = {"tiles": _tiles, "triton": _triton, "flex": _flex, "reference": _reference}


def check_backend(name: object) -> None:
    """Raises ValueError unless it is "auto" or the name of a backend."""
    names = ["auto", *BACKENDS]
    if name not in names:
        raise ValueError(f"backend={name!r} is unknown; use one of {names}")


def check_input(x: object, axes: str, channels: int) -> None:
    """Raises ValueError unless it is what a layer's linear maps take."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"the input must be a floating-point tensor {axes} with {channels} channels, got {got}")


def check_scale(scale: object) -> None:
    """Raises ValueError unless it is a number or None: a tensor would lose its gradient without a word."""
    if scale is not None and (isinstance(scale, bool) or not isinstance(scale, Real)):
        raise ValueError(
            f"scale must be a number or None, got {type(scale).__name__}; for a learnable temperature multiply the "
            f"queries by it"
        )
    if scale is not None and not -math.inf < scale < math.inf:  # math.isfinite breaks graphs of sizes of any kind
        raise ValueError(f"scale={scale} is not finite; None is 1 / sqrt(head_dim)")


def _check_extras(
    key_mask: Tensor | None, score_bias: Callable | None, queries: Tensor, plan: AttentionPlan, backend: str
) -> None:
    if backend not in ("auto", "tiles"):
        raise ValueError(f"backend={backend!r} takes neither key_mask nor score_bias; use backend='tiles' or 'auto'")
    shape = (queries.shape[0], plan.num_keys)
    if key_mask is not None and (
        not isinstance(key_mask, Tensor) or key_mask.dtype != torch.bool or key_mask.shape != shape
    ):
        got = f"{key_mask.dtype} {list(key_mask.shape)}" if isinstance(key_mask, Tensor) else type(key_mask).__name__
        raise ValueError(f"key_mask must be bool [batch, num_keys] = {list(shape)}, True = may be attended, got {got}")
    if key_mask is not None and key_mask.device != queries.device:
        raise ValueError(f"key_mask is on {key_mask.device} but queries are on {queries.device}")
    if score_bias is not None and not callable(score_bias):
        raise ValueError(
            f"score_bias must be a function of head, query and key, got {type(score_bias).__name__}; of a table "
            f"[num_heads, num_queries, num_keys] give lambda *edge: table[edge]"
        )


def _check(queries: Tensor, keys: Tensor, values: Tensor, plan: AttentionPlan) -> None:
    if not isinstance(plan, AttentionPlan):
        raise ValueError(f"plan must come from ylg.attention_plan(masks), got {type(plan).__name__}")
    for name, tensor, length in (
        ("queries", queries, plan.num_queries),
        ("keys", keys, plan.num_keys),
        ("values", values, plan.num_keys),
    ):
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}")
        if tensor.layout != torch.strided:
            raise ValueError(f"{name} of layout {tensor.layout} are not read; pass {name}.to_dense()")
        if tensor.ndim != 4 or tensor.shape[1:3] != (plan.num_heads, length):
            raise ValueError(
                f"{name} must have the shape [batch, {plan.num_heads}, {length}, head_dim] of the plan, "
                f"got {list(tensor.shape)}"
            )
        if tensor.dtype not in DTYPES:
            raise ValueError(
                f"{name} must be floating point (float64, float32, float16 or bfloat16), got {tensor.dtype}"
            )
        if tensor.dtype != queries.dtype or tensor.device != queries.device:
            raise ValueError(
                f"queries, keys and values must share dtype and device, but queries are {queries.dtype} on "
                f"{queries.device} and {name} {tensor.dtype} on {tensor.device}"
            )
        if tensor.shape[0] != queries.shape[0]:
            raise ValueError(f"queries have batch {queries.shape[0]} but {name} have batch {tensor.shape[0]}")
    if queries.shape[-1] != keys.shape[-1] or queries.shape[-1] < 1 or values.shape[-1] < 1:
        raise ValueError(
            f"queries and keys need one head dim, and every head dim must be at least 1, got queries "
            f"{queries.shape[-1]}, keys {keys.shape[-1]}, values {values.shape[-1]}"
        )
