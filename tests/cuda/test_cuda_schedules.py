"""Tests that CUDA kernels in the emulator give the same bits in every order of threads."""

import functools

import pytest
import torch

import emulated
from fastconv.testing import Problem, inputs, kernels

pytestmark = pytest.mark.usefixtures("one_thread")

POOLS = {
    "overlap": "mb2ic5ih9iw11_pool3x3s2x2p1x1d1x1c1_f32_nchw",
    "overlap, channels_last": "mb1ic24ih9iw9_pool3x3s1x2p1x1d1x1c0_f16_nhwc",
    "2x2 planes": "mb2ic5ih10iw16_pool2x2s2x2p0x0d1x1c0_bf16_nchw",
}
# An implementation, for the directions that have it, and a small problem. Together they cover all
# tiles, ways to read an operand, kinds of output, and iterations of the loops.
CONVOLUTIONS = {
    "wide tile": "exact128x64 mb1ic8ih7iw9oc36kh3kw3ph1pw1_f32_nhwc",
    "planes": "exact64x64 mb1ic5ih6iw11oc34kh3kw2ph1pw0_f64_nchw",
    "stride, groups": "exact128x8 mb1ic10ih11iw9oc20kh3kw3sh2sw3ph1pw1g2_f16_nhwc",
    "relu, two splits": "exact128x32 mb2ic3ih12iw11oc16kh3kw3ph1pw1_relu_f32_nchw",
    "relu of one group's vectors": "exact128x8 mb1ic8ih7iw9oc8kh3kw3ph1pw1_relu_bf16_nhwc",
    "pool": "exact128x64 mb1ic8ih10iw9oc36kh3kw3ph1pw1_pool2x2s2x2p0x0d1x1c0_f32_nhwc",
    "overlapping pool": "exact64x8 mb1ic4ih11iw9oc7kh3kw3ph1pw1_pool3x3s2x2p1x1d1x1c1_f64_nchw",
    "pool in passes": "exact128x32 mb1ic2ih13iw12oc9kh3kw3_pool13x11s9x9p3x3d1x1c0_f32_nchw",
    # On tensor cores: more iterations than stages, copies of both operands, of one, of none.
    "wide, x and w copied": "mma128x128 mb1ic136ih3iw9oc72kh1kw1_relu_bf16_nhwc",
    "middle, x copied": "mma128x64 mb1ic24ih5iw9oc40kh3kw3ph1pw1_f16_nhwc",
    "narrow, w copied, planes": "mma128x32 mb1ic16ih6iw7oc12kh3kw3ph1pw1_relu_f16_nchw",
    "narrow, nothing copied": "mma128x32 mb1ic5ih6iw11oc34kh3kw3ph1pw1_bf16_nchw",
    "first layer, two columns of tiles": "first mb1ic3ih9iw11oc70kh3kw3ph1pw1_relu_tf32_nchw",
    "first layer, shares of pixels": "first mb2ic3ih20iw18oc33kh2kw2_relu_tf32_nhwc",
    "first layer, stride 2": "first mb2ic2ih19iw21oc12kh5kw5sh2sw2ph2pw2_relu_bf16_nhwc",
    "first layer, pool": "first mb2ic3ih19iw37oc40kh3kw3ph1pw1_pool3x2s2x2p1x1d1x1c1_f16_nhwc",
    "pool in 16 bits": "mma128x64 mb1ic40ih8iw9oc40kh3kw3ph1pw1_pool2x2s2x2p0x0d1x1c0_f16_nhwc",
    "overlap in 16 bits": "mma64x64 mb1ic40ih8iw9oc40kh2kw3_pool3x3s2x2p1x1d1x1c0_f16_nhwc",
    "phases of stride 2": "mma128x32 mb1ic24ih9iw9oc16kh3kw3sh2sw2ph1pw1_relu_bf16_nhwc",
    "tf32, wide": "mma128x128 mb1ic68ih3iw9oc72kh1kw1_relu_tf32_nhwc",
    "tf32, phases of stride 2": "mma64x64 mb1ic12ih9iw9oc16kh3kw3sh2sw2ph1pw1_tf32_nhwc",
    "tf32, pool": "mma128x64 mb1ic36ih8iw9oc36kh3kw3ph1pw1_pool2x2s2x2p0x0d1x1c0_tf32_nhwc",
    "tf32, pool, planes": "mma128x128 mb1ic5ih9iw8oc70kh3kw3ph1pw1_pool2x2s3x2p1x1d2x1c1_tf32_nchw",
    "tf32, planes": "mma128x64 mb1ic5ih6iw11oc34kh3kw3ph1pw1_tf32_nchw",
    "passes in 16 bits": "mma128x32 mb1ic2ih13iw12oc9kh3kw3_pool13x11s9x9p3x3d1x1c0_bf16_nchw",
    # wgrad behind 2x2 pools: more iterations than stages, splits, columns without a tap.
    "windows": "windows mb1ic8ih18iw16oc24kh2kw2_pool2x2s2x2p0x0d1x1c0_bf16_nhwc",
    "windows, two splits": "windows mb2ic8ih12iw12oc40kh1kw1_pool2x2s2x2p0x0d1x1c0_tf32_nhwc",
    "windows, wide": "windows mb1ic8ih7iw9oc72kh3kw3ph1pw1_pool2x2s2x2p0x0d1x1c0_f16_nhwc",
    "sparse": "sparse_windows mb1ic8ih18iw16oc40kh2kw2_pool2x2s2x2p0x0d1x1c0_tf32_nhwc",
    "sparse, two splits": "sparse_windows mb2ic8ih12iw12oc16kh1kw1_pool2x2s2x2p0x0d1x1c0_f16_nhwc",
    "sparse, wide": "sparse_windows mb1ic8ih7iw9oc72kh3kw3ph1pw1_pool2x2s2x2p0x0d1x1c0_bf16_nhwc",
}


