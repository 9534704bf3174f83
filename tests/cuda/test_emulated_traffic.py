"""Tests the fused blocks' device-memory traffic against DESIGN.md, section 8, fused column.

The emulator's race build (csrc/emulator/counters.h) runs one small image and counts how often each
tensor passes: 1 is once in full. The same counts hold at batch 64, so the test multiplies them with
the tensors' sizes there. Weights and wgrad's partial sums do not grow with the batch. The backward
pass is dgrad (not in a first layer) and wgrad.
"""

import json
import math
from types import SimpleNamespace
from typing import NamedTuple

import pytest

from fastconv.testing import Problem, codes, inputs, kernels

pytestmark = pytest.mark.usefixtures("one_thread")

WITHIN = 1.3
MB = 1e6
POOL2, POOL3 = "_pool2x2s2x2p0x0d1x1c0", "_pool3x3s2x2p0x0d1x1c0"


class Block(NamedTuple):
    """A fused block and section 8's MB."""

    conv: str
    image: int
    pool: str
    fprop_mb: int
    backward_mb: int
    small_image: int  # small enough for the emulator; pooling windows cover all of it, too
    first: bool = False

    def problem(self, batch, image):
        size, filters = self.conv.split("oc")
        shape = f"mb{batch}{size}ih{image}iw{image}oc{filters}"
        return Problem.parse(f"{shape}{self.pool}_tf32_nhwc")


BLOCKS = {
    "CNN": Block("ic3oc32kh3kw3ph1pw1", 112, POOL2, 39, 39, 32, first=True),
    "CaseStudy 1": Block("ic3oc32kh5kw5ph2pw2", 224, POOL2, 154, 154, 32, first=True),
    "CaseStudy 2": Block("ic32oc64kh5kw5ph2pw2", 112, POOL2, 161, 263, 16),
    "CaseStudy 3": Block("ic64oc128kh5kw5ph2pw2", 56, POOL2, 80, 132, 16),
    "Simple 1": Block("ic3oc64kh7kw7sh2sw2ph3pw3", 224, POOL3, 94, 94, 38, first=True),
    "Simple 2": Block("ic64oc128kh3kw3sh2sw2ph1pw1", 55, POOL3, 56, 105, 29),
    "Simple 3": Block("ic128oc256kh3kw3sh2sw2ph1pw1", 13, POOL3, 6, 12, 13),
}


def ideal(problem, first):
    """Section 8's bytes, forward and backward: only the activations, and 4 bits of code for every
    pool.
    """
    x, y = 4 * math.prod(problem.x_size), 4 * math.prod(problem.y_size)
    code = math.prod(problem.y_size) / 2
    return {"fprop": x + y + code, "backward": (1 if first else 2) * x + y + code}


@pytest.mark.parametrize("name", BLOCKS)
def test_ideal_is_section_8(name):
    block = BLOCKS[name]
    least = ideal(block.problem(64, block.image), block.first)
    assert round(least["fprop"] / MB) == block.fprop_mb
    assert round(least["backward"] / MB) == block.backward_mb


BUFFERS = {  # of an entry of the binding, in its order
    "fprop": ("x", "w", "bias", "y", "code", "workspace"),
    "dgrad": ("dy", "code", "w", "dx", "workspace"),
    "wgrad": ("x", "dy", "code", "dw", "dbias", "workspace"),
}


def passes(module, direction, problem):
    """How often each tensor's bytes are read or written, by name."""
    x, w, bias, dy = inputs.make(problem)
    code = kernels.make_code(problem, 0.4)
    buffers = []

    def entry(*arguments):
        """Records the tensors' addresses on their way to the kernel."""
        packed = [a for a in arguments if isinstance(a, tuple) and isinstance(a[-1], tuple)]
        buffers.extend((address, nbytes) for address, nbytes, *_ in packed)
        getattr(module, f"cuda_conv2d_{direction}")(*arguments)

    entries = {f"cuda_conv2d_{direction}": entry}
    entries["cuda_conv2d_workspace"] = module.cuda_conv2d_workspace
    options = {"layout": "nhwc", "device": "emulated"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(kernels.modules, "emulated", SimpleNamespace(**entries))
        module.take_traffic()  # of calls before
        if direction == "fprop":
            kernels.fprop(problem, x, w, bias, **options)
        elif direction == "dgrad":
            kernels.dgrad(problem, dy, code, w, **options)
        else:
            kernels.wgrad(problem, x, dy, code, **options)
        module.take_counters()
    runs = [(run["begin"], run["bytes"]) for run in json.loads(module.take_traffic())]
    result, found = {}, 0
    for name, (address, nbytes) in zip(BUFFERS[direction], buffers, strict=True):
        first, last = address // 32 * 32, (address + nbytes + 31) // 32 * 32  # in whole sectors
        inside = sum(max(0, min(last, begin + n) - max(first, begin)) for begin, n in runs)
        result[name] = inside / (last - first) if nbytes else 0
        found += inside
    assert found == sum(n for _, n in runs), "kernels touch memory besides their tensors"
    return result


def sizes(direction, problem):
    """The bytes of the tensors that `passes` names."""
    x, w, y = (4 * math.prod(size) for size in (problem.x_size, problem.w_size, problem.y_size))
    bias, code = 4 * problem.k, math.prod(codes.size(problem, "emulated"))
    workspace = kernels.workspace_bytes(direction, problem, "", device="emulated")
    of_tensors = {"x": x, "w": w, "y": y, "bias": bias}
    gradients = {f"d{name}": nbytes for name, nbytes in of_tensors.items()}
    return of_tensors | gradients | {"code": code, "workspace": workspace}


class Known(NamedTuple):
    """More than WITHIN, known and not accepted for good."""

    ratio: float  # at most
    why: str


# Without any partial sums all would be within: dgrad and wgrad both read dy and the code, and
# section 8 leaves out w and dw.
PARTIALS = "wgrad's partial sums are written and read again"
KNOWN = {
    ("CaseStudy 3", "backward"): Known(1.34, PARTIALS),
    ("Simple 3", "backward"): Known(2.27, PARTIALS),
}


@pytest.mark.parametrize("way", ["fprop", "backward"])
@pytest.mark.parametrize("name", BLOCKS)
def test_bytes_are_within_section_8(name, way, counted_kernels):
    block = BLOCKS[name]
    small, whole = block.problem(1, block.small_image), block.problem(64, block.image)
    moved = {}
    directions = {"fprop": ["fprop"], "backward": ["wgrad"] if block.first else ["dgrad", "wgrad"]}
    for direction in directions[way]:
        nbytes = sizes(direction, whole)
        for tensor, times in passes(counted_kernels, direction, small).items():
            assert times > 0.95 or nbytes[tensor] == 0, f"the small image leaves out {tensor}"
            moved[direction, tensor] = times * nbytes[tensor]
    ratio = sum(moved.values()) / ideal(whole, block.first)[way]
    table = ", ".join(f"{' '.join(key)} {n / MB:.1f}" for key, n in moved.items() if n >= MB / 10)
    known = KNOWN.get((name, way))
    if known is None:
        assert ratio <= WITHIN, f"{ratio:.2f} times section 8's bytes; MB: {table}"
    else:
        assert WITHIN < ratio <= known.ratio, f"{ratio:.2f}, known: {known}; MB: {table}"
