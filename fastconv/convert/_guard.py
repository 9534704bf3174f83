"""Checks whether a module still reads the values that it read when its forward was traced.

Every call asks this, so the guard is generated as one function. It looks each name up where Python
would and compares the value with the earlier one. It refers to no module but its argument, so
copies and replicas of a module can share it.
"""

from __future__ import annotations

import enum
import types
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.nn import Module

from ._forward import Forward
from ._reads import CONTENTS, INTERNAL, Reads
from ._source import compiled
from ._values import is_fixed, same, unwatchable

_MISSING = object()
Types = Callable[[Module], type]


class Unwatchable(Exception):
    """A value that was read may change unnoticed. The message names it."""


def make_guard(root: Module, reads: list[Reads], type_of: Types = type) -> Callable[..., bool]:
    """Makes a function that tells whether all reads of a module like `root` give the same values.

    Args:
        type_of: a module's type once the model is converted.

    Raises:
        Unwatchable: a value cannot be compared.
    """
    return _Guard(reads, type_of).build(root)


class _Guard:
    def __init__(self, reads: list[Reads], type_of: Types) -> None:
        self.type_of = type_of
        self.reads = reads
        self.attributes: dict[Module, dict[str, None]] = {}
        for one in reads:
            for module, names in one.attributes.items():
                self.attributes.setdefault(module, {}).update(names)
        self.names = {key: pair for one in reads for key, pair in one.names.items()}
        self.cells = {key: cell for one in reads for key, cell in one.cells.items()}
        self.asks_types = any(one.asks_types for one in reads)
        self.classes: set[type] = set()
        self.whole_classes: set[type] = {type, object}
        self.lines: list[str] = []
        self.scope: dict[str, Any] = {
            "same": same, "contents": _contents, "Tensor": Tensor, "MISSING": _MISSING,
            "INTERNAL": INTERNAL, "facts": _facts, "Module": Module, "MADE": _MADE,
            "OURS_OR_NONE": (Forward, type(None)),
        }  # fmt: skip
        self.variables: dict[Module, str] = {}
        self.todo: list[Module] = []

    def build(self, root: Module) -> Callable[..., bool]:
        self.variables[root] = "m0"
        self.todo = [root]
        while self.todo:
            self._module(self.todo.pop(0))
        stray = next((m for m in self.attributes if m not in self.variables), None)
        if stray is not None:
            raise Unwatchable(f"reads a {type(stray).__name__} that is not among its modules")
        for holder, name in self.names.values():
            value = holder.get(name, _MISSING)
            # A class names its module __module__, a module itself __name__.
            librarys = _is_librarys(holder.get("__module__") or holder.get("__name__") or "")
            if not librarys or is_fixed(value):
                place = f"{self._constant(holder)}.get({name!r}, MISSING)"
                self._value(place, value, f"the name {name}")
        for kind in {kind for one in self.reads for kind in one.classes}:
            if not _is_librarys(kind.__module__):
                self._class(kind)
        for cell in self.cells.values():
            self._value(f"contents({self._constant(cell)})", _contents(cell), "a closure")
        source = "\n    ".join(["def holds(m0):", *self.lines, "return True\n"])
        return compiled(source, f"guard of {type(root).__name__}", self.scope)["holds"]

    def _constant(self, value: Any) -> str:
        name = f"c{len(self.scope)}"
        self.scope[name] = value
        return name

    def _unless(self, condition: str) -> None:
        self.lines.append(f"if not ({condition}): return False")

    def _module(self, module: Module) -> None:
        me, kind = self.variables[module], self.type_of(module)
        names = self.attributes.get(module, {})
        if not names and not self.asks_types:
            # This name is only called, so any module will do.
            self._unless(f"isinstance({me}, Module)")
            return
        self._unless(f"type({me}) is {self._constant(kind)}")
        self._lookup(kind)
        if not names:
            return
        own, d = vars(module), f"{me}d"
        self.lines.append(f"{d} = {me}.__dict__")
        for name in names:
            if name in CONTENTS:
                self._contents(own[name], f"{d}[{name!r}]")
            elif name == "__dict__":
                plain = {key: value for key, value in own.items() if key not in INTERNAL}
                self._unless(f"{d}.keys() - INTERNAL == {self._constant(plain.keys() - INTERNAL)}")
                for key, value in plain.items():
                    self._value(f"{d}.get({key!r}, MISSING)", value, f".{key}")
            else:
                self._name(module, name, d)

    def _lookup(self, kind: type) -> None:
        """Checks how a user's class looks names up: its bases and its lookup methods."""
        if kind in self.classes or _is_librarys(kind.__module__):
            return
        self.classes.add(kind)
        self._unless(f"{self._constant(kind)}.__mro__ == {self._constant(kind.__mro__)}")
        for base in kind.__mro__:
            if not _is_librarys(base.__module__):
                place = self._constant(vars(base))
                for name in _IMPLICIT:
                    if name not in vars(base):
                        self._unless(f"{name!r} not in {place}")

    def _contents(self, contents: Mapping[str, Any], place: str) -> None:
        """Checks the names of all children, parameters or buffers."""
        self._unless(f"(*{place},) == {self._constant((*contents,))}")
        for key, value in contents.items():
            self._content(f"{place}[{key!r}]", value)

    def _content(self, place: str, value: Any) -> None:
        if value is None:
            self._unless(f"{place} is None")
        elif not isinstance(value, Module):
            self._value(place, value, "a tensor")
        elif value in self.variables:
            self._unless(f"{place} is {self.variables[value]}")
        else:
            self.variables[value] = f"m{len(self.variables)}"
            self.lines.append(f"{self.variables[value]} = {place}")
            self.todo.append(value)

    def _name(self, module: Module, name: str, d: str) -> None:
        """Checks one name in Python's order: the class, the instance, Module.__getattr__."""
        own, what = vars(module), f".{name}"
        defining = None
        for kind in self.type_of(module).__mro__:
            if name in vars(kind):
                defining = kind
                break
            if not _is_librarys(kind.__module__):
                self._unless(f"{name!r} not in {self._constant(vars(kind))}")
        found = vars(defining)[name] if defining is not None else _MISSING
        # A GraphModule's class is torch.fx's, and has a forward of its own.
        if defining is not None and (name == "forward" or not _is_librarys(defining.__module__)):
            self._value(f"{self._constant(vars(defining))}.get({name!r}, MISSING)", found, what)
        if name == "forward" and d == "m0d":
            pass  # this forward is being called, perhaps by a function that replaces it
        elif name == "forward":
            self._unless(f"isinstance({d}.get('forward'), OURS_OR_NONE)")
        elif name in own and not (defining is not None and hasattr(found, "__set__")):
            self._value(f"{d}.get({name!r}, MISSING)", own[name], what)
        elif defining is None:
            self._unless(f"{name!r} not in {d}")
            self._held(own, name, d)
        elif not hasattr(found, "__set__"):
            self._unless(f"{name!r} not in {d}")

    def _held(self, own: Mapping[str, Any], name: str, d: str) -> None:
        """Checks a name that Module.__getattr__ looks up. Setting it removes it from the others."""
        for contents in CONTENTS:
            if name in own[contents]:
                place, value = f"{d}[{contents!r}].get({name!r}, MISSING)", own[contents][name]
                if isinstance(value, Tensor):
                    self._unless(f"isinstance({place}, Tensor)")  # code got a stand-in for it
                else:
                    self._content(place, value)
                return
        for contents in CONTENTS:
            self._unless(f"{name!r} not in {d}[{contents!r}]")

    def _value(self, place: str, value: Any, what: str) -> None:
        if isinstance(value, Tensor):
            self._unless(f"facts({place}) == {self._constant(_facts(value))}")
            return
        if value is _MISSING:
            self._unless(f"{place} is MISSING")
            return
        if isinstance(value, Module):
            raise Unwatchable(f"reads {what}, a {type(value).__name__} not among its modules")
        reason = unwatchable(value)
        if reason is not None:
            raise Unwatchable(f"reads {what}, {reason}")
        constant = self._constant(value)
        self._unless(f"{place} is {constant}" if is_fixed(value) else f"same({place}, {constant})")
        if isinstance(value, type) and not _is_librarys(value.__module__):
            self._class(value)

    def _class(self, kind: type) -> None:
        """Checks all names of a class that code reaches, since it can read them in many ways."""
        if kind in self.whole_classes:
            return
        self.whole_classes.add(kind)
        self._lookup(kind)
        self._class(type(kind))
        for base in kind.__mro__:
            if _is_librarys(base.__module__):
                continue
            place, own = self._constant(vars(base)), {}
            for name, value in vars(base).items():
                if not (name.startswith("_") and issubclass(kind, enum.Enum)) and name not in _MADE:
                    own[name] = value
            self._unless(f"{place}.keys() - MADE == {self._constant(vars(base).keys() - _MADE)}")
            for name, value in own.items():
                if isinstance(value, type):
                    self._value(f"{place}.get({name!r})", value, f"{kind.__name__}.{name}")
                elif unwatchable(value) is None and not is_fixed(value):
                    self._unless(f"same({place}.get({name!r}), {self._constant(value)})")
                else:
                    self._unless(f"{place}.get({name!r}) is {self._constant(value)}")


# Methods that Python finds in a class without a read of their name.
_IMPLICIT = ("__getattr__", "__getattribute__", "__bool__", "__len__")
# Names that Python itself puts into classes.
_MADE = frozenset(("__annotations__", "__dict__", "__weakref__", "__doc__", "_abc_impl"))


def _facts(tensor: object) -> tuple[Any, ...] | None:
    """A tensor's properties that Python code can read, except its values."""
    if not isinstance(tensor, Tensor):
        return None
    seen = tensor.dtype, tensor.device, tensor.layout, tuple(tensor.shape)
    return (type(tensor), *seen, tensor.requires_grad, tensor.is_leaf, tensor.grad is None)


def _contents(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # an empty one
        return _MISSING


def _is_librarys(module: str) -> bool:
    """Whether a Python module belongs to torch or Python, whose methods do not change."""
    return module.partition(".")[0] in ("torch", "builtins", "typing", "abc")
