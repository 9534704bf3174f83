"""Computes the sizes and memory formats of convolutions' and pools' outputs.

Every function is plain arithmetic, so it also takes a compiler's SymInts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

# The code of a max-pool or a fused block has one byte per value up to this many window positions.
MAX_BYTE_POSITIONS = 254
DEAD = 255  # in such a code: no gradient passes
# On GPUs a fused block's code has 4 bits per value up to here. Two filters of a group share a byte.
MAX_NIBBLE_POSITIONS = 15
DEAD_NIBBLE = 15

Sizes = Sequence[int]


class ConvSpec(NamedTuple):
    """A convolution's parameters without sizes, in the order of the operators' `int[] conv`."""

    stride_h: int
    stride_w: int
    pad_top: int
    pad_bottom: int
    pad_left: int
    pad_right: int
    dilation_h: int
    dilation_w: int
    groups: int


class PoolSpec(NamedTuple):
    """A max-pool's parameters without sizes, in the order of the operators' `int[] pool`."""

    window_h: int
    window_w: int
    stride_h: int
    stride_w: int
    pad_h: int
    pad_w: int
    dilation_h: int
    dilation_w: int
    ceil_mode: int

    def without_ceil_mode(self) -> tuple[int, ...]:
        """The pool as `_C` takes it, since the outputs' sizes tell ceil_mode."""
        return self[:8]


def conv_size(h: int, w: int, r: int, s: int, conv: ConvSpec) -> tuple[int, int]:
    """Height and width of a convolution's output."""
    p = (h + conv.pad_top + conv.pad_bottom - conv.dilation_h * (r - 1) - 1) // conv.stride_h + 1
    q = (w + conv.pad_left + conv.pad_right - conv.dilation_w * (s - 1) - 1) // conv.stride_w + 1
    return p, q


def input_size(n: int, w_size: Sizes, x_hw: Sizes, conv: ConvSpec) -> tuple[int, int, int, int]:
    """Sizes of a convolution's input, from its weight's and its height and width."""
    return n, w_size[1] * conv.groups, x_hw[0], x_hw[1]


def pool_size(h: int, w: int, pool: PoolSpec) -> tuple[int, int]:
    """Height and width of a pool's output."""
    p = _pooled(h, pool.window_h, pool.stride_h, pool.pad_h, pool.dilation_h, pool.ceil_mode)
    q = _pooled(w, pool.window_w, pool.stride_w, pool.pad_w, pool.dilation_w, pool.ceil_mode)
    return p, q


def _pooled(size: int, window: int, stride: int, pad: int, dilation: int, ceil_mode: int) -> int:
    """A pool's output along one dimension."""
    reach = dilation * (window - 1) + 1
    room = size + 2 * pad - reach
    if not ceil_mode:
        return room // stride + 1
    out = (room + stride - 1) // stride + 1
    # The last window must start inside the input or the padding before it. Sizes are compared only
    # if it may not, since a compiler guards on every comparison of sizes.
    if pad + stride > reach and (out - 1) * stride >= size + pad:
        out = out - 1
    return out


def has_empty_window(h: int, w: int, pool: PoolSpec) -> bool:
    """Whether some window holds no input. Dilation can step over the input from the padding."""
    p, q = pool_size(h, w, pool)
    return _any_empty(h, p, pool.stride_h, pool.pad_h, pool.dilation_h) or _any_empty(
        w, q, pool.stride_w, pool.pad_w, pool.dilation_w
    )


