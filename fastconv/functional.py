"""The operations as functions with torch.nn.functional's arguments.

A function checks its arguments and calls fastconv's operator. It calls torch's own operator for:
    dtypes and devices without a kernel (float32, float64, float16 and bfloat16 have one, on CPUs
    and GPUs), layouts other than strided, empty tensors;
    GPUs that the build has no code for, with a warning;
    sizes from 2^30 on; on GPUs also counts of pixels, taps or weights from 2^31 on, and
    convolutions in groups with fewer than 8 channels or filters each;
    forward AD, torch.func.functionalize, and torch.func's transforms inside torch.compile;
    a lone ReLU or max-pool inside torch.compile, which fuses it with its neighbors into one loop;
    a lone ReLU of a DTensor, and indices of its max-pool.
Subclasses of Tensor and objects that act as one, such as torch.fx's proxies, come first: their
__torch_function__ is called, as by torch's own functions.

float16 and bfloat16 are computed in float32, including bias, ReLU and pool, and rounded once at
the end.
Under autocast a convolution's arguments are cast as torch casts them. relu and max_pool2d keep the
dtype.
"""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.compiler import is_compiling, is_dynamo_compiling
from torch.overrides import handle_torch_function, has_torch_function_variadic

from . import _arguments, kernels, operators
from .geometry import MAX_BYTE_POSITIONS, ConvSpec, PoolSpec
from .operators import fallback
from .torch_internals import autocast_dtype, needs_torch, unscriptable

__all__ = ["conv2d", "conv2d_relu", "conv2d_relu_max_pool2d", "max_pool2d", "relu"]

Ints = int | tuple[int, int]

_DTYPES = kernels.KERNEL_DTYPES


# The prepared calls of each function, for batches. A single image has another key. The tables find
# nothing for tensors or modes with __torch_function__, so they are looked up first.
_conv2d_calls = kernels.MemoTable(tensors=3)
_conv2d_relu_calls = kernels.MemoTable(tensors=3)
_conv2d_relu_max_pool2d_calls = kernels.MemoTable(tensors=3)
_relu_calls = kernels.MemoTable(tensors=1)
_max_pool2d_calls = kernels.MemoTable(tensors=1)


def _expect_tensor(operation: str, name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        fix = f"; torch.as_tensor({name}) makes one" if hasattr(value, "__len__") else ""
        raise TypeError(f"{operation}: {name} must be a Tensor, got {type(value).__name__}{fix}")


def _has_kernel(x: Tensor) -> bool:
    if x.dtype not in _DTYPES or x.layout != torch.strided:
        return False
    return x.is_cpu or x.is_meta or (x.is_cuda and kernels.usable(x.get_device()))


def _expect_same_kind(operation: str, name: str, x: Tensor, other_name: str, other: Tensor) -> None:
    if x.dtype != other.dtype:
        raise RuntimeError(
            f"{operation}: {name} and {other_name} must have the same dtype, got {name} {x.dtype} "
            f"and {other_name} {other.dtype}; {name}.to({other.dtype}) converts it"
        )
    if x.device != other.device:
        raise RuntimeError(
            f"{operation}: {name} and {other_name} must be on the same device, got {name} on "
            f"{x.device} and {other_name} on {other.device}; {name}.to('{other.device}') moves it"
        )


def _autocast(
    x: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """A convolution's arguments in autocast's dtype."""
    dtype = autocast_dtype(x)
    if dtype is None:
        return x, weight, bias
    return x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)


def _prepare(
    operation: str,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Ints,
    padding: Ints | str,
    dilation: Ints,
    groups: int,
) -> tuple[Tensor, Tensor, Tensor | None, ConvSpec] | None:
    """Checks a convolution's arguments. Returns None if torch's own operator computes it."""
    _expect_tensor(operation, "input", x)
    _expect_tensor(operation, "weight", weight)
    if bias is not None:
        _expect_tensor(operation, "bias", bias)
    x, weight, bias = _autocast(x, weight, bias)
    _expect_same_kind(operation, "input", x, "weight", weight)
    if bias is not None:
        _expect_same_kind(operation, "bias", bias, "input", x)
    if not _has_kernel(x):
        return None
    conv = _arguments.conv2d(
        operation,
        x.shape,
        weight.shape,
        None if bias is None else bias.shape,
        stride,
        padding,
        dilation,
        groups,
    )
    if conv is None or not _takes(x, weight, conv, None):
        return None
    return x, weight, bias, conv


def _takes(x: Tensor, weight: Tensor, conv: ConvSpec, pool: PoolSpec | None) -> bool:
    """Whether the kernels of x's device take these sizes."""
    x_size = x.shape if x.dim() == 4 else (1, *x.shape)
    return kernels.takes_conv2d(x_size, weight.shape, conv, pool, x.is_cuda)


@unscriptable
def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Ints | str = 0,
    dilation: Ints = 1,
    groups: int = 1,
) -> Tensor:
    """torch.nn.functional.conv2d.

    Args:
        input: [N, C, H, W] or [C, H, W].
        weight: [K, C/groups, R, S], of the input's dtype and device.
        bias: [K] or None.
        stride, dilation: an int or a pair.
        padding: an int, a pair, 'valid' or 'same'.
        groups: divides C and K.

    Returns:
        [N, K, P, Q] or [K, P, Q]; channels_last if input or weight is.

    Raises:
        RuntimeError: shapes, dtypes or devices do not fit together.
        TypeError: an argument is of the wrong type.
    """
    arguments = (input, weight, bias, stride, padding, dilation, groups)
    if not is_dynamo_compiling():
        prepared = _conv2d_calls.find(*arguments)
        if prepared is not None:
            return prepared(input, weight, bias)
    if has_torch_function_variadic(input, weight, bias):
        return handle_torch_function(conv2d, (input, weight, bias), *arguments)
    ready = _prepare("conv2d", *arguments)
    if ready is None:
        return fallback.conv2d(*arguments)
    x, weight, bias, conv = ready
    if x.dim() == 3:
        return operators.conv2d(x.unsqueeze(0), weight, bias, conv).squeeze(0)
    _conv2d_calls.add(operators.conv2d.prepare, (conv,), *arguments)
    return operators.conv2d(x, weight, bias, conv)


