"""Converts the code of a fused block (Epilogue in csrc/common/geometry.h) between devices.

Tests use the CPU's kind: a byte per pooled value, where 255 is dead, or a bit per value without a
pool. On GPUs small windows have 4 bits, with two filters of a group in a byte.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..problem import Problem
from . import inputs


def has_nibbles(problem: Problem, device: str) -> bool:
    """Whether the device keeps this problem's code in 4 bits."""
    pool = problem.pool
    return device != "cpu" and pool is not None and pool.window[0] * pool.window[1] <= 15


def size(problem: Problem, device: str = "cpu") -> tuple[int, int, int, int]:
    """Shape of the code; contiguous without a pool, else channels_last."""
    n, k, p, q = problem.y_size
    if problem.pool is None:
        return n, p, (q + 7) // 8, k
    if has_nibbles(problem, device):
        k = problem.groups * -(-k // problem.groups // 2)
    return n, k, p, q


def keep(problem: Problem, code: Tensor | None, device: str) -> Tensor | None:
    """A test's code in the device's form."""
    if code is None or not has_nibbles(problem, device):
        return code
    low = code.clamp(max=15).unflatten(1, (problem.groups, -1))
    high = torch.full_like(low, 15)
    high[:, :, :-1] = low[:, :, 1:]
    return inputs.place((low | high << 4)[:, :, ::2].flatten(1, 2), "nhwc")


def read(problem: Problem, code: Tensor | None, device: str) -> Tensor | None:
    """A test's code from the device's form. Padding in a group's last byte must be dead."""
    if code is None or not has_nibbles(problem, device):
        return code
    pairs = code.unflatten(1, (problem.groups, -1))
    nibbles = torch.stack((pairs & 15, pairs >> 4), 3).flatten(2, 3)
    filters = problem.k // problem.groups
    assert (nibbles[:, :, filters:] == 15).all(), "code: between two groups"
    nibbles = nibbles[:, :, :filters].flatten(1, 2)
    return nibbles.masked_fill(nibbles == 15, 255)
