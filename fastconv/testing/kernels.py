"""The entries of `fastconv._C` called for a problem, each implementation by its name.

Outputs start as NaN within guards: what a kernel leaves out or writes elsewhere shows.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import _C
from . import inputs
from .problem import Problem

_CODES = {torch.float32: 0, torch.float64: 1, torch.uint8: 2, torch.int32: 3}


def pack(tensor: Tensor | None) -> tuple | None:
    """A tensor as `_C` takes it; everything from its first element to its last counts."""
    if tensor is None:
        return None
    size, stride = tuple(tensor.shape), tensor.stride()
    extent = 1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    nbytes = max(extent, 0) * tensor.element_size()
    return tensor.data_ptr(), nbytes, _CODES[tensor.dtype], size, stride


def code_size(problem: Problem) -> tuple[int, int, int, int]:
    """Shape of a fused block's code; contiguous without a pool, else channels_last."""
    n, k, p, q = problem.y_size
    return problem.y_size if problem.pool is not None else (n, p, (q + 7) // 8, k)


def workspace_bytes(direction: str, problem: Problem, implementation: str, threads: int = 1) -> int:
    """The workspace it wants. ValueError: no such implementation or not for this problem."""
    return _C.conv2d_workspace(
        direction,
        _CODES[problem.dtype],
        problem.x_size,
        problem.w_size,
        problem.y_size,
        problem.conv_spec,
        problem.pool and problem.pool.spec,
        problem.relu,
        threads,
        implementation,
    )


def applicable(direction: str, problem: Problem) -> list[str]:
    """Names of the implementations that take this problem."""
    found = []
    for name in _C.implementations(direction):
        try:
            workspace_bytes(direction, problem, name)
        except ValueError as error:
            assert "does not take this problem" in str(error), error
        else:
            found.append(name)
    return found


def _call(direction: str, problem: Problem, name: str, threads: int, outputs: Sequence, *args):
    entry = getattr(_C, f"conv2d_{direction}")
    nbytes = workspace_bytes(direction, problem, name, threads)
    space = inputs.guarded((nbytes,), (1,), torch.uint8)
    pool = problem.pool and problem.pool.spec
    relu = (problem.relu,) if direction == "fprop" else ()
    entry(*args, problem.conv_spec, pool, *relu, pack(space), threads, name)
    for tensor in (space, *outputs):
        assert tensor is None or inputs.intact(tensor), (
            f"{direction} {name!r} wrote outside of its buffers: {problem}"
        )


def fprop(
    problem: Problem,
    x: Tensor,
    w: Tensor,
    bias: Tensor | None,
    implementation: str = "",
    threads: int = 1,
    save: bool = True,
    layout: str = "nhwc",
) -> tuple[Tensor, Tensor | None]:
    """The output, in the layout asked for, and the code (None where there is none)."""
    y = inputs.guarded(problem.y_size, inputs.strides(problem.y_size, layout), problem.dtype)
    code = None
    if save and problem.relu:
        size = code_size(problem)
        stride = inputs.strides(size, "nhwc" if problem.pool is not None else "nchw")
        code = inputs.guarded(size, stride, torch.uint8)
    args = (pack(x), pack(w), pack(bias), pack(y), pack(code))
    _call("fprop", problem, implementation, threads, (y, code), *args)
    return y, code


def dgrad(
    problem: Problem,
    dy: Tensor,
    code: Tensor | None,
    w: Tensor,
    implementation: str = "",
    threads: int = 1,
    layout: str = "nhwc",
) -> Tensor:
    """The gradient of x in the layout asked for."""
    dx = inputs.guarded(problem.x_size, inputs.strides(problem.x_size, layout), problem.dtype)
    args = (pack(dy), pack(code), pack(w), pack(dx))
    _call("dgrad", problem, implementation, threads, (dx,), *args)
    return dx


def wgrad(
    problem: Problem,
    x: Tensor,
    dy: Tensor,
    code: Tensor | None,
    implementation: str = "",
    threads: int = 1,
    layout: str = "nchw",
    want_weight: bool = True,
    want_bias: bool = True,
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of the weight, in the layout asked for, and of the bias; None: not wanted."""
    dw = dbias = None
    if want_weight:
        stride = inputs.strides(problem.w_size, layout)
        dw = inputs.guarded(problem.w_size, stride, problem.dtype)
    if want_bias:
        dbias = inputs.guarded((problem.k,), (1,), problem.dtype)
    args = (pack(x), pack(dy), pack(code), pack(dw), pack(dbias), problem.w_size)
    _call("wgrad", problem, implementation, threads, (dw, dbias), *args)
    return dw, dbias


def make_code(problem: Problem, dead: float, seed: int = 0) -> Tensor | None:
    """A random code that a fused block could have saved: `dead` of it is dead, about."""
    if not problem.relu:
        return None
    generator = torch.Generator().manual_seed(seed)
    alive = torch.rand(problem.y_size, generator=generator) >= dead
    if problem.pool is None:
        return pack_bits(alive)
    from .reference import windows  # any position inside of the convolution's output may win

    _, inside = windows(torch.zeros(problem.conv_size), problem.pool)
    score = torch.rand(inside.shape, generator=generator).masked_fill(~inside, -1.0)
    best, winner = score.max(-1)
    code = winner.masked_fill(~alive | (best < 0), 255).to(torch.uint8)
    return inputs.place(code, "nhwc")


def pack_bits(alive: Tensor) -> Tensor:
    """The code of a block without a pool from booleans [N, K, P, Q]."""
    n, k, p, q = alive.shape
    bits = torch.zeros(n, p, (q + 7) // 8 * 8, k, dtype=torch.uint8)
    bits[:, :, :q] = alive.permute(0, 2, 3, 1)
    weights = (1 << torch.arange(8)).to(torch.uint8)
    return inputs.place((bits.unflatten(2, (-1, 8)) * weights[:, None]).sum(3).to(torch.uint8))


def unpack_bits(code: Tensor, q: int) -> Tensor:
    """The booleans [N, K, P, Q] of a code of a block without a pool."""
    n, p, _, k = code.shape
    bits = code.unsqueeze(3) >> torch.arange(8, dtype=torch.uint8)[:, None] & 1
    return bits.reshape(n, p, -1, k)[:, :, :q].permute(0, 3, 1, 2).bool()
