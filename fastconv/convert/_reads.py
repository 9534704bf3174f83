"""Records the values that a forward reads while it is traced, besides its arguments.

`Module.__getattribute__` records attributes of modules. Globals and names of Python modules are
recorded instruction by instruction, closures when their function begins.
"""

from __future__ import annotations

import builtins
import contextlib
import dis
import enum
import functools
import gc
import os
import sys
import sysconfig
import threading
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.nn import Module

from ._language import (
    may_write,
    refused_builtin,
    refused_code,
    refused_instruction,
    refused_library,
)

_TORCH, _HERE = os.path.dirname(torch.__file__) + os.sep, os.path.dirname(__file__) + os.sep
_OURS = os.path.dirname(os.path.dirname(__file__)) + os.sep
_MODELS = os.path.join(_OURS, "models") + os.sep
_FX = os.path.join(_TORCH, "fx") + os.sep
_NUMPY = os.path.dirname(numpy.__file__) + os.sep
_STANDARD, _SITE = (sysconfig.get_path(name) + os.sep for name in ("stdlib", "purelib"))
# Torch's functions around a read that is recorded itself.
_PLUMBING = frozenset(
    f.__code__ for f in (Module.__getattr__, Module.__setattr__, Module.__delattr__)
)
CONTENTS = ("_modules", "_parameters", "_buffers")
# Attributes that every module has for torch's own use.
INTERNAL = frozenset(vars(Module())) | {"forward"}
_ATTRIBUTES = ("LOAD_ATTR", "LOAD_METHOD")
_TRUTH = ("UNARY_NOT", "TO_BOOL")
_IN_C = sys.builtin_module_names


def is_library(code: types.CodeType) -> bool:
    """Whether code is torch's, fastconv's, numpy's or Python's, which keeps no model's settings."""
    file = code.co_filename
    if file.startswith((_TORCH, _OURS, _NUMPY, "<frozen")):
        return not file.startswith(_MODELS)
    return file.startswith(_STANDARD) and not file.startswith((_SITE, _STANDARD + "site-packages"))


