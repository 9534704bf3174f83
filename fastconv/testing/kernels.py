"""Calls the entries of `fastconv._C` for a problem, each implementation by its name.

Outputs start as NaN within guards, so missing and misplaced writes show. Every function takes a
`device`: "cpu", "cuda" (torch's current GPU) or "emulated" (the CUDA kernels run on the CPU, see
tests/cuda/emulated). Tensors come from the CPU, and results return to it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType

import torch
from torch import Tensor

from .. import _C
from ..kernels import why_not_on
from ..kernels.buffers import DTYPES as CODES
from ..problem import DTYPES, HALF_DTYPES, TF32, Problem
from . import codes, inputs

# The module with the entries, by device. The test suite adds the emulated module.
modules: dict[str, ModuleType] = {"cpu": _C, "cuda": _C}


def _why_not_on_cuda() -> str:
    if not torch.cuda.is_available():
        return "torch finds no GPU"
    return why_not_on(torch.cuda.current_device())


# The reason why no kernel runs on torch's current GPU; "" if they run.
WHY_NOT_ON_CUDA = _why_not_on_cuda()
DEVICES = ("cpu", "emulated") if WHY_NOT_ON_CUDA else ("cpu", "emulated", "cuda")

# Parameters for tests of all kernels.
DEVICES_AND_DTYPES = [(device, dtype) for device in DEVICES for dtype in DTYPES.values()]
# The types that tensor cores multiply, for Problem.with_type; and CPUs' 16-bit types.
TENSOR_CORE_TYPES = [
    (device, name) for device in DEVICES if device != "cpu" for name in (*HALF_DTYPES, TF32)
]
SHORT_TYPES = [("cpu", name) for name in HALF_DTYPES]


def _entry(name: str, device: str) -> Callable:
    return getattr(modules[device], name if device == "cpu" else f"cuda_{name}")


def _where(device: str, *on_cpu: object) -> tuple:
    """The last arguments of an entry."""
    if device == "cpu":
        return on_cpu
    if device == "emulated":
        return 0, 0
    return torch.cuda.current_device(), torch.cuda.current_stream().cuda_stream


def _guard(device: str, aligned: bool) -> int:
    # CPU kernels need no alignment. CUDA kernels have code for both.
    return inputs.ALIGNED if aligned and device != "cpu" else inputs.GUARD


def _input(tensor: Tensor | None, device: str, aligned: bool = True) -> Tensor | None:
    """A tensor on the device, for its kernels."""
    if tensor is None or device == "cpu":
        return tensor
    if not _is_dense(tensor):
        tensor = tensor.contiguous()
    memory = torch.device("cuda" if device == "cuda" else "cpu")
    guard = _guard(device, aligned)
    there = inputs.guarded(tensor.shape, tensor.stride(), tensor.dtype, guard, memory)
    return there.copy_(tensor)


def _is_dense(tensor: Tensor) -> bool:
    """Whether a tensor is contiguous or channels_last."""
    formats = [torch.contiguous_format] + [torch.channels_last] * (tensor.dim() == 4)
    return any(tensor.is_contiguous(memory_format=f) for f in formats)


def _output(
    size: Sequence[int],
    layout: str,
    dtype: torch.dtype,
    device: str,
    aligned: bool = True,
) -> Tensor:
    memory = torch.device("cuda" if device == "cuda" else "cpu")
    guard = _guard(device, aligned)
    return inputs.guarded(size, inputs.strides(size, layout), dtype, guard, memory)


def _result(tensor: Tensor | None, name: str) -> Tensor | None:
    """An output on the CPU, after a check of its guards."""
    assert tensor is None or inputs.intact(tensor), f"{name} wrote outside of its buffers"
    return None if tensor is None else tensor.cpu()


def pack(tensor: Tensor | None) -> tuple | None:
    """A tensor as `_C` takes it. Its memory is from its first element to its last."""
    if tensor is None:
        return None
    size, stride = tuple(tensor.shape), tensor.stride()
    extent = 1 + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    nbytes = max(extent, 0) * tensor.element_size()
    return tensor.data_ptr(), nbytes, CODES[tensor.dtype], size, stride


def _options(problem: Problem, device: str, threads: int, implementation: str) -> tuple:
    """The number of threads (on CPUs) or whether TF32 is allowed (on GPUs), then the name."""
    return (threads if device == "cpu" else problem.tf32, implementation)


def workspace_bytes(
    direction: str, problem: Problem, implementation: str, threads: int = 1, device: str = "cpu"
) -> int:
    """Bytes of workspace. Raises ValueError if no such implementation takes this problem."""
    options = _options(problem, device, threads, implementation)
    return _entry("conv2d_workspace", device)(direction, *_geometry(problem), *options)


def _geometry(problem: Problem) -> tuple:
    """A problem's arguments for entries without tensors."""
    return (
        CODES[problem.dtype],
        problem.x_size,
        problem.w_size,
        problem.y_size,
        problem.conv_spec,
        problem.pool and problem.pool.spec,
        problem.relu,
    )


def implementations(direction: str, problem: Problem, device: str = "cpu") -> list[str]:
    """Names of the implementations that take this problem in its layout, the default first."""
    setting = 1 if device == "cpu" else problem.tf32
    channels_last = problem.layout == "nhwc"
    entry = _entry("conv2d_implementations", device)
    return entry(direction, *_geometry(problem), setting, channels_last)


def implementations_to_check(direction: str, problem: Problem, device: str) -> list[str]:
    """All implementations on CPUs; only the default on GPUs and emulated, to save time."""
    return implementations(direction, problem) if device == "cpu" else [""]


