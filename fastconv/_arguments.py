"""Checks the arguments of the public functions and normalizes them.

Error types are torch's. Messages state the expected value, the actual value and, if it is not
obvious, the fix. Results depend on sizes alone and are cached, so a repeated call checks nothing
twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, wraps
from typing import Any, NoReturn, TypeVar

import torch

from . import geometry
from .geometry import ConvSpec, PoolSpec

LIMIT = 2**30  # the kernels' own, for every size and parameter

Function = TypeVar("Function", bound=Callable[..., Any])


def _remembered(function: Function) -> Function:
    """Caches a function's results if the arguments have a hash (lists and SymInts have none)."""
    # typed, since 1, 1.0 and True are equal, and only 1 is valid.
    fast = lru_cache(maxsize=4096, typed=True)(function)

    @wraps(function)
    def call(*args: Any) -> Any:
        if torch.compiler.is_compiling():
            return function(*args)
        try:
            return fast(*args)
        except TypeError:
            pass
        return function(*args)

    return call  # type: ignore[return-value]


def _is_integer(value: Any) -> bool:
    if isinstance(value, (bool, float, str)):
        return False
    return isinstance(value, (int, torch.SymInt)) or hasattr(value, "__index__")


def pair(operation: str, name: str, value: Any) -> tuple[int, int]:
    """An int or a sequence of one or two ints as two ints."""
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,)
    for v in values:
        if not _is_integer(v):
            raise TypeError(
                f"{operation}: {name} must be an int or a tuple of two ints, got {value!r}"
            )
    if len(values) == 1:
        values = values * 2
    if len(values) != 2:
        raise RuntimeError(
            f"{operation}: {name} must be a single int or a tuple of two ints, got {value!r}"
        )
    return values


def _at_least(operation: str, name: str, values: Sequence[int], least: int) -> None:
    if values[0] < least or values[1] < least:
        wanted = "positive" if least == 1 else "non-negative"
        raise RuntimeError(f"{operation}: {name} must be {wanted}, got {tuple(values)}")
    if values[0] >= LIMIT or values[1] >= LIMIT:
        raise RuntimeError(f"{operation}: {name} must be below {LIMIT}, got {tuple(values)}")


def _paddings(
    operation: str, padding: Any, stride: Any, dilation: Sequence[int], w_size: Sequence[int]
) -> tuple[int, int, int, int]:
    """Top, bottom, left and right. 'same' puts an odd pixel at the end, as torch does."""
    if isinstance(padding, str):
        if padding == "valid":
            return 0, 0, 0, 0
        if padding != "same":
            raise RuntimeError(
                f"{operation}: padding must be 'valid', 'same' or ints, got {padding!r}"
            )
        if tuple(stride) != (1, 1):
            raise RuntimeError(
                f"{operation}: padding='same' needs stride 1, got stride {tuple(stride)}"
            )
        total_h, total_w = dilation[0] * (w_size[2] - 1), dilation[1] * (w_size[3] - 1)
        return total_h // 2, total_h - total_h // 2, total_w // 2, total_w - total_w // 2
    pad_h, pad_w = pair(operation, "padding", padding)
    _at_least(operation, "padding", (pad_h, pad_w), 0)
    return pad_h, pad_h, pad_w, pad_w


def _expect_images(operation: str, x_size: Sequence[int]) -> None:
    if len(x_size) in (3, 4):
        return
    fewer = f"input.flatten(0, {len(x_size) - 4}) makes it 4-D"
    raise RuntimeError(
        f"{operation}: input must have shape [N, C, H, W] or [C, H, W], got {list(x_size)}; "
        f"{fewer if len(x_size) > 4 else 'input.unsqueeze(0) adds a dimension'}"
    )


def _expect_channels(
    operation: str, x_size: Sequence[int], w_size: Sequence[int], groups: int
) -> None:
    """Checks the input's channels. The weight's second size is the number per group."""
    channels, taken = x_size[-3], w_size[1] * groups
    if channels == taken:
        return
    of_groups = "" if groups == 1 else f" with groups={groups}"
    fix = "; input.movedim(-1, -3) puts the channels in front" if x_size[-1] == taken else ""
    raise RuntimeError(
        f"{operation}: input has {channels} channels, weight {list(w_size)}{of_groups} takes "
        f"{taken}: expected input [N, {taken}, H, W] or [{taken}, H, W], got {list(x_size)}{fix}"
    )


