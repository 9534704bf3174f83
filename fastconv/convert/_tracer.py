"""A torch.fx tracer that refuses what a graph would get wrong.

Stand-ins for tensors run through Python, which sees no tensors in them and takes one way at every
branch. The tracer asks for all that can make a difference then, and gives up with a reason.
"""

from __future__ import annotations

import dis
import functools
import os
import sys
import threading
import traceback
import types
import weakref
from typing import Any, NoReturn

import torch
import torch.fx
import torch.utils.checkpoint
from torch.nn import Module
from torch.utils._python_dispatch import TorchDispatchMode

_TORCH, _HERE = os.path.dirname(torch.__file__) + os.sep, os.path.dirname(__file__) + os.sep
# What asks a stand-in for its class without making anything of the answer.
_TRACING = (
    _HERE,
    *(_TORCH + name for name in ("fx", "overrides", "utils", "_library", "nn/modules/module")),
)
# What calls modules and nothing else; other functions, such as checkpoint(), do so in contexts.
_CALLING = (_HERE, _TORCH + "fx", _TORCH + "nn/modules")
_CHECKPOINT = torch.utils.checkpoint.__file__
_WITH = ("SETUP_WITH", "BEFORE_WITH", "LOAD_SPECIAL")  # Python 3.10, 3.11 to 3.13, from 3.14


class Refused(torch.fx.proxy.TraceError):
    """The forward cannot be known as a graph; the message says why, and where."""


class Tracer(torch.fx.Tracer):
    """Traces one forward: `arguments` are tensors, others have their defaults."""

    proxy_buffer_attributes = True

    def __init__(self, arguments: tuple[str, ...]) -> None:
        super().__init__(autowrap_modules=())
        self.arguments = arguments
        self.thread = threading.get_ident()
        self.modes = modes()
        self.codes: set[types.CodeType] = set()
        self.refusal: str | None = None
        self.proxies: list[weakref.ref[Any]] = []

    def refuse(self, reason: str) -> NoReturn:
        """Gives up, even if the code that runs swallows the exception."""
        self.refusal = self.refusal or reason + _where(_user_frame())
        raise Refused(self.refusal)

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> Any:
        given = {name: self.create_proxy("placeholder", name, (), {}) for name in self.arguments}

        def start(root: Module) -> Any:
            return root_fn(root, **given)

        self.start = start.__code__
        return start, [self.root]

    # torch.fx patches Module for all threads; other ones shall notice nothing.
    def call_module(self, m: Module, forward: Any, args: Any, kwargs: Any) -> Any:
        if threading.get_ident() != self.thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if threading.get_ident() != self.thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def is_leaf_module(self, m: Module, module_qualified_name: str) -> bool:
        return True

    def path_of_module(self, mod: Module) -> str:
        path = self.submodule_paths.get(mod)
        if not path:
            self.refuse(f"calls a {type(mod).__name__} that is not among its modules")
        return path

    def create_node(self, kind: str, *args: Any, **kwargs: Any) -> torch.fx.Node:
        if kind not in ("placeholder", "output"):
            if modes() != self.modes:
                self.refuse("changes grad mode, autocast or inference mode")
            self._read_callers(kind)
        node = super().create_node(kind, *args, **kwargs)
        node.type = None
        return node

    def _read_callers(self, kind: str) -> None:
        """Looks at the functions that led to a node."""
        codes, frame = [], sys._getframe(2)
        while frame is not None and frame.f_code is not self.start:
            codes.append(frame.f_code)
            frame = frame.f_back
        for code in codes if frame is not None else ():  # else the forward has returned
            if not _is_library(code):
                names = _contexts_and_types(code)
                if "with" in names:
                    self.refuse(f"has a `with` statement in {code.co_name}()")
                if "type" in names:
                    self.refuse(f"asks for a type in {code.co_name}()")
                self.codes.add(code)
            elif code.co_filename == _CHECKPOINT or (
                kind == "call_module" and not code.co_filename.startswith(_CALLING)
            ):
                self.refuse(f"has torch's {code.co_name}() call a layer")

    def create_arg(self, a: Any) -> Any:
        plain = type(a) in (tuple, list, dict) or hasattr(a, "_fields")
        if isinstance(a, tuple | list | dict) and not plain and not _is_torchs(type(a)):
            self.refuse(f"makes a {type(a).__name__}")
        return super().create_arg(a)

    def proxy(self, node: torch.fx.Node) -> torch.fx.Proxy:
        return self._noted(_Proxy(node, self))

    def _noted(self, proxy: torch.fx.Proxy) -> torch.fx.Proxy:
        self.proxies.append(weakref.ref(proxy))
        return proxy

    def to_bool(self, obj: torch.fx.Proxy) -> NoReturn:
        self.refuse("branches on data")

    def iter(self, obj: torch.fx.Proxy) -> NoReturn:
        self.refuse("loops over data")

    def keys(self, obj: torch.fx.Proxy) -> NoReturn:
        self.refuse("unpacks data")


