"""Sizes and memory formats of outputs. Plain arithmetic, good for SymInts too.

`conv` is (stride_h, stride_w, pad_top, pad_bottom, pad_left, pad_right, dilation_h, dilation_w,
groups); `pool` is (window_h, window_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w,
ceil_mode), or None or empty where there is no pool.
"""

from __future__ import annotations

from collections.abc import Sequence

# A code is one byte up to here; 255 is the code of "dead".
MAX_BYTE_POSITIONS = 254
DEAD = 255
# A fused block's on GPUs is 4 bits up to here, of two neighbouring filters of a group in a byte.
MAX_NIBBLE_POSITIONS = 15
DEAD_NIBBLE = 15


def conv_size(h: int, w: int, r: int, s: int, conv: Sequence[int]) -> tuple[int, int]:
    """Height and width of a convolution's output."""
    p = (h + conv[2] + conv[3] - conv[6] * (r - 1) - 1) // conv[0] + 1
    q = (w + conv[4] + conv[5] - conv[7] * (s - 1) - 1) // conv[1] + 1
    return p, q


def pool_size(h: int, w: int, pool: Sequence[int]) -> tuple[int, int]:
    """Height and width of a pool's output."""
    sizes = []
    for i, size in enumerate((h, w)):
        window, stride, pad, dilation = pool[i], pool[2 + i], pool[4 + i], pool[6 + i]
        reach = dilation * (window - 1) + 1
        room = size + 2 * pad - reach
        out = room // stride + 1
        if pool[8]:
            out = (room + stride - 1) // stride + 1
            # The last window has to start inside the input or the padding before it. Asked only
            # where it may not, since a compiler remembers what it was asked about sizes.
            if pad + stride > reach and (out - 1) * stride >= size + pad:
                out = out - 1
        sizes.append(out)
    return sizes[0], sizes[1]


def has_empty_window(h: int, w: int, pool: Sequence[int]) -> bool:
    """Whether some window holds no input: only where dilation steps over it from the padding."""
    for i, (size, out) in enumerate(zip((h, w), pool_size(h, w, pool), strict=True)):
        stride, pad, dilation = pool[2 + i], pool[4 + i], pool[6 + i]
        # The padding is at most half a window, so each window has a position at or behind the
        # input's start. Only the first of these can lie behind its end, and is below `dilation`.
        if pad == 0 or size >= dilation:
            continue
        for o in range(-(-pad // stride)):  # the windows that start in the padding
            if o < out and (o * stride - pad) % dilation >= size:
                return True
    return False


def block_size(
    x_size: Sequence[int], w_size: Sequence[int], conv: Sequence[int], pool: Sequence[int] | None
) -> tuple[int, int, int, int]:
    """Sizes of the output of a convolution, or of the pool behind it."""
    p, q = conv_size(x_size[2], x_size[3], w_size[2], w_size[3], conv)
    if pool:
        p, q = pool_size(p, q, pool)
    return x_size[0], w_size[0], p, q


def has_nibbles(pool: Sequence[int], on_gpu: bool) -> bool:
    """Whether a fused block with this pool keeps 4 bits per pooled value, not a byte."""
    return on_gpu and pool[0] * pool[1] <= MAX_NIBBLE_POSITIONS


def code_form(
    x_size: Sequence[int],
    w_size: Sequence[int],
    conv: Sequence[int],
    pool: Sequence[int] | None,
    on_gpu: bool,
) -> tuple[Sequence[int], Sequence[int]]:
    """Sizes and strides of a fused block's code.

    With a pool the pooled sizes, but K in bytes, channels_last. Without one [N, bytes], a bit per
    value: a dimension of ceil(Q / 8) would be 1 for small images, and compilers take a 1 for a
    constant.
    """
    n, k, p, q = block_size(x_size, w_size, conv, pool)
    if not pool:
        row = p * ((q + 7) // 8) * k
        return (n, row), (row, 1)
    if has_nibbles(pool, on_gpu):
        k = (k // conv[8] + 1) // 2 * conv[8]
    return (n, k, p, q), nhwc((n, k, p, q))


def bits_size(y_size: Sequence[int]) -> tuple[int, int, int, int]:
    """The sizes in which kernels see a code of bits: [N, P, ceil(Q / 8), K]."""
    n, k, p, q = y_size
    return n, p, (q + 7) // 8, k


def may_have_empty_window(pool: Sequence[int]) -> bool:
    """Whether some window holds no input, for some size of the input."""
    return any(pool[4 + i] > 0 and pool[6 + i] > 1 for i in range(2))


def nchw(size: Sequence[int]) -> tuple[int, int, int, int]:
    """Strides of a contiguous tensor."""
    _, c, h, w = size
    return c * h * w, h * w, w, 1


def nhwc(size: Sequence[int]) -> tuple[int, int, int, int]:
    """Strides of a channels_last tensor."""
    _, c, h, w = size
    return h * w * c, 1, w * c, c


def strides(size: Sequence[int], channels_last: bool) -> tuple[int, int, int, int]:
    """Strides of a dense tensor in one of the two memory formats."""
    return nhwc(size) if channels_last else nchw(size)


def is_channels_last(size: Sequence[int], stride: Sequence[int]) -> bool:
    """Whether torch takes these strides for channels_last, dense or not.

    Strides must not shrink from C over W and H to N; where a size of 1 leaves the answer open,
    torch decides for contiguous.
    """
    if stride[1] == 0:
        return False
    least = 0
    for d in (1, 3, 2, 0):
        if size[d] == 0 or stride[d] < least or (d == 0 and least == stride[1]):
            return False
        least = stride[d] * size[d] if size[d] > 1 else stride[d]
    return True
