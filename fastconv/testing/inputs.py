"""Makes a problem's tensors, surrounded by NaN so that reads beyond them show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..problem import Problem
from . import reference

# Elements before and behind a guarded tensor. An odd number leaves its address aligned to one
# element only; the other number keeps its memory's alignment.
GUARD, ALIGNED = 67, 512


class Inputs(NamedTuple):
    """x, w, bias (or None) and the output's gradient dy; w and bias None for a pool alone."""

    x: Tensor
    w: Tensor | None
    bias: Tensor | None
    dy: Tensor


def strides(size: Sequence[int], layout: str) -> tuple[int, ...]:
    """Strides of a tensor in one of `problem.LAYOUTS`."""
    order = {"nhwc": (0, 2, 3, 1), "transposed": (0, 1, 3, 2)}.get(layout, range(len(size)))
    gap = int(layout == "sliced")
    result, step = [0] * len(size), 1 + gap
    for d in reversed(order):
        result[d] = step
        step *= size[d] + gap
    return tuple(result)


def guarded(
    size: Sequence[int],
    stride: Sequence[int],
    dtype: torch.dtype,
    guard: int = GUARD,
    device: str | torch.device = "cpu",
) -> Tensor:
    """A tensor of NaNs (255 for bytes) surrounded by more of them; see `intact`."""
    extent = 1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    fill = torch.nan if dtype.is_floating_point else -1 if dtype.is_signed else 255
    memory = torch.full((max(extent, 0) + 2 * guard,), fill, dtype=dtype, device=device)
    return memory.as_strided(tuple(size), tuple(stride), guard)


def intact(tensor: Tensor) -> bool:
    """Whether the guards around a dense tensor are unchanged."""
    storage, guard = tensor.untyped_storage(), tensor.storage_offset()
    memory = torch.empty(0, dtype=tensor.dtype, device=tensor.device).set_(storage)
    edges = torch.cat([memory[:guard], memory[-guard:]]).cpu()
    same = edges.isnan() if tensor.is_floating_point() else edges == guarded((), (), tensor.dtype)
    return bool(same.all())


def place(values: Tensor, layout: str = "nchw") -> Tensor:
    """A copy of the values in guarded memory."""
    return guarded(values.shape, strides(values.shape, layout), values.dtype).copy_(values)


def make(problem: Problem, seed: int = 0, kind: str = "normal") -> Inputs:
    """Random inputs, the same for every call.

    Args:
        kind: "normal"; "positive" (all values, so nothing cancels); "integers" (from -2 to 2, with
            exact sums and many ties); "tie_free" (a window's two largest values differ by more than
            1e-3, and its largest is more than 1e-3 from 0; for small problems).
    """
    if kind == "tie_free":
        for attempt in range(seed, seed + 1000):
            inputs = make(problem, attempt)
            if reference.smallest_gap(problem, inputs.x, inputs.w, inputs.bias) > 1e-3:
                return inputs
        raise ValueError(f"no inputs without ties found for {problem}")
    generator = torch.Generator().manual_seed(seed)

    def values(*size: int) -> Tensor:
        if kind == "integers":
            drawn = torch.randint(-2, 3, size, generator=generator).double()
        else:
            drawn = torch.randn(size, generator=generator, dtype=torch.float64)
        return (drawn.abs() if kind == "positive" else drawn).to(problem.dtype)

    # The gradient has the input's layout: an nhwc output gets an nhwc gradient.
    x = place(values(*problem.x_size), problem.layout)
    w = place(values(*problem.w_size)) if problem.k else None
    bias = place(values(problem.k)) if problem.k and problem.bias else None
    return Inputs(x, w, bias, place(values(*problem.y_size), problem.layout))


def nearest_tf32(tensor: Tensor) -> Tensor:
    """The nearest TF32, which has 13 bits less. A tie rounds away from 0."""
    bits = tensor.view(torch.int32) + 0x1000
    return bits.bitwise_and(~0x1FFF).view(torch.float32)
