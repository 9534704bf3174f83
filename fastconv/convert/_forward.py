"""The forward that `convert` sets in a module's `__dict__`.

The module's type, children and parameters do not change. Code that moves the module, finds it by
type or hooks it works with the module itself.
"""

from __future__ import annotations

import copy
import gc
import sys
import types
import weakref
from sys import getrefcount
from typing import Any, NoReturn

from torch.compiler import is_dynamo_compiling
from torch.nn import Module

from ..torch_internals import constant


def _callers() -> frozenset[types.CodeType]:
    """The code in which torch calls a module's forward, with the module as `self`."""
    functions = (Module._call_impl, Module._slow_forward)
    nested = [c for f in functions for c in f.__code__.co_consts if isinstance(c, types.CodeType)]
    return frozenset((*nested, *(f.__code__ for f in functions)))


_CALLERS = _callers()
# Hooks that neither calls nor compilers use.
_HOOKS = "_load_state_dict_post_hooks"


def _alone() -> int:
    """The number of references to a dictionary of hooks without copies of the module."""
    forward = Forward(Module())
    return getrefcount(forward._hooks) + 1  # the module's, which is gone


class Forward:
    """A module's forward, which refers to the module without keeping it alive.

    A shallow copy of a module and a replica by DataParallel have the same object in their
    `__dict__`. It has to run on the module that was called, but Python does not pass the instance
    to an object in its `__dict__`. Copies also share the module's dictionaries of hooks, and other
    modules never do. So the references to one of these dictionaries tell whether there are copies.
    Only then does it read the called module from the calling frame.

    Subclasses have a `__call__`, which begins with `called()`.
    """

    def __init__(self, module: Module) -> None:
        self._know(module, getattr(module, _HOOKS))

    def _know(self, module: Module | None, hooks: dict[int, Any]) -> None:
        self._module = _nothing if module is None else weakref.ref(module)
        self._hooks = hooks
        self._has_copies = constant(
            lambda: getrefcount(hooks) != _ALONE and len(_owners(hooks)) > 1
        )

    def called(self) -> Module:
        """The module whose forward runs. Only `__call__` may call this, since it reads frames."""
        module = self._module()
        if is_dynamo_compiling():  # dynamo follows neither reference counts nor frames
            return self.module() if not self._has_copies() else self._ambiguous()
        alone = getrefcount(self._hooks) == _ALONE
        if alone and module is not None and module._load_state_dict_post_hooks is self._hooks:
            return module
        frame = sys._getframe(2)
        if frame.f_code in _CALLERS:
            caller = frame.f_locals["self"]
            return caller if caller.__dict__[_HOOKS] is self._hooks else self.module()
        # This was called as x.forward(...). Another thread that holds the hooks is not a copy.
        owners = {module} if alone and module is not None else _owners(self._hooks)
        if len(owners) > 1:
            near = [v for v in frame.f_locals.values() if isinstance(v, Module)]
            owners &= {m for v in near for m in v.modules()}
        return (
            owners.pop() if len(owners) == 1 else self.module() if not owners else self._ambiguous()
        )

    def _ambiguous(self) -> NoReturn:
        raise RuntimeError(
            "forward: there are shallow copies of this module; call the one you mean, module(x), "
            "not module.forward(x), and convert a copy that you compile"
        )

    def module(self) -> Module:
        """The module that it was made for."""
        module = self._module()
        return self._ambiguous() if module is None else module

    def copied(self) -> Forward:
        """A copy without a module."""
        return type(self).__new__(type(self))

    @property
    def __wrapped__(self) -> Any:  # for inspect.signature
        module = self.module()
        return types.MethodType(type(module).forward, module)

    @property
    def __code__(self) -> types.CodeType:  # for torch.export
        return type(self).__call__.__code__

    @property
    def __globals__(self) -> Any:  # asked by torch.jit.script
        raise AttributeError(
            "torch.jit.script cannot compile a converted module; script fastconv.revert(model), or "
            "use torch.jit.trace"
        )

    def __deepcopy__(self, memo: dict[int, Any]) -> Forward:
        new = self.copied()
        memo[id(self)] = new
        own = self._module()
        new._know(memo.get(id(own)), copy.deepcopy(self._hooks, memo))
        return new

    def __reduce__(self) -> tuple[Any, ...]:
        return _new, (type(self),), (self._module(), self._hooks)

    def __setstate__(self, state: tuple[Module | None, Any]) -> None:
        self._know(*state)


def _owners(hooks: dict[int, Any]) -> set[Module]:
    """The modules that have this dictionary of hooks. Slow; used if it has other referrers."""
    holders = gc.get_referrers(hooks)
    dicts = [d for d in holders if type(d) is dict and d.get(_HOOKS) is hooks]
    # From Python 3.13 on, a module may hold its attributes without a dictionary.
    near = holders + [holder for d in dicts for holder in gc.get_referrers(d)]
    return {thing for thing in near if isinstance(thing, Module) and vars(thing)[_HOOKS] is hooks}


def _new(kind: type[Forward]) -> Forward:
    return kind.__new__(kind)


def _nothing() -> None:
    """Replaces a reference to a module that is gone."""


_ALONE = _alone()
