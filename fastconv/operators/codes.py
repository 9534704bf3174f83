"""Codes and masks read with torch's elementwise operations, where no kernel serves.

The indices that torch.nn.functional.max_pool2d returns are made of them, and second derivatives,
where values are picked at the winners' places.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..geometry import DEAD, DEAD_NIBBLE, ConvSpec, PoolSpec, bits_size, has_nibbles


def flat_index(code: Tensor, width: int, pool: PoolSpec) -> Tensor:
    """Winners as flat positions in their H x W plane (int64), -1 where there is none."""
    position = code.to(torch.int64)
    dead = position == DEAD if code.dtype == torch.uint8 else position < 0
    p = torch.arange(code.shape[2], device=code.device).view(-1, 1)
    q = torch.arange(code.shape[3], device=code.device)
    r = position.div(pool.window_w, rounding_mode="floor")
    s = position - r * pool.window_w
    row = p * pool.stride_h - pool.pad_h + r * pool.dilation_h
    column = q * pool.stride_w - pool.pad_w + s * pool.dilation_w
    return (row * width + column).masked_fill(dead, -1)


def gather(full: Tensor, code: Tensor, pool: PoolSpec) -> Tensor:
    """Values of a full-size tensor at the winners, 0 where there is none: max-pool's adjoint."""
    index = flat_index(code, full.shape[3], pool)
    none = index < 0
    picked = _planes(full).gather(2, _planes(index.masked_fill(none, 0))).reshape(index.shape)
    return picked.masked_fill(none, 0)


def scatter(dy: Tensor, code: Tensor, hw: Sequence[int], pool: PoolSpec) -> Tensor:
    """The full-size gradient of a max-pool: each value of dy added at its winner's place."""
    index = flat_index(code, hw[1], pool)
    none = index < 0
    dy = _planes(dy.masked_fill(none, 0))
    full = dy.new_zeros((*dy.shape[:2], hw[0] * hw[1]))
    full = full.scatter_add(2, _planes(index.masked_fill(none, 0)), dy)
    return full.reshape(*full.shape[:2], *hw)


def _planes(values: Tensor) -> Tensor:
    """[N, C, H, W] as [N, C, H * W]. Not by flatten, which batched gradients do not know."""
    return values.reshape(*values.shape[:2], -1)


def winners(code: Tensor, filters: int, conv: ConvSpec, pool: PoolSpec) -> Tensor:
    """A fused block's code as a byte per pooled value [N, K, P, Q], also where it has 4 bits."""
    on_gpu = code.device.type == "cuda"
    return from_nibbles(code, filters, conv.groups) if has_nibbles(pool, on_gpu) else code


def from_nibbles(code: Tensor, filters: int, groups: int) -> Tensor:
    """A code of bytes from one of 4 bits, whose groups are filled up to whole bytes."""
    low, high = code.bitwise_and(15), code.bitwise_right_shift(4)
    nibbles = torch.stack((low, high), 2).flatten(1, 2).unflatten(1, (groups, -1))
    nibbles = nibbles[:, :, : filters // groups].flatten(1, 2)
    return nibbles.masked_fill(nibbles == DEAD_NIBBLE, DEAD)


def bits(mask: Tensor) -> Tensor:
    """The bits of each byte, lowest first, in a new last dimension."""
    shifts = torch.arange(8, dtype=torch.uint8, device=mask.device)
    return mask.unsqueeze(-1).bitwise_right_shift(shifts).bitwise_and(1).bool()


def block_live(code: Tensor, y_size: Sequence[int]) -> Tensor:
    """The live mask of a convolution and ReLU as booleans [N, K, P, Q]."""
    code = code.reshape(bits_size(y_size))
    n, p, _, k = code.shape
    live = bits(code).permute(0, 1, 2, 4, 3).reshape(n, p, -1, k)
    return live[:, :, : y_size[3]].permute(0, 3, 1, 2)