def _call(
    direction: str,
    problem: Problem,
    name: str,
    threads: int,
    device: str,
    outputs: Sequence[Tensor | None],
    *args: object,
) -> tuple[Tensor | None, ...]:
    nbytes = workspace_bytes(direction, problem, name, threads, device)
    space = _output((nbytes,), "nchw", torch.uint8, device)
    pool = problem.pool and problem.pool.spec
    relu = (problem.relu,) if direction == "fprop" else ()
    packed = [pack(arg) if isinstance(arg, Tensor) else arg for arg in args]
    where = (*_where(device), *_options(problem, device, threads, name))
    entry = _entry(f"conv2d_{direction}", device)
    entry(*packed, problem.conv_spec, pool, *relu, pack(space), *where)
    label = f"{direction} {name!r} on {device}, {problem}:"
    _result(space, label)
    return tuple(_result(tensor, label) for tensor in outputs)


def fprop(
    problem: Problem,
    x: Tensor,
    w: Tensor,
    bias: Tensor | None,
    implementation: str = "",
    threads: int = 1,
    save: bool = True,
    layout: str = "nhwc",
    device: str = "cpu",
) -> tuple[Tensor, Tensor | None]:
    """The output, in the requested layout, and the code or None."""
    y = _output(problem.y_size, layout, problem.dtype, device)
    code = None
    if save and problem.relu:
        code_layout = "nhwc" if problem.pool is not None else "nchw"
        code = _output(codes.size(problem, device), code_layout, torch.uint8, device)
    args = (*(_input(t, device) for t in (x, w, bias)), y, code)
    y, code = _call("fprop", problem, implementation, threads, device, (y, code), *args)
    return y, codes.read(problem, code, device)


def dgrad(
    problem: Problem,
    dy: Tensor,
    code: Tensor | None,
    w: Tensor,
    implementation: str = "",
    threads: int = 1,
    layout: str = "nhwc",
    device: str = "cpu",
) -> Tensor:
    """The gradient of x in the requested layout."""
    dx = _output(problem.x_size, layout, problem.dtype, device)
    code = codes.keep(problem, code, device)
    args = (*(_input(t, device) for t in (dy, code, w)), dx)
    return _call("dgrad", problem, implementation, threads, device, (dx,), *args)[0]


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
    device: str = "cpu",
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of the weight, in the requested layout, and of the bias, if wanted."""
    dw = dbias = None
    if want_weight:
        dw = _output(problem.w_size, layout, problem.dtype, device)
    if want_bias:
        dbias = _output((problem.k,), "nchw", problem.dtype, device)
    code = codes.keep(problem, code, device)
    args = (*(_input(t, device) for t in (x, dy, code)), dw, dbias, problem.w_size)
    return _call("wgrad", problem, implementation, threads, device, (dw, dbias), *args)


def relu_fprop(
    x: Tensor, save: bool = True, device: str = "cpu", aligned: bool = True
) -> tuple[Tensor, Tensor | None]:
    """relu of a one-dimensional tensor, and the mask if requested."""
    y = _output(x.shape, "nchw", x.dtype, device, aligned)
    mask = _output(((x.numel() + 7) // 8,), "nchw", torch.uint8, device) if save else None
    there = _input(x, device, aligned)
    _entry("relu_fprop", device)(pack(there), pack(y), pack(mask), *_where(device, 1))
    name = f"relu_fprop on {device}, {x.numel()} of {x.dtype},"
    return _result(y, name), _result(mask, name)


def relu_bprop(dy: Tensor, mask: Tensor, device: str = "cpu", aligned: bool = True) -> Tensor:
    """dy where the mask has a bit, else 0."""
    dx = _output(dy.shape, "nchw", dy.dtype, device, aligned)
    there = [_input(t, device, aligned) for t in (dy, mask)]
    _entry("relu_bprop", device)(*map(pack, there), pack(dx), *_where(device, 1))
    return _result(dx, f"relu_bprop on {device}, {dy.numel()} of {dy.dtype},")


def max_pool2d_fprop(
    problem: Problem,
    x: Tensor,
    save: bool = True,
    layout: str | None = None,
    device: str = "cpu",
    aligned: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Pooled values and, if requested, the winners' code. `layout` None is the input's."""
    layout = layout or problem.layout
    y = _output(problem.y_size, layout, problem.dtype, device, aligned)
    code = None
    if save:
        small = problem.pool.window[0] * problem.pool.window[1] <= 254
        dtype = torch.uint8 if small else torch.int32
        code = _output(problem.y_size, layout, dtype, device, aligned)
    there = _input(x, device, aligned)
    entry = _entry("max_pool2d_fprop", device)
    entry(pack(there), pack(y), pack(code), problem.pool.spec, *_where(device, 1))
    name = f"max_pool2d_fprop on {device}, {problem}:"
    return _result(y, name), _result(code, name)


def max_pool2d_bprop(
    problem: Problem,
    dy: Tensor,
    code: Tensor,
    layout: str | None = None,
    device: str = "cpu",
    aligned: bool = True,
) -> Tensor:
    """The gradient of x."""
    dx = _output(problem.x_size, layout or problem.layout, problem.dtype, device, aligned)
    there = [_input(t, device, aligned) for t in (dy, code)]
    entry = _entry("max_pool2d_bprop", device)
    entry(*map(pack, there), pack(dx), problem.pool.spec, *_where(device, 1))
    return _result(dx, f"max_pool2d_bprop on {device}, {problem}:")


def make_code(problem: Problem, dead: float, seed: int = 0) -> Tensor | None:
    """A random code that a fused block could have saved. About the share `dead` is dead."""
    if not problem.relu:
        return None
    generator = torch.Generator().manual_seed(seed)
    alive = torch.rand(problem.y_size, generator=generator) >= dead
    if problem.pool is None:
        return pack_bits(alive)
    from .reference import windows  # any position inside the convolution's output may win

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
