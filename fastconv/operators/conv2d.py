"""conv2d and its two derivatives.

Each is linear in each argument and the three are closed under differentiation, so a derivative of
any order is made of these kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from .. import geometry
from ..geometry import ConvSpec, tensor_is_channels_last
from ..kernels import conv2d as kernels
from . import fallback
from .operation import Operation

Sizes = Sequence[int]


def _prepare_fprop(
    x: Tensor, weight: Tensor, bias: Tensor | None, conv: ConvSpec
) -> Callable[..., tuple[Tensor, Tensor | None]]:
    return kernels.prepare_fprop(x, weight, bias, conv, pool=None, relu=False, save=False)


def _fprop_fake(x: Tensor, weight: Tensor, bias: Tensor | None, conv: ConvSpec) -> Tensor:
    channels_last = tensor_is_channels_last(x) or tensor_is_channels_last(weight)
    size = geometry.block_size(x.shape, weight.shape, conv, None)
    return x.new_empty_strided(size, geometry.strides(size, channels_last))


def _fprop_save(ctx: Any, args: Any, output: Any) -> None:
    x, weight, _, ctx.conv = args
    ctx.save_for_backward(x, weight)


def _fprop_backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    want_x, want_weight, want_bias = ctx.needs_input_grad[:3]
    dx = dw = dbias = None
    weight_channels_last = tensor_is_channels_last(weight)
    if want_x:
        # In y's memory format, as torch.
        channels_last = weight_channels_last or tensor_is_channels_last(x)
        dx = conv2d_dgrad(dy, weight, x.shape[2:], channels_last, ctx.conv)
    if want_weight or want_bias:
        dw, dbias = conv2d_wgrad(
            x, dy, weight.shape, weight_channels_last, want_weight, want_bias, ctx.conv
        )
    return dx, dw if want_weight else None, dbias if want_bias else None


def _dgrad(dy: Tensor, weight: Tensor, x_hw: Sizes, channels_last: bool, conv: ConvSpec) -> Tensor:
    return kernels.dgrad(dy, None, weight, x_hw, channels_last, conv)


def _dgrad_fake(
    dy: Tensor, weight: Tensor, x_hw: Sizes, channels_last: bool, conv: ConvSpec
) -> Tensor:
    size = geometry.input_size(dy.shape[0], weight.shape, x_hw, conv)
    return dy.new_empty_strided(size, geometry.strides(size, channels_last))


def _dgrad_save(ctx: Any, args: Any, output: Any) -> None:
    dy, weight, _, _, ctx.conv = args
    ctx.save_for_backward(dy, weight)


def _dgrad_backward(ctx: Any, ddx: Tensor) -> tuple[Tensor | None, ...]:
    dy, weight = ctx.saved_tensors
    want_dy, want_weight = ctx.needs_input_grad[:2]
    ddy = conv2d(ddx, weight, None, ctx.conv) if want_dy else None
    dw = None
    if want_weight:
        channels_last = tensor_is_channels_last(weight)
        dw, _ = conv2d_wgrad(ddx, dy, weight.shape, channels_last, True, False, ctx.conv)
    return ddy, dw


def _wgrad(
    x: Tensor,
    dy: Tensor,
    w_size: Sizes,
    channels_last: bool,
    want_weight: bool,
    want_bias: bool,
    conv: ConvSpec,
) -> tuple[Tensor | None, Tensor | None]:
    return kernels.wgrad(x, dy, None, w_size, channels_last, want_weight, want_bias, conv)


def _wgrad_fake(
    x: Tensor,
    dy: Tensor,
    w_size: Sizes,
    channels_last: bool,
    want_weight: bool,
    want_bias: bool,
    conv: ConvSpec,
) -> tuple[Tensor, Tensor]:
    return fake_weight_gradients(dy, w_size, channels_last, want_weight, want_bias)


def fake_weight_gradients(
    dy: Tensor, w_size: Sizes, channels_last: bool, want_weight: bool, want_bias: bool
) -> tuple[Tensor, Tensor]:
    """Fake gradients of weight and bias, empty where not wanted."""
    dw = dy.new_empty(0)
    if want_weight:
        dw = dy.new_empty_strided(tuple(w_size), geometry.strides(w_size, channels_last))
    return dw, dy.new_empty(w_size[0] if want_bias else 0)


def _wgrad_save(ctx: Any, args: Any, output: Any) -> None:
    x, dy, _, _, ctx.want_weight, ctx.want_bias, ctx.conv = args
    ctx.save_for_backward(x, dy)


def _wgrad_backward(
    ctx: Any, ddw: Tensor | None, ddbias: Tensor | None
) -> tuple[Tensor | None, ...]:
    x, dy = ctx.saved_tensors
    want_x, want_dy = ctx.needs_input_grad[:2]
    ddw = ddw if ctx.want_weight else None
    ddbias = ddbias if ctx.want_bias else None
    dx = ddy = None
    if want_x and ddw is not None:
        dx = conv2d_dgrad(dy, ddw, x.shape[2:], tensor_is_channels_last(x), ctx.conv)
    if want_dy:
        ddy = full_gradient(x, ddw, ddbias, ctx.conv, dy.shape)
    return dx, ddy


def full_gradient(
    x: Tensor, ddw: Tensor | None, ddbias: Tensor | None, conv: ConvSpec, size: Sizes
) -> Tensor | None:
    """conv2d(x, ddw, ddbias) where either may be missing; `size` is the output's."""
    if ddw is not None:
        return conv2d(x, ddw, ddbias, conv)
    return None if ddbias is None else ddbias.view(1, -1, 1, 1).expand(size)


conv2d = Operation(
    "conv2d(Tensor x, Tensor weight, Tensor? bias, int[] conv) -> Tensor",
    tensors=3,
    prepare_kernel=_prepare_fprop,
    fake=_fprop_fake,
    save=_fprop_save,
    backward=_fprop_backward,
    fallback=fallback.conv2d_padded,
    fold=(0,),
)

conv2d_dgrad = Operation(
    "conv2d_dgrad(Tensor dy, Tensor weight, SymInt[] x_hw, bool channels_last, int[] conv) "
    "-> Tensor",
    tensors=2,
    forward=_dgrad,
    fake=_dgrad_fake,
    save=_dgrad_save,
    backward=_dgrad_backward,
    fallback=fallback.conv2d_dgrad,
    fold=(0,),
)

conv2d_wgrad = Operation(
    "conv2d_wgrad(Tensor x, Tensor dy, SymInt[] w_size, bool channels_last, bool want_weight, "
    "bool want_bias, int[] conv) -> (Tensor, Tensor)",
    tensors=2,
    forward=_wgrad,
    fake=_wgrad_fake,
    save=_wgrad_save,
    backward=_wgrad_backward,
    fallback=fallback.conv2d_wgrad,
)
