"""Tells whether a change of the code changed any bit of a kernel's results.

    python tests/kernels/same_bits.py save FILE        before the change
    python tests/kernels/same_bits.py compare FILE     after it, on the same CPU

It runs every implementation on the problems of named_problems.py, on the CPU and in the
emulator, and keeps a hash of the outputs. The installed fastconv is the one that runs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

TESTS = Path(__file__).parents[1]
sys.path += [str(TESTS / room) for room in ("cuda", "kernels")]

import emulated  # noqa: E402
import fastconv  # noqa: E402
from fastconv.testing import Problem, inputs, kernels  # noqa: E402
from named_problems import BLOCKS, CONVOLUTIONS, CPU_CONVOLUTIONS  # noqa: E402

DTYPES = {"cpu": ("bf16",), "emulated": ("tf32", "bf16", "f16")}  # besides a problem's own
MOST_MACS = 150_000  # of a problem that is emulated, which takes long
DEAD = 0.4  # of the gradients behind a ReLU


def problems(device: str) -> Iterator[Problem]:
    """Every named problem, float32 ones in the device's other dtypes too."""
    for text in chain.from_iterable(d.values() for d in (CONVOLUTIONS, CPU_CONVOLUTIONS, BLOCKS)):
        problem = Problem.parse(text)
        if device != "cpu" and problem.macs > MOST_MACS:
            continue
        yield problem
        if problem.dtype is torch.float32:
            yield from map(problem.with_type, DTYPES[device])


def calls(devices: list[str]) -> Iterator[str]:
    """Calls in words: device, direction, problem, implementation ("default": as chosen)."""
    for device in devices:
        for problem in problems(device):
            for direction in ("fprop", "dgrad", "wgrad"):
                names = kernels.implementations(direction, problem, device)
                for name in ("default", *names):
                    yield f"{device} {direction} {problem} {name}"


def results(call: str) -> tuple[Tensor | None, ...]:
    """The outputs of a call in words."""
    device, direction, text, name = call.split()
    problem = Problem.parse(text)
    data, code = inputs.make(problem), kernels.make_code(problem, DEAD)
    options = {"implementation": "" if name == "default" else name, "device": device}
    if direction == "fprop":
        return kernels.fprop(problem, data.x, data.w, data.bias, **options)
    if direction == "dgrad":
        return (kernels.dgrad(problem, data.dy, code, data.w, **options),)
    return kernels.wgrad(problem, data.x, data.dy, code, **options)


def digest(tensors: tuple[Tensor | None, ...]) -> str:
    """A hash of all bits, shapes and dtypes."""
    sha = hashlib.sha256()
    for tensor in tensors:
        if tensor is None:
            sha.update(b"none")
            continue
        sha.update(repr((tuple(tensor.shape), tensor.dtype)).encode())
        sha.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()[:16]


def main() -> int:
    """Saves or compares; the exit status is 1 where a bit differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["save", "compare"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--devices", nargs="+", choices=list(DTYPES), default=list(DTYPES))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if "emulated" in arguments.devices:
        kernels.modules["emulated"] = emulated.load_kernels("plain")
    isa = fastconv._C.build_info()["isa"]
    if arguments.what == "save":
        hashes = {call: digest(results(call)) for call in calls(arguments.devices)}
        arguments.file.write_text(json.dumps({"isa": isa, "hashes": hashes}, indent=0))
        print(f"{len(hashes)} calls saved")
        return 0
    saved = json.loads(arguments.file.read_text())
    if saved["isa"] != isa:
        parser.error(f"{arguments.file} has results of {saved['isa']}; this CPU runs {isa}")
    before = {c: h for c, h in saved["hashes"].items() if c.split()[0] in arguments.devices}
    different = [call for call, hashed in before.items() if digest(results(call)) != hashed]
    print(*(f"differs: {call}" for call in different), sep="\n")
    print(f"{len(before) - len(different)} of {len(before)} calls give the same bits")
    return int(bool(different))


if __name__ == "__main__":
    sys.exit(main())
