"""relu. Saved for the backward pass: one bit per element, in the order of y's memory."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from . import _eager, _fallback
from ._define import define
from ._marshal import flat
from ._plan import Plan, threads


@lru_cache(maxsize=4096)
def _plan(entry: str, count: int, dtype: torch.dtype, save: bool, device: int, how: tuple) -> Plan:
    return Plan(entry, device)


def _run(entry: str, *tensors: Tensor | None) -> None:
    """Calls a kernel with dense tensors, seen as one dimension; the mask may be missing."""
    like = tensors[0]
    how = threads(like)
    save = tensors[-1] is not None
    plan = _plan(entry, like.numel(), like.dtype, save, like.get_device(), how)
    plan.run(tensors, (), how, flat)


def _mask(x: Tensor) -> Tensor:
    return x.new_empty((x.numel() + 7) // 8, dtype=torch.uint8)


def _fprop(x: Tensor, save: bool) -> tuple[Tensor, Tensor | None]:
    y = torch.empty_like(x)  # dense, with x's strides where x is dense
    if y.stride() != x.stride():
        x = y.copy_(x)
    mask = _mask(y) if save else None
    _run("relu_fprop", x, y, mask)
    return y, mask


def _fprop_fake(x: Tensor, save: bool) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), _mask(x) if save else x.new_empty(0)


def _fprop_save(ctx: Any, args: Any, output: Any) -> None:
    y, mask = output
    ctx.stride = y.stride()
    ctx.save_for_backward(mask)


def _fprop_backward(ctx: Any, dy: Tensor) -> tuple[Tensor]:
    return (relu_backward(dy, ctx.saved_tensors[0], ctx.stride),)


def _bprop(dy: Tensor, mask: Tensor, stride: Sequence[int]) -> Tensor:
    stride = tuple(stride)
    dx = torch.empty_strided(dy.shape, stride, dtype=dy.dtype, device=dy.device)
    if dy.stride() != stride:
        dy = dx.copy_(dy)
    _run("relu_bprop", dy, mask, dx)
    return dx


def _bprop_save(ctx: Any, args: Any, output: Any) -> None:
    ctx.save_for_backward(args[1])
    ctx.stride = args[2]


relu_backward = define(
    "relu_backward(Tensor dy, Tensor mask, SymInt[] stride) -> Tensor",
    tensors=2,
    forward=_bprop,
    fake=lambda dy, mask, stride: dy.new_empty_strided(dy.shape, tuple(stride)),
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
)


class _InPlace(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        mask = _mask(x)
        _run("relu_fprop", x, x, mask)
        ctx.stride = x.stride()
        ctx.save_for_backward(mask)
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
        and not _eager.is_wrapper(x)
    )
    # copy_ refuses what must not be written to, and works under every transform.
    if not plain or x.is_inference() or not _is_packed(x):
        return x.copy_(relu(x))
    if x.requires_grad and torch.is_grad_enabled():
        if x.is_leaf:
            raise RuntimeError(
                "a leaf Variable that requires grad is being used in an in-place operation."
            )
        return _InPlace.apply(x)
    _run("relu_fprop", x, x, None)
    torch.autograd.graph.increment_version(x)
    return x


def _is_packed(x: Tensor) -> bool:
    """Whether x fills its stretch of memory without gaps or overlaps."""
    return x.is_contiguous() or (
        x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    )
