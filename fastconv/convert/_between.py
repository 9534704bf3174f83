"""Explains why a convolution runs alone: the layers and calls between it and its ReLU."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch.fx import Node
from torch.nn import Module
from torch.nn.modules.conv import _ConvNd

from ._find_chains import RELU_CALLS
from ._layers import NOTHING, POOLS, RELUS, has_hooks, is_free, why_left
from ._tracer import IN_PLACE

# Calls that are operators in code.
_OPERATORS: dict[Any, str] = {
    **{operator.add: "+", operator.sub: "-", operator.mul: "*", operator.truediv: "/"},
    **IN_PLACE,
}
_MOST = 2  # things in between; a ReLU farther away does not count as this convolution's
_FOLD = "model.eval() and convert(..., fold_batchnorm=True) fuses them for inference"


class Thing(NamedTuple):
    """A layer or a call that a value goes through."""

    name: str
    layer: Module | None
    is_relu: bool


def why_alone(behind: Iterable[Thing], folded: set[int], fold_batchnorm: bool) -> str:
    """The reason in words, for `explain`.

    Args:
        behind: the layers and calls that the convolution's value goes through, in order.
        folded: the ids of BatchNorm layers that will be folded.
        fold_batchnorm: whether folding the others was requested as well.
    """
    between: list[Thing] = []
    for thing in behind:
        if thing.is_relu:
            return _told([t for t in between if id(t.layer) not in folded], thing, fold_batchnorm)
        if len(between) == _MOST or isinstance(thing.layer, _ConvNd | torch.nn.Linear):
            break
        between.append(thing)
    return "no ReLU behind it"


def _told(between: list[Thing], relu: Thing, fold_batchnorm: bool) -> str:
    # Pools join a chain too.
    blocking = [t for t in between if not isinstance(t.layer, (*POOLS, *NOTHING))] or between
    if not blocking:
        return f"{relu.name} behind it cannot join it{_why_not(relu.layer)}"
    stand = "stands" if len(blocking) == 1 else "stand"
    text = f"{' and '.join(t.name for t in blocking)} {stand} between it and the ReLU"
    foldable = [type(t.layer) for t in blocking] == [torch.nn.BatchNorm2d]
    return f"{text}: {_FOLD}" if foldable and not fold_batchnorm else text


def _why_not(relu: Module | None) -> str:
    if relu is None or (type(relu) in RELUS and is_free(relu)):
        return ""
    return ": has hooks" if has_hooks(relu) else f": {why_left(relu)}"


def behind_in_sequential(layers: Iterable[Module], paths: dict[int, str]) -> Iterator[Thing]:
    """The layers that follow in an nn.Sequential; `paths` has their names by id."""
    return (_of_layer(layer, paths) for layer in layers)


def behind_in_graph(node: Node, root: Module, paths: dict[int, str]) -> Iterator[Thing]:
    """The users of a node's value, as long as each is the only user of the one before."""
    while len(node.users) == 1:
        node = next(iter(node.users))
        if node.op == "call_module":
            yield _of_layer(root.get_submodule(str(node.target)), paths)
        elif node.op == "call_function":
            call = f"{getattr(node.target, '__name__', node.target)}()"
            yield Thing(_OPERATORS.get(node.target, call), None, node.target in RELU_CALLS)
        elif node.op == "call_method":
            yield Thing(f".{node.target}()", None, node.target in RELU_CALLS)
        else:
            return


def _of_layer(layer: Module, paths: dict[int, str]) -> Thing:
    return Thing(f"{type(layer).__name__} {paths[id(layer)]}", layer, isinstance(layer, RELUS))
