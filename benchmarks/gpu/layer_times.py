"""Times one layer: fastconv against torch, forward and backward, all tensors channels_last.

Forward is the public function without gradients. Backward is the operators that autograd calls,
without autograd: the gradients of the input, the weight and the bias, if any.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fastconv.testing import Problem, checks, inputs
from measure import gpu_timing, timing
from measure.truth import Truth

aten, ours = torch.ops.aten, torch.ops.fastconv

# A mode computes the output, or the gradients of weight, bias (None: no bias) and input.
Function = Callable[[], tuple[Any, ...]]


def measure(problem: Problem, repeat: int, device: str = "cuda") -> dict[str, object]:
    """Milliseconds of both sides in both modes; device times on a GPU, a CPU's for tests.

    A function with wrong results is left out and named in `wrong`. Only the output of torch's is
    checked, since near-ties may make other winners than fastconv's.
    """
    data = draw(problem, device)
    torch.backends.cudnn.benchmark = False  # the search for float64's best algorithm takes long
    truth = Truth(problem, data, device)
    torch.backends.cudnn.benchmark = True
    sides = {"torch": torch_modes(problem, data), "fastconv": our_modes(problem, data, truth.code)}
    modes: dict[str, dict] = {}
    wrong: list[str] = []
    for mode in ("forward", "backward"):
        functions: dict[str, Callable[[], object]] = {}
        for name, side in sides.items():
            result = side[mode]()
            try:
                if mode == "forward":
                    truth.check_output(name, result[0])
                elif name == "fastconv":
                    truth.check_gradients(name, *result)
            except AssertionError as error:
                wrong.append(f"{mode}, {name}: {error}")
            else:
                functions[name] = side[mode]
        if not functions:
            continue
        modes[mode], launched = times(functions, repeat, device)
        wrong += [f"{mode}, {line}" for line in launched]
    return {"milliseconds": modes, "wrong": wrong}


def times(
    functions: dict[str, Callable[[], object]], repeat: int, device: str
) -> tuple[dict, list[str]]:
    """Milliseconds of equivalent functions, and a line for each that is timed differently."""
    if device == "cpu":
        return timing.milliseconds(timing.alternate(functions, repeat)), []
    samples, launched = gpu_timing.device_times(functions, repeat)
    return timing.milliseconds(samples), launched


def draw(problem: Problem, device: str) -> inputs.Inputs:
    """Normal values, drawn on the device, since a CPU takes seconds for them."""
    generator = torch.Generator(device).manual_seed(0)

    def values(*size: int) -> Tensor:
        drawn = torch.randn(size, generator=generator, device=device).to(problem.dtype)
        return drawn.contiguous(memory_format=torch.channels_last) if len(size) == 4 else drawn

    x, w = values(*problem.x_size), values(*problem.w_size)
    bias = values(problem.k) if problem.bias else None
    return inputs.Inputs(x, w, bias, values(*problem.y_size))


def torch_modes(problem: Problem, data: inputs.Inputs) -> dict[str, Function]:
    """The layer by torch.nn.functional, and the operators that autograd calls for it."""
    x, w, bias, dy = data
    assert w is not None
    stride, padding, dilation, groups = problem.conv_arguments
    pool = () if problem.pool is None else problem.pool.arguments
    sizes = None if bias is None else [problem.k]
    adjoint = (sizes, stride, padding, dilation, False, (0, 0), groups)

    def activated() -> Tensor:
        y = F.conv2d(x, w, bias, stride, padding, dilation, groups)
        return F.relu(y) if problem.relu else y

    def forward() -> tuple[Any, ...]:
        return (F.max_pool2d(activated(), *pool) if pool else activated(),)

    kept = activated() if problem.relu else None
    index = aten.max_pool2d_with_indices(kept, *pool)[1] if pool else None

    def backward() -> tuple[Any, ...]:
        g = dy
        if pool:
            g = aten.max_pool2d_with_indices_backward(g, kept, *pool, index)
        if kept is not None:
            g = aten.threshold_backward(g, kept, 0)
        wanted = (True, True, bias is not None)
        dx, dw, dbias = aten.convolution_backward(g, x, w, *adjoint, wanted)
        return dw, dbias, dx

    return {"forward": forward, "backward": backward}


def our_directions(
    problem: Problem, data: inputs.Inputs, code: Tensor | None
) -> dict[str, Function]:
    """The layer by fastconv.functional, and the operators of its derivatives, by direction.

    Args:
        code: the forward pass's code; None without a ReLU.
    """
    x, w, bias, dy = data
    assert w is not None
    how = problem.w_size, True, True, bias is not None, problem.conv_spec
    pool = problem.pool_spec

    def fprop() -> tuple[Any, ...]:
        return (checks.apply(problem, x, w, bias),)

    def dgrad() -> tuple[Any, ...]:
        if code is None:
            return (ours.conv2d_dgrad(dy, w, x.shape[2:], True, problem.conv_spec),)
        conv = problem.conv_spec
        return (ours.conv2d_relu_dgrad(dy, w, code, x.shape[2:], True, conv, pool),)

    def wgrad() -> tuple[Any, ...]:
        if code is None:
            dw, dbias = ours.conv2d_wgrad(x, dy, *how)
        else:
            dw, dbias = ours.conv2d_relu_wgrad(x, dy, code, *how, pool)
        return dw, None if bias is None else dbias

    return {"fprop": fprop, "dgrad": dgrad, "wgrad": wgrad}


def our_modes(problem: Problem, data: inputs.Inputs, code: Tensor | None) -> dict[str, Function]:
    """The same by mode."""
    of = our_directions(problem, data, code)
    return {"forward": of["fprop"], "backward": lambda: (*of["wgrad"](), *of["dgrad"]())}