@_remembered
def conv2d(
    operation: str,
    x_size: Sequence[int],
    w_size: Sequence[int],
    bias_size: Sequence[int] | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: Any,
) -> ConvSpec | None:
    """The convolution's spec; None if a size is 0, which torch handles."""
    _expect_images(operation, x_size)
    if len(w_size) != 4:
        raise RuntimeError(
            f"{operation}: weight must have shape [K, C/groups, R, S], got {list(w_size)} for "
            f"input {list(x_size)}"
        )
    if not _is_integer(groups):
        raise TypeError(f"{operation}: groups must be an int, got {groups!r}")
    if groups < 1:
        raise RuntimeError(f"{operation}: groups must be positive, got {groups}")
    stride, dilation = pair(operation, "stride", stride), pair(operation, "dilation", dilation)
    _at_least(operation, "stride", stride, 1)
    _at_least(operation, "dilation", dilation, 1)
    pads = _paddings(operation, padding, stride, dilation, w_size)
    _expect_channels(operation, x_size, w_size, groups)
    h, w = x_size[-2:]
    k, _, r, s = w_size
    if k % groups:
        raise RuntimeError(
            f"{operation}: groups must divide the number of filters, got groups={groups} and "
            f"{k} filters, weight {list(w_size)}"
        )
    if bias_size is not None and (len(bias_size) != 1 or bias_size[0] != k):
        raise RuntimeError(
            f"{operation}: bias must have shape [{k}], a value for each filter of weight "
            f"{list(w_size)}, got {list(bias_size)}"
        )
    if 0 in x_size or 0 in w_size:
        return None
    conv = ConvSpec(stride[0], stride[1], *pads, dilation[0], dilation[1], groups)
    p, q = geometry.conv_size(h, w, r, s, conv)
    if p < 1 or q < 1:
        padded = h + pads[0] + pads[1], w + pads[2] + pads[3]
        _raise_too_small(operation, f"input {list(x_size)}", "kernel", (r, s), dilation, padded)
    return conv


def _raise_too_small(
    operation: str,
    what: str,
    name: str,
    window: Sequence[int],
    dilation: Sequence[int],
    padded: Sequence[int],
) -> NoReturn:
    """Raises RuntimeError: the input is smaller than a kernel or a pool's window."""
    covered = [(size - 1) * step + 1 for size, step in zip(window, dilation, strict=True)]
    raise RuntimeError(
        f"{operation}: {what} is too small: {name} {_times(window)} with dilation "
        f"{_times(dilation)} covers {_times(covered)}, with padding it is {_times(padded)}; make "
        f"the images or the padding larger, or the {name} smaller"
    )


def _times(sizes: Sequence[int]) -> str:
    return "x".join(map(str, sizes))


@_remembered
def max_pool2d(
    operation: str,
    x_size: Sequence[int],
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil_mode: bool,
) -> PoolSpec | None:
    """The pool's spec; None if a size is 0, which torch handles."""
    prefix = "" if operation == "max_pool2d" else "pool_"  # a fused block has two of each
    _expect_images(operation, x_size)
    window = pair(operation, f"{prefix}kernel_size", kernel_size)
    empty = stride is None or (isinstance(stride, (tuple, list)) and len(stride) == 0)
    stride = window if empty else pair(operation, f"{prefix}stride", stride)
    padding = pair(operation, f"{prefix}padding", padding)
    dilation = pair(operation, f"{prefix}dilation", dilation)
    if not isinstance(ceil_mode, bool):
        raise TypeError(f"{operation}: ceil_mode must be a bool, got {ceil_mode!r}")
    _at_least(operation, f"{prefix}kernel_size", window, 1)
    _at_least(operation, f"{prefix}stride", stride, 1)
    _at_least(operation, f"{prefix}padding", padding, 0)
    _at_least(operation, f"{prefix}dilation", dilation, 1)
    if 2 * padding[0] > window[0] or 2 * padding[1] > window[1]:
        raise RuntimeError(
            f"{operation}: {prefix}padding must be at most half of {prefix}kernel_size, got "
            f"{prefix}padding {padding} and {prefix}kernel_size {window}"
        )
    if 0 in x_size:
        return None
    pool = PoolSpec(
        window[0],
        window[1],
        stride[0],
        stride[1],
        padding[0],
        padding[1],
        dilation[0],
        dilation[1],
        int(ceil_mode),
    )
    p, q = geometry.pool_size(x_size[-2], x_size[-1], pool)
    if p < 1 or q < 1:
        what = f"the convolution's output {list(x_size)}" if prefix else f"input {list(x_size)}"
        padded = x_size[-2] + 2 * padding[0], x_size[-1] + 2 * padding[1]
        _raise_too_small(operation, what, f"{prefix}kernel_size", window, dilation, padded)
    return pool


@_remembered
def conv_output(
    x_size: Sequence[int], w_size: Sequence[int], conv: ConvSpec
) -> tuple[int, int, int]:
    """Channels, height and width behind a convolution."""
    p, q = geometry.conv_size(x_size[-2], x_size[-1], w_size[2], w_size[3], conv)
    return w_size[0], p, q
