"""Converts models from torch.nn to fastconv and back, and keeps names, parameters and keys."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import Module

from .. import nn
from ._batchnorm import fold, unfold
from ._code import CodeForward
from ._forward import Forward
from ._layers import BLOCKS, FORWARDS, OURS, has_own_forward
from ._plan import make_plan
from ._report import Report, Row, report
from ._run_chain import SequentialForward
from ._tree import Model, copy_of_tree, expect_module, shadow_of

__all__ = ["Report", "Row", "convert", "explain", "revert"]

_POOL_ATTRIBUTES = ("pool_kernel_size", "pool_stride", "pool_padding", "pool_dilation", "ceil_mode")


def convert(
    model: Model, fuse: bool = True, inplace: bool = False, fold_batchnorm: bool = False
) -> Model:
    """Makes a model run on fastconv.

    Types, names, parameters, state_dict and hooks do not change. Only the computation changes:
    convert sets a forward in the `__dict__` of

    - every torch.nn.Conv2d, ReLU and MaxPool2d, which runs fastconv's operation; subclasses and
      parametrised layers are left alone;
    - with `fuse`, every nn.Sequential that has a convolution with a ReLU (and a max-pool, in
      either order) behind it: they run as one operation;
    - with `fuse`, modules whose code has such a chain, `self.pool(F.relu(self.conv(x)))`. It is
      traced with torch.fx, by running it a few times with stand-ins for tensors.

    The model may be edited afterwards. It computes the same as the original with the same edits. A
    layer that is hooked, replaced or changed in type runs by itself. Traced code runs for calls
    with tensors for all arguments without a default. It also needs everything that it read while
    traced to be unchanged: children, attributes, globals. Otherwise the class's own forward runs,
    and its layers one by one. Convert the model again to trace it anew.

    Code that branches on data, has `with` or `try` statements, sets attributes, or reads lists,
    dicts and other objects that may change unnoticed stays as it is: `explain` says where and why.

    Args:
        model: any module.
        fuse: also make one operation of several layers.
        inplace: change `model` itself. Otherwise a new tree of modules is made that shares the
            parameters and buffers, so optimizers stay valid.
        fold_batchnorm: for inference, fold BatchNorm2d layers into the convolutions in front of
            them, which get their own weights. The state_dict is then the folded model's.
            `train()` raises RuntimeError; `revert` brings the layers back.

    Returns:
        The converted model.

    Raises:
        TypeError: `model` is not a Module.
        ValueError: `fold_batchnorm` and the model is not in eval mode.
    """
    expect_module(model, "convert")
    model = model if inplace else copy_of_tree(model)
    _remove_forwards(model)
    shadow = shadow_of(model)
    plan = make_plan(shadow, fuse, fold_batchnorm)
    real = dict(zip(shadow.modules(), model.modules(), strict=True))
    places: dict[Any, Any] = {real[bn]: fold(real[conv], real[bn]) for conv, bn in plan.folds}
    for parent in list(model.modules()) if places else ():
        for name, child in parent._modules.items():
            parent._modules[name] = places.get(child, child)
    for module in model.modules():
        if type(module) in FORWARDS and not has_own_forward(module):
            module.__dict__["forward"] = FORWARDS[type(module)](module)
    for module in plan.sequentials:
        real[module].__dict__["forward"] = SequentialForward(real[module])
    for module, code in plan.codes.items():
        real[module].__dict__["forward"] = CodeForward(real[module], code)
    return model


def explain(model: Module, fuse: bool = True, fold_batchnorm: bool = False) -> Report:
    """Reports how `convert` would run each layer of a model, and why, without changing it.

    For a converted model it reports the current state.

    Args:
        model: any module.
        fuse, fold_batchnorm: as for `convert`.

    Returns:
        A report to print. `rows` and `untraced` hold the same as data.

    Raises:
        TypeError, ValueError: as `convert`.
    """
    expect_module(model, "explain")
    shadow = shadow_of(model)
    return report(shadow, make_plan(shadow, fuse, fold_batchnorm))


def revert(model: Module, inplace: bool = False) -> Module:
    """Makes a model run on torch.nn again: the same layers, names and flags as before `convert`.

    fastconv's own layers become torch.nn's. A ConvReLU2d or ConvReLUMaxPool2d becomes an
    nn.Sequential of its parts, with the Sequential's state_dict keys.

    Args:
        model: any module.
        inplace: change `model` itself rather than a tree that shares its parameters.

    Returns:
        The model without fastconv.

    Raises:
        TypeError: `model` is not a Module.
    """
    expect_module(model, "revert")
    model = model if inplace else copy_of_tree(model)
    blocks = [module for module in model.modules() if type(module) in BLOCKS]
    own = {id(block): _taken_apart(block) for block in blocks}
    if id(model) in own:
        return own[id(model)]
    _remove_forwards(model)
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if isinstance(child, nn.FoldedBatchNorm2d):
                child.original.train(child.training)
                parent._modules[name] = child.original
                unfold(child)
            elif id(child) in own:
                parent._modules[name] = own[id(child)]
    for module in model.modules():
        for theirs, ours in OURS.items():
            if type(module) is ours:
                module.__class__ = theirs
    return model


def _remove_forwards(model: Module) -> None:
    for module in model.modules():
        if isinstance(module.__dict__.get("forward"), Forward):
            del module.__dict__["forward"]


def _strip_block(block: Module) -> None:
    for attribute in _POOL_ATTRIBUTES:
        block.__dict__.pop(attribute, None)
    block.__class__ = torch.nn.Conv2d


def _taken_apart(block: Module) -> torch.nn.Sequential:
    layers: list[Module] = [block, torch.nn.ReLU()]
    if type(block) is nn.ConvReLUMaxPool2d:
        layers.append(
            torch.nn.MaxPool2d(
                block.pool_kernel_size,
                block.pool_stride,
                block.pool_padding,
                block.pool_dilation,
                ceil_mode=block.ceil_mode,
            )
        )
    _strip_block(block)
    return torch.nn.Sequential(*layers).train(block.training)