class _Asked:
    """Notes what code outside of torch asks a stand-in, which a tensor would answer otherwise."""

    @property
    def __class__(self) -> type:
        # isinstance() comes here when the type itself does not do.
        if _is_asked():
            self.tracer.refuse("asks for the class of a value")
        return type(self)

    def __getattr__(self, name: str) -> Any:
        if not hasattr(torch.Tensor, name) and _is_asked():
            self.tracer.refuse(f"asks for .{name}, which tensors do not have")
        return self.tracer._noted(_Attribute(self, name))

    def __repr__(self) -> str:
        if _is_asked():
            self.tracer.refuse("makes a text of a value")
        return torch.fx.Proxy.__repr__(self)

    def __format__(self, spec: str) -> str:
        self.tracer.refuse("makes a text of a value")

    def __len__(self) -> int:
        self.tracer.refuse("takes the length of a value")

    def __copy__(self) -> Any:
        self.tracer.refuse("copies a value")

    def __deepcopy__(self, memo: Any) -> Any:
        self.tracer.refuse("copies a value")


class _Proxy(_Asked, torch.fx.Proxy):
    pass


class _Attribute(_Asked, torch.fx.proxy.Attribute):
    pass


class NoTensors(TorchDispatchMode):
    """Real tensors, such as random ones, would become constants of the graph."""

    def __init__(self, tracer: Tracer) -> None:
        super().__init__()
        self.tracer = tracer

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.tracer.refuse(f"computes with other tensors than its inputs ({func})")


def location(error: BaseException) -> str:
    """The last line outside of torch that led to the error."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    users = [frame for frame in frames if not _is_library(frame.f_code)]
    return _where(users[-1] if users else None)


def modes() -> tuple[bool, ...]:
    """What a graph does not hold."""
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.is_autocast_enabled("cuda"),
    )


@functools.cache
def _contexts_and_types(code: types.CodeType) -> set[str]:
    """ "with" if the code has such a statement, "type" if it uses that builtin."""
    instructions = list(dis.get_instructions(code))
    with_ = {"with" for i in instructions if i.opname in _WITH}
    return with_ | {"type" for i in instructions if (i.opname, i.argval) == ("LOAD_GLOBAL", "type")}


def _is_library(code: types.CodeType) -> bool:
    return code.co_filename.startswith((_TORCH, _HERE))


def _is_torchs(kind: type) -> bool:
    return kind.__module__.startswith("torch")


def _is_asked() -> bool:
    """It is not tracing that asks a stand-in, if need be through a class's own isinstance."""
    frame = sys._getframe(2)
    while frame.f_code.co_name == "__instancecheck__":
        frame = frame.f_back
    return not frame.f_code.co_filename.startswith(_TRACING)


def _user_frame() -> types.FrameType | None:
    frame = sys._getframe(1)
    while frame is not None and _is_library(frame.f_code):
        frame = frame.f_back
    return frame


def _where(frame: types.FrameType | None) -> str:
    if frame is None:
        return ""
    summary = traceback.extract_stack(frame, limit=1)[0]
    return f" ({os.path.basename(summary.filename)}:{summary.lineno}: {summary.line})"