class Reads:
    """Records one run of a forward.

    Args:
        root: the module whose forward it is.
        refuse: called with the reason if a read cannot be recorded; raises.
        is_open: whether a value that code compares by `is` is a stand-in that may be anything.
    """

    def __init__(
        self, root: Module, refuse: Callable[[str], Any], is_open: Callable[[Any], bool]
    ) -> None:
        self.attributes: dict[Module, dict[str, None]] = {root: {"forward": None}}
        """The names that were read from each module, in the order of their first read."""
        self.paths: dict[Module, str] = {root: ""}
        """The path by which each module was last reached, since it may have several names."""
        self.names: dict[tuple[int, str], tuple[Mapping[str, Any], str]] = {}
        """Names in globals, Python modules and classes, with their holder first."""
        self.cells: dict[int, types.CellType] = {}
        """Closure variables of the functions that ran."""
        self.classes: set[type] = set()
        """Classes that code reached, and may read anything from."""
        self.asks_types = False
        """Whether code may have read a module's type or truth, which no hook records."""
        self._root, self._refuse, self._is_open = root, refuse, is_open
        self._functions: dict[types.CodeType, list[types.FunctionType]] = {}
        self._changed = False
        self._trail: dict[types.FrameType, list[int]] = {}
        self._imports = 0
        self._made: set[types.CodeType] = set()
        self._last = root
        self._results: Any = None  # during the run: by frame and instruction
        self._thread = threading.get_ident()
        self._know(type(root).forward)

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Records what happens in this thread meanwhile."""
        before = sys.gettrace(), sys.getprofile(), vars(Module).get("__getattribute__")

        def read(module: Module, name: str) -> Any:
            if threading.get_ident() == self._thread:
                self._attribute(module, name, sys._getframe(1).f_code)
            return (before[2] or object.__getattribute__)(module, name)

        self._results = {}
        Module.__getattribute__ = read  # type: ignore[assignment,method-assign]
        collecting = gc.isenabled()
        gc.disable()  # its callbacks are no part of the code
        sys.setprofile(self._builtin)
        sys.settrace(self._begin)
        try:
            yield
        finally:
            sys.settrace(before[0])
            sys.setprofile(before[1])
            if collecting:
                gc.enable()
            if before[2] is None:
                del Module.__getattribute__
            else:
                Module.__getattribute__ = before[2]  # type: ignore[method-assign]
            self._results = None  # it keeps values and frames alive
            self._trail.clear()

    def result(self, value: Any) -> None:
        """Records the value of the current instruction."""
        frame = sys._getframe(1) if self._results is not None else None
        while frame is not None and is_library(frame.f_code):
            frame = frame.f_back
        if frame is not None:
            self._results[frame, frame.f_lasti] = value

    def _attribute(self, module: Module, name: str, code: types.CodeType) -> None:
        if code in _PLUMBING or code.co_filename.startswith((_FX, _HERE)):
            return
        names = self.attributes.setdefault(module, {})
        if name == "training":
            if module is not self._root:
                self._refuse("reads its children's `training`")
        elif name == "__class__":
            if not is_library(code):
                self.classes.add(type(module))
        elif not is_library(code) or name in CONTENTS or name not in (*INTERNAL, "__dict__"):
            found = _found(module, name)
            if self._changed and not isinstance(found, types.FunctionType | property):
                self._refuse(f"reads .{name} after a layer that may have changed it")
            names[name] = None
            if name == "__dict__":
                names.update(dict.fromkeys(CONTENTS))
            self._know(found)
            self._reach(module, name)

    def _reach(self, module: Module, name: str) -> None:
        self._last = module
        if module in self.paths:
            children = vars(module)["_modules"]
            if name in children:
                self.paths[children[name]] = self._path(module, name)
            elif name == "_modules":
                for key, child in children.items():
                    self.paths.setdefault(child, self._path(module, key))

    def _path(self, module: Module, name: str) -> str:
        return ".".join(filter(None, (self.paths[module], name)))

    def path_of_read(self, name: str) -> str | None:
        """The path of the last read name; None if its module was not reached by names."""
        return self._path(self._last, name) if self._last in self.paths else None

    def path_of_tensor(self, tensor: Tensor) -> str | None:
        """The path under which a tensor was read; None if there is none or more than one."""
        paths = set()
        for module in self.paths.keys() & self.attributes.keys():
            own = vars(module)
            for name in self.attributes[module]:
                named = own[name] if name in CONTENTS else own
                for key in named if name in CONTENTS else (name,):
                    if named.get(key) is tensor:
                        paths.add(self._path(module, key))
        return paths.pop() if len(paths) == 1 else None

    @property
    def importing(self) -> bool:
        """Whether torch is importing a part of itself, which the code does not control."""
        return self._imports > 0

    def _know(self, value: Any) -> None:
        """Records a function that may run, for its closure."""
        if isinstance(value, staticmethod | classmethod | types.MethodType):
            value = value.__func__
        elif isinstance(value, property | functools.partial | functools.cached_property):
            parts = [getattr(value, part, None) for part in ("fget", "fset", "fdel", "func")]
            for part in filter(None, parts):
                self._know(part)
        if isinstance(value, types.FunctionType):
            known = self._functions.setdefault(value.__code__, [])
            if value not in known:
                known.append(value)
                defaults = (*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values())
                self.classes.update(d for d in defaults if isinstance(d, type))
                for cell in value.__closure__ or ():
                    with contextlib.suppress(ValueError):  # an empty one
                        self._know(cell.cell_contents)

    def _begin(self, frame: types.FrameType, event: str, _: Any) -> Any:
        """Traces the beginning of a function."""
        code = frame.f_code
        if self._imports or frame.f_globals.get("__name__", "").startswith("namedtuple_"):
            return None
        if code.co_name == "<module>":  # torch imports parts of itself when they are first used
            self._imports += 1
            frame.f_trace_lines = False
            return self._imported
        if is_library(code):
            back = frame.f_back
            self._allow(None if back is None or is_library(back.f_code) else refused_library(code))
            return None
        self._allow(refused_code(code))
        self._made.update(_nested(code))
        for function in self._functions.get(code, ()):
            named = zip(code.co_freevars, function.__closure__ or (), strict=True)
            self.cells |= {id(cell): cell for name, cell in named if name != "__class__"}
        if code not in self._functions and code.co_freevars and code not in self._made:
            self._refuse(f"runs {code.co_name}(), whose variables cannot be watched")
        first: Any = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
        if isinstance(first, type):  # a class method
            self.classes.add(first)
        elif code.co_name.startswith("__") and issubclass(type(first), Module):
            # Python finds such a method without a read of its name.
            self.attributes.setdefault(first, {})[code.co_name] = None
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        return self._step

    def _imported(self, frame: types.FrameType, event: str, _: Any) -> Any:
        self._imports -= event == "return"
        return self._imported

    def _builtin(self, frame: types.FrameType, event: str, function: Any) -> None:
        """Traces calls of C functions."""
        if event == "c_call" and not self._imports and not is_library(frame.f_code):
            self.asks_types |= function is isinstance or function is issubclass
            self._allow(refused_builtin(function))

    def _allow(self, refused: str | None) -> None:
        if refused is not None:
            self._refuse(refused)

    def called(self, module: Module) -> None:
        """Records a layer's call, whose code may change later reads."""
        self._changed |= any(may_write(kind) for kind in map(type, _tree(module)))

    def _step(self, frame: types.FrameType, event: str, value: Any) -> Any:
        """Traces each instruction before it runs, and each function's return value."""
        if event == "return" and frame.f_back is not None:
            self._results[frame.f_back, frame.f_back.f_lasti] = value
        elif event == "opcode":
            instructions, places = _instructions(frame.f_code)
            i = places[frame.f_lasti]
            name = instructions[i].opname
            trail = self._trail.setdefault(frame, [])
            trail[:] = (*trail[-2:], i)
            self._allow(refused_instruction(instructions[i], frame.f_code))
            if name in ("LOAD_GLOBAL", "LOAD_NAME"):
                self._global(frame, instructions, i)
            elif name == "LOAD_SUPER_ATTR":
                self._inherited(frame, instructions[i].argval)
            elif name == "IS_OP" or name.endswith("_NONE"):
                self._identity(frame, instructions, trail[:-1])
            elif name == "LOAD_DEREF" and instructions[i].argval == "__class__":
                self.classes.add(frame.f_locals["__class__"])
            elif i and ("JUMP_IF" in name or "JUMP_FORWARD_IF" in name or name in _TRUTH):
                self._truth(frame, instructions[i - 1])
        return self._step

    def _global(self, frame: types.FrameType, instructions: list[dis.Instruction], i: int) -> None:
        name = instructions[i].argval
        following = [*instructions[i + 1 : i + 8]]
        if name not in frame.f_globals:
            if name == "type":
                self._refuse(f"asks for a type in {frame.f_code.co_name}()")
            if name == "object":
                self._refuse("asks object for an attribute")
            if name == "super" and sys.version_info < (3, 12):
                self._inherited(frame, _asked_of_call(following))
            elif name not in vars(builtins):
                self.names[id(frame.f_globals), name] = frame.f_globals, name
            return
        value = self._name(frame.f_globals, name)
        for instruction in following:
            attribute = instruction.argval
            if instruction.opname not in _ATTRIBUTES or not _has_names(value, attribute):
                break
            value = self._name(_holder(value, attribute), attribute)
        if isinstance(value, types.ModuleType) and not is_library_module(value):
            self._refuse(f"uses the Python module {value.__name__} in a way that cannot be watched")

    def _name(self, holder: Mapping[str, Any], name: str) -> Any:
        self.names[id(holder), name] = holder, name
        value = holder.get(name)
        self._know(value)
        return value

    def _inherited(self, frame: types.FrameType, name: str | None) -> None:
        """Records a name that is read from super()."""
        first = frame.f_code.co_varnames[:1]
        module = frame.f_locals.get(first[0]) if first else None
        if name is None or not isinstance(module, Module):
            return self._refuse("uses super() in a way that cannot be watched")
        for kind in type(module).__mro__:
            self._name(vars(kind), name)

    def _identity(
        self, frame: types.FrameType, instructions: list[dis.Instruction], before: list[int]
    ) -> None:
        """Checks a comparison by `is`, which a stand-in does not notice.

        Args:
            before: the instructions that ran before, the last one last.
        """
        now = instructions[self._trail[frame][-1]].opname
        operands = [instructions[i] for i in before]
        if now != "IS_OP":
            self._compared(frame, operands[-1], self._is_open)
        elif operands[-1].opname == "LOAD_CONST" and operands[-1].argval is None:
            self._compared(frame, operands[-2], self._is_open)
        else:
            last = before[-1]
            self._compared(frame, instructions[last], _is_unclear)
            while instructions[last].opname in _ATTRIBUTES:
                last -= 1
            self._compared(frame, instructions[last - 1], _is_unclear)

    def _truth(self, frame: types.FrameType, instruction: dis.Instruction) -> None:
        """Checks a branch on a value. A module's truth is read without a trace."""
        name, value = instruction.opname, instruction.argval
        if "_FAST" in name:
            variable = value[-1] if isinstance(value, tuple) else value
            self.asks_types |= issubclass(type(frame.f_locals.get(variable)), Module)
        elif name in _ATTRIBUTES:
            self.asks_types |= value in vars(self._last)["_modules"]

    def _compared(
        self,
        frame: types.FrameType,
        instruction: dis.Instruction,
        unclear: Callable[[Any], bool],
    ) -> None:
        name, value = instruction.opname, instruction.argval
        if name == "LOAD_CONST" or name == "LOAD_GLOBAL":
            return
        if "_FAST" in name or "_DEREF" in name:
            variable = value[-1] if isinstance(value, tuple) else value
            value = frame.f_locals.get(variable)
        elif name in _ATTRIBUTES or "CALL" in name:
            value = self._results.get((frame, instruction.offset))
        else:
            self._refuse("compares a value by `is`")
        if unclear(value):
            self._refuse("compares what a layer or function has returned by `is`")


