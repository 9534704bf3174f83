"""Finds BatchNorm layers that can be folded into the convolution in front, and folds them."""

from __future__ import annotations

import types
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch.fx import Graph
from torch.nn import Module
from torch.nn.utils.fusion import fuse_conv_bn_weights

from .. import nn
from ._layers import CONVS, is_free, is_plain_sequential
from ._reads import INTERNAL


def foldable(
    model: Module, graphs: Iterable[tuple[Module, Graph]], blocked: set[int]
) -> list[tuple[Module, Module]]:
    """Pairs of a convolution and a BatchNorm2d that only run one behind the other.

    Args:
        graphs: the known calls of layers.
        blocked: ids of modules that other code may call or look into.
    """
    blocked = blocked | _held(model)
    behind: dict[Module, set[Module | None]] = defaultdict(set)
    before: dict[Module, set[Module | None]] = defaultdict(set)
    read: set[Module] = set()
    for sequential in filter(is_plain_sequential, model.modules()):
        layers: list[Any] = [None, *sequential._modules.values(), None]
        for i in range(1, len(layers) - 1):
            before[layers[i]].add(layers[i - 1])
            behind[layers[i]].add(layers[i + 1])
    for root, graph in graphs:
        for node in graph.nodes:
            if node.op == "get_attr":
                read |= _owners(root, node.target)
            elif node.op == "call_module":
                layer = root.get_submodule(node.target)
                users = list(node.users)
                behind[layer].add(_called(root, users[0]) if len(users) == 1 else None)
                before[layer].add(_called(root, node.args[0]) if node.args else None)
    return [
        (conv, bn)
        for conv, followers in behind.items()
        for bn in followers
        if type(conv) in CONVS
        and type(bn) is torch.nn.BatchNorm2d
        and is_free(conv)
        and is_free(bn)
        and bn.running_mean is not None
        and followers == {bn}
        and before[bn] == {conv}
        and not {id(conv), id(bn)} & blocked
        and not {conv, bn} & read
    ]


def _held(model: Module) -> set[int]:
    """The ids of modules that code can also find in lists, dictionaries and objects."""
    found: set[int] = set()
    attributes = [pair for module in model.modules() for pair in vars(module).items()]
    todo = [(value, 3) for name, value in attributes if name not in INTERNAL]
    while todo:
        value, depth = todo.pop()
        if isinstance(value, Module):
            found.add(id(value))
        elif depth and isinstance(value, dict):
            todo += [(inner, depth - 1) for inner in value.values()]
        elif depth and isinstance(value, list | tuple | set):
            todo += [(inner, depth - 1) for inner in value]
        elif depth and not isinstance(value, type | types.ModuleType | types.FunctionType):
            todo += [(inner, depth - 1) for inner in getattr(value, "__dict__", {}).values()]
    return found


def fold(conv: Any, bn: Any) -> nn.FoldedBatchNorm2d:
    """Folds BatchNorm into the convolution's own copy of its weights and returns a placeholder."""
    place = nn.FoldedBatchNorm2d(bn, conv)
    conv.weight, conv.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias
    )
    return place


def unfold(place: nn.FoldedBatchNorm2d) -> None:
    for name in ("weight", "bias"):
        place.conv._parameters[name] = place.unfolded[name]


def _called(root: Module, node: object) -> Module | None:
    if isinstance(node, torch.fx.Node) and node.op == "call_module":
        return root.get_submodule(str(node.target))
    return None


def _owners(root: Module, path: str) -> set[Module]:
    """The modules on the way to an attribute."""
    found, module = set(), root
    for name in path.split("."):
        module = getattr(module, name)
        if isinstance(module, Module):
            found.add(module)
    return found
