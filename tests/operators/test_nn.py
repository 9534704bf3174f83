"""Tests that the layers behave like torch.nn's."""

import copy
import inspect
import pickle

import pytest
import torch
import torch.nn.functional as F

import fastconv
from fastconv.testing import errors

ARGUMENTS = {
    "Conv2d": [
        dict(in_channels=4, out_channels=6, kernel_size=3),
        dict(in_channels=4, out_channels=6, kernel_size=(3, 2), stride=2, padding=1, bias=False),
        dict(in_channels=4, out_channels=6, kernel_size=3, padding="same", dilation=(1, 2)),
        dict(in_channels=4, out_channels=6, kernel_size=2, padding="same", groups=2),
        dict(in_channels=4, out_channels=6, kernel_size=3, padding=1, padding_mode="reflect"),
        dict(in_channels=4, out_channels=6, kernel_size=2, padding="same", padding_mode="circular"),
        dict(in_channels=4, out_channels=6, kernel_size=3, dtype=torch.float64),
    ],
    "ReLU": [dict(), dict(inplace=True)],
    "MaxPool2d": [
        dict(kernel_size=2),
        dict(kernel_size=(3, 2), stride=1, padding=1, ceil_mode=True),
        dict(kernel_size=3, stride=2, dilation=2),
        dict(kernel_size=2, return_indices=True),
    ],
}
CASES = [(name, i) for name, cases in ARGUMENTS.items() for i in range(len(cases))]
BLOCKS = {
    "ConvReLU2d": dict(padding=1),
    "ConvReLUMaxPool2d": dict(padding=1, pool_kernel_size=3, pool_stride=2, ceil_mode=True),
}


FORMATS = [torch.contiguous_format, torch.channels_last]


def pair(name, i):
    """fastconv's layer and torch's with the same weights."""
    torch.manual_seed(0)
    arguments = ARGUMENTS[name][i]
    ours, theirs = getattr(fastconv, name)(**arguments), getattr(torch.nn, name)(**arguments)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


def block(name):
    torch.manual_seed(0)
    return getattr(fastconv, name)(4, 6, 3, **BLOCKS[name])


def test_names():
    for name in (*ARGUMENTS, *BLOCKS):
        assert getattr(fastconv, name) is getattr(fastconv.nn, name)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_same_constructor(name):
    ours, theirs = getattr(fastconv.nn, name), getattr(torch.nn, name)
    assert issubclass(ours, theirs)
    assert inspect.signature(ours) == inspect.signature(theirs)


def test_blocks_take_a_convolutions_arguments_then_a_pools():
    conv = list(inspect.signature(torch.nn.Conv2d).parameters)
    pool = ["pool_kernel_size", "pool_stride", "pool_padding", "pool_dilation", "ceil_mode"]
    assert list(inspect.signature(fastconv.ConvReLU2d).parameters) == conv
    assert list(inspect.signature(fastconv.ConvReLUMaxPool2d).parameters) == conv + pool
    functional = list(inspect.signature(fastconv.conv2d_relu_max_pool2d).parameters)
    assert functional == [*inspect.signature(fastconv.conv2d).parameters, *pool]


