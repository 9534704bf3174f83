"""Tests Winograd's algorithm on CPUs: all ways to split the work, and the error."""

import pytest
import torch

from fastconv.testing import Problem, checks, errors, inputs, kernels
from test_determinism import assert_same_bits

pytestmark = pytest.mark.usefixtures("one_thread")

POOL = "_pool2x2s2x2p0x0d1x1c0"
PROBLEMS = {
    "3x3": "mb1ic16ih14iw10oc16kh3kw3_f32_nhwc",
    "5x5": "mb1ic16ih15iw11oc16kh5kw5_f32_nchw",
    "channels in part": "mb2ic19ih13iw15oc41kh3kw3ph1pw1_f32_nhwc",
    "channels in part 5x5": "mb2ic37ih13iw9oc18kh5kw5ph2pw2_f32_nchw",
    "a vector more than a block": "mb1ic24ih12iw8oc56kh3kw3ph1pw1_f32_nhwc",
    "more padding than 'same'": "mb2ic16ih7iw8oc16kh3kw3ph2pw3pb4pr3_f32_nhwc",
    "one side padded": "mb1ic16ih9iw12oc24kh5kw5pb4pr3_f32_nhwc",
    "small images together": "mb9ic16ih7iw7oc16kh3kw3ph1pw1_f32_nhwc",
    "rows in chunks": "mb1ic128ih40iw43oc16kh3kw3ph1pw1_f32_nhwc",
    "tiles shared": "mb1ic64ih12iw12oc200kh3kw3ph1pw1_f32_nhwc",
    "tiles shared, in turns": "mb2ic512ih30iw34oc64kh3kw3ph1pw1_f32_nhwc",
    "relu": "mb2ic16ih9iw13oc40kh3kw3ph1pw1_relu_f32_nhwc",
    "pool": f"mb2ic32ih21iw23oc24kh3kw3ph1pw1{POOL}_f32_nhwc",
    "pool, tiles shared": f"mb2ic64ih12iw9oc136kh5kw5ph2pw2{POOL}_f32_nchw",
    "pool higher than a tile": "mb1ic16ih22iw17oc16kh3kw3ph1pw1_pool6x2s3x2p2x1d1x1c1_f32_nhwc",
    "pool with gaps": "mb1ic16ih27iw25oc24kh3kw3ph1pw1_pool2x2s5x4p1x0d2x3c0_f32_nhwc",
    "gradients in turns": f"mb3ic64ih56iw56oc64kh3kw3ph1pw1{POOL}_f32_nhwc",
    "gradients in turns 5x5": "mb2ic64ih50iw50oc80kh5kw5ph2pw2_f32_nhwc",
    "bfloat16": f"mb1ic19ih13iw15oc41kh3kw3ph1pw1{POOL}_bf16_nhwc",
    "float16": "mb1ic19ih13iw15oc41kh3kw3ph1pw1_f16_nchw",
    "filters side by side otherwise": "mb2ic32ih9iw10oc32kh3kw3ph1pw1_f32_transposed",
}
DIRECTIONS = ["fprop", "dgrad", "wgrad"]


@pytest.mark.parametrize("kind", ["normal", "positive"])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", PROBLEMS)
def test_named_problem(name, direction, kind):
    problem = Problem.parse(PROBLEMS[name])
    if "winograd" not in kernels.implementations(direction, problem):
        assert direction == "dgrad" and name == "more padding than 'same'", "it should apply"
        return
    if direction == "fprop":
        checks.check_fprop(problem, ["winograd"], kind)
    else:
        checks.check_backward(problem, direction, ["winograd"], kind)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", ["small images together", "tiles shared", "gradients in turns"])
def test_any_number_of_threads(name, direction):
    problem = Problem.parse(PROBLEMS[name])
    data, code = inputs.make(problem), kernels.make_code(problem, 0.5)

    def run(threads):
        if direction == "fprop":
            return kernels.fprop(problem, *data[:3], "winograd", threads)[:1]
        if direction == "dgrad":
            return [kernels.dgrad(problem, data.dy, code, data.w, "winograd", threads)]
        return kernels.wgrad(problem, data.x, data.dy, code, "winograd", threads)

    expected = run(1)
    for threads in (2, 3, 7):
        assert_same_bits(run(threads), expected, f"{threads} threads, {problem}")


@pytest.mark.parametrize("w_layout", ["nchw", "nhwc"])
def test_filters_of_any_strides(w_layout):
    problem = Problem.parse("mb1ic24ih12iw12oc40kh3kw3ph1pw1_f32_nhwc")
    data = inputs.make(problem)
    w = inputs.place(data.w, w_layout)
    for run in (
        lambda w: kernels.fprop(problem, data.x, w, None, "winograd")[0],
        lambda w: kernels.dgrad(problem, data.dy, None, w, "winograd"),
    ):
        assert torch.equal(run(w), run(data.w.contiguous()))
    dw, _ = kernels.wgrad(problem, data.x, data.dy, None, "winograd", layout=w_layout)
    other, _ = kernels.wgrad(problem, data.x, data.dy, None, "winograd")
    assert torch.equal(dw, other)


@pytest.mark.parametrize("kernel, pad", [(3, 1), (5, 2)])
def test_many_channels_lose_no_more_digits(kernel, pad):
    # Sums over channels are added up in pieces.
    text = f"mb1ic1024ih12iw12oc128kh{kernel}kw{kernel}ph{pad}pw{pad}_nobias_f32_nhwc"
    problem = Problem.parse(text)
    data = inputs.make(problem)
    y, _ = kernels.fprop(problem, *data[:3], "winograd")
    exact = checks.expected_conv(problem, data).exact
    error = (y.double() - exact).abs().max() / exact.abs().max()
    assert error < errors.RELATIVE["y"]


def first_in_registers(direction, problem):
    names = kernels.implementations(direction, problem)
    return next(name for name in names if "tiles" not in name)


def test_few_filters_of_many_channels_are_faster_without_it():
    for channels, first in ((256, "winograd"), (257, "direct")):
        problem = Problem.parse(f"mb4ic{channels}ih24iw24oc32kh3kw3ph1pw1_f32_nhwc")
        assert first_in_registers("fprop", problem) == first
        exchanged = problem.replace(c=problem.k, k=problem.c)
        assert first_in_registers("dgrad", exchanged) == first
