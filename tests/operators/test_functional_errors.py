"""Tests wrong arguments: torch's error type, and one line with the expected and actual value."""

import numpy
import pytest
import torch
import torch.nn.functional as F

import fastconv
from fastconv import functional as fc

X, W, B = torch.randn(2, 4, 6, 5), torch.randn(4, 2, 3, 3), torch.randn(4)


def conv(x=X, w=W, b=B, **options):
    return (x, w, b), {"groups": 2, **options}


# Wrong calls, with a part of fastconv's message. Torch refuses all of these too.
CONVOLUTIONS = {
    "input is a list": (
        conv(x=[1.0]),
        r"input must be a Tensor, got list; torch\.as_tensor\(input\) makes one$",
    ),
    "input is an array": (conv(x=X.numpy()), r"got ndarray; torch\.as_tensor\(input\) makes one$"),
    "no input": (conv(x=None), "input must be a Tensor, got NoneType$"),
    "no weight": (conv(w=None), "weight must be a Tensor"),
    "bias is a number": (conv(b=1.0), "bias must be a Tensor, got float"),
    "2-D input": (
        conv(x=X[0, 0]),
        r"input must have shape \[N, C, H, W\] or \[C, H, W\], got \[6, 5\]; "
        r"input\.unsqueeze\(0\) adds a dimension$",
    ),
    "5-D input": (
        conv(x=X[None]),
        r"input must have shape .* got \[1, 2, 4, 6, 5\]; input\.flatten\(0, 1\) makes it 4-D$",
    ),
    "3-D weight": (
        conv(w=W[0]),
        r"weight must have shape \[K, C/groups, R, S\], got \[2, 3, 3\] for input \[2, 4, 6, 5\]",
    ),
    "other channels": (
        conv(groups=1),
        r"input has 4 channels, weight \[4, 2, 3, 3\] takes 2: "
        r"expected input \[N, 2, H, W\] or \[2, H, W\], got \[2, 4, 6, 5\]$",
    ),
    "other channels, one image": (
        conv(x=X[0, :3]),
        r"input has 3 channels, weight \[4, 2, 3, 3\] with groups=2 takes 4: .* got \[3, 6, 5\]$",
    ),
    "other channels, empty batch": (
        conv(x=X[:0, :2]),
        r"input has 2 channels, .* takes 4: .* got \[0, 2, 6, 5\]",
    ),
    "channels at the end": (
        conv(x=X.movedim(1, 3)),
        r"input has 6 channels, .* got \[2, 6, 5, 4\]; input\.movedim\(-1, -3\) puts the channels",
    ),
    "groups 0": (conv(groups=0), "groups must be positive, got 0"),
    "groups -1": (conv(groups=-1), "groups must be positive"),
    "groups 3": (conv(groups=3), r"input has 4 channels, weight .* with groups=3 takes 6"),
    "groups 2.0": (conv(groups=2.0), "groups must be an int, got 2.0"),
    "groups True": (conv(groups=True), "groups must be an int"),
    "groups (2,)": (conv(groups=(2,)), "groups must be an int"),
    "odd filters": (
        conv(w=W[:3], b=B[:3]),
        r"groups must divide the number of filters, got groups=2 and 3 filters, weight \[3, 2, ",
    ),
    "short bias": (
        conv(b=B[:3]),
        r"bias must have shape \[4\], a value for each filter of weight \[4, 2, 3, 3\], got \[3\]",
    ),
    "2-D bias": (conv(b=B[None]), "bias must have shape"),
    "0-D bias": (conv(b=B[0]), "bias must have shape"),
    "stride 0": (conv(stride=0), r"stride must be positive, got \(0, 0\)"),
    "stride -1": (conv(stride=(1, -1)), "stride must be positive"),
    "stride 1.5": (conv(stride=1.5), "stride must be an int or a tuple of two ints, got 1.5"),
    "stride True": (conv(stride=True), "stride must be an int"),
    "stride None": (conv(stride=None), "stride must be an int"),
    "stride '1'": (conv(stride="1"), "stride must be an int"),
    "three strides": (conv(stride=(1, 1, 1)), "stride must be a single int or a tuple of two"),
    "no strides": (conv(stride=()), "stride must be a single int"),
    "padding -1": (conv(padding=-1), "padding must be non-negative"),
    "padding 1.0": (conv(padding=(1, 1.0)), "padding must be an int"),
    "padding full": (conv(padding="full"), "padding must be 'valid', 'same' or ints, got 'full'"),
    "same with stride": (conv(padding="same", stride=(2, 1)), "'same' needs stride 1"),
    "four paddings": (conv(padding=(1, 1, 1, 1)), "padding must be a single int"),
    "huge padding": (conv(padding=2**40), "padding must be below"),
    "dilation 0": (conv(dilation=0), "dilation must be positive"),
    "dilation 1.0": (conv(dilation=1.0), "dilation must be an int"),
    "large kernel": (
        conv(w=torch.randn(4, 2, 9, 9)),
        r"input \[2, 4, 6, 5\] is too small: kernel 9x9 with dilation 1x1 covers 9x9, with "
        "padding it is 6x5; make the images or the padding larger, or the kernel smaller$",
    ),
    "large dilation": (
        conv(dilation=9, padding=(1, 2)),
        "kernel 3x3 with dilation 9x9 covers 19x19, with padding it is 8x9",
    ),
    "double weight": (
        conv(w=W.double()),
        r"input and weight must have the same dtype, got input torch\.float32 and weight "
        r"torch\.float64; input\.to\(torch\.float64\) converts it$",
    ),
    "double bias": (
        conv(b=B.double()),
        r"bias and input must have .* got bias torch\.float64 and input torch\.float32; bias\.to",
    ),
    "double input": (conv(x=X.double()), r"got input torch\.float64 and weight torch\.float32"),
    "half weight": (conv(w=W.half()), r"got input torch\.float32 and weight torch\.float16"),
    "integer input": (
        conv(x=X.long()),
        r"got input torch\.int64 and weight torch\.float32; input\.to\(torch\.float32\)",
    ),
    "bytes": (conv(x=X.to(torch.uint8)), r"got input torch\.uint8 and weight torch\.float32"),
    "integers": (conv(X.long(), W.long(), B), "got bias torch.float32 and input torch.int64"),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name):
    (tensors, options), message = CONVOLUTIONS[name]
    with pytest.raises((RuntimeError, TypeError)) as torchs:
        F.conv2d(*tensors, **options)
    for function, more in (
        (fc.conv2d, {}),
        (fc.conv2d_relu, {}),
        (fc.conv2d_relu_max_pool2d, {"pool_kernel_size": 2}),
    ):
        with pytest.raises(torchs.type, match=message) as ours:
            function(*tensors, **options, **more)
        assert ours.type is torchs.type
        if message:
            assert str(ours.value).startswith(f"{function.__name__}: ")
            assert "\n" not in str(ours.value)


