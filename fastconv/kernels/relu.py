"""The ReLU kernels.

They see dense tensors as one dimension, in the order of memory. The mask has one bit an element, in
the order of y's memory: whether a gradient passes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from .buffers import pack_flat
from .plan import Plan, thread_options

Sizes = Sequence[int]


@lru_cache(maxsize=4096)
def _fprop_plan(
    size: Sizes, stride: Sizes, dtype: torch.dtype, save: bool, device: int, options: tuple
) -> Plan:
    mask = ((math.prod(size) + 7) // 8,), (1,), torch.uint8
    return Plan("relu_fprop", device, ((size, stride, dtype), mask if save else None))


@lru_cache(maxsize=4096)
def _bprop_plan(
    size: Sizes, stride: Sizes, dtype: torch.dtype, device: int, options: tuple
) -> Plan:
    return Plan("relu_bprop", device, ((size, stride, dtype),))


class PreparedFprop:
    """ReLU for tensors of certain forms, under certain settings."""

    __slots__ = ("dense", "options", "plan")

    def __init__(self, x: Tensor, save: bool) -> None:
        stride, self.options = torch.empty_like(x).stride(), thread_options(x)
        self.dense = stride == x.stride()
        device = x.get_device()
        self.plan = _fprop_plan(x.shape, stride, x.dtype, save, device, self.options)

    def run(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """The output and, if it is saved, the mask."""
        plan = self.plan
        y, mask = plan.output(0, x.device), plan.output(1, x.device)
        if not self.dense:
            x = y.copy_(x)
        plan.run((x, y, mask), (), self.options, pack_flat)
        return y, mask


def fprop_in_place(x: Tensor, save: bool) -> Tensor | None:
    """ReLU into x itself, which has to be dense; the mask, if it is saved."""
    options = thread_options(x)
    plan = _fprop_plan(x.shape, x.stride(), x.dtype, save, x.get_device(), options)
    mask = plan.output(1, x.device)
    plan.run((x, x, mask), (), options, pack_flat)
    return mask


def bprop(dy: Tensor, mask: Tensor, stride: Sizes) -> Tensor:
    """dy where the mask has a bit, with these strides, which are y's."""
    stride, options = tuple(stride), thread_options(dy)
    plan = _bprop_plan(dy.shape, stride, dy.dtype, dy.get_device(), options)
    dx = plan.output(0, dy.device)
    if dy.stride() != stride:
        dy = dx.copy_(dy)
    plan.run((dy, mask, dx), (), options, pack_flat)
    return dx
