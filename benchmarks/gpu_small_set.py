"""Every CUDA kernel's operation once, on small odd shapes: what compute-sanitizer looks at."""

from __future__ import annotations

import torch

from fastconv.testing import Problem, inputs, kernels

BLOCKS = [
    "mb2ic5ih9iw11oc7kh3kw3ph1pw1_f32_nchw",
    "mb1ic8ih9iw10oc16kh5kw5ph2pw2_pool2x2s2x2p0x0d1x1c0_f32_nhwc",
    "mb2ic3ih13iw11oc9kh3kw3sh2sw2ph1pw1_pool3x3s2x2p0x0d1x1c0_f32_nchw",
    "mb1ic16ih8iw8oc16kh3kw3ph1pw1_pool2x2s2x2p0x0d1x1c0_bf16_nhwc",
]
POOLS = [
    "mb2ic5ih9iw11_pool3x3s2x2p1x1d1x1c1_f32_nchw",
    "mb1ic24ih9iw9_pool3x3s1x2p1x1d1x1c0_f16_nhwc",
    "mb2ic5ih10iw16_pool2x2s2x2p0x0d1x1c0_f32_nchw",
]


def main() -> None:
    """Runs them on torch's current GPU."""
    x = torch.randn(3001)
    y, mask = kernels.relu_fprop(x, device="cuda")
    kernels.relu_bprop(y, mask, device="cuda")
    for text in POOLS:
        problem = Problem.parse(text)
        data = inputs.make(problem)
        _, code = kernels.max_pool2d_fprop(problem, data.x, device="cuda")
        kernels.max_pool2d_bprop(problem, data.dy, code, device="cuda")
    for text in BLOCKS:
        problem = Problem.parse(text)
        data = inputs.make(problem)
        _, code = kernels.fprop(problem, *data[:3], device="cuda")
        kernels.dgrad(problem, data.dy, code, data.w, device="cuda")
        kernels.wgrad(problem, data.x, data.dy, code, device="cuda")
    torch.cuda.synchronize()
    print("done")


if __name__ == "__main__":
    main()
