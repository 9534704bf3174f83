"""relu. Saved for the backward pass: one bit per element, in the order of y's memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from .. import torch_internals
from ..kernels import relu as kernels
from . import fallback
from .operation import Operation

Sizes = Sequence[int]


def _prepare_fprop(x: Tensor, save: bool) -> Callable[[Tensor], tuple[Tensor, Tensor | None]]:
    return kernels.PreparedFprop(x, save).run


def _fprop_fake(x: Tensor, save: bool) -> tuple[Tensor, Tensor]:
    mask = x.new_empty((x.numel() + 7) // 8, dtype=torch.uint8) if save else x.new_empty(0)
    return torch.empty_like(x), mask


def _fprop_save(ctx: Any, args: Any, output: Any) -> None:
    y, mask = output
    ctx.stride = y.stride()
    ctx.save_for_backward(mask)


def _fprop_backward(ctx: Any, dy: Tensor) -> tuple[Tensor]:
    return (relu_backward(dy, ctx.saved_tensors[0], ctx.stride),)


def _bprop(dy: Tensor, mask: Tensor, stride: Sizes | None) -> Tensor:
    return kernels.bprop(dy, mask, stride or ())


def _bprop_fake(dy: Tensor, mask: Tensor, stride: Sizes | None) -> Tensor:
    return dy.new_empty_strided(dy.shape, tuple(stride or ()))


def _bprop_save(ctx: Any, args: Any, output: Any) -> None:
    ctx.save_for_backward(args[1])
    ctx.stride = args[2]


def _bprop_backward(ctx: Any, ddx: Tensor) -> tuple[Tensor, None]:
    return relu_backward(ddx, ctx.saved_tensors[0], ctx.stride), None


# AOTInductor's programs make an empty list of strides None.
relu_backward = Operation(
    "relu_backward(Tensor dy, Tensor mask, SymInt[]? stride) -> Tensor",
    tensors=2,
    forward=_bprop,
    fake=_bprop_fake,
    save=_bprop_save,
    backward=_bprop_backward,
    fallback=fallback.relu_backward,
)

relu = Operation(
    "relu(Tensor x, bool save) -> (Tensor, Tensor)",
    tensors=1,
    prepare_kernel=_prepare_fprop,
    fake=_fprop_fake,
    save=_fprop_save,
    backward=_fprop_backward,
    fallback=torch.relu,
    has_code=True,
)


class _InPlace(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        ctx.stride = x.stride()
        ctx.save_for_backward(kernels.fprop_in_place(x, True))
        return x

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        return relu_backward(dy, ctx.saved_tensors[0], ctx.stride)


def relu_(x: Tensor) -> Tensor:
    """relu into x itself."""
    plain = (
        torch_internals.quiet()
        and type(x) in torch_internals.PLAIN_TYPES
        and (x.is_cpu or x.is_cuda)
        and not x.is_neg()
        and not torch_internals.has_no_memory(x)
    )
    if not plain and torch_internals.needs_torch():
        return fallback.relu_(x)
    # copy_ refuses what must not be written to, and works under every transform.
    if not plain or x.is_inference() or not _is_packed(x):
        return x.copy_(relu(x))
    if x.requires_grad and torch.is_grad_enabled():
        if x.is_leaf:
            raise RuntimeError(
                "a leaf Variable that requires grad is being used in an in-place operation."
            )
        return _InPlace.apply(x)
    kernels.fprop_in_place(x, False)
    torch.autograd.graph.increment_version(x)
    return x


def _is_packed(x: Tensor) -> bool:
    """Whether x fills its memory without gaps or overlaps."""
    return x.is_contiguous() or (
        x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    )
