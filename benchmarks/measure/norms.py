"""Checks results of layers in any dtype against torch's float32 layer, by their norms."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastconv.testing import Problem

# Norm of the difference to torch's float32 result, by the result's norm. Winograd's algorithm and
# the rounding of 16-bit results are well within it, and a wrong result is far out.
ERROR = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 3e-3}


def check(
    problem: Problem, found: Sequence[Tensor], expected: Sequence[Tensor], dy: Tensor, name: str
) -> None:
    """Raises AssertionError if a result is wrong.

    Args:
        found: y, then the gradients of the layer's parameters, and of x if wanted.
        expected: the same of torch's float32 layer.
    """
    names = ["y", *["dw"] * bool(problem.k), *["dbias"] * bool(problem.k and problem.bias), "dx"]
    for what, ours, theirs in zip(names, found, expected, strict=False):
        size = theirs.norm()
        if what == "dbias":  # a sum of gradients that may cancel
            size = size.maximum(dy.float().norm())
        error = (ours.float() - theirs).norm() / size
        assert error <= ERROR[ours.dtype], f"{what} is off by {error:.2g}: {name}"
