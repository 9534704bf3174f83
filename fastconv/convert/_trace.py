"""Traces one module's forward into graphs, or gives the reason why it cannot."""

from __future__ import annotations

import contextlib
import gc
import inspect
import operator
import pickle
import random
import threading
import types
import warnings
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.fx import Graph
from torch.nn import Module
from torch.utils._python_dispatch import _disable_current_modes

from ._forward import Forward
from ._guard import Unwatchable, make_guard
from ._layers import has_own_forward
from ._reads import Reads
from ._tracer import NoTensors, Refused, Tracer, location, modes

_CONTAINERS = (list, dict, set, deque)
# A lock, since torch.fx patches Module and two threads must not do so at once.
_ONE_AT_A_TIME = threading.RLock()


@dataclass
class Trace:
    """The graphs of a module's forward, or the reasons without them."""

    arguments: tuple[str, ...] = ()
    """The arguments without a default."""
    graphs: dict[bool, Graph] = field(default_factory=dict)
    """By `training`: its graph with tensors for `arguments` and the others' defaults."""
    calls: list[Graph] = field(default_factory=list)
    """These graphs, and the graphs with optional arguments given."""
    reads: list[Reads] = field(default_factory=list)
    """The reads that these graphs depend on."""
    reason: str | None = None
    """The reason why `graphs` lacks a mode."""
    hidden: bool = False
    """Whether the forward may do more than `calls` shows."""


def trace(module: Module) -> Trace:
    """Traces a module's forward and leaves the module as it was.

    It traces once for each mode, and with the optional arguments given. Another grad mode, autocast
    and the inverse `training` of the children must give the same graph.
    """
    result = Trace()
    changes: list[str] = []
    try:
        with (
            _ONE_AT_A_TIME,
            _disable_current_modes(),
            _without_forwards(module),
            _unchanged(module, changes),
        ):
            _trace(module, result)
        if changes:
            raise Refused(f"changes {changes[0]} when it runs")
    except Refused as error:
        result.reason, result.hidden, result.graphs = str(error), True, {}
    return result


def _trace(module: Module, result: Trace) -> None:
    result.arguments, optional, result.hidden = _signature(module)
    for training in (True, False):
        try:
            graph, reads = _run(module, result.arguments, training)
            result.calls.append(graph)
            other, _ = _run(module, result.arguments, training, turned=True)
            if text(graph) != text(other):
                raise Refused("depends on grad mode, autocast or its children's `training`")
            make_guard(module, [reads])  # or the reason why there can be none
            result.graphs[training] = graph
            result.reads.append(reads)
        except (Refused, Unwatchable) as error:
            result.reason, result.hidden = str(error), True
    given = [(name,) for name in optional] + ([optional] if len(optional) > 1 else [])
    try:
        for names in [] if result.hidden else given:
            for training in (True, False):
                result.calls.append(_run(module, result.arguments + names, training)[0])
    except Refused:
        result.hidden = True


def text(graph: Graph) -> str:
    """The graph as code."""
    return graph.python_code("self").src


def _signature(module: Module) -> tuple[tuple[str, ...], tuple[str, ...], bool]:
    """A forward's arguments without and with defaults, and whether it takes any others too."""
    forward = type(module).forward
    if not isinstance(forward, types.FunctionType) or has_own_forward(module):
        raise Refused("its forward is not a function of its class")
    parameters = list(inspect.signature(forward).parameters.values())[1:]
    kinds = {parameter.kind for parameter in parameters}
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    required = tuple(p.name for p in named if p.default is p.empty)
    if inspect.Parameter.POSITIONAL_ONLY in kinds or any(
        p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in named
    ):
        raise Refused("its forward has positional-only or keyword-only arguments")
    optional = tuple(p.name for p in named if p.default is not p.empty)
    return required, optional, len(named) < len(parameters)


