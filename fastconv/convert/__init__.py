"""From torch.nn to fastconv and back, without touching names, parameters or state_dict keys."""

from __future__ import annotations

import copy

import torch
from torch.nn import Module

from .. import nn
from ._batchnorm import fold, unfold
from ._chains import Chain
from ._forward import FusedForward
from ._layers import BLOCKS, TORCH, replacement
from ._plan import make_plan
from ._report import Report, Row, report

__all__ = ["Report", "Row", "convert", "explain", "revert"]

_POOL_ATTRIBUTES = ("pool_kernel_size", "pool_stride", "pool_padding", "pool_dilation", "ceil_mode")


def convert(
    model: Module, fuse: bool = True, inplace: bool = False, fold_batchnorm: bool = False
) -> Module:
    """Makes a model run on fastconv.

    Every torch.nn.Conv2d, ReLU and MaxPool2d becomes fastconv's; subclasses and parametrised layers
    are left alone. `fuse` makes one operation of a convolution and the ReLU (and max-pool, in
    either order) behind it:

    In an nn.Sequential one block stands where the convolution stood; the places of the other two
    hold a `fastconv.nn.Placeholder`, so names, indices, len() and state_dict keys stay as they
    were.

    In code, `self.pool(F.relu(self.conv(x)))`, the module gets a forward in its `__dict__` that was
    traced from its own with torch.fx, that is by running it a few times with stand-ins for tensors.
    The layers stay single ones. The traced forward is used for calls with
    tensors for all arguments that have no default, and nothing else; otherwise, and when plain
    attributes that the code reads (`self.use_pool`) have other values than now, the class's own
    forward runs. What else the code reads, such as global variables and objects, is taken as it is
    now. Code that branches on data, has `with` statements, changes attributes or cannot be followed
    for another reason stays as it is: `explain` says where and why.

    Layers with hooks are replaced but not fused. A layer of an nn.Sequential that is called by code
    outside the model needs `fuse=False`: there a block does more than the convolution it stands
    for. So does a model that DataParallel will spread over several GPUs.

    Args:
        model: any module.
        fuse: also make one operation of several layers.
        inplace: change `model` itself. Otherwise a new tree of modules is made that shares the
            parameters and buffers, so that optimizers stay valid.
        fold_batchnorm: for inference, put BatchNorm2d layers into the convolutions in front of
            them, which get weights of their own. The state_dict is then that of the folded model.
            `train()` raises RuntimeError; `revert` brings the layers back.

    Returns:
        The converted model.

    Raises:
        TypeError: `model` is not a Module.
        ValueError: `fold_batchnorm` and the model is not in eval mode.
    """
    model = _tree(model, inplace, "convert")
    plan = make_plan(model, fuse, fold_batchnorm)
    places = {bn: fold(conv, bn) for conv, bn in plan.folds}
    for parent in list(model.modules()) if places else ():
        for name, child in parent._modules.items():
            parent._modules[name] = places.get(child, child)
    for sequential, chain in plan.blocks:
        _make_block(sequential, chain)
    for layer in list(model.modules()):
        ours = replacement(layer)
        if ours is not None:
            layer.__class__ = ours
    for module, forward in plan.forwards.items():
        module.__dict__["forward"] = forward
    return model


def explain(model: Module, fuse: bool = True, fold_batchnorm: bool = False) -> Report:
    """Says what `convert` makes of each layer of a model, and why, without changing it.

    Of a converted model it says what is there.

    Args:
        model: any module.
        fuse, fold_batchnorm: as for `convert`.

    Returns:
        A report to print, with the same as data in `rows` and `untraced`.

    Raises:
        TypeError, ValueError: as `convert`.
    """
    _expect_module(model, "explain")
    return report(model, make_plan(model, fuse, fold_batchnorm))


def revert(model: Module, inplace: bool = False) -> Module:
    """Makes a model run on torch.nn again: the same layers, names and flags as before `convert`.

    A ConvReLU2d or ConvReLUMaxPool2d that was not made by `convert` becomes an nn.Sequential of its
    parts, with the state_dict keys of that.

    Args:
        model: any module.
        inplace: change `model` itself rather than a tree that shares its parameters.

    Returns:
        The model without fastconv.

    Raises:
        TypeError: `model` is not a Module.
    """
    model = _tree(model, inplace, "revert")
    own = {id(block): _taken_apart(block) for block in model.modules() if _is_own_block(block)}
    if id(model) in own:
        return own[id(model)]
    for parent in list(model.modules()):
        if isinstance(parent.__dict__.get("forward"), FusedForward):
            del parent.__dict__["forward"]
        for name, child in parent._modules.items():
            if isinstance(child, nn.Placeholder):
                child.original.train(child.training)
                parent._modules[name] = child.original
                if isinstance(child, nn.FoldedBatchNorm2d):
                    unfold(child)
            elif id(child) in own:
                parent._modules[name] = own[id(child)]
    for module in list(model.modules()):
        if type(module) in BLOCKS:
            _strip_block(module)
        elif type(module) in TORCH:
            module.__class__ = TORCH[type(module)]
    return model


def _expect_module(model: object, caller: str) -> None:
    if not isinstance(model, Module):
        raise TypeError(f"{caller}: expected a torch.nn.Module, got {type(model).__name__}")


def _tree(model: Module, inplace: bool, caller: str) -> Module:
    """The model itself, or a copy of its tree around the same parameters and buffers."""
    _expect_module(model, caller)
    if inplace:
        return model
    shared: list[object] = []
    for module in model.modules():
        shared += _shared(module)
        if isinstance(module, nn.FoldedBatchNorm2d):
            shared += [*_shared(module.original), *_shared(module.unfolded)]
    return copy.deepcopy(model, {id(thing): thing for thing in shared})


def _shared(module: Module) -> list[object]:
    """What a copy of a module has in common with it."""
    if isinstance(module, torch.jit.ScriptModule):
        return [module]
    own = vars(module).values()  # where weight_norm keeps tensors that cannot be copied
    tensors = [value for value in own if isinstance(value, torch.Tensor)]
    return [*tensors, *module.parameters(recurse=False), *module.buffers(recurse=False)]


def _make_block(sequential: Module, chain: Chain) -> None:
    conv = chain.conv
    conv.__class__ = nn.ConvReLU2d
    conv.__dict__["_fused_by_convert"] = True
    for step in chain.others():
        sequential._modules[step.name] = nn.Placeholder(step.layer)
        if step.kind == "pool":
            pool = step.layer
            conv.__class__ = nn.ConvReLUMaxPool2d
            conv.set_pool(
                pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode
            )


def _is_own_block(module: Module) -> bool:
    """A fused block that the user made."""
    return type(module) in BLOCKS and "_fused_by_convert" not in module.__dict__


def _strip_block(block: Module) -> None:
    for attribute in (*_POOL_ATTRIBUTES, "_fused_by_convert"):
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
