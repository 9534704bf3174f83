"""Finds the modules that an untraced forward may call, by the names in its source."""

from __future__ import annotations

import ast
import builtins
import inspect
import textwrap
import types

import torch
from torch.nn import Module

_CONTAINERS = (torch.nn.Sequential, torch.nn.ModuleList, torch.nn.ModuleDict)
# Names that reach all modules without naming them.
_WAYS = {
    "apply", "children", "get_submodule", "getattr", "modules", "named_children", "named_modules",
    "vars", "_modules", "__dict__",
}  # fmt: skip


def may_call(module: Module) -> set[int]:
    """The ids of all modules that its forward may call itself.

    These are its own children, and all modules below a child whose name it uses for more than a
    call. `self.features(x)` calls `features`; `self.features[0](x)` and `self.features.conv(x)`
    reach below it.
    """
    called, opened = _names(type(module))
    everything = bool((called | opened) & _WAYS) or "" in opened
    found: set[int] = set()

    def walk(parent: Module, top: bool) -> None:
        inside = isinstance(parent, _CONTAINERS)
        for name, child in parent._modules.items():
            if child is None or not (top or inside or everything or name in called | opened):
                continue
            found.add(id(child))
            if inside or everything or name in opened:
                walk(child, False)

    walk(module, True)
    return found


def _names(kind: type[Module]) -> tuple[set[str], set[str]]:
    """The names that a forward and its functions call, and the names that they use otherwise.

    The latter hold "" if a source is not available.
    """
    called: set[str] = set()
    opened: set[str] = set()
    todo: list[types.FunctionType] = [inspect.unwrap(kind.forward)]
    done: set[types.FunctionType] = set()
    while todo:
        function = todo.pop()
        if function in done:
            continue
        done.add(function)
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        except (OSError, TypeError, SyntaxError):
            opened.add("")
            continue
        # Decorators ran when the class was made.
        body = ast.Module(getattr(tree.body[0], "body", tree.body), [])
        calls = {id(node.func) for node in ast.walk(body) if isinstance(node, ast.Call)}
        for node in ast.walk(body):
            if isinstance(node, ast.Attribute):
                (called if id(node) in calls else opened).add(node.attr)
                todo += _methods(kind, node.attr)
            elif isinstance(node, ast.Name):
                value = function.__globals__.get(node.id)
                if isinstance(value, types.FunctionType) and _is_users(value):
                    todo.append(value)
                if hasattr(builtins, node.id):
                    called.add(node.id)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                opened.add(node.value or " ")
    return called, opened


def _methods(kind: type, name: str) -> list[types.FunctionType]:
    own = [vars(base).get(name) for base in kind.__mro__ if _is_users(base)]
    return [inspect.unwrap(f) for f in own if isinstance(f, types.FunctionType)]


def _is_users(thing: type | types.FunctionType) -> bool:
    return not (thing.__module__ or "").startswith(("torch.", "builtins"))