def _run(
    module: Module, arguments: tuple[str, ...], training: bool, turned: bool = False
) -> tuple[Graph, Reads]:
    tracer = Tracer(module, arguments)
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(_training(module, training, turned))
            stack.enter_context(torch.set_grad_enabled(torch.is_grad_enabled() != turned))
            enabled = torch.is_autocast_enabled("cpu") != turned
            stack.enter_context(torch.autocast("cpu", torch.bfloat16, enabled=enabled))
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            tracer.modes = modes()
            graph = _traced(tracer, module)
            if modes() != tracer.modes:
                raise Refused("changes grad mode, autocast or inference mode")
        if any(proxy() is not None for proxy in tracer.proxies):
            gc.collect()
            if any(proxy() is not None for proxy in tracer.proxies):
                raise Refused("keeps a value for later")
        return graph, tracer.reads
    finally:
        vars(tracer).clear()  # the tracer is part of cycles, which would keep the module alive


def _traced(tracer: Tracer, module: Module) -> Graph:
    try:
        with NoTensors(tracer):
            graph = tracer.trace(module)
    except Exception as error:
        raise Refused(tracer.refusal or _plain(error)) from None
    if tracer.refusal is not None:
        raise Refused(tracer.refusal)
    return graph


def _plain(error: Exception) -> str:
    message = str(error).strip().split("\n")[0]
    return f"{type(error).__name__}: {message}{location(error)}"


@contextlib.contextmanager
def _training(module: Module, training: bool, turned: bool) -> Iterator[None]:
    before = [(m, m.training) for m in module.modules()]
    during = [(m, was != turned if m is not module else training) for m, was in before]
    for m, mode in during:
        m.training = mode
    try:
        yield
    finally:
        changed = [type(m).__name__ for m, mode in during if m.training is not mode]
        for m, was in before:
            m.training = was
    if changed:
        raise Refused(f"changes {changed[0]}.training when it runs")


@contextlib.contextmanager
def _without_forwards(module: Module) -> Iterator[None]:
    """Removes the forwards that `convert` has set, so that the classes' code runs."""
    ours = [(vars(m), vars(m).get("forward")) for m in module.modules()]
    ours = [(own, forward) for own, forward in ours if isinstance(forward, Forward)]
    for own, _ in ours:
        del own["forward"]
    try:
        yield
    finally:
        for own, forward in ours:
            own["forward"] = forward


@contextlib.contextmanager
def _unchanged(module: Module, changes: list[str]) -> Iterator[None]:
    """Undoes a forward's changes to its modules and random numbers, and lists them.

    It compares attributes, and one level of containers.
    """
    before: list[tuple[Any, list[Any], str]] = [
        (vars(m), _items(vars(m)), type(m).__name__) for m in module.modules()
    ]
    before += [
        (value, _items(value), f"{kind}.{name}")
        for _, items, kind in before
        for name, value in items
        if isinstance(value, _CONTAINERS)
    ]
    python, numpy, generator = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        for container, items, name in before:
            if not _same(_items(container), items):
                changes.append(name)
                container.clear()
                (container.extend if isinstance(container, list | deque) else container.update)(
                    items
                )
        if random.getstate() != python or pickle.dumps(np.random.get_state()) != pickle.dumps(
            numpy
        ):
            changes.append("the state of random numbers")
            random.setstate(python)
            np.random.set_state(numpy)
        if not torch.equal(torch.get_rng_state(), generator):
            changes.append("the state of random numbers")
            torch.set_rng_state(generator)


def _items(container: Any) -> list[Any]:
    return list(container.items() if isinstance(container, dict) else container)


def _same(a: list[Any], b: list[Any]) -> bool:
    """Whether two lists hold identical objects."""
    flat = [
        [x for item in items for x in (item if type(item) is tuple else (item,))]
        for items in (a, b)
    ]
    return len(flat[0]) == len(flat[1]) and all(map(operator.is_, *flat))
