"""Reads the installed module's kernels: machine code and resources, target by target."""

import functools
import importlib.util
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from fastconv import _C


class Instruction(NamedTuple):
    """One line of nvdisasm, such as `@!P0 LDG.E.128 R4, [R2.64]`."""

    address: int
    predicate: str  # "" if there is none
    opcode: str
    operands: str

    def is_a(self, wanted: str) -> bool:
        """Whether it is this operation with at least these modifiers: LDG.E.128 matches LDG.128."""
        name, *modifiers = self.opcode.split(".")
        wanted_name, *wanted_modifiers = wanted.split(".")
        return name == wanted_name and set(wanted_modifiers) <= set(modifiers)


class Kernel(NamedTuple):
    """A kernel of one target. `stack` and `local` in bytes: spills are among them."""

    name: str  # relu_fprop_kernel<float, 4>
    target: str  # sm_80
    registers: int
    stack: int
    local: int
    instructions: list[Instruction]
    labels: dict[str, int]

    def __str__(self) -> str:
        return f"{self.name} for {self.target}"


def tool(name: str) -> str | None:
    """The path of a CUDA program, from PATH or from NVIDIA's Python packages."""
    spec = importlib.util.find_spec("nvidia")
    for folder in spec.submodule_search_locations or () if spec else ():
        for path in sorted(Path(folder).glob(f"*/bin/{name}")):
            return str(path)
    return shutil.which(name)


def missing() -> list[str]:
    """The missing tools for reading the kernels."""
    found = [] if _C.build_info()["cuda"] else ["a fastconv built with nvcc"]
    found += [
        f"{name} (pip install nvidia-cuda-{name})"
        for name in ("cuobjdump", "nvdisasm")
        if tool(name) is None
    ]
    return found + (["c++filt"] if shutil.which("c++filt") is None else [])


def run(name: str, *arguments: str | Path, cwd: str | Path | None = None, text: str = "") -> str:
    """A tool's output."""
    command = [tool(name) or name, *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, input=text, check=True, capture_output=True, text=True
    ).stdout


@functools.cache
def kernels() -> list[Kernel]:
    """All kernels of csrc/cuda in all targets."""
    found = []
    with tempfile.TemporaryDirectory() as folder:
        run("cuobjdump", "--extract-elf", "all", _C.__file__, cwd=folder)
        for cubin in sorted(Path(folder).iterdir()):
            target = re.search(r"\.(sm_\w+)\.cubin$", cubin.name)
            assert target, cubin.name
            used = resources(run("cuobjdump", "--dump-resource-usage", cubin))
            bodies = disassembly(run("nvdisasm", "--print-code", cubin))
            names = demangled(bodies)
            found += [
                Kernel(names[mangled], target[1], *used[mangled], *body)
                for mangled, body in bodies.items()
                if names[mangled]
            ]
    return found


def resources(text: str) -> dict[str, tuple[int, int, int]]:
    """Registers, stack and local memory of each function."""
    pattern = r"Function (\S+):\s+REG:(\d+) STACK:(\d+) .*?LOCAL:(\d+)"
    return {name: tuple(map(int, numbers)) for name, *numbers in re.findall(pattern, text)}


def disassembly(text: str) -> dict[str, tuple[list[Instruction], dict[str, int]]]:
    """Instructions of each function, and the addresses of its labels."""
    found: dict[str, tuple[list[Instruction], dict[str, int]]] = {}
    waiting: list[str] = []
    for line in text.splitlines():
        if section := re.match(r"\.text\.(\w+):", line):
            instructions, labels = found[section[1]] = [], {}
        elif label := re.match(r"(\.L_\w+):", line):
            waiting.append(label[1])
        elif code := re.match(r"\s+/\*(\w+)\*/\s+(?:@(!?U?P\w+)\s+)?([\w.]+)\s*(.*?)\s*;", line):
            address = int(code[1], 16)
            labels.update(dict.fromkeys(waiting, address))
            waiting.clear()
            instructions.append(Instruction(address, code[2] or "", code[3], code[4]))
    return found


def demangled(names: dict[str, object] | list[str]) -> dict[str, str]:
    """Short names of functions in fastconv::cuda; "" for others."""
    lines = run("c++filt", text="\n".join(names)).splitlines()
    return dict(zip(names, map(short, lines), strict=True))


def short(signature: str) -> str:
    """`void fastconv::cuda::f<fastconv::simt::half, 8>(int*)` as `f<half, 8>`."""
    start = signature.find("fastconv::cuda::")
    if start < 0:
        return ""
    depth, name = 0, signature[start:]
    for i, letter in enumerate(name):
        depth += {"<": 1, ">": -1}.get(letter, 0)
        if letter == "(" and depth == 0 and not name.startswith("(anonymous", i):
            name = name[:i]
            break
    return re.sub(r"fastconv::(cuda|simt)::|\(anonymous namespace\)::", "", name)
