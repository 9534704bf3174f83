"""Decides which layers of a converted model run on fastconv, and why others do not.

A layer stays torch.nn's in type and content. Every call decides anew from the layer's state: a
layer that is hooked, parametrised or patched runs its own code.
"""

from __future__ import annotations

from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.compiler import is_compiling, is_dynamo_compiling
from torch.nn import Module
from torch.nn.modules import module as _torch_module
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize
from torch.overrides import has_torch_function

from .. import functional, nn
from ..torch_internals import only_devices_are_set
from ._forward import Forward

# Only these exact types: a subclass may do anything.
CONVS = (torch.nn.Conv2d, nn.Conv2d)
RELUS = (torch.nn.ReLU, nn.ReLU)
POOLS = (torch.nn.MaxPool2d, nn.MaxPool2d)
BLOCKS = (nn.ConvReLU2d, nn.ConvReLUMaxPool2d)
# Layers that return their input.
NOTHING = (torch.nn.Identity, nn.FoldedBatchNorm2d)

# torch.nn's layers and fastconv's of the same kind.
OURS = {
    torch.nn.Conv2d: nn.Conv2d,
    torch.nn.ReLU: nn.ReLU,
    torch.nn.MaxPool2d: nn.MaxPool2d,
}


_OURS_OR_NONE = (Forward, type(None))

# The functions that torch's layers call, unpatched.
_CALL, _CALL_IMPL = Module.__call__, Module._call_impl
_GETATTR, _GETATTRIBUTE = Module.__getattr__, Module.__getattribute__
_PLAIN_TYPES = (Tensor, torch.nn.Parameter)
_CONV, _CONV_FORWARD = torch.nn.Conv2d, torch.nn.Conv2d.forward
_CONV_OPERATION, _CONV2D = torch.nn.Conv2d._conv_forward, F.conv2d
_RELU, _RELU_FORWARD, _RELU_FUNCTION = torch.nn.ReLU, torch.nn.ReLU.forward, F.relu
_TORCH_RELU, _TORCH_POOL = torch.relu, torch.max_pool2d
_POOL, _POOL_FORWARD, _MAX_POOL2D = torch.nn.MaxPool2d, torch.nn.MaxPool2d.forward, F.max_pool2d


def is_patched() -> bool:
    """Whether the functions that layers call are patched."""
    return (
        F.conv2d is not _CONV2D
        or _CONV.forward is not _CONV_FORWARD
        or _CONV._conv_forward is not _CONV_OPERATION
        or F.relu is not _RELU_FUNCTION
        or torch.relu is not _TORCH_RELU
        or _RELU.forward is not _RELU_FORWARD
        or F.max_pool2d is not _MAX_POOL2D
        or torch.max_pool2d is not _TORCH_POOL
        or _POOL.forward is not _POOL_FORWARD
    )


def _calls_are_patched() -> bool:
    return not (
        Module._call_impl is _CALL_IMPL
        and _CONV.__call__ is _CALL
        and _RELU.__call__ is _CALL
        and _POOL.__call__ is _CALL
    )


def sees_functions(*tensors: Tensor | None) -> bool:
    """Whether a tensor or mode with `__torch_function__` must see torch's own functions."""
    if is_compiling():
        return False
    if any(t is not None and type(t) not in _PLAIN_TYPES for t in tensors):
        return True
    return not only_devices_are_set()


def all_are_watched() -> bool:
    """Whether code watches the calls of all modules. torch.export, for names, does not count."""
    return bool(
        ((Module.__call__ is not _CALL or _calls_are_patched()) and not is_compiling())
        or _torch_module._global_forward_hooks
        or _torch_module._global_forward_pre_hooks
        or _torch_module._global_backward_hooks
        or _torch_module._global_backward_pre_hooks
    )