def test_devices():
    # Torch takes these and gives a tensor without values.
    for wrong in (conv(w=W.to("meta")), conv(b=B.to("meta")), conv(x=X.to("meta"))):
        with pytest.raises(RuntimeError, match=r"must be on the same device, got \w+ on "):
            fc.conv2d(*wrong[0], **wrong[1])
    with pytest.raises(RuntimeError) as caught:
        fc.conv2d(X, W.to("meta"), groups=2)
    assert str(caught.value) == (
        "conv2d: input and weight must be on the same device, got input on cpu and weight on meta; "
        "input.to('meta') moves it"
    )


def pool(x=X, kernel_size=2, **options):
    return (x, kernel_size), options


POOLS = {
    "input is a list": (pool(x=[1.0]), "input must be a Tensor, got list"),
    "2-D input": (pool(x=X[0, 0]), "input must have shape"),
    "5-D input": (pool(x=X[None]), "input must have shape"),
    "window 0": (pool(kernel_size=0), "kernel_size must be positive"),
    "window -1": (pool(kernel_size=(2, -1)), "kernel_size must be positive"),
    "window 2.0": (pool(kernel_size=2.0), "kernel_size must be an int"),
    "window None": (pool(kernel_size=None), "kernel_size must be an int"),
    "window '2'": (pool(kernel_size="2"), "kernel_size must be an int"),
    "window True": (pool(kernel_size=True), "kernel_size must be an int"),
    "three windows": (pool(kernel_size=(1, 2, 3)), "kernel_size must be a single int"),
    "stride 0": (pool(stride=0), "stride must be positive"),
    "three strides": (pool(stride=(1, 1, 1)), "stride must be a single int"),
    "stride 1.0": (pool(stride=1.0), "stride must be an int"),
    "padding -1": (pool(padding=-1), "padding must be non-negative"),
    "large padding": (
        pool(padding=2),
        r"at most half of (pool_)?kernel_size, got (pool_)?padding \(2, 2\) and "
        r"(pool_)?kernel_size \(2, 2\)",
    ),
    "no padding": (pool(padding=()), "padding must be a single int"),
    "dilation 0": (pool(dilation=0), "dilation must be positive"),
    "large window": (
        pool(kernel_size=9),
        r"\[(2, )?4, 6, 5\] is too small: (pool_)?kernel_size 9x9 with dilation 1x1 covers 9x9, "
        "with padding it is 6x5; make the images or the padding larger",
    ),
    "large dilation": (pool(dilation=9, padding=1), "covers 10x10, with padding it is 8x7"),
    "ceil_mode 1": (pool(ceil_mode=1), "ceil_mode must be a bool, got 1"),
    "ceil_mode None": (pool(ceil_mode=None), "ceil_mode must be a bool"),
    "booleans": (pool(x=X > 0), ""),  # torch's to say
    "no channels": (pool(x=X[:, :0]), ""),
}


