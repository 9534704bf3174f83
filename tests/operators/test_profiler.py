"""Tests that fastconv's operations run no convolution, ReLU or max-pool of torch."""

import re

import pytest
import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

import fastconv
from fastconv import functional
from fastconv.testing import DTYPES

pytestmark = pytest.mark.usefixtures("one_thread")

FOREIGN = re.compile(
    r"aten::.*(conv|relu|threshold|clamp|max_pool|maximum|mkldnn|thnn|slow_conv|unfold|im2col|mm)"
)

X = (2, 3, 12, 10)
OPERATIONS = {
    "conv2d": lambda x, w, b: functional.conv2d(x, w, b, padding=1),
    "conv2d grouped": lambda x, w, b: functional.conv2d(x, w[:, :1], b, groups=3),
    "relu": lambda x, w, b: functional.relu(x),
    "relu in place": lambda x, w, b: functional.relu(x + 0, inplace=True),
    "max_pool2d": lambda x, w, b: functional.max_pool2d(x, 3, 2, 1),
    "indices": lambda x, w, b: functional.max_pool2d(x, 2, return_indices=True)[0],
    "conv2d_relu": lambda x, w, b: functional.conv2d_relu(x, w, b, stride=2),
    "block": lambda x, w, b: functional.conv2d_relu_max_pool2d(x, w, b, pool_kernel_size=2),
    "large window": lambda x, w, b: functional.conv2d_relu_max_pool2d(
        F.pad(x, (10, 10, 10, 10)), w, b, pool_kernel_size=16
    ),
}


def foreign_events(function):
    """Names of torch's own operations that ran, and of all."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        function()
    names = {event.name for event in profiler.events()}
    return sorted(filter(FOREIGN.search, names)), names


def forward_and_backward(function, leaves):
    y = function(*leaves)
    y.sum().backward()


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("name", OPERATIONS)
def test_functions(name, channels_last, dtype):
    x, w, b = torch.randn(X, dtype=dtype), torch.randn(6, 3, 3, 3, dtype=dtype), torch.randn(6)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    leaves = [t.to(dtype).requires_grad_() for t in (x, w, b)]
    found, names = foreign_events(lambda: forward_and_backward(OPERATIONS[name], leaves))
    assert "aten::sum" in names, "the profiler saw nothing"
    assert not found


def test_modules():
    model = torch.nn.Sequential(
        fastconv.Conv2d(3, 8, 3),
        fastconv.ReLU(),
        fastconv.MaxPool2d(2),
        fastconv.ConvReLU2d(8, 8, 3, padding=1),
        fastconv.ConvReLUMaxPool2d(8, 4, 3, padding="same", pool_kernel_size=3, pool_stride=2),
    )
    x = torch.randn(2, 3, 20, 20, requires_grad=True)
    assert not foreign_events(lambda: forward_and_backward(model, [x]))[0]
    with torch.no_grad():
        assert not foreign_events(lambda: model(x))[0]


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
@pytest.mark.parametrize("name", OPERATIONS)
def test_second_derivatives(name, dtype):
    leaves = [torch.randn(s).to(dtype).requires_grad_() for s in (X, (6, 3, 3, 3), (6,))]

    def twice():
        y = OPERATIONS[name](*leaves)
        first = torch.autograd.grad(y.square().sum(), leaves, create_graph=True, allow_unused=True)
        sum(grad.square().sum() for grad in first if grad is not None).backward()

    assert not foreign_events(twice)[0]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.conv2d(x, torch.ones(2, 3, 3, 3)),
        F.relu,
        lambda x: F.max_pool2d(x, 2),
    ],
)
def test_torch_would_be_seen(function):
    x = torch.randn(X, requires_grad=True)
    assert foreign_events(lambda: function(x).sum().backward())[0]
