"""Tests float32 convolutions on tensor cores: when TF32 is allowed, and its operands."""

import pytest
import torch

import fastconv
from fastconv import precision
from fastconv.testing import Problem, checks, inputs, kernels

DEVICES = [device for device in kernels.DEVICES if device != "cpu"]


@pytest.fixture
def flags_as_before():
    before = torch.backends.cudnn.conv.fp32_precision, fastconv.get_precision()
    yield
    torch.backends.cudnn.conv.fp32_precision = before[0]
    fastconv.set_precision(before[1])


def test_allowed_where_torch_s_flag_does_and_never_at_highest(flags_as_before):
    torch.backends.cudnn.conv.fp32_precision = "tf32"
    assert precision.tf32()
    fastconv.set_precision("highest")
    assert not precision.tf32()
    fastconv.set_precision("high")
    torch.backends.cudnn.conv.fp32_precision = "ieee"
    assert not precision.tf32()


@pytest.mark.parametrize("device", DEVICES, indirect=True)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("direction", ["fprop", "dgrad", "wgrad"])
def test_operands_are_rounded_to_the_nearest(direction, layout, device):
    problem = Problem.parse(f"mb2ic12ih7iw9oc20kh3kw3ph1pw1_nobias_tf32_{layout}")
    data, exactly = inputs.make(problem), problem.with_type("f32")
    how = {"implementation": "mma128x32", "device": device}
    rounded = {name: inputs.nearest_tf32(getattr(data, name)) for name in ("x", "w", "dy")}
    used = data._replace(**rounded)
    if direction == "fprop":
        y, _ = kernels.fprop(problem, data.x, data.w, None, **how)
        checks.check_output(exactly, used, y, None)
        return
    expected = checks.expected_gradients(exactly, used, None)
    if direction == "dgrad":
        found = {"dx": kernels.dgrad(problem, data.dy, None, data.w, **how)}
    else:
        dw, dbias = kernels.wgrad(problem, data.x, data.dy, None, **how)
        found = {"dw": dw, "dbias": dbias}
    checks.check_gradients(exactly, expected, found)