def tensors_of(conv: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """The input, weight and bias that a convolution computes with.

    Parameters are read from their dictionary, since Module.__getattr__ takes 0.5 us for each.
    Compilers read the attribute, which names them.
    """
    own, kind = conv.__dict__, type(conv)
    parameters = own["_parameters"]
    if (
        "weight" in parameters
        and "bias" in parameters
        and "weight" not in own
        and "bias" not in own
        and kind.__getattr__ is _GETATTR
        and kind.__getattribute__ is _GETATTRIBUTE
        and getattr(kind, "weight", None) is None
        and getattr(kind, "bias", None) is None
        and not is_dynamo_compiling()
    ):
        return x, parameters["weight"], parameters["bias"]
    return x, conv.weight, conv.bias


# The forwards of single layers repeat code, because they run in every call.


class Conv2dForward(Forward):
    """Runs a convolution on fastconv while it is a plain one."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        layer = self.called()
        if (
            type(layer) is not _CONV
            or F.conv2d is not _CONV2D
            or _CONV.forward is not _CONV_FORWARD
            or _CONV._conv_forward is not _CONV_OPERATION
            or "_conv_forward" in layer.__dict__
            or len(args) != 1
        ):
            return type(layer).forward(layer, *args, **kwargs)
        tensors = tensors_of(layer, args[0])
        if has_torch_function(tensors) and sees_functions(*tensors):
            return _CONV_FORWARD(layer, *args)
        return functional.conv2d(*nn.conv2d_arguments(layer, *tensors))


class ReLUForward(Forward):
    """Runs a ReLU on fastconv while it is a plain one."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        layer = self.called()
        if (
            type(layer) is not _RELU
            or F.relu is not _RELU_FUNCTION
            or torch.relu is not _TORCH_RELU
            or _RELU.forward is not _RELU_FORWARD
            or len(args) != 1
            or (has_torch_function(args) and sees_functions(*args))
        ):
            return type(layer).forward(layer, *args, **kwargs)
        return functional.relu(args[0], layer.inplace)


class MaxPool2dForward(Forward):
    """Runs a max-pool on fastconv while it is a plain one."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        layer: Any = self.called()
        if (
            type(layer) is not _POOL
            or F.max_pool2d is not _MAX_POOL2D
            or torch.max_pool2d is not _TORCH_POOL
            or _POOL.forward is not _POOL_FORWARD
            or len(args) != 1
            or (has_torch_function(args) and sees_functions(*args))
        ):
            return type(layer).forward(layer, *args, **kwargs)
        return nn.MaxPool2d.forward(layer, *args)  # type: ignore[arg-type]


FORWARDS: dict[type, type[Forward]] = {
    torch.nn.Conv2d: Conv2dForward,
    torch.nn.ReLU: ReLUForward,
    torch.nn.MaxPool2d: MaxPool2dForward,
}


def has_hooks(layer: Module) -> bool:
    """Whether hooks watch the layer's calls."""
    return bool(
        layer._forward_hooks
        or layer._forward_pre_hooks
        or layer._backward_hooks
        or layer._backward_pre_hooks
    )


def is_single(layer: Any, types: tuple[type, ...]) -> bool:
    """Whether it is a layer of exactly these types with its class's forward, or ours."""
    return type(layer) in types and not has_own_forward(layer)


def is_free(layer: Module) -> bool:
    """Whether a layer runs its class's forward, without hooks.

    The code is inlined by hand, because it runs in every call of a chain.
    """
    own = layer.__dict__
    return not (
        own["_forward_hooks"]
        or own["_forward_pre_hooks"]
        or own["_backward_hooks"]
        or own["_backward_pre_hooks"]
        or "_conv_forward" in own
        or "_call_impl" in own
        or own.get("_compiled_call_impl") is not None
    ) and isinstance(own.get("forward"), _OURS_OR_NONE)


def has_own_forward(module: Module) -> bool:
    """Whether other code than `convert` has set a forward on this module."""
    own = vars(module)
    return "_conv_forward" in own or not isinstance(own.get("forward"), _OURS_OR_NONE)


def is_plain_sequential(module: Module) -> TypeGuard[torch.nn.Sequential]:
    """Whether a module is an nn.Sequential that calls its children one after another."""
    kind: Any = type(module)
    return (
        isinstance(module, torch.nn.Sequential)
        and kind.forward is torch.nn.Sequential.forward
        and kind.__iter__ is torch.nn.Sequential.__iter__
        and not has_own_forward(module)
    )


def why_left(layer: Any) -> str:
    """The reason why `convert` does not change a Conv2d, ReLU or MaxPool2d."""
    kind = type(layer)
    if has_own_forward(layer):
        return "a forward of its own was set on it"
    if parametrize.is_parametrized(layer):
        return "parametrised"
    if isinstance(layer, LazyModuleMixin):
        return "not initialized yet; run the model once, then convert"
    return f"a subclass, {kind.__module__}.{kind.__qualname__}"
