"""Runs a chain as one operation: a convolution, a ReLU and perhaps a max-pool.

A step is a layer, () for a called ReLU, or a called pool's arguments.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Module
from torch.overrides import has_torch_function

from .. import functional, nn
from ._forward import Forward
from ._layers import (
    CONVS,
    NOTHING,
    POOLS,
    RELUS,
    all_are_watched,
    is_free,
    is_patched,
    sees_functions,
    tensors_of,
)

_SEQUENTIAL_FORWARD = torch.nn.Sequential.forward
_SEQUENTIAL_ITER = torch.nn.Sequential.__iter__

Step = Module | tuple[Any, ...]


def count_joining(steps: Iterable[Step | None]) -> int:
    """The number of steps behind a convolution that join it; 0 without a ReLU among them.

    ReLU and pool may have either order, since the largest value is the same. A window without any
    value, which only a dilated pool can have, is -inf before a ReLU and 0 behind it.
    """
    count = length = 0
    relu = pool = False
    for step in steps:
        length += 1
        kind = type(step)
        if not relu and (kind in RELUS or step == ()):
            relu = True
        elif not pool and (kind in POOLS or (kind is tuple and step)):
            if _has_indices(step) or (not relu and _is_dilated(step)):
                break
            pool = True
        elif kind in NOTHING:
            continue
        else:
            break
        count = length
    return count if relu else 0


def _has_indices(pool: Any) -> bool:
    return not isinstance(pool, tuple) and pool.return_indices is not False


def _is_dilated(pool: Any) -> bool:
    dilation = pool[3] if isinstance(pool, tuple) else pool.dilation
    return dilation not in (1, (1, 1), [1, 1])


def run_chain(x: Tensor, conv: Module, *steps: Step) -> Any:
    """Runs a convolution and its steps as one operation while all are plain layers without hooks,
    otherwise one by one."""
    if type(conv) in CONVS and count_joining(steps) == len(steps):
        return _run_joined(x, conv, steps)
    return _run_apart(x, conv, steps)


def _run_joined(x: Tensor, conv: Any, steps: Sequence[Any]) -> Any:
    """`run_chain` for steps whose types can join the convolution."""
    if not is_patched() and not all_are_watched() and is_free(conv) and _all_are_free(steps):
        tensors = tensors_of(conv, x)
        if not (has_torch_function(tensors) and sees_functions(*tensors)):
            return _run_fused(nn.conv2d_arguments(conv, *tensors), steps)
    return _run_apart(x, conv, steps)


def _all_are_free(steps: Sequence[Any]) -> bool:
    # all() of a generator would take twice the time.
    for step in steps:  # noqa: SIM110
        if type(step) is not tuple and not is_free(step):
            return False
    return True


def _run_apart(x: Tensor, conv: Module, steps: Sequence[Step]) -> Any:
    x = conv(x)
    for step in steps:
        if isinstance(step, Module):
            x = step(x)
        elif step:
            x = F.max_pool2d(x, *step)
        else:
            x = F.relu(x)
    return x


def _run_fused(arguments: Any, steps: Sequence[Any]) -> Tensor:
    for step in steps:
        if type(step) in POOLS:
            step = (step.kernel_size, step.stride, step.padding, step.dilation, step.ceil_mode)
        if type(step) is tuple and step:
            return functional.conv2d_relu_max_pool2d(*arguments, *step)
    return functional.conv2d_relu(*arguments)


class SequentialForward(Forward):
    """Runs an nn.Sequential with its chains as one operation each.

    Every call finds the chains anew, so it runs the Sequential's current layers.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        module = self.called()
        kind: Any = type(module)
        if (
            kind.forward is not _SEQUENTIAL_FORWARD
            or kind.__iter__ is not _SEQUENTIAL_ITER
            or len(args) != 1
            or kwargs
        ):
            return kind.forward(module, *args, **kwargs)
        (x,) = args
        layers: list[Any] = [*module._modules.values()]
        i = 0
        while i < len(layers):
            layer = layers[i]
            i += 1
            joining = count_joining(layers[i:]) if type(layer) in CONVS else 0
            if joining:
                x = _run_joined(x, layer, layers[i : i + joining])
                i += joining
            else:
                x = layer(x)
        return x
