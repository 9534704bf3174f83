"""A torch.fx tracer that refuses code that a graph would get wrong.

Stand-ins for tensors run through Python, which does not see tensors in them and takes one path at
every branch. The tracer detects all code that could notice, and gives up with a reason.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import keyword
import operator
import os
import sys
import threading
import traceback
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import torch
import torch.fx
import torch.utils.checkpoint
from torch.nn import Module
from torch.utils._python_dispatch import TorchDispatchMode

from ._reads import Reads, is_library

_TORCH, _HERE = os.path.dirname(torch.__file__) + os.sep, os.path.dirname(__file__) + os.sep
# Files whose code reads a stand-in's class without using the answer.
_TRACING = (
    _HERE,
    *(_TORCH + name for name in ("fx", "overrides", "utils", "_library", "nn/modules/module")),
)
# Files whose functions only call modules. Others, such as checkpoint(), call them in contexts.
_CALLING = (_HERE, _TORCH + "fx", _TORCH + "nn/modules")
_CHECKPOINT = torch.utils.checkpoint.__file__


class Refused(torch.fx.proxy.TraceError):
    """The forward cannot become a graph. The message says why, and where."""


class Tracer(torch.fx.Tracer):
    """Traces one forward. `arguments` are tensors; others have their defaults."""

    proxy_buffer_attributes = True

    def __init__(self, module: Module, arguments: tuple[str, ...]) -> None:
        super().__init__(autowrap_modules=())  # type: ignore[arg-type]
        self.arguments = arguments
        self.reads = Reads(module, self.refuse, _may_be_anything)
        self.thread = threading.get_ident()
        self.modes = modes()
        self.refusal: str | None = None
        self.proxies: list[weakref.ref[Any]] = []

    def refuse(self, reason: str) -> NoReturn:
        """Gives up, even if the traced code swallows the exception."""
        self.refusal = self.refusal or reason + _where(_user_frame())
        raise Refused(self.refusal)

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> Any:
        given = {name: self.create_proxy("placeholder", name, (), {}) for name in self.arguments}

        def start(root: Module) -> Any:
            with self._whole_calls(root), self.reads.recording():
                return root_fn(root, **given)

        self.start = start.__code__
        return start, [self.root]

    @contextlib.contextmanager
    def _whole_calls(self, root: Module) -> Iterator[None]:
        """Records one call for children whose class has its own `__call__`.

        torch.fx would run that `__call__` and record the super().__call__ inside it. The graph's
        call would then run it again.
        """
        kinds = {kind for module in root.modules() for kind in type(module).__mro__}
        own = {k: vars(k)["__call__"] for k in kinds if _calls_its_own_way(k)}
        kind: Any
        for kind, call in own.items():
            kind.__call__ = self._as_one(call)
        try:
            yield
        finally:
            for kind, call in own.items():
                kind.__call__ = call

    def _as_one(self, own: Callable[..., Any]) -> Callable[..., Any]:
        def call(module: Module, *args: Any, **kwargs: Any) -> Any:
            return self.call_module(module, functools.partial(own, module), args, kwargs)

        return call

    # torch.fx patches Module for all threads. Others must not notice.
    def call_module(self, m: Module, forward: Any, args: Any, kwargs: Any) -> Any:
        if threading.get_ident() != self.thread:
            return forward(*args, **kwargs)
        self.reads.called(m)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if threading.get_ident() != self.thread:
            return attr_val
        if not isinstance(attr_val, torch.Tensor):
            return attr_val
        return self._proxy_of_tensor(self.reads.path_of_read(attr))

    def _proxy_of_tensor(self, path: str | None) -> torch.fx.Proxy:
        if path is None:
            self.refuse("computes with a tensor that is not among its modules' attributes")
        self._expect_names(path)
        return self.create_proxy("get_attr", path, (), {})

    def is_leaf_module(self, m: Module, module_qualified_name: str) -> bool:
        return True

    def path_of_module(self, mod: Module) -> str:
        # torch.fx's own list is not used: a layer with two names gets the one that was read.
        path = self.reads.paths.get(mod)
        if not path:
            self.refuse(f"calls a {type(mod).__name__} that is not among its modules")
        self._expect_names(path)
        return path

    def _expect_names(self, path: str) -> None:
        """Refuses paths that are not names, since torch.fx prints paths unchanged into code."""
        for name in path.split("."):
            if (
                name == "self"
                or keyword.iskeyword(name)
                or not name.replace(" ", "x").isprintable()
            ):
                self.refuse(f"has a module or tensor called {name!r}")

    def create_node(self, kind: str, *args: Any, **kwargs: Any) -> torch.fx.Node:
        if kind not in ("placeholder", "output"):
            if modes() != self.modes:
                self.refuse("changes grad mode, autocast or inference mode")
            self._read_callers(kind)
        node = super().create_node(kind, *args, **kwargs)
        node.type = None
        return node

    def _read_callers(self, kind: str) -> None:
        """Checks the functions on the stack of a node."""
        codes: list[types.CodeType] = []
        frame: types.FrameType | None = sys._getframe(2)
        while frame is not None and frame.f_code is not self.start:
            codes.append(frame.f_code)
            frame = frame.f_back
        for code in codes if frame is not None else ():  # without a frame the forward has returned
            if code.co_filename == _CHECKPOINT or (
                is_library(code)
                and kind == "call_module"
                and not code.co_filename.startswith(_CALLING)
            ):
                self.refuse(f"has torch's {code.co_name}() call a layer")

    def create_arg(self, a: Any) -> Any:
        if isinstance(a, torch.Tensor):
            return self._proxy_of_tensor(self.reads.path_of_tensor(a)).node
        plain = type(a) in (tuple, list, dict) or hasattr(a, "_fields")
        if dataclasses.is_dataclass(type(a)):
            self.refuse(f"makes a {type(a).__name__}")
        if isinstance(a, tuple | list | dict) and not plain and not _is_torchs(type(a)):
            self.refuse(f"makes a {type(a).__name__}")
        return super().create_arg(a)

    def proxy(self, node: torch.fx.Node) -> torch.fx.Proxy:
        return self._noted(_Proxy(node, self))

    def _noted(self, proxy: torch.fx.Proxy) -> torch.fx.Proxy:
        self.proxies.append(weakref.ref(proxy))
        self.reads.result(proxy)
        return proxy

    def to_bool(self, obj: torch.fx.Proxy) -> NoReturn:
        self.refuse("branches on data")

    def iter(self, obj: torch.fx.Proxy) -> NoReturn:
        self.refuse("loops over data")


class _Asked:
    """Refuses reads of a stand-in outside of torch that a tensor would answer differently."""

    @property
    def __class__(self) -> type:
        # isinstance() reads this if the type itself does not match.
        if _is_asked():
            self.tracer.refuse("asks for the class of a value")
        return type(self)

    def __getattr__(self, name: str) -> Any:
        if not hasattr(torch.Tensor, name) and _is_asked():
            self.tracer.refuse(f"asks for .{name}, which tensors do not have")
        return self.tracer._noted(_Attribute(self, name))

    def __setattr__(self, name: str, value: Any) -> None:
        if _is_asked():
            self.tracer.refuse(f"sets .{name} of a value")
        object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        if _is_asked():
            self.tracer.refuse("makes a text of a value")
        return torch.fx.Proxy.__repr__(self)

    def __format__(self, spec: str) -> str:
        self.tracer.refuse("makes a text of a value")

    def __len__(self) -> int:
        self.tracer.refuse("takes the length of a value")

    def __hash__(self) -> int:
        if _is_asked():
            self.tracer.refuse("puts a value into a set or dictionary")
        return object.__hash__(self)

    @property
    def keys(self) -> NoReturn:
        self.tracer.refuse("asks for .keys, which tensors do not have")

    def __copy__(self) -> Any:
        self.tracer.refuse("copies a value")

    def __deepcopy__(self, memo: Any) -> Any:
        self.tracer.refuse("copies a value")


class _Proxy(_Asked, torch.fx.Proxy):
    pass


class _Attribute(_Asked, torch.fx.proxy.Attribute):
    pass


def _assignment(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Records `a += b` of a stand-in in place. torch.fx would record `a + b`, and other references
    to the tensor would keep the old value."""

    def assign(self: Any, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    return assign


def _in_place(name: str) -> Callable[[Any, Any], Any]:
    """An in-place operation as a function. torch.fx prints those of `operator` as statements, which
    would assign to a number's other names too."""
    function = getattr(operator, name)

    def assign(a: Any, b: Any) -> Any:
        return function(a, b)

    assign.__name__ = assign.__qualname__ = name
    return assign


# The names by which a graph's code finds the functions in this file.
iadd, isub, imul, itruediv = map(_in_place, ("iadd", "isub", "imul", "itruediv"))
ifloordiv, imod, ipow, imatmul = map(_in_place, ("ifloordiv", "imod", "ipow", "imatmul"))
iand, ior, ixor, ilshift, irshift = map(_in_place, ("iand", "ior", "ixor", "ilshift", "irshift"))

# The operators in code that they stand for.
IN_PLACE: dict[Any, str] = {
    **{iadd: "+=", isub: "-=", imul: "*=", itruediv: "/=", ifloordiv: "//=", imod: "%="},
    **{ipow: "**=", imatmul: "@=", iand: "&=", ior: "|=", ixor: "^=", ilshift: "<<="},
    irshift: ">>=",
}

for _function in IN_PLACE:
    setattr(_Asked, f"__{_function.__name__}__", _assignment(_function))


class NoTensors(TorchDispatchMode):
    """Refuses real tensors, such as random ones, which would become constants of the graph."""

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()
        self.tracer = tracer

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.tracer.reads.importing:
            return func(*args, **(kwargs or {}))
        self.tracer.refuse(f"computes with other tensors than its inputs ({func})")


def location(error: BaseException) -> str:
    """The last line outside of torch that led to the error."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    users = [frame for frame in frames if not is_library(frame.f_code)]
    return _where(users[-1] if users else None)


def modes() -> tuple[bool, ...]:
    """The global modes that a graph does not record."""
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.is_autocast_enabled("cuda"),
    )


def _calls_its_own_way(kind: type) -> bool:
    own = vars(kind).get("__call__")
    return kind is not Module and issubclass(kind, Module) and isinstance(own, types.FunctionType)


def _may_be_anything(value: Any) -> bool:
    """Whether a value is a stand-in for something that may not be a tensor, such as None."""
    if not issubclass(type(value), torch.fx.Proxy):
        return False
    if issubclass(type(value), _Attribute):
        return True
    node = value.node
    if node.op == "call_function":
        return not getattr(node.target, "__module__", "").startswith(("torch", "fastconv"))
    return node.op not in ("placeholder", "call_method")


def _is_torchs(kind: type) -> bool:
    return kind.__module__.startswith("torch")


def _is_asked() -> bool:
    """Whether code other than the tracing reads a stand-in, even by a class's own isinstance."""
    frame: Any = sys._getframe(2)
    while frame.f_code.co_name == "__instancecheck__":
        frame = frame.f_back
    return not frame.f_code.co_filename.startswith(_TRACING)


def _user_frame() -> types.FrameType | None:
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None and is_library(frame.f_code):
        frame = frame.f_back
    return frame


def _where(frame: types.FrameType | None) -> str:
    if frame is None:
        return ""
    summary = traceback.extract_stack(frame, limit=1)[0]
    return f" ({os.path.basename(summary.filename)}:{summary.lineno}: {summary.line})"
