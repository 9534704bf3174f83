"""What a forward reads while it is traced, besides its arguments.

Recorded where it happens: attributes of modules by `Module.__getattribute__`, globals and names of
other Python modules instruction by instruction, closures when their function begins.
"""

from __future__ import annotations

import contextlib
import dis
import enum
import functools
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

_TORCH, _HERE = os.path.dirname(torch.__file__) + os.sep, os.path.dirname(__file__) + os.sep
_FX = os.path.join(_TORCH, "fx") + os.sep
_NUMPY = os.path.dirname(numpy.__file__) + os.sep
_STANDARD, _SITE = (sysconfig.get_path(name) + os.sep for name in ("stdlib", "purelib"))
# Torch's work around a read that is recorded itself.
_PLUMBING = frozenset(
    f.__code__ for f in (Module.__getattr__, Module.__setattr__, Module.__delattr__)
)
CONTENTS = ("_modules", "_parameters", "_buffers")
# What every module has for torch's own use.
INTERNAL = frozenset(vars(Module())) | {"forward"}
_ATTRIBUTES = ("LOAD_ATTR", "LOAD_METHOD")


def is_library(code: types.CodeType) -> bool:
    """Code of torch, fastconv.convert, numpy or Python: it keeps no settings of a model."""
    file = code.co_filename
    if file.startswith((_TORCH, _HERE, _NUMPY, "<frozen")):
        return True
    return file.startswith(_STANDARD) and not file.startswith((_SITE, _STANDARD + "site-packages"))


