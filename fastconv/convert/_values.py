"""Values that code reads and that can be compared later: does it still read the same?"""

from __future__ import annotations

import dataclasses
import enum
import functools
import logging
import types
from typing import Any

import torch

# Compared by identity. What a function does or a class holds is not looked into.
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
# Compared by type and value.
_PLAIN = (int, float, complex, str, bytes, range, slice, torch.device)
_COLLECTIONS = (tuple, frozenset)


def is_fixed(value: Any) -> bool:
    """Whether a value is compared by identity."""
    return isinstance(value, _FIXED) or _is_torchs_function(type(value))


def unwatchable(value: Any) -> str | None:
    """Why a value cannot be compared later, None where it can.

    Containers and other objects may change without a trace; comparing them would take a copy of
    all that they hold.
    """
    kind = type(value)
    if isinstance(value, types.FunctionType):
        defaults = (*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values())
        held = next(filter(None, map(unwatchable, defaults)), None)
        return f"a function with {held} as a default" if held else None
    if is_fixed(value) or kind in _PLAIN:
        return None
    parts = _parts(value)
    if parts is None:
        return f"a {kind.__name__}, which may change"
    held = next(filter(None, map(unwatchable, parts)), None)
    return f"a {kind.__name__} with {held}" if held else None


def same(a: Any, b: Any) -> bool:
    """Whether two values, the second one watchable, are alike in type and value."""
    if a is b:
        return True
    kind = type(a)
    if kind is not type(b) or is_fixed(b):
        return False
    if kind in _PLAIN:
        return a == b and str(a) == str(b)  # 0.0 is not -0.0
    if kind is frozenset:
        return a == b
    ours, theirs = _parts(a), _parts(b)
    return (
        ours is not None
        and theirs is not None
        and len(ours) == len(theirs)
        and all(map(same, ours, theirs))
    )


def _parts(value: Any) -> tuple[Any, ...] | None:
    """What a value that cannot change consists of, None for other values."""
    kind = type(value)
    if isinstance(value, _COLLECTIONS) and (
        kind in _COLLECTIONS or kind is torch.Size or hasattr(kind, "_fields")
    ):
        return tuple(value)
    if kind is functools.partial:
        return value.func, value.args, *sorted(value.keywords.items())
    if dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen:
        return tuple(getattr(value, field.name) for field in dataclasses.fields(kind))
    return None


def _is_torchs_function(kind: type) -> bool:
    """Operators of torch.ops, compiled functions of torch."""
    return kind.__module__.startswith("torch") and kind.__name__ in (
        "OpOverload",
        "OpOverloadPacket",
        "BooleanDispatch",
    )
