"""Uses torch's private names, mainly to tell whether a call is plain and eager.

No other file uses such names. A plain eager call may go straight to the kernels. If a version of
torch lacks one of the names, no call counts as plain. All calls then use the registered operators,
which are slower but right everywhere.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NoReturn, TypeVar

import torch
from torch.autograd import forward_ad

# Exactly these types: a subclass may carry anything (a FakeTensor has no memory at all).
PLAIN_TYPES = frozenset((torch.Tensor, torch.nn.Parameter))

_functorch_active: Any = getattr(torch._C, "_are_functorch_transforms_active", None)
_dispatch_modes: Any = getattr(torch._C, "_len_torch_dispatch_stack", None)
_function_modes: Any = getattr(torch._C, "_len_torch_function_stack", None)
_tracing_state: Any = getattr(torch._C, "_get_tracing_state", None)
_functorch_stack = getattr(getattr(torch._C, "_functorch", None), "get_interpreter_stack", None)
_any_autocast = getattr(torch._C, "_is_any_autocast_enabled", lambda: True)
_is_compiling = torch.compiler.is_compiling
# A torch without CUDA has neither, and no CUDA tensors.
_raw_stream = getattr(torch._C, "_cuda_getCurrentRawStream", None)
_current_device = getattr(torch._C, "_cuda_getDevice", None)

# If it is missing, profiles lack the names of plain calls.
profiling = getattr(torch.autograd, "_profiler_enabled", lambda: False)

COMPLETE = None not in (_functorch_active, _dispatch_modes, _function_modes, _tracing_state) and (
    hasattr(forward_ad, "_current_level")
)


Function = TypeVar("Function", bound=Callable[..., Any])


def quiet() -> bool:
    """Whether no compiler, transform, mode, tracer or forward-AD level is active."""
    return (
        COMPLETE
        and not _is_compiling()
        and not _functorch_active()
        and not _dispatch_modes()
        and not _function_modes()
        and _tracing_state() is None
        and forward_ad._current_level < 0
    )


# Functions whose results tell all that may be active, except a compiler. `object` replaces a
# missing one: it returns a different result each time.
MODES = (
    _functorch_active or object,
    _dispatch_modes or object,
    _function_modes or object,
    _tracing_state or object,
    partial(getattr, forward_ad, "_current_level", None),
    _any_autocast,
    profiling,
)


def undisturbed() -> bool:
    """Whether the call is `quiet`, and neither autocast nor a profiler is active."""
    return quiet() and not _any_autocast() and not profiling()


def functorch_active() -> bool:
    """Whether torch.func's grad, vmap, jvp or functionalize is active; True if unknown."""
    return _functorch_active is None or _functorch_active()


def _functionalizing() -> bool:
    """Whether torch.func.functionalize is active; False if unknown."""
    levels = (_functorch_stack and _functorch_stack()) or ()
    return any(level.key().name == "Functionalize" for level in levels)


def tracing() -> bool:
    """Whether torch.jit.trace is active."""
    return not _is_compiling() and (_tracing_state is not None and _tracing_state() is not None)


def forward_ad_active() -> bool:
    """Whether a forward-AD level is open; False if unknown."""
    return getattr(forward_ad, "_current_level", -1) >= 0


def needs_torch() -> bool:
    """Whether torch's own operators must run.

    They run for forward AD, for ONNX, and for torch.func inside torch.compile or around
    functionalize, which do not support fastconv's autograd Functions.
    """
    if functorch_active() and (_is_compiling() or _functionalizing()):
        return True
    return forward_ad_active() or exporting_to_onnx()


def has_no_memory(tensor: torch.Tensor | None) -> bool:
    """Whether only torch's dispatcher can read a tensor of plain type.

    It either wraps another tensor (torch.func's, even after the transform has ended; batched
    gradients'; functional ones), or is a zero without memory, as some gradients are. The storage's
    address is read, because a slice's own address would be its offset and not 0.
    """
    if tensor is None or type(tensor) not in PLAIN_TYPES:
        return False
    try:
        return tensor.untyped_storage().data_ptr() == 0 and tensor.numel() > 0
    except RuntimeError:
        return True


def any_without_memory(tensors: Sequence[torch.Tensor | None]) -> bool:
    """Whether one of the tensors has no memory."""
    return any(map(has_no_memory, tensors))


def operators() -> list[Any]:
    """All of fastconv's operators, as registered in torch."""
    names = [
        name.split("::")[1]
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("fastconv::")
    ]
    return [getattr(torch.ops.fastconv, name).default for name in names]


def is_tensor_function(function: object) -> bool:
    """Whether a function is one of torch's own in C, which only computes with tensors."""
    owner = getattr(function, "__self__", None)
    if owner is None:
        functions = getattr(torch._C, "_VariableFunctions", None)
        return getattr(functions, getattr(function, "__name__", ""), None) == function
    names = ("torch._C._nn", "torch._C._linalg", "torch._C._fft", "torch._C._special")
    return getattr(owner, "__name__", None) in names


def only_devices_are_set() -> bool:
    """Whether torch.set_default_device's is the only active `__torch_function__` mode."""
    try:
        from torch.overrides import _get_current_function_mode_stack
        from torch.utils._device import DeviceContext
    except ImportError:
        return False
    return all(isinstance(mode, DeviceContext) for mode in _get_current_function_mode_stack())


def autocast_dtype(tensor: torch.Tensor) -> torch.dtype | None:
    """The dtype to which autocast casts this tensor, or None."""
    if not _is_compiling() and not _any_autocast():
        return None
    device = tensor.device.type
    if device == "meta" or not torch.is_autocast_enabled(device):
        return None
    if not tensor.is_floating_point() or tensor.dtype == torch.float64:
        return None
    return torch.get_autocast_dtype(device)


def known_above(value: int, most: int) -> bool:
    """Whether a count is above a limit; False if a compiler does not know."""
    if not _is_compiling() and not isinstance(value, torch.SymInt):
        return value > most
    from torch.fx.experimental.symbolic_shapes import statically_known_true  # loads sympy

    return statically_known_true(value > most)


def cuda_stream(device: int) -> int:
    """A GPU's current stream, as CUDA's handle."""
    if _raw_stream is not None:
        return _raw_stream(device)
    return torch.cuda.current_stream(device).cuda_stream


def cuda_device() -> int:
    """This thread's current GPU, as torch's index."""
    if _current_device is not None:
        return _current_device()
    return torch.cuda.current_device()


def constant(function: Function) -> Function:
    """Makes torch.compile treat the function's result as a constant instead of tracing it.

    torch.compiler.assume_constant_result does the same but imports the whole compiler.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def _refuse_script(*_: Any) -> NoReturn:
    raise RuntimeError(
        "torch.jit.script cannot compile fastconv's layers and functions; script "
        "fastconv.revert(model), call torch.nn.functional's, or use torch.jit.trace"
    )


def unscriptable(function: Function) -> Function:
    """Makes torch.jit.script's error for the function or layer say what to do.

    Layers are marked too, although they call such functions. torch cannot compile a class's forward
    again once that has failed, and its error then says only this.
    """
    function.__prepare_scriptable__ = _refuse_script  # type: ignore[attr-defined]
    return function


@constant
def exporting_to_onnx() -> bool:
    """Whether torch.onnx.export is active, which translates only torch's operators."""
    onnx = sys.modules.get("torch.onnx")  # exporting has loaded it
    return onnx is not None and onnx.is_in_onnx_export()