class Reads:
    """Records one run of a forward.

    Args:
        root: the module whose forward it is.
        refuse: called with a reason where something cannot be recorded; raises.
        is_open: whether a value that code compares by `is` is a stand-in that may be anything.
    """

    def __init__(
        self, root: Module, refuse: Callable[[str], Any], is_open: Callable[[Any], bool]
    ) -> None:
        self.attributes: dict[Module, dict[str, None]] = {root: {"forward": None}}
        """The names that were asked of each module, in the order of the first time."""
        self.paths: dict[Module, str] = {root: ""}
        """How each module was reached last; one with several names has a path for each."""
        self.names: dict[tuple[int, str], tuple[Mapping[str, Any], str]] = {}
        """Names in globals, Python modules and classes; what holds them comes first."""
        self.cells: dict[int, types.CellType] = {}
        """Variables of functions around those that ran."""
        self._root, self._refuse, self._is_open = root, refuse, is_open
        self._functions: dict[types.CodeType, types.FunctionType] = {}
        self._made: set[types.CodeType] = set()
        self._last = root
        self._results: dict[tuple[types.FrameType, int], Any] | None = None
        self._thread = threading.get_ident()
        self._know(type(root).forward)

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Records what happens in this thread meanwhile."""
        before = sys.gettrace()

        def read(module: Module, name: str) -> Any:
            if threading.get_ident() == self._thread:
                self._attribute(module, name, sys._getframe(1).f_code)
            return object.__getattribute__(module, name)

        self._results = {}
        Module.__getattribute__ = read  # type: ignore[method-assign]
        sys.settrace(self._begin)
        try:
            yield
        finally:
            sys.settrace(before)
            del Module.__getattribute__
            self._results = None  # it keeps values and frames alive

    def result(self, value: Any) -> None:
        """Notes the value of the instruction that runs."""
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
        elif name != "__class__" and (
            not is_library(code) or name in CONTENTS or name not in (*INTERNAL, "__dict__")
        ):
            names[name] = None
            self._know(_found(module, name))
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
        """The path of the name that was read last, None if its module was not reached by names."""
        return self._path(self._last, name) if self._last in self.paths else None

    def path_of_tensor(self, tensor: Tensor) -> str | None:
        """The path under which a tensor was read."""
        for module in self.paths.keys() & self.attributes.keys():
            own = vars(module)
            for name in self.attributes[module]:
                named = own[name] if name in CONTENTS else own
                for key in named if name in CONTENTS else (name,):
                    if named.get(key) is tensor:
                        return self._path(module, key)
        return None

    def _know(self, value: Any) -> None:
        """Remembers a function that may run, for its closure."""
        if isinstance(value, staticmethod | classmethod | types.MethodType):
            value = value.__func__
        elif isinstance(value, property | functools.partial | functools.cached_property):
            parts = [getattr(value, part, None) for part in ("fget", "fset", "fdel", "func")]
            for part in filter(None, parts):
                self._know(part)
        if isinstance(value, types.FunctionType) and value.__code__ not in self._functions:
            self._functions[value.__code__] = value
            for cell in value.__closure__ or ():
                with contextlib.suppress(ValueError):  # an empty one
                    self._know(cell.cell_contents)

    def _begin(self, frame: types.FrameType, event: str, _: Any) -> Any:
        """Called when a function begins."""
        code = frame.f_code
        if is_library(code) or frame.f_globals.get("__name__", "").startswith("namedtuple_"):
            return None
        self._made.update(_nested(code))
        function = self._functions.get(code)
        if function is not None:
            self.cells |= {id(cell): cell for cell in function.__closure__ or ()}
        elif set(code.co_freevars) - {"__class__"} and code not in self._made:
            self._refuse(f"runs {code.co_name}(), whose variables cannot be watched")
        if code.co_name.startswith("__") and code.co_argcount:
            # Python finds such a method without asking for it.
            module = frame.f_locals.get(code.co_varnames[0])
            if isinstance(module, Module):
                self.attributes.setdefault(module, {})[code.co_name] = None
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        return self._step

    def _step(self, frame: types.FrameType, event: str, value: Any) -> Any:
        """Called before each instruction, and with what a function returns."""
        if event == "return" and frame.f_back is not None:
            self._results[frame.f_back, frame.f_back.f_lasti] = value
        elif event == "opcode":
            instructions, places = _instructions(frame.f_code)
            i = places[frame.f_lasti]
            name = instructions[i].opname
            if name in ("LOAD_GLOBAL", "LOAD_NAME"):
                self._global(frame, instructions, i)
            elif name == "LOAD_SUPER_ATTR":
                self._inherited(frame, instructions[i].argval)
            elif name == "IMPORT_NAME":
                self._import(instructions[i].argval)
            elif name == "IS_OP" or name.endswith("_NONE"):
                self._identity(frame, instructions, i)
        return self._step

    def _global(self, frame: types.FrameType, instructions: list[dis.Instruction], i: int) -> None:
        name = instructions[i].argval
        following = [*instructions[i + 1 : i + 8]]
        if name == "super" and name not in frame.f_globals:
            asked = [f.argval for f in following if f.opname in _ATTRIBUTES]
            if sys.version_info < (3, 12):
                self._inherited(frame, asked[0] if asked else None)
            return
        if name not in frame.f_globals:
            return  # Python's own
        value = self._name(frame.f_globals, name)
        for instruction in following:
            if instruction.opname not in _ATTRIBUTES:
                break
            attribute = instruction.argval
            if isinstance(value, type) and not issubclass(value, enum.Enum):
                owners = [vars(k) for k in value.__mro__ if attribute in vars(k)]
                for owner in owners[:1]:
                    self._name(owner, attribute)
                return
            if not isinstance(value, types.ModuleType) or attribute not in vars(value):
                break
            value = self._name(vars(value), attribute)
        if isinstance(value, types.ModuleType) and not _is_librarys(value.__name__):
            self._refuse(f"uses the Python module {value.__name__} in a way that cannot be watched")

    def _name(self, holder: Mapping[str, Any], name: str) -> Any:
        self.names[id(holder), name] = holder, name
        value = holder.get(name)
        self._know(value)
        return value

    def _inherited(self, frame: types.FrameType, name: str | None) -> None:
        """A name asked of super()."""
        first = frame.f_code.co_varnames[:1]
        module = frame.f_locals.get(first[0]) if first else None
        if name is None or not isinstance(module, Module):
            self._refuse("uses super() in a way that cannot be watched")
        for kind in type(module).__mro__:
            self._name(vars(kind), name)

    def _import(self, name: str) -> None:
        if not _is_librarys(name):
            self._refuse(f"imports {name}")

    def _identity(
        self, frame: types.FrameType, instructions: list[dis.Instruction], i: int
    ) -> None:
        """Code compares by `is`, which asks a stand-in nothing."""
        last = i - 1
        if instructions[i].opname == "IS_OP":
            self._compared(frame, instructions[last])
            while instructions[last].opname in _ATTRIBUTES:
                last -= 1
            last -= 1
        self._compared(frame, instructions[last])

    def _compared(self, frame: types.FrameType, instruction: dis.Instruction) -> None:
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
        if self._is_open(value):
            self._refuse("asks what a layer has returned")


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


def _is_librarys(name: str) -> bool:
    top = name.partition(".")[0]
    return top in ("torch", "numpy", "fastconv") or top in sys.stdlib_module_names


@functools.lru_cache(maxsize=1024)
def _instructions(code: types.CodeType) -> tuple[list[dis.Instruction], dict[int, int]]:
    """A function's instructions, and which of them stands at an offset."""
    every = list(dis.get_instructions(code))
    kept = [i for i in every if i.opname not in ("EXTENDED_ARG", "PRECALL")]
    places, nth = {}, 0
    for instruction in every:
        places[instruction.offset] = min(nth, len(kept) - 1)
        if instruction.opname not in ("EXTENDED_ARG", "PRECALL"):
            nth += 1
    return kept, places
