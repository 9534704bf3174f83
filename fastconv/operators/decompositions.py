"""Every operator as torch's own (aten) operators, codes included.

Quantizers, ONNX and backends without fastconv have to see into a graph. The decompositions are kept
out of torch's own tables: inductor refuses operators with a decomposition there (where CI is set),
and fake tensors would take them instead of the fake kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx.traceback import get_current_meta
from torch.overrides import TorchFunctionMode

from .. import geometry
from ..geometry import ConvSpec, PoolSpec
from . import fallback

Operator = Any  # torch.ops.fastconv.conv2d.default and the like


def decompositions() -> dict[Operator, Callable[..., Any]]:
    """A table of fastconv's operators made of aten's, as `run_decompositions` takes it.

        program = torch.export.export(model, args)
        program = program.run_decompositions(fastconv.decompositions())  # aten operators only

    Convolutions become aten.conv2d, which a second `run_decompositions()` without a table makes
    aten.convolution (torch's core operators). torch.compile needs no table: it calls the kernels.

    Returns:
        A new dict from operators (`torch.ops.fastconv.conv2d.default`, ...) to functions of the
        same arguments and results, for tensors of all shapes and dtypes that the operators take.
    """
    return {
        (op := getattr(torch.ops.fastconv, name).default): _of_schema(op, function)
        for name, function in _TABLE.items()
    }


def _of_schema(op: Operator, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with the operator's arguments, and empty tensors for unwanted outputs."""
    names = [argument.name for argument in op._schema.arguments]

    def decomposed(*args: Any, **kwargs: Any) -> Any:
        given = dict(zip(names, args, strict=False)) | kwargs
        if "conv" in given:
            given["conv"] = ConvSpec(*given["conv"])
        if "pool" in given:
            given["pool"] = PoolSpec(*given["pool"]) if given["pool"] else None
        with _Sources():
            output = function(**given)
        if not isinstance(output, tuple):
            return output
        return tuple(args[0].new_empty(0) if part is None else part for part in output)

    return decomposed


_SOURCES = (F.conv2d, F.relu, F.max_pool2d)


class _Sources(TorchFunctionMode):
    """Notes torch's layers' functions as the sources of an exported program's new nodes.

    Some quantizers (torchao's for x86) look for sources, not for operators. Else these would be
    the modules that called fastconv. Other functions, such as slices, cannot be saved as sources.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        meta = get_current_meta()
        # The old node's torch_fn; there is none while nothing is exported.
        if function not in _SOURCES or "torch_fn" not in meta:
            return function(*args, **(kwargs or {}))
        before = meta.get("source_fn_stack")
        meta["source_fn_stack"] = [(f"{meta['torch_fn'][0]}_{function.__name__}", function)]
        try:
            return function(*args, **(kwargs or {}))
        finally:
            del meta["source_fn_stack"]
            if before is not None:
                meta["source_fn_stack"] = before


def _block(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    conv: ConvSpec,
    save: bool,
    pool: PoolSpec | None = None,
) -> tuple[Tensor, Tensor | None]:
    full = F.relu(fallback.conv2d_padded(x, weight, bias, conv))
    if pool is None:
        return full, _bits_along_q(full) if save else None
    y = fallback.max_pool2d_padded(full, pool)
    if not save:
        return y, None
    code = _positions(full, pool).masked_fill(y <= 0, geometry.DEAD).to(torch.uint8)
    if geometry.has_nibbles(pool, x.device.type == "cuda"):
        code = to_nibbles(code, conv.groups)
    return y, code.contiguous(memory_format=torch.channels_last)


def _max_pool2d(x: Tensor, pool: PoolSpec, save: bool) -> tuple[Tensor, Tensor | None]:
    y = fallback.max_pool2d_padded(x, pool)
    if not save:
        return y, None
    code = _positions(x, pool).to(geometry.pool_code_dtype(pool))  # -1 becomes 255 in a byte
    channels_last = geometry.tensor_is_channels_last(x)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return y, code.contiguous(memory_format=memory_format)


def _relu(x: Tensor, save: bool) -> tuple[Tensor, Tensor | None]:
    y = F.relu(x)
    if not save:
        return y, None
    stride = y.stride()
    in_memory = y.permute(sorted(range(y.dim()), key=lambda d: -stride[d]))
    return y, _bytes(_live(in_memory).flatten())


def _live(y: Tensor) -> Tensor:
    """Where a ReLU's output lets gradients through: a NaN does, as in torch."""
    return (y <= 0).logical_not()


def _bytes(bits: Tensor) -> Tensor:
    """Bytes of 8 neighbors in the first dimension each, the lowest bit first."""
    count, rest = bits.shape[0], bits.shape[1:]
    bits = F.pad(bits.to(torch.uint8), (*(0, 0) * len(rest), 0, -count % 8))
    shifts = torch.arange(8, dtype=torch.uint8, device=bits.device).view(8, *(1 for _ in rest))
    bits = bits.reshape((count + 7) // 8, 8, *rest).bitwise_left_shift(shifts)
    return bits.sum(1, dtype=torch.uint8)


def _bits_along_q(y: Tensor) -> Tensor:
    """The code of a convolution and ReLU: [N, bytes], in the order [P, ceil(Q / 8), K]."""
    return _bytes(_live(y).permute(3, 0, 2, 1)).permute(1, 2, 0, 3).flatten(1)


def to_nibbles(code: Tensor, groups: int) -> Tensor:
    """A code of 4 bits from one of bytes: the inverse of `codes.from_nibbles`."""
    code = code.clamp(max=geometry.DEAD_NIBBLE).unflatten(1, (groups, -1))
    code = F.pad(code, (0, 0, 0, 0, 0, code.shape[2] % 2))
    low, high = code[:, :, 0::2], code[:, :, 1::2]
    return low.bitwise_or(high.bitwise_left_shift(4)).flatten(1, 2)


def _positions(x: Tensor, pool: PoolSpec) -> Tensor:
    """Winners' row-major positions in their windows (int64), -1 where a window holds no input."""
    h, w = x.shape[2:]
    p, q = geometry.pool_size(h, w, pool)
    window, stride = (pool.window_h, pool.window_w), (pool.stride_h, pool.stride_w)
    padding, dilation = (pool.pad_h, pool.pad_w), (pool.dilation_h, pool.dilation_w)
    starts = _starts(p, q, pool, x.device)
    if not geometry.may_have_empty_window(pool):
        windows = window, stride, padding, dilation, bool(pool.ceil_mode)
        index = F.max_pool2d(x, *windows, return_indices=True)[1]
        row, column = _row_and_column(index, w)
        return _position(row, column, starts, pool)
    plane = fallback.pad_for_pool(x, pool)
    index = F.max_pool2d(plane, window, stride, 0, dilation, return_indices=True)[1]
    row, column = _row_and_column(index[:, :, :p, :q], plane.shape[3])
    row, column = row - pool.pad_h, column - pool.pad_w
    # The winner is in the padding where all that the window holds is -inf: its first position wins.
    outside = (row < 0) | (row >= h) | (column < 0) | (column >= w)
    first, inside = [], []
    for start, size, n, step in zip(starts, (h, w), window, dilation, strict=True):
        skipped = (-start).clamp(min=0).add(step - 1).div(step, rounding_mode="floor")
        first.append(start + skipped * step)
        inside.append((skipped < n) & (first[-1] < size))
    lowest = _position(first[0], first[1], starts, pool)
    lowest = lowest.masked_fill((inside[0] & inside[1]).logical_not(), -1)
    return torch.where(outside, lowest, _position(row, column, starts, pool))


def _row_and_column(index: Tensor, width: int) -> tuple[Tensor, Tensor]:
    row = index.div(width, rounding_mode="floor")
    return row, index - row * width


def _starts(p: int, q: int, pool: PoolSpec, device: torch.device) -> tuple[Tensor, Tensor]:
    """The rows [P, 1] and columns [Q] at which windows start, padding included."""
    rows = torch.arange(p, device=device).view(-1, 1) * pool.stride_h - pool.pad_h
    return rows, torch.arange(q, device=device) * pool.stride_w - pool.pad_w


def _position(row: Tensor, column: Tensor, starts: Sequence[Tensor], pool: PoolSpec) -> Tensor:
    r = (row - starts[0]).div(pool.dilation_h, rounding_mode="floor")
    s = (column - starts[1]).div(pool.dilation_w, rounding_mode="floor")
    return r * pool.window_w + s


_TABLE: dict[str, Callable[..., Any]] = {
    "conv2d": fallback.conv2d_padded,
    "conv2d_dgrad": fallback.conv2d_dgrad,
    "conv2d_wgrad": fallback.conv2d_wgrad,
    "conv2d_relu": _block,
    "conv2d_relu_max_pool2d": _block,
    "conv2d_relu_dgrad": fallback.block_dgrad,
    "conv2d_relu_wgrad": fallback.block_wgrad,
    "relu": _relu,
    "relu_backward": fallback.relu_backward,
    "max_pool2d": _max_pool2d,
    "max_pool2d_backward": fallback.max_pool2d_backward,
}
