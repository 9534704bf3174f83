"""conv2d and its two derivatives. Each is linear in each argument and the three are closed under
differentiation, so a derivative of any order is made of these kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from . import _fallback, _kernels
from . import _geometry as geometry
from ._define import define


def _fprop(x: Tensor, weight: Tensor, bias: Tensor | None, conv: Any) -> Tensor:
    return _kernels.fprop(x, weight, bias, tuple(conv))[0]


def _bind(*args: Any) -> Callable[..., Tensor]:
    both = _kernels.bind_fprop(*args, (), False, False)
    return lambda *tensors: both(*tensors)[0]


def _fprop_fake(x: Tensor, weight: Tensor, bias: Tensor | None, conv: Any) -> Tensor:
    channels_last = _channels_last(x) or _channels_last(weight)
    size = geometry.block_size(x.shape, weight.shape, conv, ())
    return x.new_empty_strided(size, geometry.strides(size, channels_last))


def _fprop_save(ctx: Any, args: Any, output: Any) -> None:
    x, weight, _, ctx.conv = args
    ctx.save_for_backward(x, weight)


def _fprop_backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, weight = ctx.saved_tensors
    want_x, want_weight, want_bias = ctx.needs_input_grad[:3]
    dx = dw = dbias = None
    weight_channels_last = _channels_last(weight)
    if want_x:
        # In y's memory format, as torch.
        channels_last = weight_channels_last or _channels_last(x)
        dx = conv2d_dgrad(dy, weight, x.shape[2:], channels_last, ctx.conv)
    if want_weight or want_bias:
        dw, dbias = conv2d_wgrad(
            x, dy, weight.shape, weight_channels_last, want_weight, want_bias, ctx.conv
        )
    return dx, dw if want_weight else None, dbias if want_bias else None


def _dgrad(dy: Tensor, weight: Tensor, x_hw: Any, channels_last: bool, conv: Any) -> Tensor:
    return _kernels.dgrad(dy, None, weight, x_hw, channels_last, tuple(conv))


def _dgrad_fake(dy: Tensor, weight: Tensor, x_hw: Any, channels_last: bool, conv: Any) -> Tensor:
    size = (dy.shape[0], weight.shape[1] * conv[8], *x_hw)
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
        dw, _ = conv2d_wgrad(ddx, dy, weight.shape, _channels_last(weight), True, False, ctx.conv)
    return ddy, dw


def _wgrad(
    x: Tensor,
    dy: Tensor,
    w_size: Any,
    channels_last: bool,
    want_weight: bool,
    want_bias: bool,
    conv: Any,
) -> tuple[Tensor | None, Tensor | None]:
    return _kernels.wgrad(
        x, dy, None, tuple(w_size), channels_last, want_weight, want_bias, tuple(conv)
    )


def wgrad_fake(
    dy: Tensor, w_size: Any, channels_last: bool, want_weight: bool, want_bias: bool
) -> tuple[Tensor, Tensor]:
    """Fake (dw, dbias), empty where not wanted."""
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
        dx = conv2d_dgrad(dy, ddw, x.shape[2:], _channels_last(x), ctx.conv)
    if want_dy:
        ddy = full_gradient(x, ddw, ddbias, ctx.conv, dy.shape)
    return dx, ddy


def full_gradient(
    x: Tensor, ddw: Tensor | None, ddbias: Tensor | None, conv: Any, size: Any
) -> Tensor | None:
    """conv2d(x, ddw, ddbias) where either may be missing; `size` is the output's."""
    if ddw is not None:
        return conv2d(x, ddw, ddbias, conv)
    return None if ddbias is None else ddbias.view(1, -1, 1, 1).expand(size)


def _channels_last(tensor: Tensor) -> bool:
    return geometry.is_channels_last(tensor.shape, tensor.stride())


conv2d = define(
    "conv2d(Tensor x, Tensor weight, Tensor? bias, int[] conv) -> Tensor",
    tensors=3,
    forward=_fprop,
    fake=_fprop_fake,
    save=_fprop_save,
    backward=_fprop_backward,
    fallback=_fallback.conv2d_padded,
    fold=(0,),
    bind=_bind,
)

conv2d_dgrad = define(
    "conv2d_dgrad(Tensor dy, Tensor weight, SymInt[] x_hw, bool channels_last, int[] conv) "
    "-> Tensor",
    tensors=2,
    forward=_dgrad,
    fake=_dgrad_fake,
    save=_dgrad_save,
    backward=_dgrad_backward,
    fallback=_fallback.conv2d_dgrad,
    fold=(0,),
)

conv2d_wgrad = define(
    "conv2d_wgrad(Tensor x, Tensor dy, SymInt[] w_size, bool channels_last, bool want_weight, "
    "bool want_bias, int[] conv) -> (Tensor, Tensor)",
    tensors=2,
    forward=_wgrad,
    fake=lambda x, dy, w_size, channels_last, want_weight, want_bias, conv: wgrad_fake(
        dy, w_size, channels_last, want_weight, want_bias
    ),
    save=_wgrad_save,
    backward=_wgrad_backward,
    fallback=_fallback.conv2d_wgrad,
)
