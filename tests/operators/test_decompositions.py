"""Tests fastconv.decompositions(): the kernels' values and codes, in aten operators alone."""

import itertools

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad
from torch.fx.experimental.proxy_tensor import make_fx

import fastconv
from fastconv.operators.codes import from_nibbles
from fastconv.operators.decompositions import to_nibbles

ops = torch.ops.fastconv

# (stride, paddings, dilation, groups) as operators take them, for x [2, 4, 7, 9].
CONVS = {
    "3x3": ((6, 4, 3, 3), (1, 1, 1, 1, 1, 1, 1, 1, 1)),
    "strides and groups": ((6, 2, 3, 2), (2, 1, 0, 0, 1, 1, 1, 1, 2)),
    "even same": ((4, 4, 2, 4), (1, 1, 0, 1, 1, 2, 1, 1, 1)),
    "dilated depthwise": ((4, 1, 3, 2), (1, 2, 2, 2, 0, 0, 2, 3, 4)),
}
# For planes of 7 x 9.
POOLS = {
    "2x2": (2, 2, 2, 2, 0, 0, 1, 1, 0),
    "ceil": (3, 2, 2, 2, 1, 1, 1, 1, 1),
    "overlapping": (3, 3, 1, 2, 1, 0, 1, 1, 0),
    "dilated": (2, 3, 1, 1, 0, 0, 3, 2, 0),
    "dilated, padded": (3, 3, 2, 1, 1, 1, 2, 3, 1),
    "with empty windows": (2, 2, 1, 1, 1, 1, 8, 10, 0),
    "16x17": (16, 17, 1, 1, 8, 8, 1, 1, 0),
}
KINDS = ["normal", "integers", "nan", "-inf"]


def random(*size, kind="normal", seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, generator=generator, dtype=torch.float64)
    if kind == "integers":  # equal values: the first has to win
        return x.round()
    if kind == "normal":
        return x
    return x.masked_fill(torch.rand(size, generator=generator) < 0.4, float(kind))


def check(name, *args):
    """Compares the kernel's and the decomposition's results; codes have the same memory too."""
    op = getattr(ops, name).default
    decomposed = fastconv.decompositions()[op]
    expected, found = op(*args), decomposed(*args)
    if torch.is_tensor(expected):
        expected, found = (expected,), (found,)
    for theirs, ours in zip(expected, found, strict=True):
        assert ours.shape == theirs.shape and ours.dtype == theirs.dtype
        if theirs.is_floating_point():
            torch.testing.assert_close(ours, theirs, equal_nan=True)
        else:
            assert torch.equal(ours, theirs)
            steps = [
                [step for size, step in zip(t.shape, t.stride(), strict=True) if size > 1]
                for t in (ours, theirs)
            ]
            assert steps[0] == steps[1]


def test_every_operator_has_one():
    names = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith("fastconv:")}
    assert {op.name() for op in fastconv.decompositions()} == names


@pytest.mark.parametrize("save", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pool", POOLS)
def test_max_pool2d(pool, kind, channels_last, save):
    x = random(2, 3, 7, 9, kind=kind)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    check("max_pool2d", x, POOLS[pool], save)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "change",
    [
        lambda x: x,
        lambda x: x.contiguous(memory_format=torch.channels_last),
        lambda x: x.transpose(0, 2),
        lambda x: x[0, 0, 0],
        lambda x: x[:, :, ::2],
    ],
    ids=["plain", "channels_last", "transposed", "vector", "sliced"],
)
def test_relu(kind, change):
    x = change(random(2, 3, 5, 7, kind=kind))
    for save in (False, True):
        check("relu", x, save)
    y, mask = ops.relu(x, True)
    check("relu_backward", random(*x.shape), mask, y.stride())


@pytest.mark.parametrize("conv", CONVS)
def test_conv2d(conv):
    size, conv = CONVS[conv]
    x, w, b = random(2, 4, 7, 9), random(*size, seed=1), random(size[0], seed=2)
    for bias in (b, None):
        check("conv2d", x, w, bias, conv)
    dy = random(*ops.conv2d(x, w, b, conv).shape, seed=3)
    check("conv2d_dgrad", dy, w, (7, 9), False, conv)
    for wanted in itertools.product((False, True), repeat=2):
        check("conv2d_wgrad", x, dy, size, False, *wanted, conv)


@pytest.mark.parametrize("kind", ["normal", "integers"])
@pytest.mark.parametrize("conv", CONVS)
def test_conv2d_relu(conv, kind):
    size, conv = CONVS[conv]
    x, w = random(2, 4, 7, 9, kind=kind), random(*size, kind=kind, seed=1)
    block(x, w, random(size[0], kind=kind, seed=2), conv, ())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pool", [name for name in POOLS if name != "16x17"])
def test_conv2d_relu_max_pool2d(pool, kind):
    # One value of x for each of the convolution's, so that they are in the kinds' proportions.
    x, w = random(2, 2, 7, 9, kind=kind), torch.ones(2, 1, 1, 1, dtype=torch.float64)
    block(x, w, None, (1, 1, 0, 0, 0, 0, 1, 1, 2), POOLS[pool])


