"""Checks a problem's results against float64, for the winners that the kernel chose.

Rounding may make another window position win than in float64. Such a flip moves a gradient by far
more than rounding does. So a winner is right if its float64 value is within the error rule of the
largest, and gradients are compared for the chosen winners. Small integers have no rounding errors:
all results must be equal, and the first of equal values wins.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import functional
from ..problem import Problem
from . import codes, errors, inputs, kernels, reference


class Expected(NamedTuple):
    """A result in float64, torch's own, and the scale of the error rule."""

    exact: Tensor
    own: Tensor
    scale: float


def expected_conv(problem: Problem, data: inputs.Inputs) -> Expected:
    """The convolution's output."""
    exact, own, scale = (
        reference.conv2d(problem, *_each(data[:3], change))
        for change in (Tensor.double, _same, _magnitude)
    )
    return Expected(exact, own, scale.max().item())


def check_output(
    problem: Problem,
    data: inputs.Inputs,
    y: Tensor,
    code: Tensor | None,
    name: str = "",
    kind: str = "normal",
    expected: Expected | None = None,
) -> None:
    """Checks the output of a convolution or a block, and the block's code if given."""
    relative = errors.relative("y", name, kind, problem)
    name = f"{name} {kind} {problem}"
    exact, own, scale = expected or expected_conv(problem, data)
    if kind == "integers" and not relative:
        scale = 0.0
    if problem.relu:
        if code is not None:
            allowed = errors.limit(exact, own, scale, errors.FORWARD, relative)
            check_code(problem, exact, code, allowed, name)
        exact, own = rest(problem, exact), rest(problem, own)
    errors.check_close(y, exact, own, scale, relative=relative, name=f"y: {name}")


def _each(tensors: tuple, change: Callable[[Tensor], Tensor]) -> tuple:
    return tuple(None if t is None else change(t) for t in tensors)


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _magnitude(tensor: Tensor) -> Tensor:
    return tensor.double().abs().nan_to_num(0.0, 0.0)


def rest(problem: Problem, conv: Tensor) -> Tensor:
    """Applies the ReLU and pool that follow the convolution."""
    if problem.pool is not None:
        conv = reference.max_pool2d(conv, problem.pool)[0]
    return reference.relu(conv) if problem.relu else conv


def check_code(problem: Problem, conv: Tensor, code: Tensor, allowed: float, name: str) -> None:
    """Checks each winner: its value in `conv`, the truth, is its window's largest and above 0.

    Args:
        allowed: the largest error of a winner's value; at 0, the first of equal values must win.
    """
    if problem.pool is None:
        alive, values, best = kernels.unpack_bits(code, conv.shape[3]), conv, conv
    else:
        values, inside = reference.windows(conv, problem.pool)
        alive, winner = code != 255, code.long()
        assert (winner[alive] < values.shape[-1]).all(), f"code: {name}: a code beyond the window"
        winner = winner.clamp(max=values.shape[-1] - 1).unsqueeze(-1)
        assert inside.gather(-1, winner)[alive.unsqueeze(-1)].all(), f"code: {name}: outside"
        best = values.max(-1).values
        values = values.gather(-1, winner).squeeze(-1)
        if allowed == 0:
            first = reference.max_pool2d(conv, problem.pool)[1]
            assert (winner.squeeze(-1) == first)[alive].all(), f"code: {name}: not the first"
    wrong = torch.where(alive, (values < best - allowed) | (values < -allowed), best > allowed)
    if allowed == 0:
        wrong |= alive & (best == 0)
    assert not wrong.any(), (
        f"code: {name}: {int(wrong.sum())} winners are wrong, the first at "
        f"{wrong.nonzero()[0].tolist()}"
    )


def conv_gradient(problem: Problem, dy: Tensor, code: Tensor | None) -> Tensor:
    """The gradient of the convolution's output, given the code."""
    if code is None:
        return dy
    if problem.pool is None:
        return torch.where(kernels.unpack_bits(code, dy.shape[3]), dy, 0)
    return reference.scatter(problem, dy, torch.where(code == 255, -1, code.long()))


def expected_gradients(
    problem: Problem, data: inputs.Inputs, code: Tensor | None
) -> dict[str, Expected]:
    """`dx`, `dw` and `dbias` for the winners that the code names."""

    def adjoint(change: Callable[[Tensor], Tensor]) -> tuple[Tensor, ...]:
        x, w, _, dy = data
        assert w is not None
        g = conv_gradient(problem, change(dy), code)
        return reference.conv2d_grads(problem, change(x), change(w), g)

    parts = zip(adjoint(Tensor.double), adjoint(_same), adjoint(_magnitude), strict=True)
    return {
        what: Expected(exact, own, scale.max().item())
        for what, (exact, own, scale) in zip(("dx", "dw", "dbias"), parts, strict=True)
    }


