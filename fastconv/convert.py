"""From torch.nn to fastconv and back, without touching names, parameters or state_dict keys."""

from __future__ import annotations

import copy
from collections import Counter

import torch
from torch.nn import Module

from . import nn

# Only these very types: a subclass may do anything.
_PLAIN = {
    torch.nn.Conv2d: nn.Conv2d,
    torch.nn.ReLU: nn.ReLU,
    torch.nn.MaxPool2d: nn.MaxPool2d,
}
_TORCH = {ours: theirs for theirs, ours in _PLAIN.items()}
_CONVS = (torch.nn.Conv2d, nn.Conv2d)
_RELUS = (torch.nn.ReLU, nn.ReLU)
_POOLS = (torch.nn.MaxPool2d, nn.MaxPool2d)
_POOL_ATTRIBUTES = ("pool_kernel_size", "pool_stride", "pool_padding", "pool_dilation", "ceil_mode")


def convert(model: Module, fuse: bool = True, inplace: bool = False) -> Module:
    """Makes a model run on fastconv.

    Every torch.nn.Conv2d, ReLU and MaxPool2d becomes fastconv's. With `fuse`, a Conv2d and the ReLU
    (and MaxPool2d) that follow it in an nn.Sequential become one block, which stands where the
    convolution stood; the places of the other two hold a `fastconv.nn.Placeholder`, so names,
    indices, len() and state_dict keys stay as they were. Layers with hooks are replaced but not
    fused. Subclasses and parametrised layers are left alone.

    A model that calls single layers of an nn.Sequential by itself (`self.features[0](x)`) needs
    `fuse=False`: there a block does more than the convolution it stands for.

    Args:
        model: any module.
        fuse: also make fused blocks.
        inplace: change `model` itself. Otherwise a new tree of modules is made that shares the
            parameters and buffers, so that optimizers stay valid.

    Returns:
        The converted model.

    Raises:
        TypeError: `model` is not a Module.
    """
    model = _tree(model, inplace, "convert")
    uses = Counter(id(child) for parent in model.modules() for child in parent._modules.values())
    for module in list(model.modules()):
        if fuse and _is_chain(module):
            _fuse_chain(module, uses)
    for module in list(model.modules()):
        ours = _PLAIN.get(type(module))
        if ours is not None and "forward" not in module.__dict__:
            module.__class__ = ours
    return model


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
        for name, child in parent._modules.items():
            if isinstance(child, nn.Placeholder):
                child.original.train(child.training)
                parent._modules[name] = child.original
            elif id(child) in own:
                parent._modules[name] = own[id(child)]
    for module in list(model.modules()):
        if type(module) in (nn.ConvReLU2d, nn.ConvReLUMaxPool2d):
            _strip_block(module)
        elif type(module) in _TORCH:
            module.__class__ = _TORCH[type(module)]
    return model


def _tree(model: Module, inplace: bool, caller: str) -> Module:
    """The model itself, or a copy of its tree around the same parameters and buffers."""
    if not isinstance(model, Module):
        raise TypeError(f"{caller}: expected a torch.nn.Module, got {type(model).__name__}")
    if inplace:
        return model
    shared = [*model.parameters(), *model.buffers()]
    for module in model.modules():  # such as weight_norm's, which cannot be copied
        shared += [value for value in vars(module).values() if isinstance(value, torch.Tensor)]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in shared})


def _is_chain(module: Module) -> bool:
    """An nn.Sequential that calls its children one after another."""
    return (
        isinstance(module, torch.nn.Sequential)
        and type(module).forward is torch.nn.Sequential.forward
        and "forward" not in module.__dict__
    )


def _is_free(module: Module | None, types: tuple[type, ...]) -> bool:
    """A plain layer that nobody watches."""
    return (
        type(module) in types
        and "forward" not in module.__dict__
        and not any(
            getattr(module, hooks)
            for hooks in (
                "_forward_hooks",
                "_forward_pre_hooks",
                "_backward_hooks",
                "_backward_pre_hooks",
            )
        )
    )


def _fuse_chain(sequential: Module, uses: Counter[int]) -> None:
    names = list(sequential._modules)
    children = sequential._modules
    for i, name in enumerate(names):
        conv = children[name]
        following = [children[n] for n in names[i + 1 : i + 3]]
        # A convolution used elsewhere too may be followed by something else there.
        if not _is_free(conv, _CONVS) or uses[id(conv)] > 1:
            continue
        if not following or not _is_free(following[0], _RELUS):
            continue
        conv.__class__ = nn.ConvReLU2d
        conv.__dict__["_fused_by_convert"] = True
        children[names[i + 1]] = nn.Placeholder(following[0])
        if len(following) == 2 and _is_free(following[1], _POOLS):
            pool = following[1]
            if pool.return_indices:
                continue
            conv.__class__ = nn.ConvReLUMaxPool2d
            conv.set_pool(
                pool.kernel_size, pool.stride, pool.padding, pool.dilation, pool.ceil_mode
            )
            children[names[i + 2]] = nn.Placeholder(pool)


def _is_own_block(module: Module) -> bool:
    """A fused block that the user made."""
    blocks = (nn.ConvReLU2d, nn.ConvReLUMaxPool2d)
    return type(module) in blocks and "_fused_by_convert" not in module.__dict__


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
