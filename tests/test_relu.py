"""relu, bit for bit as torch's."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

import fastconv
from fastconv import functional
from fastconv.testing import DTYPES, LAYOUTS, inputs

pytestmark = [pytest.mark.quick, pytest.mark.usefixtures("one_thread")]

INF, NAN = float("inf"), float("nan")
SPECIAL = [NAN, INF, -INF, 0.0, -0.0, 1.0, -1.0, 5e-324, -5e-324, 1e-40, -1e-40, 3e38, -3e38]


def same_bits(a, b):
    """Equal in every bit; any NaN for a NaN."""
    assert a.dtype == b.dtype and a.shape == b.shape
    nan = b.isnan()
    as_int = torch.int32 if a.dtype == torch.float32 else torch.int64
    a, b = (t.detach().masked_fill(nan, 7.0).contiguous().view(as_int) for t in (a, b))
    return bool((a == b).all())


def check(x, dy=None):
    """Compares relu of x, forward and backward, with torch's."""
    found, expected = (x.detach().requires_grad_() for _ in range(2))
    y, y_torch = functional.relu(found), F.relu(expected)
    assert same_bits(y, y_torch)
    for size, ours, theirs in zip(x.shape, y.stride(), y_torch.stride(), strict=True):
        assert ours == theirs or size == 1 or not x.numel()
    assert same_bits(functional.relu(x.detach()), y_torch)
    dy = torch.randn(x.shape, dtype=x.dtype) if dy is None else dy
    y.backward(dy)
    y_torch.backward(dy)
    # torch gives dy where y > 0 or NaN, as we do, and 0 elsewhere; also for dy of inf and NaN.
    assert same_bits(found.grad, expected.grad)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 127, 1000, 70001])
def test_sizes(count, dtype):
    check(torch.randn(count, dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("value", SPECIAL)
def test_special_values(value, dtype):
    # At each place of a vector and of the tail behind it.
    for place in range(37):
        x = torch.randn(37, dtype=dtype)
        x[place] = value
        check(x)
        check(torch.randn(37, dtype=dtype), x)


def test_zero_dimensions():
    check(torch.tensor(-1.5))
    check(torch.tensor(2.5, dtype=torch.float64))


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
