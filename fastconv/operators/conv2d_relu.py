"""The fused blocks, convolution + bias + ReLU (+ max-pool), and their sparse derivatives.

The forward pass gives the output and a code. With a pool the code has the winner's position in each
window, in a byte or 4 bits; without one, a bit per value. Given the code a block is linear, so its
derivatives are a triple like conv2d's, closed under differentiation. Only picking values at the
winners, which second derivatives need, has no kernel of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import geometry
from ..geometry import ConvSpec, PoolSpec, tensor_is_channels_last
from ..kernels import conv2d as kernels
from . import codes, fallback
from .conv2d import conv2d, fake_weight_gradients, full_gradient
from .operation import Operation

Sizes = Sequence[int]


def _prepare_fprop(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    conv: ConvSpec,
    pool: PoolSpec | None,
    save: bool,
) -> Callable[..., tuple[Tensor, Tensor | None]]:
    return kernels.prepare_fprop(x, weight, bias, conv, pool, relu=True, save=save)


def _fprop_fake(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    conv: ConvSpec,
    pool: PoolSpec | None,
    save: bool,
) -> tuple[Tensor, Tensor]:
    channels_last = tensor_is_channels_last(x) or tensor_is_channels_last(weight)
    size = geometry.block_size(x.shape, weight.shape, conv, pool)
    y = x.new_empty_strided(size, geometry.strides(size, channels_last))
    if not save:
        return y, x.new_empty(0)
    on_gpu = x.device.type == "cuda"
    code = geometry.code_form(x.shape, weight.shape, conv, pool, on_gpu)
    return y, x.new_empty_strided(*code, dtype=torch.uint8)


def _fprop_save(ctx: Any, args: Any, output: Any) -> None:
    x, weight, _, ctx.conv, ctx.pool = args
    ctx.save_for_backward(x, weight, output[1])


def _fprop_backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
    x, weight, code = ctx.saved_tensors
    want_x, want_weight, want_bias = ctx.needs_input_grad[:3]
    dx = dw = dbias = None
    weight_channels_last = tensor_is_channels_last(weight)
    if want_x:
        channels_last = weight_channels_last or tensor_is_channels_last(x)
        dx = conv2d_relu_dgrad(dy, weight, code, x.shape[2:], channels_last, ctx.conv, ctx.pool)
    if want_weight or want_bias:
        dw, dbias = conv2d_relu_wgrad(
            x,
            dy,
            code,
            weight.shape,
            weight_channels_last,
            want_weight,
            want_bias,
            ctx.conv,
            ctx.pool,
        )
    return dx, dw if want_weight else None, dbias if want_bias else None


def _dgrad(
    dy: Tensor,
    weight: Tensor,
    code: Tensor,
    x_hw: Sizes,
    channels_last: bool,
    conv: ConvSpec,
    pool: PoolSpec | None,
) -> Tensor:
    return kernels.dgrad(dy, code, weight, x_hw, channels_last, conv, pool)


def _dgrad_fake(
    dy: Tensor,
    weight: Tensor,
    code: Tensor,
    x_hw: Sizes,
    channels_last: bool,
    conv: ConvSpec,
    pool: PoolSpec | None,
) -> Tensor:
    size = geometry.input_size(dy.shape[0], weight.shape, x_hw, conv)
    return dy.new_empty_strided(size, geometry.strides(size, channels_last))


def _dgrad_save(ctx: Any, args: Any, output: Any) -> None:
    dy, weight, code, _, _, ctx.conv, ctx.pool = args
    ctx.save_for_backward(dy, weight, code)


def _dgrad_backward(ctx: Any, ddx: Tensor) -> tuple[Tensor | None, ...]:
    dy, weight, code = ctx.saved_tensors
    want_dy, want_weight = ctx.needs_input_grad[:2]
    ddy = dw = None
    if want_dy:
        ddy = _pick(conv2d(ddx, weight, None, ctx.conv), code, ctx.conv, ctx.pool)
    if want_weight:
        dw, _ = conv2d_relu_wgrad(
            ddx,
            dy,
            code,
            weight.shape,
            tensor_is_channels_last(weight),
            True,
            False,
            ctx.conv,
            ctx.pool,
        )
    return ddy, dw, None


def _wgrad(
    x: Tensor,
    dy: Tensor,
    code: Tensor,
    w_size: Sizes,
    channels_last: bool,
    want_weight: bool,
    want_bias: bool,
    conv: ConvSpec,
    pool: PoolSpec | None,
) -> tuple[Tensor | None, Tensor | None]:
    return kernels.wgrad(x, dy, code, w_size, channels_last, want_weight, want_bias, conv, pool)


def _wgrad_fake(
    x: Tensor,
    dy: Tensor,
    code: Tensor,
    w_size: Sizes,
    channels_last: bool,
    want_weight: bool,
    want_bias: bool,
    conv: ConvSpec,
    pool: PoolSpec | None,
) -> tuple[Tensor, Tensor]:
    return fake_weight_gradients(dy, w_size, channels_last, want_weight, want_bias)


def _wgrad_save(ctx: Any, args: Any, output: Any) -> None:
    x, dy, code, _, _, ctx.want_weight, ctx.want_bias, ctx.conv, ctx.pool = args
    ctx.save_for_backward(x, dy, code)


def _wgrad_backward(
    ctx: Any, ddw: Tensor | None, ddbias: Tensor | None
) -> tuple[Tensor | None, ...]:
    x, dy, code = ctx.saved_tensors
    want_x, want_dy = ctx.needs_input_grad[:2]
    ddw = ddw if ctx.want_weight else None
    ddbias = ddbias if ctx.want_bias else None
    dx = ddy = None
    if want_x and ddw is not None:
        dx = conv2d_relu_dgrad(
            dy, ddw, code, x.shape[2:], tensor_is_channels_last(x), ctx.conv, ctx.pool
        )
    if want_dy:
        size = dy.shape
        if ctx.pool is not None and ddw is None and ddbias is not None:
            # Every position of a window has the same value: no need for the full size.
            live = codes.winners(code, size[1], ctx.conv, ctx.pool) != geometry.DEAD
            return dx, ddbias.view(1, -1, 1, 1) * live.to(ddbias.dtype), None
        full = full_gradient(x, ddw, ddbias, ctx.conv, size)
        ddy = None if full is None else _pick(full, code, ctx.conv, ctx.pool)
    return dx, ddy, None


def _pick(full: Tensor, code: Tensor, conv: ConvSpec, pool: PoolSpec | None) -> Tensor:
    """The full-size tensor's values where the block's output came from, 0 where it is dead."""
    if pool is not None:
        return codes.gather(full, codes.winners(code, full.shape[1], conv, pool), pool)
    return full.masked_fill(~codes.block_live(code, full.shape), 0)


_FORWARD = "(Tensor x, Tensor weight, Tensor? bias, int[] conv, int[]? pool, bool save)"
_forward_parts: dict[str, Any] = dict(
    tensors=3,
    prepare_kernel=_prepare_fprop,
    fake=_fprop_fake,
    save=_fprop_save,
    backward=_fprop_backward,
    fallback=fallback.block,
    has_code=True,
    fold=(0,),
)
# Two names for one operation, so that a profile or an exported graph says what runs.
conv2d_relu = Operation(f"conv2d_relu{_FORWARD} -> (Tensor, Tensor)", **_forward_parts)
conv2d_relu_max_pool2d = Operation(
    f"conv2d_relu_max_pool2d{_FORWARD} -> (Tensor, Tensor)", **_forward_parts
)

conv2d_relu_dgrad = Operation(
    "conv2d_relu_dgrad(Tensor dy, Tensor weight, Tensor code, SymInt[] x_hw, bool channels_last, "
    "int[] conv, int[]? pool) -> Tensor",
    tensors=3,
    forward=_dgrad,
    fake=_dgrad_fake,
    save=_dgrad_save,
    backward=_dgrad_backward,
    fallback=fallback.block_dgrad,
    fold=(0, 2),
)

conv2d_relu_wgrad = Operation(
    "conv2d_relu_wgrad(Tensor x, Tensor dy, Tensor code, SymInt[] w_size, bool channels_last, "
    "bool want_weight, bool want_bias, int[] conv, int[]? pool) -> (Tensor, Tensor)",
    tensors=3,
    forward=_wgrad,
    fake=_wgrad_fake,
    save=_wgrad_save,
    backward=_wgrad_backward,
    fallback=fallback.block_wgrad,
)
