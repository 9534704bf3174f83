"""Tests that sizes, memory formats and indices are torch's for all valid arguments."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch.func import jvp

from fastconv import functional as fc
from fastconv import geometry
from fastconv.testing import DTYPES

channels_last = torch.channels_last

sizes = st.integers(1, 4)


@st.composite
def strided(draw, size):
    """A tensor of any strides that torch's own operations could give it."""
    order = draw(st.permutations(range(len(size))))
    steps = [draw(st.sampled_from((1, 1, 1, 2))) for _ in size]
    base = torch.randn([size[d] * step for d, step in zip(order, steps, strict=True)])
    base = base[tuple(slice(None, None, step) for step in steps)]
    return base.permute([order.index(d) for d in range(len(size))])


@given(data=st.data(), n=sizes, c=sizes, h=sizes, w=sizes, k=sizes, r=st.integers(1, 2))
def test_memory_formats_are_torchs(data, n, c, h, w, k, r):
    x = data.draw(strided((n, c, h + 1, w + 1))).requires_grad_()
    weight = data.draw(strided((k, c, r, r))).requires_grad_()
    pairs = {
        "conv2d": (fc.conv2d(x, weight), F.conv2d(x, weight)),
        "relu": (fc.relu(x), F.relu(x)),
        "max_pool2d": (fc.max_pool2d(x, 2), F.max_pool2d(x, 2)),
        "conv2d_relu": (fc.conv2d_relu(x, weight), F.relu(F.conv2d(x, weight))),
        "block": (
            fc.conv2d_relu_max_pool2d(x, weight, pool_kernel_size=1, pool_stride=2),
            F.max_pool2d(F.conv2d(x, weight).relu(), 1, 2),
        ),
    }
    for name, (found, expected) in pairs.items():
        assert same_format(found, expected), name
        (dx,) = torch.autograd.grad(found.sum(), x)
        (expected,) = torch.autograd.grad(expected.sum(), x)
        assert same_format(dx, expected) or not name.startswith("conv"), f"gradient of {name}"


@given(data=st.data(), n=sizes, c=sizes, h=sizes, w=sizes)
def test_what_counts_as_channels_last(data, n, c, h, w):
    x = data.draw(strided((n, c, h, w)))
    assert geometry.is_channels_last(x.shape, x.stride()) == (
        torch._prims_common.suggest_memory_format(x) == channels_last
    )


def same_format(a, b):
    """Equal strides wherever they matter."""
    return a.shape == b.shape and all(
        n == 1 or s == t for n, s, t in zip(a.shape, a.stride(), b.stride(), strict=True)
    )