def block(x, w, bias, conv, pool):
    """A fused block forward and backward."""
    name = "conv2d_relu_max_pool2d" if pool else "conv2d_relu"
    # The operators of blocks without a pool may do without that argument.
    rest = {
        op: (pool,) if pool or any(a.name == "pool" for a in schema(op)) else ()
        for op in (name, "conv2d_relu_dgrad", "conv2d_relu_wgrad")
    }
    for save in (False, True):
        check(name, x, w, bias, conv, *rest[name], save)
    y, code = getattr(ops, name)(x, w, bias, conv, *rest[name], True)
    dy = random(*y.shape, seed=3)
    if not x.isfinite().all():
        x = random(*x.shape)
    check("conv2d_relu_dgrad", dy, w, code, x.shape[2:], False, conv, *rest["conv2d_relu_dgrad"])
    for wanted in itertools.product((False, True), repeat=2):
        arguments = (x, dy, code, w.shape, False, *wanted, conv)
        check("conv2d_relu_wgrad", *arguments, *rest["conv2d_relu_wgrad"])


def schema(name):
    return getattr(ops, name).default._schema.arguments


@pytest.mark.parametrize("pool", ["2x2", "dilated, padded"])
def test_max_pool2d_backward(pool):
    y, code = ops.max_pool2d(random(2, 3, 7, 9), POOLS[pool], True)
    check("max_pool2d_backward", random(*y.shape), code, (7, 9), False, POOLS[pool])


@pytest.mark.parametrize("filters, groups", [(6, 1), (6, 2), (5, 1), (9, 3)])
def test_codes_of_4_bits(filters, groups):
    generator = torch.Generator().manual_seed(0)
    code = torch.randint(10, (2, filters, 3, 4), generator=generator, dtype=torch.uint8)
    code[code == 9] = 255
    packed = to_nibbles(code, groups)
    assert packed.shape[1] == (filters // groups + 1) // 2 * groups
    assert torch.equal(from_nibbles(packed, filters, groups), code)


# Whole graphs


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = fastconv.Conv2d(3, 4, (3, 4), padding="same")
        self.conv_relu = fastconv.ConvReLU2d(4, 6, 3, stride=2, groups=2, bias=False)
        self.block = fastconv.ConvReLUMaxPool2d(
            6, 5, 3, padding=2, pool_kernel_size=3, pool_stride=2, pool_padding=1, pool_dilation=2
        )
        self.relu, self.pool = fastconv.ReLU(), fastconv.MaxPool2d(2, 1, 0, 2)

    def forward(self, x):
        return self.pool(self.relu(self.block(self.conv_relu(self.conv(x))) - 0.1))


def net_and_input():
    torch.manual_seed(0)
    return Net().double(), random(2, 3, 20, 22)


def targets(graph):
    return {str(node.target) for node in graph.nodes if node.op == "call_function"}


def fastconvs(names):
    return {name for name in names if "fastconv" in name}


def step(model, x):
    y = model(x)
    return [y.detach(), *torch.autograd.grad(y.square().sum(), list(model.parameters()))]


@pytest.mark.slow
@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("dynamic", [None, ["batch"], ["batch", "height and width"]])
def test_exported_programs(dynamic, gradients, tmp_path):
    model, x = net_and_input()
    anything = torch.export.Dim.DYNAMIC
    shapes, other = None, x
    if dynamic:
        shapes = ({0: anything, **({2: anything, 3: anything} if len(dynamic) > 1 else {})},)
        other = random(3, 3, *((31, 40) if len(dynamic) > 1 else (20, 22)), seed=1)
    with torch.set_grad_enabled(gradients):
        program = torch.export.export(model, (x,), dynamic_shapes=shapes)
    assert fastconvs(targets(program.graph))
    aten = program.run_decompositions(fastconv.decompositions())
    core = aten.run_decompositions()
    for decomposed, convolution in ((aten, "aten.conv2d"), (core, "aten.convolution")):
        names = targets(decomposed.graph)
        assert not fastconvs(names) and f"{convolution}.default" in names
        assert not any("scatter" in name or "bitwise" in name for name in names)  # no code is left
        torch.export.save(decomposed, tmp_path / "net.pt2")
        module = torch.export.load(tmp_path / "net.pt2").module()
        torch.testing.assert_close(module(other), model(other))
        if gradients:
            torch.testing.assert_close(step(module, other), step(model, other))


def test_the_default_table_keeps_the_kernels():
    # The second half of inductor's test whether an operator should have been decomposed.
    assert not torch._decomp.get_decompositions(list(fastconv.decompositions()))
    model, x = net_and_input()
    program = torch.export.export(model, (x,)).run_decompositions()
    names = fastconvs(targets(program.graph))
    assert {"fastconv.conv2d.default", "fastconv.conv2d_relu.default"} <= names
    torch.testing.assert_close(program.module()(x), model(x))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["real", "symbolic"])
def test_graphs_of_forward_and_backward(mode):
    model, x = net_and_input()
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def gradients(parameters, x):
        return grad(lambda p: functional_call(model, p, (x,)).square().sum())(parameters)

    table = fastconv.decompositions()
    graph = make_fx(gradients, table, tracing_mode=mode)(parameters, x)
    assert not fastconvs(targets(graph.graph))
    found, expected = graph(parameters, x), gradients(parameters, x)
    torch.testing.assert_close(found, expected)


def test_decomposed_forward_with_the_kernels_backward():
    # A code is the same whoever made it.
    model, x = net_and_input()
    table = {
        op: function
        for op, function in fastconv.decompositions().items()
        if not op.name().endswith(("grad", "backward"))
    }

    def gradients(x):
        return grad(lambda x: model(x).square().sum())(x)

    graph = make_fx(gradients, table)(x)
    names = fastconvs(targets(graph.graph))
    assert names and all("grad" in name or "backward" in name for name in names)
    torch.testing.assert_close(graph(x), gradients(x))
