"""Tests exported and compiled programs for any batch size, height and width.

No size of the examples is 0 or 1, since compilers take such a size for a constant.
"""

import pytest
import torch
from torch import nn
from torch.export import Dim

import fastconv

LAYERS = {
    "conv2d": lambda: fastconv.Conv2d(3, 4, 3),
    "conv2d strided": lambda: fastconv.Conv2d(3, 4, 3, 2, 1, bias=False),
    "conv2d_relu": lambda: fastconv.ConvReLU2d(3, 4, 3),
    "conv2d_relu same": lambda: fastconv.ConvReLU2d(3, 6, 3, padding="same", groups=3),
    "conv2d_relu strided": lambda: fastconv.ConvReLU2d(3, 4, 3, 2, 1),
    "conv2d_relu to one channel": lambda: fastconv.ConvReLU2d(3, 1, 3),
    "block": lambda: fastconv.ConvReLUMaxPool2d(3, 4, 3, pool_kernel_size=2),
    "block ceil_mode": lambda: fastconv.ConvReLUMaxPool2d(
        3, 4, 3, padding=1, pool_kernel_size=3, pool_stride=2, ceil_mode=True
    ),
    "block of large windows": lambda: fastconv.ConvReLUMaxPool2d(
        3, 4, 3, padding=9, pool_kernel_size=(16, 17), pool_stride=1
    ),
    "relu": lambda: fastconv.ReLU(),
    "max_pool2d": lambda: fastconv.MaxPool2d(2),
    "max_pool2d ceil_mode": lambda: fastconv.MaxPool2d(3, 2, 1, ceil_mode=True),
    "max_pool2d dilated": lambda: fastconv.MaxPool2d(2, 1, 1, 2),
    "all in a row": lambda: nn.Sequential(
        fastconv.ConvReLU2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        fastconv.ReLU(),
        fastconv.ConvReLUMaxPool2d(4, 4, 3, pool_kernel_size=2),
        fastconv.ConvReLU2d(4, 2, 3, padding="same"),
        nn.AdaptiveAvgPool2d(1),
    ),
}
layers = pytest.mark.parametrize("name", LAYERS)
SIZES = ((2, 9, 10), (5, 9, 33), (3, 31, 10), (7, 40, 17))


def X(n, h, w):
    generator = torch.Generator().manual_seed(n)
    return torch.randn(n, 3, h, w, generator=generator, dtype=torch.float64)


def layer(name):
    torch.manual_seed(0)
    return LAYERS[name]().double()


def step(model, x):
    """The output, and the gradients of the input and of all parameters."""
    x = x.clone().requires_grad_()
    y = model(x)
    return [y.detach(), *torch.autograd.grad(y.square().sum(), (x, *model.parameters()))]


def assert_same(found, expected):
    torch.testing.assert_close(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "strict"), [("train", False), ("train", True), ("eval", False), ("inference", True)]
)
@layers
def test_export(name, mode, strict):
    torch._dynamo.reset()
    model = layer(name).train(mode == "train").requires_grad_(mode != "inference")
    dims = {i: Dim.DYNAMIC for i in (0, 2, 3)}
    program = torch.export.export(model, (X(2, 9, 9),), dynamic_shapes=(dims,), strict=strict)
    exported = program.module()
    for size in SIZES:
        assert_same(exported(X(*size)), model(X(*size)))
        if mode != "inference":
            assert_same(step(exported, X(*size)), step(model, X(*size)))


@pytest.mark.parametrize("dim", [2, 3])
# torch's own max_pool2d, which a lone pool is when compiled, asks something with ceil_mode.
@pytest.mark.parametrize("name", [name for name in LAYERS if name != "max_pool2d ceil_mode"])
def test_export_of_a_range(name, dim):
    # Nothing may be asked about the size whose answer is not the same in all of the range.
    model = layer(name).eval()
    dims = {dim: Dim("size", min=9, max=500)}
    exported = torch.export.export(model, (X(2, 9, 9),), dynamic_shapes=(dims,)).module()
    for size in (9, 10, 17, 66):
        x = X(2, size, 9) if dim == 2 else X(2, 9, size)
        assert_same(exported(x), model(x))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_export_of_any_width(memory_format):
    model = fastconv.ConvReLU2d(3, 4, 3, padding=1).double()
    x = X(2, 6, 6).contiguous(memory_format=memory_format)
    exported = torch.export.export(model, (x,), dynamic_shapes=({3: Dim("width")},)).module()
    for width in (2, 6, 8, 9, 40):
        x = X(2, 6, width).contiguous(memory_format=memory_format)
        assert_same(step(exported, x), step(model, x))


@pytest.mark.parametrize("name", ["conv2d", "conv2d_relu", "block", "max_pool2d"])
def test_export_of_single_images(name):
    model = layer(name)
    dims = {1: Dim.DYNAMIC, 2: Dim.DYNAMIC}
    exported = torch.export.export(model, (X(1, 9, 9)[0],), dynamic_shapes=(dims,)).module()
    for size in SIZES:
        assert_same(step(exported, X(*size)[0]), step(model, X(*size)[0]))


@pytest.mark.slow
@layers
def test_compile_once(name):
    torch._dynamo.reset()
    model, graphs = layer(name), []

    def count(graph, inputs):
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    compiled = torch.compile(model, fullgraph=True, backend=count)
    for size in SIZES:
        x = X(*size)
        for dim in (0, 2, 3):
            torch._dynamo.mark_dynamic(x, dim)  # an error where one is taken for a constant
        given = (x.requires_grad_(), *model.parameters())
        found = torch.autograd.grad(compiled(x).square().sum(), given)
        assert_same(found, torch.autograd.grad(model(x).square().sum(), given))
    assert len(graphs) == 1
    torch._dynamo.reset()
