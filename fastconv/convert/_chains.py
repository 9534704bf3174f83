"""Chains: a convolution and the ReLU and pool that its value goes through and nothing else."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch.fx import Graph, Node
from torch.nn import Module

from .. import functional
from ._layers import CONVS, NOTHING, POOLS, RELUS, is_free

_RELU_CALLS = (F.relu, torch.relu, torch.relu_, functional.relu, "relu", "relu_")
_POOL_CALLS = (F.max_pool2d, torch.max_pool2d, functional.max_pool2d)


@dataclass
class Step:
    """One layer or call behind a convolution."""

    kind: str
    """relu, pool, or nothing: it returns what it gets."""
    name: str
    """The layer's path, or the function's name."""
    layer: Module | None = None
    pool: tuple[Any, ...] = ()
    """A called pool's arguments."""
    node: Node | None = None


@dataclass
class Chain:
    """A convolution and the steps that join it."""

    conv: Module
    name: str
    steps: list[Step]
    node: Node | None = None

    def others(self) -> list[Step]:
        """The steps that do something."""
        return [step for step in self.steps if step.kind != "nothing"]


def chains_in_sequential(sequential: Module, folded: set[int]) -> list[Chain]:
    """`folded`: the ids of layers that return what they get once BatchNorm is folded."""
    names = list(sequential._modules)
    chains = []
    for i, name in enumerate(names):
        conv = sequential._modules[name]
        if is_free(conv, CONVS):
            following = (_layer_step(sequential._modules[n], n, folded) for n in names[i + 1 :])
            chains.append(Chain(conv, name, _joining(following)))
    return [chain for chain in chains if chain.steps]


def chains_in_graph(graph: Graph, root: Module, folded: set[int]) -> list[Chain]:
    chains = []
    for node in graph.nodes:
        if node.op != "call_module":
            continue
        conv = root.get_submodule(node.target)
        if is_free(conv, CONVS) and len(node.args) == 1 and not node.kwargs:
            steps = _joining(_following(node, root, folded))
            chains.append(Chain(conv, node.target, steps, node))
    return [chain for chain in chains if chain.steps]


def calls_without_chain(graph: Graph, chains: list[Chain]) -> list[str]:
    """Names of the ReLU and pool functions that stay torch's."""
    fused = {step.node for chain in chains for step in chain.steps}
    names = [_function_name(node) for node in graph.nodes if node not in fused]
    return [name for name in names if name]


def _joining(following: Iterable[Step | None]) -> list[Step]:
    """The steps that make one block with a convolution, none if there is no ReLU among them.

    ReLU and pool may come in either order: the largest value is the same one. A window without
    any value, which only a dilated pool can have, is -inf before and 0 behind a ReLU.
    """
    steps: list[Step] = []
    kinds: list[str] = []
    for step in following:
        if step is None or step.kind in kinds:
            break
        steps.append(step)
        if step.kind != "nothing":
            kinds.append(step.kind)
    while steps and steps[-1].kind == "nothing":
        steps.pop()
    if "relu" not in kinds or (kinds[0] == "pool" and _is_dilated(steps)):
        return []
    return steps


def _is_dilated(steps: list[Step]) -> bool:
    pool = next(step for step in steps if step.kind == "pool")
    dilation = pool.layer.dilation if pool.layer is not None else pool.pool[3]
    return dilation not in (1, (1, 1), [1, 1])


def _layer_step(layer: Module | None, name: str, folded: set[int]) -> Step | None:
    if id(layer) in folded or is_free(layer, NOTHING):
        return Step("nothing", name, layer)
    if is_free(layer, RELUS):
        return Step("relu", name, layer)
    if is_free(layer, POOLS) and not layer.return_indices:
        return Step("pool", name, layer)
    return None


def _following(node: Node, root: Module, folded: set[int]) -> Iterator[Step | None]:
    """What the value goes through, as long as each step alone uses it."""
    while len(node.users) == 1:
        value, node = node, next(iter(node.users))
        if node.args[:1] != (value,) or node.all_input_nodes != [value]:
            return
        if node.op == "call_module" and len(node.args) == 1 and not node.kwargs:
            step = _layer_step(root.get_submodule(node.target), node.target, folded)
        else:
            step = _call_step(node)
        if step is not None:
            step.node = node
        yield step


def _call_step(node: Node) -> Step | None:
    name = _function_name(node)
    if name is None:
        return None
    if node.target in _RELU_CALLS:
        return Step("relu", name)
    try:
        bound = _pool_signature.bind(*node.args, **node.kwargs)
    except TypeError:
        return None
    bound.apply_defaults()
    *pool, return_indices = bound.args[1:]
    if return_indices is not False or not all(_is_number(value) for value in pool):
        return None
    return Step("pool", name, pool=tuple(tuple(v) if isinstance(v, list) else v for v in pool))


def _function_name(node: Node) -> str | None:
    if node.op == "call_function" and node.target in _RELU_CALLS:
        return "relu()"
    if node.op == "call_function" and node.target in _POOL_CALLS:
        return "max_pool2d()"
    if node.op == "call_method" and node.target in _RELU_CALLS:
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
