"""Lists the instructions and functions that code may use while it is traced.

A trace records operations on stand-ins, and `_reads.py` records reads from modules. Other effects
would go unnoticed, so other code is refused. Code may read attributes of modules and plain values,
call layers and torch's functions, and compute. It may make its own containers, and branch and loop
on values that it read.
"""

from __future__ import annotations

import builtins
import dis
import functools
import os
import types

import torch
from torch import Tensor

from ..torch_internals import is_tensor_function

_INSTRUCTIONS = {
    "STORE_ATTR": "sets an attribute",
    "DELETE_ATTR": "deletes an attribute",
    "STORE_SUBSCR": "stores into a container",
    "DELETE_SUBSCR": "deletes from a container",
    "STORE_GLOBAL": "sets a global",
    "DELETE_GLOBAL": "deletes a global",
    "LOAD_BUILD_CLASS": "makes a class",
    "IMPORT_NAME": "imports",
    "MATCH_CLASS": "matches a pattern",
    "MATCH_MAPPING": "matches a pattern",
    "MATCH_SEQUENCE": "matches a pattern",
    "MATCH_KEYS": "matches a pattern",
}
_WITH = ("SETUP_WITH", "BEFORE_WITH", "LOAD_SPECIAL")  # Python 3.10, 3.11 to 3.13, from 3.14
_TRY = ("SETUP_FINALLY", "PUSH_EXC_INFO")  # Python 3.10, from 3.11; `with` has these too

_BUILTINS = frozenset(
    (
        *("abs", "all", "any", "bin", "chr", "divmod", "format", "getattr", "hasattr"),
        *("isinstance", "issubclass", "iter", "len", "max", "min", "next", "ord", "pow"),
        *("round", "sorted", "sum", "vars"),
    )
)
# Python modules of C functions that only compute.
_PURE = ("math", "cmath", "_operator", "itertools", "_functools", "_bisect", "_statistics")
_UNSURE = ("is_", "is_not", "attrgetter", "methodcaller")
_VALUES = (str, bytes, int, float, complex, list, dict, tuple, set, frozenset, range)

# Properties of a real tensor that code may read, since `_guard.py` compares them.
_FACTS = ("dim", "size", "numel", "nelement", "stride", "is_floating_point", "is_complex")

_ROOT = os.path.dirname(torch.__file__) + os.sep
# Files of torch whose functions code may call. Their operations on stand-ins are traced.
_TORCHS = tuple(
    _ROOT + name.replace("/", os.sep)
    for name in (
        "nn/", "functional.py", "_tensor.py", "overrides.py", "fx/", "_ops.py", "_jit_internal.py",
        "_library/", "library.py", "utils/checkpoint.py", "_dynamo/", "utils/_contextlib.py",
        "_compile.py", "special/", "_VF.py", "_linalg_utils.py", "autograd/",
    )
)  # fmt: skip
_OURS = os.path.dirname(os.path.dirname(__file__)) + os.sep
_STANDARD = ("functools.py", "collections" + os.sep, "enum.py", "abc.py", "_collections_abc.py")
_FROZEN = ("<frozen abc>", "<frozen _collections_abc>")
_STANDARD_ROOT = os.path.dirname(functools.__file__) + os.sep


@functools.lru_cache(maxsize=1024)
def refused_code(code: types.CodeType) -> str | None:
    """The reason why a function may not run at all; None if it may."""
    names = {i.opname for i in dis.get_instructions(code)}
    for kind, instructions in (("with", _WITH), ("try", _TRY)):
        if names & {*instructions}:
            return f"has a `{kind}` statement in {code.co_name}()"
    return None


def refused_instruction(instruction: dis.Instruction, code: types.CodeType) -> str | None:
    """The reason why an instruction may not run; None if it may."""
    name = instruction.opname
    if name == "STORE_DEREF" and instruction.argval in code.co_freevars:
        return f"sets {instruction.argval}, a variable of a function around it"
    reason = _INSTRUCTIONS.get(name)
    if reason == "imports":
        return f"imports {instruction.argval}"
    return reason


def refused_builtin(function: object) -> str | None:
    """The reason why a C function may not be called; None if it may."""
    name, owner = getattr(function, "__name__", "?"), getattr(function, "__self__", None)
    if owner is None or is_tensor_function(function):
        allowed = is_tensor_function(function)
    elif isinstance(owner, types.ModuleType):
        pure = owner.__name__ in _PURE and name not in _UNSURE
        allowed = pure or (owner is builtins and name in _BUILTINS)
    elif isinstance(owner, Tensor):
        return None if name in _FACTS else f"computes with other tensors than its inputs ({name})"
    else:
        allowed = type(owner) in _VALUES or owner in _VALUES
    return None if allowed else f"calls {name}()"


def refused_library(code: types.CodeType) -> str | None:
    """The reason why code itself may not call a library's function; None if it may."""
    file = code.co_filename
    if file.startswith("<frozen"):
        return None if file in _FROZEN else f"calls {code.co_name}() of {file[8:-1]}"
    if file.startswith((*_TORCHS, _OURS, "<")):
        return None
    if file.startswith(_STANDARD_ROOT) and file[len(_STANDARD_ROOT) :].startswith(_STANDARD):
        return None
    return f"calls {code.co_name}() of {os.path.basename(file)}"


@functools.lru_cache(maxsize=1024)
def may_write(kind: type) -> bool:
    """Whether a user's class has methods besides __init__ that set or store something."""
    users = [k for k in kind.__mro__ if k.__module__.partition(".")[0] not in ("torch", "builtins")]
    functions = [f for k in users for name, f in vars(k).items() if name != "__init__"]
    codes = [f.__code__ for f in functions if isinstance(f, types.FunctionType)]
    return any(map(_writes, codes))


def _writes(code: types.CodeType) -> bool:
    inner = [c for c in code.co_consts if isinstance(c, types.CodeType)]
    own = {i.opname for i in dis.get_instructions(code)}
    names = {"setattr", "append", "extend", "update", "pop", "add", "register_buffer"}
    return bool(own & _STORES or names & {*code.co_names}) or any(map(_writes, inner))


_STORES = {name for name in _INSTRUCTIONS if name.startswith(("STORE", "DELETE"))}
