"""Runs every kind of CUDA kernel once, on small odd shapes, for compute-sanitizer.

python benchmarks/gpu/small_set.py              on torch's current GPU
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import torch

from fastconv.testing import Problem, inputs, kernels

# Codes of bits, of 4 bits per window and of bytes; all types; both memory formats.
CONVOLUTIONS = [
    "mb2ic5ih9iw11oc7kh3kw3ph1pw1_f32_nchw",
    "mb2ic10ih7iw9oc6kh3kw2pw1g2_relu_f64_nhwc",
    "mb1ic9ih7iw8oc12kh3kw3ph1pw1_f16_nchw",
    "mb2ic8ih8iw9oc10kh3kw3sh2sw2ph1pw1_relu_tf32_nhwc",
]
# 2x2 windows: in registers, and backward by windows, on dense and sparse tensor cores.
BLOCKS = [
    "mb1ic8ih9iw10oc16kh5kw5ph2pw2_pool2x2s2x2p0x0d1x1c0_f32_nhwc",
    "mb1ic8ih8iw10oc16kh3kw3ph1pw1_pool2x2s2x2p0x0d1x1c0_tf32_nhwc",
    "mb1ic16ih8iw8oc16kh3kw3ph1pw1_pool2x2s2x2p0x0d1x1c0_bf16_nhwc",
    "mb1ic16ih9iw7oc24kh3kw3ph1pw1_pool2x2s2x2p0x0d1x1c0_f16_nchw",
    "mb1ic16ih9iw8oc16kh3kw3ph1pw1_pool2x2s2x2p0x0d1x1c0_f16_nhwc",
    "mb2ic9ih9iw9oc12kh3kw3ph1pw1_pool3x3s2x2p1x1d1x1c0_bf16_nchw",
    "mb1ic8ih11iw9oc9kh3kw3ph1pw1_pool4x4s3x2p0x0d1x1c1_f64_nhwc",
]
FIRST_LAYERS = [
    "mb2ic3ih9iw11oc9kh3kw3ph1pw1_relu_bf16_nchw",
    "mb2ic3ih13iw11oc9kh3kw3sh2sw2ph1pw1_pool3x3s2x2p0x0d1x1c0_tf32_nchw",
    "mb1ic3ih10iw12oc40kh5kw5ph2pw2_pool2x2s2x2p0x0d1x1c0_f16_nhwc",
]
POOLS = [
    "mb2ic5ih9iw11_pool3x3s2x2p1x1d1x1c1_f32_nchw",
    "mb1ic24ih9iw9_pool3x3s1x2p1x1d1x1c0_f16_nhwc",
    "mb2ic5ih10iw16_pool2x2s2x2p0x0d1x1c0_f32_nchw",
    "mb1ic2ih18iw17_pool16x16s1x1p0x0d1x1c0_f64_nchw",
]


class Ran(NamedTuple):
    """A kernel that was run."""

    operation: str
    implementation: str
    problem: str


def one_of_each_kind(names: list[str]) -> list[str]:
    """The first name of each kind. The others are tiles of other sizes."""
    kinds: dict[str, str] = {}
    for name in names:
        kinds.setdefault(kind(name), name)
    return list(kinds.values())


def kind(name: str) -> str:
    """An implementation's name without its tile's sizes."""
    return re.sub(r"\d+x\d+$", "", name)


def run(device: str) -> Iterator[Ran]:
    """Runs the kernels on torch's current GPU ("cuda") or in the emulator."""
    for count, aligned in ((3001, True), (3001, False)):
        x = torch.randn(count)
        y, mask = kernels.relu_fprop(x, device=device, aligned=aligned)
        kernels.relu_bprop(y, mask, device=device, aligned=aligned)
        yield Ran("relu", "", f"{count} elements{'' if aligned else ', not aligned'}")
    for text in POOLS:
        problem = Problem.parse(text)
        data = inputs.make(problem)
        _, code = kernels.max_pool2d_fprop(problem, data.x, device=device)
        kernels.max_pool2d_bprop(problem, data.dy, code, device=device)
        yield Ran("max_pool2d", "", text)
    for text in (*CONVOLUTIONS, *BLOCKS, *FIRST_LAYERS):
        problem = Problem.parse(text)
        x, w, bias, dy = inputs.make(problem)
        code = kernels.make_code(problem, dead=0.4)
        calls = {
            "fprop": (kernels.fprop, x, w, bias),
            "dgrad": (kernels.dgrad, dy, code, w),
            "wgrad": (kernels.wgrad, x, dy, code),
        }
        for direction, (function, *tensors) in calls.items():
            for name in one_of_each_kind(kernels.implementations(direction, problem, device)):
                function(problem, *tensors, name, device=device)
                yield Ran(direction, name, text)


def main() -> None:
    """Runs the kernels on torch's current GPU."""
    for ran in run("cuda"):
        print(*ran, flush=True)
    torch.cuda.synchronize()
    print("done")


if __name__ == "__main__":
    main()