def check_gradients(
    problem: Problem,
    expected: dict[str, Expected],
    gradients: dict[str, Tensor | None],
    name: str = "",
    kind: str = "normal",
) -> None:
    """Checks those of `dx`, `dw` and `dbias` that are given."""
    for what, actual in gradients.items():
        if actual is not None:
            exact, own, scale = expected[what]
            relative = errors.relative(what, name, kind, problem)
            errors.check_close(
                actual,
                exact,
                own,
                0.0 if kind == "integers" and not relative else scale,
                factor=errors.GRADIENT,
                relative=relative,
                name=f"{what}: {name} {kind} {problem}",
            )


def check(
    direction: str,
    problem: Problem,
    device: str = "cpu",
    kind: str = "normal",
    dead: float = 0.5,
) -> None:
    """Checks all implementations of a direction on a device; `dead` is for the gradients."""
    if direction == "fprop":
        check_fprop(problem, kind=kind, device=device)
    else:
        check_backward(problem, direction, kind=kind, dead=dead, device=device)


def check_fprop(
    problem: Problem,
    names: list[str] | None = None,
    kind: str = "normal",
    threads: int = 1,
    device: str = "cpu",
) -> None:
    """Checks implementations of the forward pass: those named, or all that apply."""
    data = inputs.make(problem, kind=kind)
    x, w, bias, _ = data
    assert w is not None
    expected = expected_conv(problem, data)
    options: dict[str, Any] = {"threads": threads, "device": device}
    for name in names or kernels.implementations_to_check("fprop", problem, device):
        for layout in ("nchw", "nhwc"):
            y, code = kernels.fprop(problem, x, w, bias, name, layout=layout, **options)
            label = f"fprop {device} {name} into {layout}"
            check_output(problem, data, y, code, label, kind, expected)
        if problem.relu:  # also without a code
            again, _ = kernels.fprop(problem, x, w, bias, name, save=False, **options)
            assert torch.equal(again, y), f"fprop {name} differs without code: {problem}"


def check_backward(
    problem: Problem,
    direction: str,
    names: list[str] | None = None,
    kind: str = "normal",
    dead: float = 0.5,
    threads: int = 1,
    device: str = "cpu",
) -> None:
    """Checks implementations of dgrad or wgrad for a random code."""
    data, code = inputs.make(problem, kind=kind), kernels.make_code(problem, dead)
    x, w, _, dy = data
    assert w is not None
    expected = expected_gradients(problem, data, code)
    for name in names or kernels.implementations_to_check(direction, problem, device):
        for layout in ("nchw", "nhwc"):
            found: dict[str, Tensor | None]
            options: dict[str, Any] = {"threads": threads, "layout": layout, "device": device}
            if direction == "dgrad":
                found = {"dx": kernels.dgrad(problem, dy, code, w, name, **options)}
            else:
                dw, dbias = kernels.wgrad(problem, x, dy, code, name, **options)
                found = {"dw": dw, "dbias": dbias}
            label = f"{direction} {device} {name} into {layout} with {dead} dead"
            check_gradients(problem, expected, found, label, kind)


def apply(problem: Problem, x: Tensor, w: Tensor | None, bias: Tensor | None) -> Tensor:
    """Computes the problem by fastconv.functional."""
    if w is None:
        assert problem.pool is not None
        return functional.max_pool2d(x, *problem.pool.arguments)
    arguments = (x, w, bias, *problem.conv_arguments)
    if problem.pool is not None:
        return functional.conv2d_relu_max_pool2d(*arguments, *problem.pool.arguments)
    return (functional.conv2d_relu if problem.relu else functional.conv2d)(*arguments)


def chosen_code(problem: Problem, x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor | None:
    """The code that `apply` keeps for these tensors, in the kernels' sizes."""
    if not problem.relu:
        return None
    operator = "conv2d_relu" if problem.pool is None else "conv2d_relu_max_pool2d"
    arguments = (x, w, bias, problem.conv_spec, problem.pool_spec, True)
    code = getattr(torch.ops.fastconv, operator)(*arguments)[1]
    return code.view(codes.size(problem, x.device.type))


def check_functional(problem: Problem, kind: str = "normal") -> None:
    """Checks fastconv.functional for a problem, forward and backward through autograd."""
    data = inputs.make(problem, kind=kind)
    operands: tuple[Any, ...] = data[:3]
    leaves: list[Any] = [None if t is None else t.detach().requires_grad_() for t in operands]
    y = apply(problem, *leaves)
    code = chosen_code(problem, *operands)
    used = {d: kernels.implementations(d, problem)[0] for d in ("fprop", "dgrad", "wgrad")}
    check_output(problem, data, y.detach(), code, f"functional {used['fprop']}", kind)
    wanted = [t for t in leaves if t is not None]
    grads = torch.autograd.grad(y, wanted, data.dy)
    found: dict[str, Any] = dict(zip(("dx", "dw", "dbias"), grads, strict=False))
    expected = expected_gradients(problem, data, code)
    check_gradients(problem, expected, found, f"functional {used}", kind)
