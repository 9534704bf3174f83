"""The timed call of a layer: its forward pass, or both passes, in one memory format."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

# The dtypes that a part can measure, and their names in problems.
TYPES = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}

# Seconds of a call that is timed once, such as torch's in 16 bits on CPUs with AVX2.
ONCE = 2.0


def once(dtype: str) -> float:
    """The same for a dtype: long calls in float32 get all their samples."""
    return float("inf") if dtype == "float32" else ONCE


# Torch's float32 layer, which is measured beside those of 16 bits.
FLOAT32 = "float32 torch"

# Memory formats by their names in results, and whether each is channels_last.
FORMATS = {"NCHW": False, "channels_last": True}


def memory_format(channels_last: bool) -> torch.memory_format:
    """Torch's memory format."""
    return torch.channels_last if channels_last else torch.contiguous_format


def call(
    layer: nn.Module, x: Tensor, dy: Tensor, want_dx: bool | None, channels_last: bool
) -> Callable[[], tuple[Tensor, ...]]:
    """Returns the output and, unless want_dx is None, the gradients: the parameters', then dX."""
    x = x.clone(memory_format=memory_format(channels_last))
    if want_dx is None:

        def forward() -> tuple[Tensor, ...]:
            with torch.no_grad():
                return (layer(x),)

        return forward
    wanted = list(layer.parameters())
    if want_dx:
        wanted.append(x.requires_grad_())
    # The gradient has the output's own format, as from a next layer.
    dy = torch.empty_like(layer(x)).copy_(dy)

    def both() -> tuple[Tensor, ...]:
        y = layer(x)
        return y, *torch.autograd.grad(y, wanted, dy)

    return both
