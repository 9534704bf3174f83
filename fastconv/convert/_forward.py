"""A module's forward with its chains as single calls, which stands in the module's `__dict__`.

The layers stay what they are, so that whoever calls one of them gets what it says. The class's own
forward runs wherever the traced one might not do the same: with other arguments, changed flags.
"""

from __future__ import annotations

import linecache
import types
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.fx import Graph
from torch.nn import Module
from torch.nn.modules import module as _torch_module

from .. import functional, nn
from ._chains import Chain

_LAYERS = (nn.Conv2d, nn.ReLU, nn.MaxPool2d)

# The names that all traced code has, some of which cannot be pickled.
_KNOWN = Graph().python_code("self").globals


def run_chain(x: Tensor, conv: Module, *steps: Module | tuple[Any, ...]) -> Tensor:
    """A convolution and what follows: layers, () for a called ReLU, a called pool's arguments.

    As one operation while all of them are plain layers that nobody watches.
    """
    layers = [conv, *(step for step in steps if isinstance(step, Module))]
    if _all_are_watched() or not all(map(_is_free, layers)):
        x = conv(x)
        for step in steps:
            if isinstance(step, Module):
                x = step(x)
            else:
                x = F.max_pool2d(x, *step) if step else F.relu(x)
        return x
    arguments = conv._arguments(x, conv.weight, conv.bias)
    for step in steps:
        if isinstance(step, nn.MaxPool2d):
            step = (step.kernel_size, step.stride, step.padding, step.dilation, step.ceil_mode)
        if isinstance(step, tuple) and step:
            return functional.conv2d_relu_max_pool2d(*arguments, *step)
    return functional.conv2d_relu(*arguments)


def _is_free(layer: Module) -> bool:
    """A plain layer whose calls nobody watches; written out, for it runs in every call."""
    return (
        type(layer) in _LAYERS
        and "forward" not in layer.__dict__
        and not layer._forward_hooks
        and not layer._forward_pre_hooks
        and not layer._backward_hooks
        and not layer._backward_pre_hooks
    )


def _all_are_watched() -> bool:
    return bool(
        _torch_module._global_forward_hooks
        or _torch_module._global_forward_pre_hooks
        or _torch_module._global_backward_hooks
        or _torch_module._global_backward_pre_hooks
    )


class FusedForward:
    """Called as the module's forward. Can be copied and pickled with the module.

    Args:
        module: whose `__dict__` it stands in.
        code: by `training`: source and names of the traced forward with fused chains.
        arguments: the names of its arguments, tensors all of them.
        flags: the module's attributes as they were when it was traced.
    """

    def __init__(
        self,
        module: Module,
        code: dict[bool, tuple[str, dict[str, Any]]],
        arguments: tuple[str, ...],
        flags: dict[str, Any],
    ) -> None:
        self.module = module
        self.code = code
        self.arguments = arguments
        self.flags = flags
        self._compile()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        module = self.module
        function = self.functions.get(module.training)
        named = self.arguments[len(args) :]
        given = (*args, *(kwargs[name] for name in named if name in kwargs))
        if (
            function is not None
            and len(given) == len(args) + len(kwargs) == len(self.arguments)
            and all(isinstance(value, Tensor) for value in given)
            and all(module.__dict__.get(name) == flag for name, flag in self.flags.items())
        ):
            return function(module, *given)
        return type(module).forward(module, *args, **kwargs)

    @property
    def __wrapped__(self) -> Any:  # for inspect.signature
        return types.MethodType(type(self.module).forward, self.module)

    @property
    def __code__(self) -> types.CodeType:  # for torch.export
        return FusedForward.__call__.__code__

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "functions"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._compile()

    def _compile(self) -> None:
        self.functions = {}
        for training, (source, names) in self.code.items():
            file = f"<fastconv: forward of {type(self.module).__name__}, {hash(source):x}>"
            linecache.cache[file] = (len(source), None, source.splitlines(True), file)
            scope = {**_KNOWN, **names}
            exec(compile(source, file, "exec"), scope)
            self.functions[training] = scope["forward"]


def fused_code(graph: Graph, chains: list[Chain]) -> tuple[str, dict[str, Any]]:
    """The graph's code with a call of `run_chain` for each chain, and the names it needs.

    Changes the graph.
    """
    for chain in chains:
        conv = chain.node
        with graph.inserting_before(conv):
            layers = [graph.get_attr(chain.name)]
            for step in chain.others():
                layers.append(step.pool if step.layer is None else graph.get_attr(step.name))
            fused = graph.call_function(run_chain, (conv.args[0], *layers))
        chain.steps[-1].node.replace_all_uses_with(fused)
        for step in reversed(chain.steps):
            graph.erase_node(step.node)
        graph.erase_node(conv)
    code = graph.python_code("self")
    names = {name: code.globals[name] for name in code.globals.keys() - _KNOWN.keys()}
    return code.src, names
