"""The operations by torch's own operators, which this file alone calls.

First the public functions, taken for dtypes and devices without a kernel, then the same operations
with the operators' signatures, taken where forward AD is at work.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import geometry
from ..geometry import ConvSpec, PoolSpec
from . import codes

Sizes = Sequence[int]

conv2d: Callable[..., Tensor] = F.conv2d
relu_ = torch.relu_


def conv2d_relu(*args: Any) -> Tensor:
    """F.conv2d, then F.relu."""
    return F.relu(F.conv2d(*args))


def max_pool2d(
    x: Tensor,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil_mode: bool,
    return_indices: bool,
    pool: PoolSpec | None,
) -> Any:
    """F.max_pool2d, which must never see a window that holds no input: its backward pass would
    write outside of memory.
    """
    if pool is None or not geometry.has_empty_window(x.shape[-2], x.shape[-1], pool):
        call: Any = F.max_pool2d  # typed for a literal `return_indices` alone
        return call(x, kernel_size, stride, padding, dilation, ceil_mode, return_indices)
    if return_indices:
        raise RuntimeError("max_pool2d: a window holds no input, so it has no index")
    if x.dim() == 3:
        return max_pool2d_padded(x.unsqueeze(0), pool).squeeze(0)
    return max_pool2d_padded(x, pool)


def conv2d_padded(x: Tensor, weight: Tensor, bias: Tensor | None, conv: ConvSpec) -> Tensor:
    """conv2d with four paddings."""
    stride_h, stride_w, top, bottom, left, right, dilation_h, dilation_w, groups = conv
    if top != bottom or left != right:
        x, top, left = F.pad(x, (left, right, top, bottom)), 0, 0
    stride, dilation = (stride_h, stride_w), (dilation_h, dilation_w)
    return F.conv2d(x, weight, bias, stride, (top, left), dilation, groups)


def conv2d_dgrad(
    dy: Tensor, weight: Tensor, x_hw: Sizes, channels_last: bool, conv: ConvSpec
) -> Tensor:
    """The gradient of x as a transposed convolution, cut to size."""
    stride_h, stride_w, top, bottom, left, right, dilation_h, dilation_w, groups = conv
    p, q = dy.shape[2:]
    r, s = weight.shape[2:]
    stride, dilation = (stride_h, stride_w), (dilation_h, dilation_w)
    full = F.conv_transpose2d(dy, weight, None, stride, 0, 0, groups, dilation)
    # Rows and columns that no window reached.
    rest_h = x_hw[0] + top + bottom - ((p - 1) * stride_h + dilation_h * (r - 1) + 1)
    rest_w = x_hw[1] + left + right - ((q - 1) * stride_w + dilation_w * (s - 1) + 1)
    full = F.pad(full, (0, rest_w, 0, rest_h))
    return full[:, :, top : top + x_hw[0], left : left + x_hw[1]]


def conv2d_wgrad(
    x: Tensor,
    dy: Tensor,
    w_size: Sizes,
    channels_last: bool,
    want_weight: bool,
    want_bias: bool,
    conv: ConvSpec,
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of weight and bias."""
    dw = None
    if want_weight:
        dw = torch.ops.aten.convolution_backward(
            dy,
            F.pad(x, (conv.pad_left, conv.pad_right, conv.pad_top, conv.pad_bottom)),
            x.new_zeros(w_size),
            None,
            (conv.stride_h, conv.stride_w),
            (0, 0),
            (conv.dilation_h, conv.dilation_w),
            False,
            (0, 0),
            conv.groups,
            (False, True, False),
        )[1]
    return dw, dy.sum((0, 2, 3)) if want_bias else None


def relu_backward(dy: Tensor, mask: Tensor, stride: Sizes) -> Tensor:
    """dy where the mask has a bit."""
    live = codes.bits(mask).flatten()[: dy.numel()]
    order = sorted(range(dy.dim()), key=lambda d: -stride[d])
    live = live.view([dy.shape[d] for d in order]).permute(
        [order.index(d) for d in range(dy.dim())]
    )
    return dy.masked_fill(~live, 0)


def max_pool2d_padded(x: Tensor, pool: PoolSpec) -> Tensor:
    """max_pool2d. A window that holds no input gives -inf; torch must never see one."""
    window, stride = (pool.window_h, pool.window_w), (pool.stride_h, pool.stride_w)
    padding, dilation = (pool.pad_h, pool.pad_w), (pool.dilation_h, pool.dilation_w)
    if not geometry.may_have_empty_window(pool):
        return F.max_pool2d(x, window, stride, padding, dilation, bool(pool.ceil_mode))
    p, q = geometry.pool_size(x.shape[2], x.shape[3], pool)
    y = F.max_pool2d(pad_for_pool(x, pool), window, stride, 0, dilation)
    return y[:, :, :p, :q]


def pad_for_pool(x: Tensor, pool: PoolSpec) -> Tensor:
    """x with the pool's padding around it. A pool of it may have a window more than `pool_size`."""
    more_h, more_w = (pool.stride_h - 1, pool.stride_w - 1) if pool.ceil_mode else (0, 0)
    pads = (pool.pad_w, pool.pad_w + more_w, pool.pad_h, pool.pad_h + more_h)
    lowest = -torch.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
    return F.pad(x, pads, value=lowest)


def max_pool2d_backward(
    dy: Tensor, code: Tensor, x_hw: Sizes, channels_last: bool, pool: PoolSpec
) -> Tensor:
    """dy at the winners' places."""
    return codes.scatter(dy, code, x_hw, pool)


def block(
    x: Tensor, weight: Tensor, bias: Tensor | None, conv: ConvSpec, pool: PoolSpec | None
) -> Tensor:
    """A fused block."""
    y = F.relu(conv2d_padded(x, weight, bias, conv))
    return y if pool is None else max_pool2d_padded(y, pool)


def _full_size(
    dy: Tensor, code: Tensor, x_hw: Sizes, w_hw: Sizes, conv: ConvSpec, pool: PoolSpec | None
) -> Tensor:
    """The gradient of a fused block's convolution."""
    p, q = geometry.conv_size(x_hw[0], x_hw[1], w_hw[0], w_hw[1], conv)
    if pool is not None:
        code = codes.winners(code, dy.shape[1], conv, pool)
        return codes.scatter(dy, code, (p, q), pool)
    return dy.masked_fill(~codes.block_live(code, dy.shape), 0)


def block_dgrad(
    dy: Tensor,
    weight: Tensor,
    code: Tensor,
    x_hw: Sizes,
    channels_last: bool,
    conv: ConvSpec,
    pool: PoolSpec | None,
) -> Tensor:
    """The gradient of a fused block's x."""
    full = _full_size(dy, code, x_hw, weight.shape[2:], conv, pool)
    return conv2d_dgrad(full, weight, x_hw, channels_last, conv)


def block_wgrad(
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
    """The gradients of a fused block's weight and bias."""
    full = _full_size(dy, code, x.shape[2:], w_size[2:], conv, pool)
    return conv2d_wgrad(x, full, w_size, channels_last, want_weight, want_bias, conv)