def _is_unclear(value: Any) -> bool:
    """Whether the object's identity may differ between places."""
    return not (value is None or isinstance(value, bool | int | str | type | enum.Enum))


def _asked_of_call(following: list[dis.Instruction]) -> str | None:
    """The name that the next instructions read from super()."""
    calls = [i for i, f in enumerate(following) if "CALL" in f.opname]
    after = following[calls[0] + 1 :] if calls else []
    return after[0].argval if after and after[0].opname in _ATTRIBUTES else None


def _has_names(value: Any, name: str) -> bool:
    if isinstance(value, types.ModuleType):
        return name in vars(value)
    return isinstance(value, type) and any(name in vars(kind) for kind in value.__mro__)


def _holder(value: Any, name: str) -> Mapping[str, Any]:
    if isinstance(value, types.ModuleType):
        return vars(value)
    return next(vars(kind) for kind in value.__mro__ if name in vars(kind))


def _tree(module: Module) -> Iterator[Module]:
    """A module and all modules below it, without a recorded read."""
    yield module
    for child in object.__getattribute__(module, "__dict__")["_modules"].values():
        if child is not None:
            yield from _tree(child)


def _found(module: Module, name: str) -> Any:
    """An attribute as it stands in the instance or its class."""
    own = object.__getattribute__(module, "__dict__")
    if name in own:
        return own[name]
    return next((vars(k)[name] for k in type(module).__mro__ if name in vars(k)), None)


def _nested(code: types.CodeType) -> list[types.CodeType]:
    """The code of functions that this code makes."""
    found = [c for c in code.co_consts if isinstance(c, types.CodeType)]
    return found + [inner for c in found for inner in _nested(c)]


def is_library_module(module: types.ModuleType) -> bool:
    """Whether a Python module is of torch, numpy, fastconv or Python."""
    if module.__name__.partition(".")[0] in ("torch", "numpy", "fastconv", *_IN_C):
        return True
    file = getattr(module, "__file__", None) or ""
    return file.startswith(_STANDARD) and not file.startswith((_SITE, _STANDARD + "site-packages"))


@functools.lru_cache(maxsize=1024)
def _instructions(code: types.CodeType) -> tuple[list[dis.Instruction], dict[int, int]]:
    """A function's instructions, and their indices by offset."""
    every = list(dis.get_instructions(code))
    kept = [i for i in every if i.opname not in ("EXTENDED_ARG", "PRECALL")]
    places, nth = {}, 0
    for instruction in every:
        places[instruction.offset] = min(nth, len(kept) - 1)
        if instruction.opname not in ("EXTENDED_ARG", "PRECALL"):
            nth += 1
    return kept, places