@pytest.mark.parametrize("name", POOLS)
def test_pools(name):
    ((x, kernel_size), options), message = POOLS[name]
    with pytest.raises((RuntimeError, TypeError)) as torchs:
        F.max_pool2d(x, kernel_size, **options)
    with pytest.raises(torchs.type, match=message) as ours:
        fc.max_pool2d(x, kernel_size, **options)
    assert ours.type is torchs.type
    if message:
        assert str(ours.value).startswith("max_pool2d: ") and "\n" not in str(ours.value)


@pytest.mark.parametrize("name", [name for name, (call, _) in POOLS.items() if call[0][0] is X])
def test_pools_of_fused_blocks(name):
    ((_, kernel_size), options), message = POOLS[name]
    options = {k if k == "ceil_mode" else f"pool_{k}": v for k, v in options.items()}
    identity = torch.eye(4).view(4, 4, 1, 1)
    with pytest.raises((RuntimeError, TypeError), match=message) as ours:
        fc.conv2d_relu_max_pool2d(X, identity, pool_kernel_size=kernel_size, **options)
    assert str(ours.value).startswith("conv2d_relu_max_pool2d: ")


def test_a_block_needs_a_pool():
    with pytest.raises(TypeError, match="pool_kernel_size"):
        fc.conv2d_relu_max_pool2d(X, W, B, groups=2)
    with pytest.raises(TypeError, match="pool_kernel_size must be given"):
        fastconv.ConvReLUMaxPool2d(3, 4, 3)


def test_layers_and_blocks_say_the_same():
    arguments = (3, 8, 3)
    for layer in (
        fastconv.Conv2d(*arguments),
        fastconv.ConvReLU2d(*arguments),
        fastconv.ConvReLUMaxPool2d(*arguments, pool_kernel_size=2),
        fastconv.convert(torch.nn.Conv2d(*arguments)),
        fastconv.convert(torch.nn.Sequential(torch.nn.Conv2d(*arguments), torch.nn.ReLU())),
    ):
        with pytest.raises(
            RuntimeError, match=r"input has 4 channels, weight \[8, 3, 3, 3\] takes 3"
        ):
            layer(X)
    with pytest.raises(RuntimeError, match=r"input \[2, 4, 6, 5\] is too small: kernel_size 7x7"):
        fastconv.MaxPool2d(7)(X)
    block = fastconv.ConvReLUMaxPool2d(4, 8, 3, pool_kernel_size=5)
    with pytest.raises(RuntimeError, match=r"the convolution's output \[8, 4, 3\] is too small"):
        block(X)


@pytest.mark.parametrize(
    "wrong", [None, [1.0], X > 0, X.to(torch.complex64)], ids=["None", "list", "bool", "complex"]
)
def test_relu(wrong):
    with pytest.raises((RuntimeError, TypeError)) as torchs:
        F.relu(wrong)
    with pytest.raises(torchs.type) as ours:
        fc.relu(wrong)
    if not isinstance(wrong, torch.Tensor):
        assert str(ours.value).startswith("relu: input must be a Tensor, got ")


@pytest.mark.parametrize(
    "value", [(2,), [2, 1], torch.Size((2, 2)), numpy.int64(2), torch.tensor(2)], ids=repr
)
def test_integers_of_many_kinds(value):
    assert torch.equal(fc.max_pool2d(X, value, stride=value), F.max_pool2d(X, value, stride=value))
    found = fc.conv2d(X, W, B, stride=value, padding=value, groups=2)
    assert found.shape == F.conv2d(X, W, B, stride=value, padding=value, groups=2).shape


def test_wrong_again():
    # Arguments are remembered once they were right: 1, 1.0 and True are equal.
    fc.conv2d(X, W, B, stride=1, groups=2)
    for stride in (1.0, True):
        with pytest.raises(TypeError):
            fc.conv2d(X, W, B, stride=stride, groups=2)


@pytest.mark.parametrize("precision", ["low", None, 1])
def test_precision(precision):
    before = fastconv.get_precision()
    with pytest.raises(ValueError, match="expected 'high' or 'highest'"):
        fastconv.set_precision(precision)
    assert fastconv.get_precision() == before