def _any_empty(size: int, out: int, stride: int, pad: int, dilation: int) -> bool:
    """Whether some window along one dimension holds no input."""
    # The padding is at most half a window, so each window has a position at or behind the input's
    # start. The first such position is below `dilation`. The window is empty if it lies behind the
    # end.
    if pad == 0 or size >= dilation:
        return False
    starting_in_padding = range(-(-pad // stride))
    return any(o < out and (o * stride - pad) % dilation >= size for o in starting_in_padding)


def may_have_empty_window(pool: PoolSpec) -> bool:
    """Whether some size of the input leaves a window without input."""
    return (pool.pad_h > 0 and pool.dilation_h > 1) or (pool.pad_w > 0 and pool.dilation_w > 1)


def pool_output(size: Sizes, stride: Sizes, pool: PoolSpec) -> tuple[Sizes, Sizes]:
    """Sizes and strides of a pool's output, from its input's."""
    y_size = (size[0], size[1], *pool_size(size[2], size[3], pool))
    return y_size, strides(y_size, is_channels_last(size, stride))


def pool_code_dtype(pool: PoolSpec) -> torch.dtype:
    """The dtype of a lone max-pool's code, the winner's position in each window."""
    small = pool.window_h * pool.window_w <= MAX_BYTE_POSITIONS
    return torch.uint8 if small else torch.int32


def block_size(
    x_size: Sizes, w_size: Sizes, conv: ConvSpec, pool: PoolSpec | None
) -> tuple[int, int, int, int]:
    """Sizes of the output of a convolution, or of the pool behind it."""
    p, q = conv_size(x_size[2], x_size[3], w_size[2], w_size[3], conv)
    if pool is not None:
        p, q = pool_size(p, q, pool)
    return x_size[0], w_size[0], p, q


def has_nibbles(pool: PoolSpec, on_gpu: bool) -> bool:
    """Whether a fused block with this pool keeps 4 bits per pooled value, not a byte."""
    return on_gpu and pool.window_h * pool.window_w <= MAX_NIBBLE_POSITIONS


def code_form(
    x_size: Sizes, w_size: Sizes, conv: ConvSpec, pool: PoolSpec | None, on_gpu: bool
) -> tuple[Sizes, Sizes]:
    """Sizes and strides of a fused block's code.

    With a pool the code has the pooled sizes, with K in bytes, and is channels_last. Without a pool
    it is [N, bytes], with a bit per value. A dimension of ceil(Q / 8) would be 1 for small images,
    and compilers take a 1 for a constant.
    """
    n, k, p, q = block_size(x_size, w_size, conv, pool)
    if pool is None:
        row = p * ((q + 7) // 8) * k
        return (n, row), (row, 1)
    if has_nibbles(pool, on_gpu):
        k = (k // conv.groups + 1) // 2 * conv.groups
    return (n, k, p, q), nhwc((n, k, p, q))


def bits_size(y_size: Sizes) -> tuple[int, int, int, int]:
    """The kernels' sizes of a code of bits: [N, P, ceil(Q / 8), K]."""
    n, k, p, q = y_size
    return n, p, (q + 7) // 8, k


def nchw(size: Sizes) -> tuple[int, int, int, int]:
    """Strides of a contiguous tensor."""
    _, c, h, w = size
    return c * h * w, h * w, w, 1


def nhwc(size: Sizes) -> tuple[int, int, int, int]:
    """Strides of a channels_last tensor."""
    _, c, h, w = size
    return h * w * c, 1, w * c, c


def strides(size: Sizes, channels_last: bool) -> tuple[int, int, int, int]:
    """Strides of a dense tensor in one of the two memory formats."""
    return nhwc(size) if channels_last else nchw(size)


def tensor_is_channels_last(tensor: Tensor) -> bool:
    """Whether torch takes a tensor for channels_last."""
    return is_channels_last(tensor.shape, tensor.stride())


def is_channels_last(size: Sizes, stride: Sizes) -> bool:
    """Whether torch takes these strides for channels_last, dense or not.

    Strides must not shrink from C over W and H to N. If a size of 1 allows both, torch says
    contiguous.
    """
    if stride[1] == 0:
        return False
    least = 0
    for d in (1, 3, 2, 0):
        if size[d] == 0 or stride[d] < least or (d == 0 and least == stride[1]):
            return False
        least = stride[d] * size[d] if size[d] > 1 else stride[d]
    return True