def relu_results():
    x, dy = (torch.randn(3001, generator=torch.Generator().manual_seed(i)) for i in range(2))
    y, mask = kernels.relu_fprop(x, device="emulated")
    return y, mask, kernels.relu_bprop(dy, mask, "emulated")


def pool_results(problem):
    data = inputs.make(problem)
    y, code = kernels.max_pool2d_fprop(problem, data.x, device="emulated")
    return y, code, kernels.max_pool2d_bprop(problem, data.dy, code, device="emulated")


def convolution_results(name, problem):
    def how(direction):
        known = name in kernels.implementations(direction, problem, "emulated")
        return {"implementation": name if known else "", "device": "emulated"}

    x, w, bias, dy = inputs.make(problem)
    code = kernels.make_code(problem, 0.4)
    dx = kernels.dgrad(problem, dy, code, w, **how("dgrad"))
    forward = kernels.fprop(problem, x, w, bias, **how("fprop"))
    gradients = kernels.wgrad(problem, x, dy, code, **how("wgrad"))
    return [t for t in (dx, *forward, *gradients) if t is not None]


CASES = {"relu": relu_results}
for name, text in POOLS.items():
    CASES[name] = functools.partial(pool_results, Problem.parse(text))
for name, text in CONVOLUTIONS.items():
    variant, text = text.split()
    CASES[name] = functools.partial(convolution_results, variant, Problem.parse(text))


@pytest.fixture
def configure(emulated_kernels):
    yield lambda run: emulated.configure(emulated_kernels, run)
    emulated.configure(emulated_kernels)


@pytest.mark.parametrize("name", CASES)
def test_order_of_threads_does_not_matter(name, configure):
    expected = CASES[name]()
    for run in emulated.RUNS:
        configure(run)
        for found, wanted in zip(CASES[name](), expected, strict=True):
            same = found.flatten().view(torch.uint8) == wanted.flatten().view(torch.uint8)
            assert same.all(), run
