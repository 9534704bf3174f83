"""Tests relu, bit for bit against torch."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

import fastconv
from fastconv import functional
from fastconv.testing import DTYPES, LAYOUTS, inputs, kernels

pytestmark = pytest.mark.usefixtures("one_thread")

INF, NAN = float("inf"), float("nan")
SPECIAL = [NAN, INF, -INF, 0.0, -0.0, 1.0, -1.0, 5e-324, -5e-324, 1e-40, -1e-40, 3e38, -3e38]
INTS = {8: torch.int64, 4: torch.int32, 2: torch.int16}


def same_bits(a, b):
    """Equal in every bit; any NaN for a NaN."""
    assert a.dtype == b.dtype and a.shape == b.shape
    nan = b.isnan()
    as_int = INTS[a.element_size()]
    a, b = (t.detach().masked_fill(nan, 7.0).contiguous().view(as_int) for t in (a, b))
    return bool((a == b).all())


def check(x, dy=None, device="cpu"):
    """Compares relu of x, forward and backward, with torch's."""
    expected = x.detach().requires_grad_()
    y_torch = F.relu(expected)
    dy = torch.randn(x.shape, dtype=x.dtype) if dy is None else dy
    # torch gives dy where y > 0 or NaN, as we do, and 0 elsewhere; also for dy of inf and NaN.
    y_torch.backward(dy)
    if device != "cpu":
        check_kernels(x, dy, y_torch, expected.grad, device)
    if device == "emulated":  # torch has no such device
        return
    found = x.detach().to(device).requires_grad_()
    y = functional.relu(found)
    assert same_bits(y.cpu(), y_torch)
    for size, ours, theirs in zip(x.shape, y.stride(), y_torch.stride(), strict=True):
        assert ours == theirs or size == 1 or not x.numel()
    assert same_bits(functional.relu(found.detach()).cpu(), y_torch)
    y.backward(dy.to(device))
    assert same_bits(found.grad.cpu(), expected.grad)


def check_kernels(x, dy, y, dx, device):
    """The same without torch's memory and autograd, in buffers of both kinds of alignment."""
    x, dy, y, dx = (t.detach().flatten() for t in (x, dy, y, dx))
    for aligned in (True, False):
        found, mask = kernels.relu_fprop(x, device=device, aligned=aligned)
        assert same_bits(found, y)
        assert same_bits(kernels.relu_fprop(x, False, device, aligned)[0], y)
        assert same_bits(kernels.relu_bprop(dy, mask, device, aligned), dx)


everywhere = pytest.mark.parametrize(
    "device, dtype", kernels.DEVICES_AND_DTYPES, indirect=["device"], ids=str
)


@everywhere
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 127, 1000, 70001])
def test_sizes(count, device, dtype):
    check(torch.randn(count, dtype=dtype), device=device)


@everywhere
@pytest.mark.parametrize("value", SPECIAL)
def test_special_values(value, device, dtype):
    # Many places at once, since the emulator is slow.
    value = torch.tensor(value, dtype=torch.float64).to(dtype)  # perhaps inf there
    x = torch.randn(37, 37, dtype=dtype)
    x.diagonal().copy_(value)
    check(x, device=device)
    check(torch.randn(37, 37, dtype=dtype), x, device)
    if device == "emulated":
        return
    # At each place of a vector and of the tail behind it.
    for place in range(37):
        x = torch.randn(37, dtype=dtype)
        x[place] = value
        check(x, device=device)
        check(torch.randn(37, dtype=dtype), x, device)


def test_zero_dimensions(device):
    check(torch.tensor(-1.5), device=device)
    check(torch.tensor(2.5, dtype=torch.float64), device=device)


@given(
    size=st.lists(st.integers(0, 7), min_size=4, max_size=4),
    layout=st.sampled_from(LAYOUTS),
    dy_layout=st.sampled_from(LAYOUTS),
    dtype=st.sampled_from(list(DTYPES.values())),
)
def test_layouts(size, layout, dy_layout, dtype):
    x, dy = (torch.randn(size, dtype=dtype) for _ in range(2))
    check(inputs.place(x, layout), inputs.place(dy, dy_layout))


def test_expanded():
    check(torch.randn(3, 1, 4).expand(3, 5, 4), torch.randn(1).expand(3, 5, 4))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_in_place(layout):
    values = torch.randn(2, 3, 5, 7)
    x = inputs.place(values, layout)
    y = functional.relu(x, inplace=True)
    assert y is x and same_bits(x, F.relu(values))
    assert layout == "sliced" or inputs.intact(x)


def test_in_place_gradient():
    a, b = (torch.arange(-10.0, 11).requires_grad_() for _ in range(2))
    functional.relu(a * 2, inplace=True).sum().backward()
    F.relu(b * 2).sum().backward()
    assert torch.equal(a.grad, b.grad)
    with pytest.raises(RuntimeError, match="leaf"):
        functional.relu(a, inplace=True)


def test_module():
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(fastconv.ReLU()(x), F.relu(x))
    assert fastconv.ReLU(inplace=True)(x) is x


def test_gradcheck():
    x = torch.linspace(-2, 2, 24, dtype=torch.float64).view(2, 3, 4, 1).requires_grad_()
    assert torch.autograd.gradcheck(functional.relu, x)
    assert torch.autograd.gradgradcheck(functional.relu, x)


def test_integers_have_no_kernel():
    x = torch.arange(-10, 10, dtype=torch.int32)
    assert torch.equal(functional.relu(x), F.relu(x))
    with pytest.raises(ValueError, match=r"must be float32, .* or bfloat16, got int32"):
        kernels.relu_fprop(x)