@unscriptable
def conv2d_relu(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Ints | str = 0,
    dilation: Ints = 1,
    groups: int = 1,
) -> Tensor:
    """relu(conv2d(...)) as one kernel; see `conv2d`.

    The backward pass needs the input, the weight and one bit per output value.
    """
    arguments = (input, weight, bias, stride, padding, dilation, groups)
    if not is_dynamo_compiling():
        prepared = _conv2d_relu_calls.find(*arguments)
        if prepared is not None:
            return prepared(input, weight, bias)
    if has_torch_function_variadic(input, weight, bias):
        return handle_torch_function(conv2d_relu, (input, weight, bias), *arguments)
    ready = _prepare("conv2d_relu", *arguments)
    if ready is None:
        return fallback.conv2d_relu(*arguments)
    x, weight, bias, conv = ready
    if x.dim() == 3:
        return operators.conv2d_relu(x.unsqueeze(0), weight, bias, conv, None).squeeze(0)
    _conv2d_relu_calls.add(operators.conv2d_relu.prepare, (conv, None), *arguments)
    return operators.conv2d_relu(x, weight, bias, conv, None)


@unscriptable
def conv2d_relu_max_pool2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Ints | str = 0,
    dilation: Ints = 1,
    groups: int = 1,
    pool_kernel_size: Ints | None = None,
    pool_stride: Ints | None = None,
    pool_padding: Ints = 0,
    pool_dilation: Ints = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """max_pool2d(relu(conv2d(...))) as one kernel; see `conv2d` and `max_pool2d`.

    The backward pass needs the input, the weight and one byte per pooled value. GPUs keep 4 bits
    for windows of up to 15 positions. Windows of more than 254 positions run as two kernels.

    Raises:
        RuntimeError: shapes, dtypes or devices do not fit together.
        TypeError: an argument is of the wrong type, or pool_kernel_size is missing.
    """
    name = "conv2d_relu_max_pool2d"
    if pool_kernel_size is None:
        raise TypeError(f"{name}: pool_kernel_size must be an int or a tuple of two ints, got None")
    arguments = (input, weight, bias, stride, padding, dilation, groups)
    pool_arguments = (pool_kernel_size, pool_stride, pool_padding, pool_dilation, ceil_mode)
    if not is_dynamo_compiling():
        prepared = _conv2d_relu_max_pool2d_calls.find(*arguments, *pool_arguments)
        if prepared is not None:
            return prepared(input, weight, bias)
    if has_torch_function_variadic(input, weight, bias):
        tensors, every = (input, weight, bias), (*arguments, *pool_arguments)
        return handle_torch_function(conv2d_relu_max_pool2d, tensors, *every)
    ready = _prepare(name, *arguments)
    if ready is None:
        return max_pool2d(fallback.conv2d_relu(*arguments), *pool_arguments)
    x, weight, bias, conv = ready
    size = _arguments.conv_output(x.shape, weight.shape, conv)
    pool = _arguments.max_pool2d(name, size, *pool_arguments)
    assert pool is not None  # no size is 0
    positions = pool.window_h * pool.window_w
    if positions > MAX_BYTE_POSITIONS or not _takes(x, weight, conv, pool):
        return max_pool2d(conv2d_relu(*arguments), *pool_arguments)
    if x.dim() == 3:
        x = x.unsqueeze(0)
        return operators.conv2d_relu_max_pool2d(x, weight, bias, conv, pool).squeeze(0)
    operation = operators.conv2d_relu_max_pool2d
    _conv2d_relu_max_pool2d_calls.add(operation.prepare, (conv, pool), *arguments, *pool_arguments)
    return operation(x, weight, bias, conv, pool)


