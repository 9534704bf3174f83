"""Tests that torch's operators run for sizes and groups that no kernel takes."""

import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import fastconv
from fastconv import functional as fc


class Called(TorchDispatchMode):
    """Names of the operators that are called."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(str(function).removesuffix(".default"))
        return function(*args, **(kwargs or {}))


@pytest.fixture
def called(monkeypatch):
    """A function that calls another one with tensors without memory, and says which convolutions
    and pools were called. All GPUs are taken for ones that have kernels.
    """
    monkeypatch.setattr(fastconv.kernels, "usable", lambda device: True)

    def called(function, *sizes, device="cuda"):
        with FakeTensorMode(), Called() as calls:
            function(*(torch.empty(size, device=device) for size in sizes))
        return {name for name in calls.names if "conv" in name or "pool" in name}

    return called


def pooled(x, w, **arguments):
    return fc.conv2d_relu_max_pool2d(x, w, pool_kernel_size=2, **arguments)


CONVOLUTIONS = pytest.mark.parametrize("function", [fc.conv2d, fc.conv2d_relu, pooled])


def owner(names, what="conv"):
    """Whose convolutions these are, or pools."""
    [one] = {name.split(".")[0] for name in names if what in name.split(".")[1]}
    return one


@CONVOLUTIONS
@pytest.mark.parametrize(
    "x, w",
    [
        ((2, 1, 32768, 32768), (8, 1, 1, 1)),  # N * H * W
        ((2**15, 1, 16, 16), (8, 1, 2, 2)),  # N * P * Q, with padding
        ((1, 2**20, 65, 65), (1, 2**20, 64, 64)),  # R * S * C
        ((1, 2**16, 2, 2), (2**15, 2**16, 1, 1)),  # weights
        ((1, 1, 2, 2**30), (8, 1, 1, 1)),  # a size
    ],
    ids=str,
)
def test_counts_of_a_gpu_that_no_kernel_holds(function, x, w, called):
    padding = 128 if w[2] == 2 else 0
    names = called(lambda x, w: function(x, w, padding=padding), x, w)
    assert owner(names) == "aten"


@CONVOLUTIONS
def test_a_single_image_too_large(function, called):
    names = called(lambda x, w: function(x, w), (1, 2**16, 2**15), (8, 1, 1, 1))
    assert owner(names) == "aten"


@CONVOLUTIONS
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_more_elements_than_that_are_taken_where_the_counts_fit(function, device, called):
    x, w = (64, 64, 768, 768), (64, 64, 3, 3)
    assert torch.Size(x).numel() > 2**31
    names = called(lambda x, w: function(x, w), x, w, device=device)
    assert owner(names) == "fastconv"


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize(
    "x, window", [((1, 1, 2, 2**30), 2), ((1, 1, 2**16, 2**15), (2**16, 2**15))]
)
def test_pools_of_sizes_that_no_kernel_holds(x, window, device, called):
    names = called(lambda x: fc.max_pool2d(x, window), x, device=device)
    assert owner(names, "pool") == "aten"


@CONVOLUTIONS
@pytest.mark.parametrize(
    "groups, channels, filters",
    [(16, 1, 1), (16, 1, 2), (16, 1, 16), (4, 4, 4), (2, 7, 8), (2, 8, 7)],
)
def test_few_channels_in_a_group(function, groups, channels, filters, called):
    x, w = (2, groups * channels, 8, 8), (groups * filters, channels, 3, 3)

    def run(x, w):
        return function(x, w, groups=groups)

    assert owner(called(run, x, w)) == "aten"
    assert owner(called(run, x, w, device="cpu")) == "fastconv"


@CONVOLUTIONS
@pytest.mark.parametrize("groups, channels, filters", [(1, 1, 1), (1, 3, 4), (2, 8, 8), (4, 32, 8)])
def test_enough_channels_in_a_group(function, groups, channels, filters, called):
    x, w = (2, groups * channels, 8, 8), (groups * filters, channels, 3, 3)
    names = called(lambda x, w: function(x, w, groups=groups), x, w)
    assert owner(names) == "fastconv"


def test_a_converted_depthwise_network(called):
    model = nn.Sequential(
        nn.Conv2d(16, 16, 3, groups=16), nn.ReLU(), nn.Conv2d(16, 32, 1), nn.ReLU()
    )
    model = fastconv.convert(model)

    def run(x):
        weights = {
            name: torch.empty(p.shape, device="cuda") for name, p in model.named_parameters()
        }
        return torch.func.functional_call(model, weights, (x,))

    assert called(run, (2, 16, 8, 8)) == {"aten.convolution", "fastconv.conv2d_relu"}


def test_a_program_for_any_size_is_bound_to_none(called):
    with FakeTensorMode() as mode:
        x = torch.empty(2, 16, 8, 8, device="cuda")
        w = torch.empty(16, 16, 3, 3, device="cuda")

    class Block(nn.Module):
        def forward(self, x, w):
            return fc.conv2d_relu_max_pool2d(x, w, pool_kernel_size=2)

    n, h, width = (
        torch.export.Dim(name, min=least) for name, least in (("n", 2), ("h", 8), ("w", 8))
    )
    with mode:
        program = torch.export.export(
            Block(), (x, w), dynamic_shapes=({0: n, 2: h, 3: width}, None), strict=False
        )
    called = {str(node.target) for node in program.graph.nodes}
    assert any("fastconv.conv2d_relu_max_pool2d" in name for name in called)
    assert all(found.upper > 2**31 for found in program.range_constraints.values())
