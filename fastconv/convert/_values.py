"""Decides which values a guard can compare later, and compares them."""

from __future__ import annotations

import enum
import functools
import logging
import types
from collections.abc import Iterable
from typing import Any

import torch

from ._reads import is_library, is_library_module

# Types that are compared by identity. A function's code and a class's contents are not compared.
_FIXED = (
    type,
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.MethodWrapperType,
    types.ClassMethodDescriptorType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
    types.ModuleType,
    types.GenericAlias,
    types.UnionType,
    property,
    staticmethod,
    classmethod,
    functools.cached_property,
    logging.Logger,
    torch.dtype,
    torch.layout,
    torch.memory_format,
    type(None),
    type(...),
    type(NotImplemented),
    bool,
    enum.Enum,
)
# Types that are compared by type and value.
_PLAIN = (int, float, complex, str, bytes, range, slice, torch.device)
_COLLECTIONS = (tuple, frozenset, torch.Size)


def is_fixed(value: Any) -> bool:
    """Whether a value is compared by identity."""
    return isinstance(value, _FIXED) or _is_torchs_function(type(value))


def unwatchable(value: Any) -> str | None:
    """The reason why a value cannot be compared later; None if it can.

    Containers and other objects may change without a trace. Comparing them would need a copy of all
    their contents.
    """
    kind = type(value)
    if isinstance(value, types.FunctionType):
        if is_library(value.__code__):
            return None
        held = _first((*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()))
        own = vars(value).keys() - {"__wrapped__"}
        if own:
            return "a function with attributes, which may change"
        return f"a function with {held} as a default" if held else None
    if isinstance(value, types.BuiltinFunctionType):
        owner = value.__self__
        fixed = owner is None or isinstance(owner, types.ModuleType | type)
        return None if fixed else f"a method of a {type(owner).__name__}, which may change"
    if isinstance(value, types.ModuleType):
        return None if is_library_module(value) else "a Python module, whose names may change"
    if isinstance(value, enum.Enum):
        return None if vars(value).keys() <= _ENUMS else "an Enum with attributes"
    if is_fixed(value) or kind in _PLAIN:
        return None
    if kind in _COLLECTIONS or (isinstance(value, tuple) and not hasattr(value, "__dict__")):
        held = _first(value)
        return f"a {kind.__name__} with {held}" if held else None
    return f"a {kind.__name__}, which may change"


def _first(values: Iterable[Any]) -> str | None:
    return next(filter(None, map(unwatchable, values)), None)


def same(a: Any, b: Any) -> bool:
    """Whether two values, the second one watchable, have the same type and value.

    The code is simple enough for torch.compile.
    """
    if a is b:
        return True
    if type(a) is not type(b):
        return False
    if isinstance(a, tuple):
        return len(a) == len(b) and all([same(x, y) for x, y in zip(a, b, strict=True)])
    return a == b and str(a) == str(b)  # 0.0 is not -0.0, nor 2.0 in a set the same as 2


def _is_torchs_function(kind: type) -> bool:
    """Whether a type is of torch.ops's operators or torch's compiled functions."""
    return kind.__module__.startswith("torch") and kind.__name__ in (
        "OpOverload",
        "OpOverloadPacket",
        "BooleanDispatch",
    )


_ENUMS = {"_value_", "_name_", "__objclass__", "_sort_order_"}
