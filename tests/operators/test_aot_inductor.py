"""Tests that programs of AOTInductor, packaged, loaded and run, give the model's numbers."""

import pytest
import torch
from torch import nn

import fastconv
from fastconv import functional as fc

pytestmark = pytest.mark.slow


class Everything(nn.Module):
    """Every layer and function, the blocks with and without a pool and a bias."""

    def __init__(self):
        super().__init__()
        self.conv = fastconv.Conv2d(3, 4, 3, padding=1, bias=False)
        self.conv_relu = fastconv.ConvReLU2d(4, 4, 3, padding="same", groups=2)
        self.without_bias = fastconv.ConvReLU2d(4, 6, 3, stride=2, padding=1, bias=False)
        self.block = fastconv.ConvReLUMaxPool2d(
            6, 8, 3, padding=1, pool_kernel_size=3, pool_stride=2, ceil_mode=True
        )
        self.relu, self.pool = fastconv.ReLU(), fastconv.MaxPool2d(2, 1)

    def forward(self, x):
        y = self.block(self.without_bias(self.conv_relu(self.conv(x))))
        y = self.pool(self.relu(y - 0.1))
        return fc.conv2d_relu_max_pool2d(y, self.block.weight[:, :1], groups=8, pool_kernel_size=1)


def packaged(program, folder):
    """The program from AOTInductor's loader."""
    path = torch._inductor.aoti_compile_and_package(program, package_path=str(folder / "net.pt2"))
    return torch._inductor.aoti_load_package(path)


def X(n, h=28, w=26):
    return torch.randn(n, 3, h, w, generator=torch.Generator().manual_seed(n))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_inference(tmp_path, memory_format):
    model, x = Everything().eval(), X(2).contiguous(memory_format=memory_format)
    with torch.no_grad():
        run = packaged(torch.export.export(model, (x,)), tmp_path)
        torch.testing.assert_close(run(x), model(x))


@pytest.mark.parametrize("gradients", [False, True])
def test_any_size(tmp_path, gradients):
    # A program made with gradients keeps codes that nobody reads.
    model = Everything().eval().requires_grad_(gradients)
    dims = {0: torch.export.Dim("n", min=1, max=64), 2: torch.export.Dim.DYNAMIC}
    with torch.set_grad_enabled(gradients):
        program = torch.export.export(model, (X(2),), dynamic_shapes=(dims,))
    run = packaged(program, tmp_path)
    for n, h in ((2, 28), (5, 28), (1, 41)):
        torch.testing.assert_close(run(X(n, h)), model(X(n, h)).detach())


def test_gradients(tmp_path):
    # The backward operators, as a program that computes gradients has them.
    from torch.fx.experimental.proxy_tensor import make_fx

    model = Everything()

    def step(x):
        loss = fc.relu(model(x).square().sum())  # of a tensor without dimensions
        return torch.autograd.grad(loss, (x, *model.parameters()))

    x = X(2)
    graph = make_fx(step)(x.requires_grad_())
    names = {str(node.target) for node in graph.graph.nodes}
    assert {"fastconv.conv2d_relu_dgrad.default", "fastconv.conv2d_relu_wgrad.default"} <= names
    expected = step(x)
    with torch.no_grad():
        run = packaged(torch.export.export(graph, (x.detach(),)), tmp_path)
        torch.testing.assert_close(run(x.detach()), expected)