@pytest.mark.parametrize("name, i", CASES)
def test_same_state_and_text(name, i):
    ours, theirs = pair(name, i)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert repr(ours) == repr(theirs)
    ours.load_state_dict(theirs.state_dict())
    # the seed gives the same weights
    torch.manual_seed(0)
    again = getattr(torch.nn, name)(**ARGUMENTS[name][i])
    for a, b in zip(ours.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name, i", CASES)
@pytest.mark.parametrize("size", [(2, 4, 9, 8), (4, 9, 8)], ids=str)
def test_same_results(name, i, size):
    ours, theirs = pair(name, i)
    x = torch.randn(size, generator=torch.Generator().manual_seed(1))
    if ARGUMENTS[name][i].get("dtype") is not None:
        x = x.to(ARGUMENTS[name][i]["dtype"])
    if ARGUMENTS[name][i].get("return_indices"):
        for a, b in zip(ours(x.clone()), theirs(x.clone()), strict=True):
            assert torch.equal(a, b)
        return
    if name != "Conv2d":
        assert torch.equal(ours(x.clone()), theirs(x.clone()))
        return
    found, own = step(ours, x), step(theirs, x)
    exact, size = step(copy.deepcopy(theirs).double(), x.double()), magnitude(theirs, x)
    for a, b, c, scale in zip(found, exact, own, size, strict=True):
        errors.check_close(a, b, c, scale, factor=errors.GRADIENT, name=f"{name} {i}")


def step(model, x):
    """The output, and the gradients of its sum of squares."""
    y = model(x)
    return [y.detach(), *torch.autograd.grad(y.square().sum(), list(model.parameters()))]


def magnitude(model, x):
    """The largest sum of absolute values in each of the step's results."""
    model = copy.deepcopy(model).double()
    with torch.no_grad():
        for p in model.parameters():
            p.abs_()
    return [t.max().item() for t in step(model, x.double().abs())]


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks(name):
    fused = block(name)
    assert isinstance(fused, fastconv.Conv2d)
    conv = torch.nn.Conv2d(4, 6, 3, padding=1)
    assert list(fused.state_dict()) == list(conv.state_dict())
    conv.load_state_dict(fused.state_dict())
    layers = [conv, torch.nn.ReLU()]
    if "Pool" in name:
        layers.append(torch.nn.MaxPool2d(3, 2, ceil_mode=True))
    torchs = torch.nn.Sequential(*layers)
    x = torch.randn(2, 4, 9, 8, generator=torch.Generator().manual_seed(1))
    exact = step(copy.deepcopy(torchs).double(), x.double())
    for results in zip(step(fused, x), exact, step(torchs, x), magnitude(torchs, x), strict=True):
        errors.check_close(*results, factor=errors.GRADIENT, name=name)


def test_texts_of_blocks():
    assert repr(block("ConvReLU2d")).startswith("ConvReLU2d(4, 6, kernel_size=(3, 3), stride=")
    text = repr(block("ConvReLUMaxPool2d"))
    assert "padding=(1, 1), pool_kernel_size=3, pool_stride=2, ceil_mode=True)" in text
    every = fastconv.ConvReLUMaxPool2d(
        1, 2, 3, pool_kernel_size=(4, 2), pool_padding=(2, 1), pool_dilation=2
    )
    assert "pool_kernel_size=(4, 2), pool_stride=(4, 2), pool_padding=(2, 1)" in repr(every)
    assert repr(every).endswith("pool_dilation=2)")


@pytest.mark.parametrize("padding_mode", ["reflect", "replicate", "circular"])
def test_padding_modes_of_blocks(padding_mode):
    fused = fastconv.ConvReLUMaxPool2d(
        3, 4, 3, padding=(1, 2), padding_mode=padding_mode, pool_kernel_size=2, dtype=torch.float64
    )
    x = torch.randn(2, 3, 8, 7, dtype=torch.float64)
    padded = F.pad(x, (2, 2, 1, 1), mode=padding_mode)
    expected = F.max_pool2d(F.conv2d(padded, fused.weight, fused.bias).relu(), 2)
    torch.testing.assert_close(fused(x), expected)


def copies(model):
    yield copy.deepcopy(model)
    yield copy.copy(model)
    yield pickle.loads(pickle.dumps(model))


@pytest.mark.parametrize("name, i", CASES)
def test_copies(name, i):
    ours, _ = pair(name, i)
    dtype = ARGUMENTS[name][i].get("dtype", torch.float32)
    x = torch.randn(2, 4, 9, 8, dtype=dtype)
    for other in copies(ours):
        assert type(other) is type(ours)
        found, expected = other(x.clone()), ours(x.clone())
        for a, b in zip(found, expected, strict=True):  # of a tensor or a pair
            assert torch.equal(a, b)


@pytest.mark.parametrize("name", BLOCKS)
def test_copies_of_blocks(name):
    fused, x = block(name), torch.randn(2, 4, 9, 8)
    for other in copies(fused):
        assert repr(other) == repr(fused) and torch.equal(other(x), fused(x))


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_move_like_any_layer(name):
    fused, x = block(name), torch.randn(2, 4, 9, 8)
    assert fused.double()(x.double()).dtype == torch.float64
    assert fused.bfloat16()(x.bfloat16()).dtype == torch.bfloat16
    assert fused.to("meta")(x.bfloat16().to("meta")).is_meta
    fused.to_empty(device="cpu").float().reset_parameters()
    fused.to(memory_format=torch.channels_last)
    assert fused(x).is_contiguous(memory_format=torch.channels_last)
    assert torch.nn.utils.skip_init(type(fused), 4, 6, 3, **BLOCKS[name])(x).shape == fused(x).shape


class Net(torch.nn.Module):
    """A network of the layers of one module."""

    def __init__(self, nn):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, bias=False)
        self.relu, self.pool = nn.ReLU(inplace=True), nn.MaxPool2d(2)
        self.last = torch.nn.Linear(8 * 3 * 3, 4)

    def forward(self, x):
        x = self.pool(self.relu(self.conv1(x)))
        return self.last(self.relu(self.conv2(x)).flatten(1))


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_training_steps_are_torchs(memory_format):
    torch.manual_seed(0)
    ours = Net(fastconv.nn)
    theirs, exact = Net(torch.nn), Net(torch.nn).double()
    theirs.load_state_dict(ours.state_dict())
    exact.load_state_dict(ours.state_dict())
    x, labels = torch.randn(8, 3, 10, 10), torch.arange(8) % 4
    trained = []
    for model in (ours, exact, theirs):
        dtype = next(model.parameters()).dtype
        data = x.to(dtype, memory_format=memory_format)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        for _ in range(3):
            optimizer.zero_grad()
            F.cross_entropy(model(data), labels).backward()
            optimizer.step()
        trained.append(model.state_dict())
    for name, found in trained[0].items():
        expected = trained[1][name]
        scale = expected.abs().max().item()
        errors.check_close(found, expected, trained[2][name], scale, factor=3, name=name)


@pytest.mark.parametrize("name", ["Conv2d", *BLOCKS])
@pytest.mark.parametrize("of_x", FORMATS, ids=str)
@pytest.mark.parametrize("of_weight", FORMATS, ids=str)
def test_gradients_have_the_weights_format(name, of_x, of_weight):
    x = torch.randn(2, 4, 8, 8).contiguous(memory_format=of_x)
    ours = block(name) if name in BLOCKS else fastconv.Conv2d(4, 6, 3)
    theirs = torch.nn.Conv2d(4, 6, 3)
    for layer in (ours, theirs):
        layer.to(memory_format=of_weight)
        layer(x).sum().backward()
    assert ours.weight.grad.stride() == theirs.weight.grad.stride() == ours.weight.stride()
    # By itself torch's gradient is channels_last where the input is; `weight.grad` is a copy then.
    (found,) = torch.autograd.grad(ours(x).sum(), ours.weight)
    (expected,) = torch.autograd.grad(theirs(x).sum(), theirs.weight)
    assert found.stride() == ours.weight.stride()
    assert (expected.stride() == found.stride()) == (of_x in (of_weight, torch.contiguous_format))