@given(data=st.data())
def test_pooled_sizes_are_torchs(data):
    # On the meta device, where torch computes sizes and nothing else.
    window, dilation = (data.draw(st.integers(1, 5)) for _ in range(2))
    arguments = dict(
        kernel_size=(window, data.draw(st.integers(1, 3))),
        stride=data.draw(st.integers(1, 7)),
        padding=(data.draw(st.integers(0, window // 2)), 0),
        dilation=dilation,
        ceil_mode=data.draw(st.booleans()),
    )
    size = (2, 3, data.draw(st.integers(1, 20)), data.draw(st.integers(1, 20)))
    try:
        expected = F.max_pool2d(torch.empty(size, device="meta"), **arguments).shape
    except RuntimeError:
        with pytest.raises(RuntimeError):
            fc.max_pool2d(torch.empty(size), **arguments)
        return
    assert fc.max_pool2d(torch.empty(size), **arguments).shape == expected
    assert fc.max_pool2d(torch.empty(size, device="meta"), **arguments).shape == expected


@pytest.mark.parametrize("size", [(0, 3, 4, 4), (2, 0, 4, 4), (0, 4, 4)])
def test_empty_tensors_are_torchs(size):
    x = torch.empty(size, requires_grad=True)
    weight = torch.randn(5, size[-3], 3, 3)
    for found, expected in (
        (lambda: fc.relu(x), lambda: F.relu(x)),
        (lambda: fc.conv2d(x, weight), lambda: F.conv2d(x, weight)),
        (lambda: fc.max_pool2d(x, 2), lambda: F.max_pool2d(x, 2)),
        (
            lambda: fc.conv2d_relu_max_pool2d(x, weight, pool_kernel_size=2),
            lambda: F.max_pool2d(F.conv2d(x, weight).relu(), 2),
        ),
    ):
        try:
            y = expected()
        except RuntimeError:
            with pytest.raises(RuntimeError):
                found()
            continue
        assert found().shape == y.shape
        assert torch.autograd.grad(found().sum(), x)[0].shape == x.shape


@given(data=st.data())
def test_indices_are_torchs(data):
    window = data.draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    padding = tuple(data.draw(st.integers(0, n // 2)) for n in window)
    # Dilation steps over the input from the padding: torch must not see such windows.
    dilation = 1 if any(padding) else data.draw(st.integers(1, 2))
    arguments = dict(
        kernel_size=window,
        stride=data.draw(st.integers(1, 3)),
        padding=padding,
        dilation=dilation,
        ceil_mode=data.draw(st.booleans()),
        return_indices=True,
    )
    x = torch.randint(-2, 3, (2, 3, 8, 7), generator=torch.Generator().manual_seed(0)).float()
    if data.draw(st.booleans()):
        x = x.contiguous(memory_format=channels_last)
    x = data.draw(st.sampled_from((x, x[0], x[:, :1])))
    (y, indices), (expected, torchs) = fc.max_pool2d(x, **arguments), F.max_pool2d(x, **arguments)
    assert torch.equal(y, expected) and torch.equal(indices, torchs)
    assert indices.dtype == torch.int64 and indices.stride() == torchs.stride()
    unpooled = F.max_pool2d(x, window, return_indices=True)[1]
    assert torch.equal(fc.max_pool2d(x, window, return_indices=True)[1], unpooled)


def test_changed_indices_change_no_gradient():
    x = torch.randn(2, 3, 8, 7, requires_grad=True)
    y, indices = fc.max_pool2d(x, 2, return_indices=True)
    expected, torchs = F.max_pool2d(x, 2, return_indices=True)
    (dx,) = torch.autograd.grad(expected.sum(), x, retain_graph=True)
    for changed in (indices, torchs):
        changed.zero_()
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], dx)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(expected.sum(), x)


def test_windows_without_input_of_integers():
    # These have no kernel, and torch's sees no such window either.
    x = torch.ones(2, 3, 2, 5, dtype=torch.int32)
    arguments = dict(kernel_size=2, stride=1, padding=(1, 0), dilation=(3, 1))
    assert (fc.max_pool2d(x, **arguments) == torch.iinfo(x.dtype).min).all()
    with pytest.raises(RuntimeError, match="holds no input"):
        fc.max_pool2d(x, **arguments, return_indices=True)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
def test_windows_without_input(dtype):
    # Torch's backward pass would write outside of memory: it never sees one.
    x = torch.randn(2, 3, 2, 5).to(dtype).requires_grad_()
    arguments = dict(kernel_size=2, stride=1, padding=(1, 0), dilation=(3, 1))
    y = fc.max_pool2d(x, **arguments)
    assert y.shape == (2, 3, 1, 4) and (y == -torch.inf).all()
    assert not torch.autograd.grad(y.sum(), x)[0].any()
    y = fc.max_pool2d(x[0], **arguments)
    assert (y == -torch.inf).all()
    y, indices = fc.max_pool2d(x, **arguments, return_indices=True)
    assert (indices == -1).all()
    tangent = torch.ones_like(x)
    y, dy = jvp(lambda x: fc.max_pool2d(x, **arguments), (x.detach(),), (tangent,))
    assert (y == -torch.inf).all() and not dy.any()
    weight = torch.eye(3, dtype=dtype).view(3, 3, 1, 1)
    pool = {f"pool_{name}": value for name, value in arguments.items()}
    y = fc.conv2d_relu_max_pool2d(x, weight, **pool)
    assert (y == -torch.inf).all()
    assert not torch.autograd.grad(y.sum(), x)[0].any()
