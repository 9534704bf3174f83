"""Torch's own operators, for what fastconv has no kernel for. The only file that calls them.

First the public functions, taken for dtypes and devices without a kernel, then the same operations
with the operators' signatures, taken where forward AD is at work.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import _codes
from . import _geometry as geometry

conv2d = F.conv2d
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
    pool: Any,
) -> Any:
    """F.max_pool2d, which must never see a window that holds no input: its backward pass would
    write outside of memory.
    """
    if pool is None or not geometry.has_empty_window(x.shape[-2], x.shape[-1], pool):
        return F.max_pool2d(x, kernel_size, stride, padding, dilation, ceil_mode, return_indices)
    if return_indices:
        raise RuntimeError("max_pool2d: a window holds no input, so it has no index")
    if x.dim() == 3:
        return max_pool2d_padded(x.unsqueeze(0), pool).squeeze(0)
    return max_pool2d_padded(x, pool)


def conv2d_padded(x: Tensor, weight: Tensor, bias: Tensor | None, conv: Any) -> Tensor:
    """conv2d with four paddings."""
    stride_h, stride_w, top, bottom, left, right, dilation_h, dilation_w, groups = conv
    if top != bottom or left != right:
        x, top, left = F.pad(x, (left, right, top, bottom)), 0, 0
    return F.conv2d(
        x, weight, bias, (stride_h, stride_w), (top, left), (dilation_h, dilation_w), groups
    )


def conv2d_dgrad(dy: Tensor, weight: Tensor, x_hw: Any, channels_last: bool, conv: Any) -> Tensor:
    """The gradient of x as a transposed convolution, cut to size."""
    sizes = (x_hw[0] + conv[2] + conv[3], x_hw[1] + conv[4] + conv[5])
    rest = [
        sizes[i] - ((dy.shape[2 + i] - 1) * conv[i] + conv[6 + i] * (weight.shape[2 + i] - 1) + 1)
        for i in range(2)
    ]
    full = F.conv_transpose2d(dy, weight, None, conv[:2], 0, 0, conv[8], conv[6:8])
    full = F.pad(full, (0, rest[1], 0, rest[0]))  # rows and columns that no window reached
    return full[:, :, conv[2] : conv[2] + x_hw[0], conv[4] : conv[4] + x_hw[1]]


def conv2d_wgrad(
    x: Tensor,
    dy: Tensor,
    w_size: Any,
    channels_last: bool,
    want_weight: bool,
    want_bias: bool,
    conv: Any,
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of weight and bias."""
    dw = None
    if want_weight:
        dw = torch.ops.aten.convolution_backward(
            dy,
            F.pad(x, (conv[4], conv[5], conv[2], conv[3])),
            x.new_zeros(w_size),
            None,
            conv[:2],
            (0, 0),
            conv[6:8],
            False,
            (0, 0),
            conv[8],
            (False, True, False),
        )[1]
    return dw, dy.sum((0, 2, 3)) if want_bias else None


def relu_backward(dy: Tensor, mask: Tensor, stride: Any) -> Tensor:
    """dy where the mask has a bit."""
    live = _codes.bits(mask).flatten()[: dy.numel()]
    order = sorted(range(dy.dim()), key=lambda d: -stride[d])
    live = live.view([dy.shape[d] for d in order]).permute(
        [order.index(d) for d in range(dy.dim())]
    )
    return dy.masked_fill(~live, 0)


def max_pool2d_padded(x: Tensor, pool: Any) -> Tensor:
    """max_pool2d. A window that holds no input gives -inf; torch must never see one."""
    if not geometry.may_have_empty_window(pool):
        return F.max_pool2d(x, pool[:2], pool[2:4], pool[4:6], pool[6:8], bool(pool[8]))
    p, q = geometry.pool_size(x.shape[2], x.shape[3], pool)
    y = F.max_pool2d(pad_for_pool(x, pool), pool[:2], pool[2:4], 0, pool[6:8])
    return y[:, :, :p, :q]


def pad_for_pool(x: Tensor, pool: Any) -> Tensor:
    """x with the pool's padding around it. A pool of it may have a window more than `pool_size`."""
    more_h, more_w = (stride - 1 if pool[8] else 0 for stride in pool[2:4])
    pads = (pool[5], pool[5] + more_w, pool[4], pool[4] + more_h)
    lowest = -torch.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
    return F.pad(x, pads, value=lowest)


def max_pool2d_backward(
    dy: Tensor, code: Tensor, x_hw: Any, channels_last: bool, pool: Any
) -> Tensor:
    """dy at the winners' places."""
    return _codes.scatter(dy, code, x_hw, pool)


def block(x: Tensor, weight: Tensor, bias: Tensor | None, conv: Any, pool: Any) -> Tensor:
    """A fused block."""
    y = F.relu(conv2d_padded(x, weight, bias, conv))
    return max_pool2d_padded(y, pool) if pool else y


def _full_size(dy: Tensor, code: Tensor, x_hw: Any, w_hw: Any, conv: Any, pool: Any) -> Tensor:
    """The gradient of a fused block's convolution."""
    p, q = geometry.conv_size(*x_hw, *w_hw, conv)
    if pool:
        code = _codes.winners(code, dy.shape[1], conv, pool)
        return _codes.scatter(dy, code, (p, q), pool)
    return dy.masked_fill(~_codes.block_live(code, dy.shape), 0)


def block_dgrad(
    dy: Tensor, weight: Tensor, code: Tensor, x_hw: Any, channels_last: bool, conv: Any, pool: Any
) -> Tensor:
    """The gradient of a fused block's x."""
    full = _full_size(dy, code, x_hw, weight.shape[2:], conv, pool)
    return conv2d_dgrad(full, weight, x_hw, channels_last, conv)


def block_wgrad(
    x: Tensor,
    dy: Tensor,
    code: Tensor,
    w_size: Any,
    channels_last: bool,
    want_weight: bool,
    want_bias: bool,
    conv: Any,
    pool: Any,
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of a fused block's weight and bias."""
    full = _full_size(dy, code, x.shape[2:], w_size[2:], conv, pool)
    return conv2d_wgrad(x, full, w_size, channels_last, want_weight, want_bias, conv)