@unscriptable
def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """torch.nn.functional.relu, for tensors of any shape.

    Raises:
        TypeError: the input is not a Tensor.
        RuntimeError: `inplace` on a leaf that requires grad, as torch.
    """
    if not inplace and not is_dynamo_compiling():
        prepared = _relu_calls.find(input)
        if prepared is not None:
            return prepared(input)
    if has_torch_function_variadic(input):
        return handle_torch_function(relu, (input,), input, inplace)
    _expect_tensor("relu", "input", input)
    # A compiler fuses a lone ReLU with its neighbors only if it sees torch's operator.
    if is_compiling() or not _has_kernel(input) or input.is_nested or operators.is_sharded(input):
        return F.relu(input, inplace)
    if inplace:
        return operators.relu_(input)
    _relu_calls.add(operators.relu.prepare, (), input)
    return operators.relu(input)


@overload
def max_pool2d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: Literal[False] = False,
) -> Tensor: ...


@overload
def max_pool2d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    *,
    return_indices: Literal[True],
) -> tuple[Tensor, Tensor]: ...


@unscriptable
def max_pool2d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """torch.nn.functional.max_pool2d.

    A window without input, which padding and dilation allow, gives -inf, no gradient and index -1.

    Args:
        input: [N, C, H, W] or [C, H, W].
        kernel_size, stride, padding, dilation: an int or a pair; stride None: the kernel size.
        ceil_mode: also pool windows that reach beyond the end.
        return_indices: also return the winners' flat positions in the H x W plane (int64).

    Returns:
        [N, C, P, Q] or [C, P, Q], in the input's memory format.

    Raises:
        RuntimeError: the arguments do not fit together.
        TypeError: an argument is of the wrong type.
    """
    arguments = (kernel_size, stride, padding, dilation, ceil_mode)
    if not is_dynamo_compiling():
        prepared = _max_pool2d_calls.find(input, *arguments, return_indices)
        if prepared is not None:
            return prepared(input)
    if has_torch_function_variadic(input):
        every: Any = (input, *arguments, return_indices)
        return handle_torch_function(max_pool2d, (input,), *every)
    _expect_tensor("max_pool2d", "input", input)
    pool = _arguments.max_pool2d("max_pool2d", input.shape, *arguments)
    is_torchs = is_compiling() or (
        return_indices and (needs_torch() or operators.is_sharded(input))
    )
    if (
        pool is None
        or is_torchs
        or not _has_kernel(input)
        or not kernels.takes_max_pool2d(input.shape, pool)
    ):
        return fallback.max_pool2d(input, *arguments, return_indices, pool)
    x = input.unsqueeze(0) if input.dim() == 3 else input
    if return_indices:
        y, indices = operators.max_pool2d_with_indices(x, pool)
        return (y.squeeze(0), indices.squeeze(0)) if input.dim() == 3 else (y, indices)
    if input.dim() == 3:
        return operators.max_pool2d(x, pool).squeeze(0)
    _max_pool2d_calls.add(operators.max_pool2d.prepare, (pool,), input, *arguments, return_indices)
    return operators.max_pool2d(x, pool)
