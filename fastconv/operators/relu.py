"""relu. Saved for the backward pass: one bit per element, in the order of y's memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from . import _eager, _fallback
from ._define import define
from ._marshal import flat
from ._plan import Plan, threads

Ints = Sequence[int]


# Kernels see dense tensors as one dimension, in the order of memory.
@lru_cache(maxsize=4096)
def _fprop_plan(
    size: Ints, stride: Ints, dtype: torch.dtype, save: bool, device: int, how: tuple
) -> Plan:
    mask = ((math.prod(size) + 7) // 8,), (1,), torch.uint8
    return Plan("relu_fprop", device, ((size, stride, dtype), mask if save else None))


@lru_cache(maxsize=4096)
def _bprop_plan(size: Ints, stride: Ints, dtype: torch.dtype, device: int, how: tuple) -> Plan:
    return Plan("relu_bprop", device, ((size, stride, dtype),))


def _bind(x: Tensor, save: bool) -> Callable[[Tensor], tuple[Tensor, Tensor | None]]:
    stride, how = torch.empty_like(x).stride(), threads(x)  # x's where x is dense
    dense = stride == x.stride()
    plan = _fprop_plan(x.shape, stride, x.dtype, save, x.get_device(), how)

    def bound(x: Tensor) -> tuple[Tensor, Tensor | None]:
        y, mask = plan.output(0, x.device), plan.output(1, x.device)
        if not dense:
            x = y.copy_(x)
        plan.run((x, y, mask), (), how, flat)
        return y, mask

    return bound


def _fprop(x: Tensor, save: bool) -> tuple[Tensor, Tensor | None]:
    return _bind(x, save)(x)


def _fprop_fake(x: Tensor, save: bool) -> tuple[Tensor, Tensor]:
    mask = x.new_empty((x.numel() + 7) // 8, dtype=torch.uint8) if save else x.new_empty(0)
    return torch.empty_like(x), mask


def _fprop_save(ctx: Any, args: Any, output: Any) -> None:
    y, mask = output
    ctx.stride = y.stride()
    ctx.save_for_backward(mask)


def _fprop_backward(ctx: Any, dy: Tensor) -> tuple[Tensor]:
    return (relu_backward(dy, ctx.saved_tensors[0], ctx.stride),)


def _bprop(dy: Tensor, mask: Tensor, stride: Ints | None) -> Tensor:
    stride, how = tuple(stride or ()), threads(dy)
    plan = _bprop_plan(dy.shape, stride, dy.dtype, dy.get_device(), how)
    dx = plan.output(0, dy.device)
    if dy.stride() != stride:
        dy = dx.copy_(dy)
    plan.run((dy, mask, dx), (), how, flat)
    return dx


def _bprop_save(ctx: Any, args: Any, output: Any) -> None:
    ctx.save_for_backward(args[1])
    ctx.stride = args[2]


# No strides are None too: what AOTInductor's programs make of an empty list.
relu_backward = define(
    "relu_backward(Tensor dy, Tensor mask, SymInt[]? stride) -> Tensor",
    tensors=2,
    forward=_bprop,
    fake=lambda dy, mask, stride: dy.new_empty_strided(dy.shape, tuple(stride or ())),
    save=_bprop_save,
    backward=lambda ctx, ddx: (relu_backward(ddx, ctx.saved_tensors[0], ctx.stride), None),
    fallback=_fallback.relu_backward,
)

relu = define(
    "relu(Tensor x, bool save) -> (Tensor, Tensor)",
    tensors=1,
    forward=_fprop,
    fake=_fprop_fake,
    save=_fprop_save,
    backward=_fprop_backward,
    fallback=torch.relu,
    code=True,
    bind=_bind,
)


def _run_in_place(x: Tensor, save: bool) -> Tensor | None:
    how = threads(x)
    plan = _fprop_plan(x.shape, x.stride(), x.dtype, save, x.get_device(), how)
    mask = plan.output(1, x.device)
    plan.run((x, x, mask), (), how, flat)
    return mask


class _InPlace(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        ctx.stride = x.stride()
        ctx.save_for_backward(_run_in_place(x, True))
        return x

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        return relu_backward(dy, ctx.saved_tensors[0], ctx.stride)


def relu_(x: Tensor) -> Tensor:
    """relu into x itself."""
    plain = (
        _eager.quiet()
        and type(x) in _eager.PLAIN_TYPES
        and (x.is_cpu or x.is_cuda)
        and not x.is_neg()
        and not _eager.has_no_memory(x)
    )
    if not plain and _eager.needs_torch():
        return _fallback.relu_(x)
    # copy_ refuses what must not be written to, and works under every transform.
    if not plain or x.is_inference() or not _is_packed(x):
        return x.copy_(relu(x))
    if x.requires_grad and torch.is_grad_enabled():
        if x.is_leaf:
            raise RuntimeError(
                "a leaf Variable that requires grad is being used in an in-place operation."
            )
        return _InPlace.apply(x)
    _run_in_place(x, False)
    torch.autograd.graph.increment_version(x)
    return x


def _is_packed(x: Tensor) -> bool:
    """Whether x fills its stretch of memory without gaps or overlaps."""
    return x.is_contiguous() or (
        x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    )
