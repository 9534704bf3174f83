"""Tests the tensor-core kernels for first layers, which have fewer than 8 channels."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fastconv.testing import Problem, checks, inputs, kernels
from fastconv.testing.strategies import MAX_WORK, conv_problems

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parents[2]
AFTER = {"nothing": "", "relu": "_relu", "pool": "_pool3x3s2x2p1x1d1x1c0"}


@st.composite
def first_layers(draw, after):
    """Any convolution, with few channels, one group, and filters for all tiles."""
    problem = draw(conv_problems(after))
    c, k = draw(st.integers(1, 7)), draw(st.one_of(st.integers(9, 40), st.integers(33, 130)))
    problem = problem.replace(c=c, k=k, groups=1)
    assume(problem.macs <= MAX_WORK)
    return problem


def check(problem, kind, device):
    """The forward pass, as strict in TF32, since the inputs already are TF32 numbers."""
    data, exactly = inputs.make(problem, kind=kind), problem
    if problem.tf32:
        rounded = {name: inputs.nearest_tf32(getattr(data, name)) for name in ("x", "w")}
        data, exactly = data._replace(**rounded), problem.with_type("f32")
    for layout in ("nchw", "nhwc"):
        y, code = kernels.fprop(problem, *data[:3], layout=layout, device=device)
        checks.check_output(exactly, data, y, code, f"fprop {device} into {layout}", kind)


def check_wgrad(problem, kind, device):
    """The gradients of weight and bias, likewise."""
    data, exactly = inputs.make(problem, kind=kind), problem
    if problem.tf32:
        if problem.pool:  # several windows' gradients of a pixel are added up, then rounded
            data = data._replace(dy=inputs.make(problem, kind="integers").dy)
        rounded = {name: inputs.nearest_tf32(getattr(data, name)) for name in ("x", "dy")}
        data, exactly = data._replace(**rounded), problem.with_type("f32")
    code = kernels.make_code(problem, 0.4)
    expected = checks.expected_gradients(exactly, data, code)
    dw, dbias = kernels.wgrad(problem, data.x, data.dy, code, device=device)
    name = f"wgrad {device}"
    checks.check_gradients(exactly, expected, {"dw": dw, "dbias": dbias}, name, kind)
    for want in ({"want_weight": False}, {"want_bias": False}):
        found = kernels.wgrad(problem, data.x, data.dy, code, device=device, **want)
        for one, other in zip(found, (dw, dbias), strict=True):
            assert one is None or torch.equal(one, other)


@pytest.mark.parametrize("after", AFTER)
@pytest.mark.parametrize("device, name_of_type", kernels.TENSOR_CORE_TYPES, indirect=["device"])
@settings(max_examples=25)
@given(data=st.data())
def test_any_first_layer(after, data, device, name_of_type):
    problem = data.draw(first_layers(after)).with_type(name_of_type)
    for kind in ("normal", "integers"):
        check(problem, kind, device)


@pytest.mark.parametrize("after", AFTER)
@pytest.mark.parametrize("device, name_of_type", kernels.TENSOR_CORE_TYPES, indirect=["device"])
@settings(max_examples=25)
@given(data=st.data())
def test_any_first_layer_backward(after, data, device, name_of_type):
    problem = data.draw(first_layers(after)).with_type(name_of_type)
    for kind in ("normal", "integers"):
        check_wgrad(problem, kind, device)


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
@pytest.mark.parametrize("name_of_type", ["f16", "bf16"])
def test_not_finite_input(name_of_type, value, emulated_kernels):
    # Neither the padding taps nor the padding of a row reads it.
    problem = Problem.parse(f"mb1ic3ih13iw21oc9kh3kw3ph1pw1_{name_of_type}")
    data = inputs.make(problem)
    for place in ((0, 0, 5, 7), (0, 2, 12, 20)):
        data.x[place] = value
    y, _ = kernels.fprop(problem, *data[:3], device="emulated")
    checks.check_output(problem, data, y, None)


@pytest.mark.parametrize("after", AFTER)
def test_blocks_of_several_rectangles(after, emulated_kernels):
    checks.check("fprop", Problem.parse(f"mb3ic1ih2120iw64oc9kh1kw1{AFTER[after]}_f16"), "emulated")


def kernels_of(module, problem, direction="fprop"):
    """The names of the kernels that are launched, and their counters."""
    module.take_launches()
    module.take_counters()
    data, code = inputs.make(problem), kernels.make_code(problem, 0.4)
    options = {"device": "emulated", "layout": problem.layout}
    if direction == "fprop":
        kernels.fprop(problem, *data[:3], **options)
    else:
        kernels.wgrad(problem, data.x, data.dy, code, **options)
    names = {launch["kernel"] for launch in json.loads(module.take_launches())}
    return names, json.loads(module.take_counters())


SHAPES = {  # of which whole tiles can be made
    "5x5": "mb1ic3ih16iw48oc32kh5kw5ph2pw2",
    "7x7 stride 2": "mb1ic3ih32iw64oc64kh7kw7sh2sw2ph3pw3",
    "3x3": "mb2ic3ih32iw32oc32kh3kw3ph1pw1",
    "dilation 2": "mb1ic7ih32iw32oc128kh3kw3ph2pw2dh2dw2",
    "dilation 4, stride 3": "mb1ic2ih96iw96oc32kh4kw3ph6pw2dh4dw2sh3sw3",
    "1x1": "mb1ic1ih32iw32oc32kh1kw1",
}


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", ["f16", "tf32"])
@pytest.mark.parametrize("after", AFTER)
@pytest.mark.parametrize("name", SHAPES)
def test_kernel_and_its_bank_conflicts(name, after, dtype, layout, counted_kernels):
    problem = Problem.parse(f"{SHAPES[name]}{AFTER[after]}_{dtype}_{layout}")
    names, counters = kernels_of(counted_kernels, problem)
    assert all("conv2d_few_channels" in kernel for kernel in names), names
    lines = [line for line in counters if line["space"] == "shared"]
    assert sum(line["accesses"] for line in lines if "conv2d_few_channels" in line["line"]) > 200
    for line in lines:
        # Two rows of x in a warp's store, once an element; a few coordinates of write_tile.
        most = 2.5 if line["write"] and "conv2d_few_channels" in line["line"] else 1.04
        assert line["cost"] <= most * line["least"], line


@pytest.mark.parametrize(
    "text",
    [
        "mb1ic8ih9iw9oc32kh3kw3_f16",
        "mb1ic6ih9iw9oc32kh3kw3g2_f16",
        "mb1ic3ih9iw9oc8kh3kw3_f16",
        "mb1ic3ih9iw9oc32kh3kw3_f32",
        "mb1ic7ih16iw16oc64kh15kw15_tf32",  # filters do not fit
        "mb1ic1ih9iw16000oc32kh3kw3sw1000_f16",  # nor does x
        "mb1ic3ih40iw40oc32kh3kw3_pool17x14s9x9p0x0d1x1c0_tf32",  # nor 17 rows of 16 pixels
    ],
)
def test_others_have_the_general_kernel(text, counted_kernels):
    names, _ = kernels_of(counted_kernels, Problem.parse(text))
    assert not any("conv2d_few_channels" in kernel for kernel in names), names


def test_order_of_rectangles_does_not_matter(emulated_kernels):
    # A pixel's sums do not depend on its place in a rectangle.
    problem = Problem.parse("mb1ic3ih24iw40oc32kh5kw5_f16_nchw")
    x, w, bias, _ = inputs.make(problem)
    y, _ = kernels.fprop(problem, x, w, bias, device="emulated")
    part = problem.replace(h=19, w=33)
    y_part, _ = kernels.fprop(part, x[:, :, 5:, 7:].contiguous(), w, bias, device="emulated")
    assert torch.equal(y[:, :, 5:, 7:], y_part)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", ["f16", "tf32"])
@pytest.mark.parametrize("name", SHAPES)
def test_wgrad_s_kernel_and_its_bank_conflicts(name, dtype, layout, counted_kernels):
    problem = Problem.parse(f"{SHAPES[name]}_{dtype}_{layout}")
    names, counters = kernels_of(counted_kernels, problem, "wgrad")
    assert any("conv2d_few_channels_wgrad" in kernel for kernel in names), names
    lines = [line for line in counters if line["space"] == "shared" and not line["write"]]
    ours = [line for line in lines if "conv2d_few_channels_wgrad" in line["line"]]
    assert sum(line["accesses"] for line in ours) > 200
    for line in lines:
        if line["cost"] > 1.04 * line["least"]:  # only where the split's sums go, once, to memory
            path, number = line["line"].split(":")
            assert "place_of(from" in (ROOT / path).read_text().splitlines()[int(number) - 1], line
