"""Finds chains: a convolution, and the ReLU and pool that alone use its value."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch.fx import Graph, Node
from torch.nn import Module

from .. import functional
from ._layers import CONVS, NOTHING, POOLS, RELUS, is_free, is_single
from ._run_chain import count_joining

_NOTHING = torch.nn.Identity()  # in place of a BatchNorm that will be folded

RELU_CALLS = (F.relu, torch.relu, torch.relu_, functional.relu, "relu", "relu_")
_POOL_CALLS = (F.max_pool2d, torch.max_pool2d, functional.max_pool2d)


@dataclass
class Step:
    """One layer or call behind a convolution."""

    name: str
    """The layer's path, or the function's name."""
    layer: Module | None = None
    pool: tuple[Any, ...] = ()
    """A called pool's arguments, () for a called ReLU."""
    node: Node | None = None


@dataclass
class Chain:
    """A convolution and the steps that join it."""

    conv: Module
    name: str
    steps: list[Step]
    node: Node | None = None

    def is_free(self) -> bool:
        """Whether no layer is hooked or patched, so that it runs as one operation now."""
        layers = (self.conv, *(step.layer for step in self.steps))
        return all(is_free(layer) for layer in layers if layer is not None)

    def others(self) -> list[Step]:
        """The steps that do something."""
        return [step for step in self.steps if isinstance(step.layer, (*RELUS, *POOLS, type(None)))]


def chains_in_sequential(sequential: Module, folded: set[int]) -> list[Chain]:
    """`folded`: the ids of layers that return their input once BatchNorm is folded."""
    layers: list[tuple[str, Any]] = list(sequential._modules.items())
    chains = []
    for i, (name, conv) in enumerate(layers):
        if is_single(conv, CONVS):
            following = (_layer_step(layer, n, folded) for n, layer in layers[i + 1 :])
            chains.append(Chain(conv, name, _joining(following, folded)))
    return [chain for chain in chains if chain.steps]


def chains_in_graph(graph: Graph, root: Module, folded: set[int]) -> list[Chain]:
    chains = []
    for node in graph.nodes:
        if node.op != "call_module":
            continue
        conv = root.get_submodule(node.target)
        if is_single(conv, CONVS) and len(node.args) == 1 and not node.kwargs:
            steps = _joining(_following(node, root, folded), folded)
            chains.append(Chain(conv, node.target, steps, node))
    return [chain for chain in chains if chain.steps]


def calls_without_chain(graph: Graph, chains: list[Chain]) -> list[str]:
    """Names of the ReLU and pool functions that remain torch's."""
    fused = {step.node for chain in chains for step in chain.steps}
    names = [_function_name(node) for node in graph.nodes if node not in fused]
    return [name for name in names if name]


def _joining(following: Iterable[Step | None], folded: set[int]) -> list[Step]:
    """The steps that join a convolution in one operation."""
    steps: list[Any] = list(itertools.takewhile(lambda step: step is not None, following))
    kinds = [
        step.pool if step.layer is None else _NOTHING if id(step.layer) in folded else step.layer
        for step in steps
    ]
    return steps[: count_joining(kinds)]


def _layer_step(layer: Module | None, name: str, folded: set[int]) -> Step | None:
    plain = is_single(layer, (*RELUS, *POOLS, *NOTHING))
    return Step(name, layer) if plain or id(layer) in folded else None


def _following(node: Node, root: Module, folded: set[int]) -> Iterator[Step | None]:
    """The steps behind a value, as long as each is the value's only user."""
    while len(node.users) == 1:
        value, node = node, next(iter(node.users))
        if node.args[:1] != (value,) or node.all_input_nodes != [value]:
            return
        if node.op == "call_module" and len(node.args) == 1 and not node.kwargs:
            step = _layer_step(root.get_submodule(str(node.target)), str(node.target), folded)
        else:
            step = _call_step(node)
        if step is not None:
            step.node = node
        yield step


def _call_step(node: Node) -> Step | None:
    name = _function_name(node)
    if name is None:
        return None
    if node.target in RELU_CALLS:
        return Step(name)
    try:
        bound = _pool_signature.bind(*node.args, **node.kwargs)
    except TypeError:
        return None
    bound.apply_defaults()
    *pool, return_indices = bound.args[1:]
    if return_indices is not False or not all(_is_number(value) for value in pool):
        return None
    return Step(name, pool=tuple(tuple(v) if isinstance(v, list) else v for v in pool))


def _function_name(node: Node) -> str | None:
    if node.op == "call_function" and node.target in RELU_CALLS:
        return "relu()"
    if node.op == "call_function" and node.target in _POOL_CALLS:
        return "max_pool2d()"
    if node.op == "call_method" and node.target in RELU_CALLS:
        return f".{node.target}()"
    return None


def _is_number(value: Any) -> bool:
    numbers = value if isinstance(value, tuple | list) else (value,)
    return all(number is None or isinstance(number, int) for number in numbers)


def _max_pool2d(
    input: Any,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: Any = False,
    return_indices: Any = False,
) -> None: ...


_pool_signature = inspect.signature(_max_pool2d)
