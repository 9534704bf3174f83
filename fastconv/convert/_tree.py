"""Copies a model's tree of modules around the same parameters and buffers."""

from __future__ import annotations

import copy
import operator
from typing import TypeVar

import torch
from torch.nn import Module

from .. import nn

Model = TypeVar("Model", bound=Module)


def expect_module(model: object, caller: str) -> None:
    """Raises TypeError unless `model` is a Module."""
    if not isinstance(model, Module):
        raise TypeError(f"{caller}: expected a torch.nn.Module, got {type(model).__name__}")


def copy_of_tree(model: Model) -> Model:
    """New modules that share a model's parameters and buffers."""
    shared: list[object] = []
    for module in model.modules():
        shared += _shared(module)
        if isinstance(module, nn.FoldedBatchNorm2d):
            shared += [*_shared(module.original), *_shared(module.unfolded)]
    return copy.deepcopy(model, {id(thing): thing for thing in shared})


def shadow_of(model: Model) -> Model:
    """A copy on which code runs while it is traced, so that its effects do not reach the model.

    Returns the model itself if it cannot be copied, or if copies get other classes, as torch.fx's
    graphs do.
    """
    try:
        shadow = copy_of_tree(model)
    except Exception:
        return model
    alike = map(type, shadow.modules()), map(type, model.modules())
    return shadow if all(map(operator.is_, *alike)) else model


def _shared(module: Module) -> list[object]:
    """The objects that a copy of a module shares with it."""
    if isinstance(module, torch.jit.ScriptModule):
        return [module]
    own = vars(module).values()  # weight_norm keeps tensors here that cannot be copied
    tensors = [value for value in own if isinstance(value, torch.Tensor)]
    return [*tensors, *module.parameters(recurse=False), *module.buffers(recurse=False)]
