"""What a call costs apart from its arithmetic: each operation on a tiny tensor, against torch's."""

from __future__ import annotations

import sys
from collections.abc import Callable

import timing
import torch
import torch.nn.functional as F
from environment import environment
from torch import Tensor

from fastconv import functional

SIZES = {"x": (1, 3, 6, 6), "weight": (4, 3, 3, 3), "bias": (4,)}

Operation = Callable[[Tensor, Tensor, Tensor], Tensor]

# Torch's way and fastconv's.
OPERATIONS: dict[str, tuple[Operation, Operation]] = {
    "conv2d": (F.conv2d, functional.conv2d),
    "relu": (lambda x, w, b: F.relu(x), lambda x, w, b: functional.relu(x)),
    "max_pool2d": (lambda x, w, b: F.max_pool2d(x, 2), lambda x, w, b: functional.max_pool2d(x, 2)),
    "conv2d + relu": (lambda x, w, b: F.relu(F.conv2d(x, w, b)), functional.conv2d_relu),
    "conv2d + relu + max_pool2d": (
        lambda x, w, b: F.max_pool2d(F.relu(F.conv2d(x, w, b)), 2),
        lambda x, w, b: functional.conv2d_relu_max_pool2d(x, w, b, pool_kernel_size=2),
    ),
}
MODES = ("no grad", "forward with a graph", "forward + backward")


def _call(operation: Operation, mode: str) -> Callable[[], object]:
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(size, generator=generator) for size in SIZES.values()]
    if mode == "no grad":
        return lambda: operation(*tensors)
    for tensor in tensors:
        tensor.requires_grad_()
    if mode == "forward with a graph":
        return lambda: operation(*tensors)
    dy = torch.ones_like(operation(*tensors))
    return lambda: torch.autograd.backward(operation(*tensors), dy)


def run(repeat: int) -> dict[str, object]:
    """Checks and times every operation in every mode, on one thread; can be written as JSON."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    results = []
    for name, ways in OPERATIONS.items():
        tensors = [torch.randn(size) for size in SIZES.values()]
        torch.testing.assert_close(*(way(*tensors) for way in ways))
        for mode in MODES:
            print(f"{name}, {mode} ...", file=sys.stderr, flush=True)
            calls = {
                side: _call(way, mode)
                for side, way in zip(("torch", "fastconv"), ways, strict=True)
            }
            times = timing.milliseconds(timing.alternate(calls, repeat))
            results.append({"operation": name, "mode": mode, "milliseconds": times})
    result = {"environment": environment(), "repeat": repeat, "sizes": SIZES, "calls": results}
    torch.set_num_threads(threads)
    return result
