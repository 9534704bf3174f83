"""The problems that the kernels take, by their sizes. All others go to torch's own operators.

A size that a compiler leaves open counts as small: asking for it would bind the program to the
answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .. import geometry
from ..geometry import ConvSpec, PoolSpec
from ..torch_internals import known_above

MOST_SIZE = 2**30 - 1  # every kernel's, for every size (csrc/python/problem.cpp)
MOST_POSITIONS = 2**31 - 1  # in a pool's window
# A GPU's kernels count pixels, taps and blocks in 32 bits (csrc/cuda/refuse.h).
MOST_COUNTED = 2**31 - 1024
# A GPU's narrowest tile has 8 columns and every group fills its own tiles: with fewer channels or
# filters most products are thrown away. The kernels' model estimates that a depthwise convolution
# takes 18 to 36 times as long as its memory traffic.
LEAST_IN_A_GROUP = 8
TILE_ROWS = 64  # the fewest pixels of a tile


def takes_conv2d(
    x_size: Sequence[int],
    w_size: Sequence[int],
    conv: ConvSpec,
    pool: PoolSpec | None,
    on_gpu: bool,
) -> bool:
    """Whether the kernels take a convolution, alone or with a pool behind it, and its derivatives.

    Args:
        x_size: [N, C, H, W].
        w_size: [K, C/groups, R, S].
        on_gpu: whether the tensors are CUDA's.
    """
    y_size = geometry.block_size(x_size, w_size, conv, None)
    sizes = (*x_size, *w_size, *y_size, *geometry.block_size(x_size, w_size, conv, pool))
    if _any_above(sizes, MOST_SIZE):
        return False
    if not on_gpu:
        return True
    return has_gpu_tiles(w_size, conv) and gpu_counts(x_size, w_size, conv, pool)


def takes_max_pool2d(x_size: Sequence[int], pool: PoolSpec) -> bool:
    """Whether the kernels take a max-pool of [..., H, W]."""
    sizes = (*x_size, *geometry.pool_size(x_size[-2], x_size[-1], pool))
    positions = [pool.window_h * pool.window_w]
    return not _any_above(sizes, MOST_SIZE) and not _any_above(positions, MOST_POSITIONS)


def has_gpu_tiles(w_size: Sequence[int], conv: ConvSpec) -> bool:
    """Whether a group fills the tiles of a GPU's kernels."""
    filters = w_size[0] // conv.groups
    return conv.groups == 1 or min(w_size[1], filters) >= LEAST_IN_A_GROUP


def gpu_counts(
    x_size: Sequence[int], w_size: Sequence[int], conv: ConvSpec, pool: PoolSpec | None
) -> bool:
    """Whether a GPU's kernels can count all that this problem has, in every direction."""
    n, c, h, w = x_size
    k, channels, r, s = w_size
    groups = conv.groups
    p, q = geometry.conv_size(h, w, r, s, conv)
    # Without a pool windows are pixels.
    pool = pool or PoolSpec(1, 1, 1, 1, 0, 0, 1, 1, 0)
    pooled_h, pooled_w = geometry.pool_size(p, q, pool)
    places = (
        h + 2 * conv.pad_top + (p - 1) * conv.stride_h + r * conv.dilation_h,
        w + 2 * conv.pad_left + (q - 1) * conv.stride_w + s * conv.dilation_w,
        pool.pad_h + pooled_h * pool.stride_h + pool.window_h * pool.dilation_h,
        pool.pad_w + pooled_w * pool.stride_w + pool.window_w * pool.dilation_w,
        n * groups,
        pooled_h * pooled_w,
    )
    pixels = n * p * (q + 7)  # bits are kept for whole bytes of a row
    phases = min(conv.stride_h, h) * min(conv.stride_w, w)
    phase_pixels = n * (h // conv.stride_h + 1) * (w // conv.stride_w + 1)
    filter_tiles = groups * (k // groups // LEAST_IN_A_GROUP + 1)
    channel_tiles = groups * (channels // LEAST_IN_A_GROUP + 1)
    counts = (
        n * h * w,
        pixels,
        r * s * (c + 1),
        r * s * (k + 1),
        k * (r * s * channels + 1),
        (pixels // TILE_ROWS + 1) * filter_tiles,
        n * pooled_h * pooled_w * filter_tiles,
        (phase_pixels // TILE_ROWS + 1) * phases * channel_tiles,
    )
    return not _any_above(places, MOST_SIZE) and not _any_above(counts, MOST_COUNTED)


def _any_above(values: Iterable[int], most: int) -> bool:
    return any(known_above(value, most) for value in values)
