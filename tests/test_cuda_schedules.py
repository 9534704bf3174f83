"""CUDA kernels in the emulator: the same bits in whatever order threads run."""

import pytest
import torch

import emulated
from fastconv.testing import Problem, inputs, kernels

pytestmark = [pytest.mark.quick, pytest.mark.usefixtures("one_thread")]

POOLS = {
    "overlap": "mb2ic5ih9iw11_pool3x3s2x2p1x1d1x1c1_f32_nchw",
    "overlap, channels_last": "mb1ic24ih9iw9_pool3x3s1x2p1x1d1x1c0_f16_nhwc",
    "2x2 planes": "mb2ic5ih10iw16_pool2x2s2x2p0x0d1x1c0_bf16_nchw",
}


def relu_results():
    x, dy = (torch.randn(3001, generator=torch.Generator().manual_seed(i)) for i in range(2))
    y, mask = kernels.relu_fprop(x, device="emulated")
    return y, mask, kernels.relu_bprop(dy, mask, "emulated")


def pool_results(problem):
    data = inputs.make(problem)
    y, code = kernels.max_pool2d_fprop(problem, data.x, device="emulated")
    return y, code, kernels.max_pool2d_bprop(problem, data.dy, code, device="emulated")


CASES = {"relu": relu_results} | {
    name: lambda text=text: pool_results(Problem.parse(text)) for name, text in POOLS.items()
}


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
            same = found.contiguous().view(torch.uint8) == wanted.contiguous().view(torch.uint8)
            assert same.all(), run
