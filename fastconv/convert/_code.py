"""Runs a module's traced forward with each of its chains as one operation.

The class's own forward runs wherever the traced one might differ: with other arguments, or after
a change of anything that the code read while it was traced.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.fx import Graph
from torch.nn import Module

from ._find_chains import Chain, chains_in_graph
from ._forward import Forward
from ._guard import Types, Unwatchable, make_guard
from ._run_chain import run_chain
from ._source import compiled
from ._trace import Trace, trace
from ._tree import shadow_of

# The names that all traced code uses.
_KNOWN = Graph().python_code("self").globals


@dataclass(frozen=True)
class Code:
    """A traced module's code. It refers to no module, so copies share it."""

    arguments: tuple[str, ...]
    """The names of its arguments, which are all tensors."""
    functions: dict[bool, Callable[..., Any]]
    """The forward with its chains, by `training`."""
    holds: Callable[[Module], bool]
    """Whether a module reads the same values as the traced one."""


class CodeForward(Forward):
    """Runs a module's code with each of its chains as one operation.

    A pickled one holds no code, since the classes may have changed where it is loaded. The module
    is traced again at its first call there.
    """

    def __init__(self, module: Module, code: Code | None) -> None:
        super().__init__(module)
        self.code = code
        self.traced = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        module = self.called()
        if not self.traced:
            self.code = traced_code(module)
            self.traced = True
        code = self.code
        if code is not None:
            function = code.functions.get(module.training)
            given = args
            if kwargs:
                given = (*args, *(kwargs[n] for n in code.arguments[len(args) :] if n in kwargs))
            if (
                function is not None
                and len(given) == len(args) + len(kwargs) == len(code.arguments)
                and all(isinstance(value, Tensor) for value in given)
                and code.holds(module)
            ):
                return function(module, *given)
        return type(module).forward(module, *args, **kwargs)

    def copied(self) -> CodeForward:
        new = _untraced(type(self))
        new.code, new.traced = self.code, self.traced
        return new

    def __reduce__(self) -> tuple[Any, ...]:
        return _untraced, (type(self),), (self._module(), self._hooks)


def _untraced(kind: type[CodeForward]) -> CodeForward:
    new = kind.__new__(kind)
    new.code, new.traced = None, False
    return new


def traced_code(module: Module) -> Code | None:
    """A module's code with its chains; None without chains."""
    module = shadow_of(module)  # another thread may call the module itself
    found = trace(module)
    chains = {training: chains_in_graph(g, module, set()) for training, g in found.graphs.items()}
    return code_with_chains(module, found, chains, type)


def code_with_chains(
    module: Module, found: Trace, chains: dict[bool, list[Chain]], type_of: Types
) -> Code | None:
    """The traced code, with a call of `run_chain` for each chain. Changes the graphs.

    Args:
        chains: by `training`.
        type_of: a module's type once the model is converted.
    """
    functions = {
        training: _compiled(module, graph, chains[training])
        for training, graph in found.graphs.items()
        if chains[training]
    }
    if not functions:
        return None
    try:
        holds = make_guard(module, found.reads, type_of)
    except Unwatchable:
        return None
    return Code(found.arguments, functions, holds)


def _compiled(module: Module, graph: Graph, chains: list[Chain]) -> Callable[..., Any]:
    for chain in chains:
        conv: Any = chain.node
        nodes: list[Any] = [step.node for step in chain.steps]
        with graph.inserting_before(conv):
            layers: list[Any] = [graph.get_attr(chain.name)]
            for step in chain.steps:
                layers.append(step.pool if step.layer is None else graph.get_attr(step.name))
            fused = graph.call_function(run_chain, (conv.args[0], *layers))
        nodes[-1].replace_all_uses_with(fused)
        for node in reversed(nodes):
            graph.erase_node(node)
        graph.erase_node(conv)
    code = graph.python_code("self")
    scope = {**_KNOWN, **code.globals}
    return compiled(code.src, f"forward of {type(module).__name__}", scope)["forward"]
