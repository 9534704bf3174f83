"""The convolutions' products for torch.utils.flop_counter, as it counts torch's own.

A fused block's sparse backward counts all products of the definition, though it computes fewer, so
that counts can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

from .. import geometry
from ..geometry import ConvSpec


def _conv(x: Sequence[int], w: Sequence[int], conv: Sequence[int]) -> int:
    """Two operations for each product of x and weight."""
    p, q = geometry.conv_size(x[2], x[3], w[2], w[3], ConvSpec(*conv))
    return 2 * x[0] * prod(w) * p * q


def _fprop(x: Any, w: Any, bias: Any, conv: Any, *args: Any, **kwargs: Any) -> int:
    return _conv(x, w, conv)


def _dgrad(dy: Any, w: Any, *args: Any, **kwargs: Any) -> int:
    return _conv((dy[0], w[1], *args[0]), w, args[2])


def _block_dgrad(dy: Any, w: Any, code: Any, *args: Any, **kwargs: Any) -> int:
    return _dgrad(dy, w, *args)


def _wgrad(x: Any, dy: Any, *args: Any, **kwargs: Any) -> int:
    w_size, _, want_weight, _, conv = args[:5]
    return _conv(x, w_size, conv) if want_weight else 0


def _block_wgrad(x: Any, dy: Any, code: Any, *args: Any, **kwargs: Any) -> int:
    return _wgrad(x, dy, *args)


_FORMULAS = {
    "conv2d": _fprop,
    "conv2d_relu": _fprop,
    "conv2d_relu_max_pool2d": _fprop,
    "conv2d_dgrad": _dgrad,
    "conv2d_relu_dgrad": _block_dgrad,
    "conv2d_wgrad": _wgrad,
    "conv2d_relu_wgrad": _block_wgrad,
}


def register() -> None:
    """Tells torch's counter."""
    for name, formula in _FORMULAS.items():
        registered: Any = register_flop_formula(getattr(torch.ops.fastconv, name))
        registered(formula)
