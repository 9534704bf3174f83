"""Tests the operations under autograd, compilers, transforms, modes and other parts of torch.

Numbers are compared with the plain eager call's, which test_conv2d and its neighbors compare with
torch's. They are float64, where two orders of the same sum differ by little.
"""

import gc
import threading
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jacrev, jvp, stack_module_state, vjp, vmap
from torch.utils._python_dispatch import TorchDispatchMode

import fastconv
from fastconv import functional as fc

channels_last = torch.channels_last


def _random(*size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, generator=generator, dtype=torch.float64)


def X():
    return _random(2, 2, 5, 4)


def W():
    return _random(4, 1, 3, 3, seed=1)


def B():
    return _random(4, seed=2)


# One entry for each way of calling that differs: a function, and the tensors it gets.
OPERATIONS = {
    "conv2d": (lambda x, w, b: fc.conv2d(x, w, b, 2, 1, 1, 2), (X, W, B)),
    "conv2d same": (lambda x, w, b: fc.conv2d(x, w, b, 1, "same", (1, 2), 2), (X, W, B)),
    "conv2d even same": (lambda x, w: fc.conv2d(x, w[:, :, :2], None, 1, "same", 1, 2), (X, W)),
    "conv2d 3-D": (lambda x, w, b: fc.conv2d(x[0], w, b, 1, 1, 1, 2), (X, W, B)),
    "conv2d_relu": (lambda x, w, b: fc.conv2d_relu(x, w, b, 1, 1, 1, 2), (X, W, B)),
    "conv2d_relu 3-D": (lambda x, w: fc.conv2d_relu(x[0], w, None, 1, 1, 1, 2), (X, W)),
    "block": (
        lambda x, w, b: fc.conv2d_relu_max_pool2d(x, w, b, 1, 1, 1, 2, 3, 2, 1, 1, True),
        (X, W, B),
    ),
    "block 3-D": (lambda x, w: fc.conv2d_relu_max_pool2d(x[0], w, None, 1, 1, 1, 2, 2), (X, W)),
    "block 16x17": (
        lambda x, w, b: fc.conv2d_relu_max_pool2d(x, w, b, 1, 1, 1, 2, (16, 17), 1, 8),
        (X, W, B),
    ),
    "relu": (fc.relu, (X,)),
    "relu in place": (lambda x: fc.relu(x * 1.5, inplace=True), (X,)),
    "max_pool2d": (lambda x: fc.max_pool2d(x, 3, 2, 1, 1, True), (X,)),
    "max_pool2d dilated": (lambda x: fc.max_pool2d(x, (3, 2), 1, (1, 0), (2, 2)), (X,)),
    "max_pool2d 16x17": (lambda x: fc.max_pool2d(x, (16, 17), 1, 8), (X,)),
    "max_pool2d 3-D": (lambda x: fc.max_pool2d(x[0], 2), (X,)),
    "max_pool2d indices": (lambda x: fc.max_pool2d(x, 2, return_indices=True)[0], (X,)),
}
MAIN = ["conv2d", "conv2d_relu", "block", "relu", "max_pool2d"]


def operation(name):
    """The function and fresh tensors that require grad."""
    function, makers = OPERATIONS[name]
    return function, [make().requires_grad_() for make in makers]


def results(function, tensors):
    """The output and the gradients of a loss."""
    y = function(*tensors)
    return [y.detach(), *torch.autograd.grad(y.square().sum(), tensors)]


def assert_same(found, expected):
    torch.testing.assert_close(list(found), list(expected))


class Names(TorchDispatchMode):
    """Records the operators that run."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.append(function._opname)
        return function(*args, **(kwargs or {}))


# First and second derivatives


@pytest.mark.parametrize("name", OPERATIONS)
def test_gradients(name):
    function, tensors = operation(name)
    assert torch.autograd.gradcheck(function, tensors)
    assert torch.autograd.gradgradcheck(function, tensors, fast_mode=True)


LAYOUTS = {
    "channels_last": lambda t: t.contiguous(memory_format=channels_last),
    "transposed": lambda t: t.transpose(2, 3).contiguous().transpose(2, 3),
    "sliced": lambda t: F.pad(t, (1, 2, 1, 0))[:, :, 1:, 1:-2],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", MAIN)
def test_memory_layout_changes_nothing(name, layout):
    function, tensors = operation(name)
    for chosen in (0, 1):  # x or w
        changed = [
            LAYOUTS[layout](t.detach()).requires_grad_() if i == chosen else t
            for i, t in enumerate(tensors)
        ]
        assert_same(results(function, changed), results(function, tensors))
        dy = LAYOUTS[layout](_random(*function(*tensors).shape))
        found = torch.autograd.grad(function(*changed), changed, dy)
        assert_same(found, torch.autograd.grad(function(*tensors), tensors, dy.contiguous()))


def test_gradient_of_a_sum_has_no_memory_of_its_own():
    function, tensors = operation("block")
    y = function(*tensors)
    found = torch.autograd.grad(y.sum(), tensors, retain_graph=True)
    assert_same(found, torch.autograd.grad(y, tensors, torch.ones_like(y)))


@pytest.mark.parametrize("wanted", ["x", "weight", "bias", "x weight", "weight bias", "nothing"])
@pytest.mark.parametrize("name", ["conv2d", "conv2d_relu", "block"])
def test_only_wanted_gradients_are_computed(name, wanted):
    function, tensors = operation(name)
    for tensor, argument in zip(tensors, ("x", "weight", "bias"), strict=True):
        tensor.requires_grad_(argument in wanted)
    y = function(*tensors)
    assert y.requires_grad == (wanted != "nothing")
    if wanted == "nothing":
        return
    with Names() as names:
        y.sum().backward()
    ran = {seen.rsplit("_", 1)[1] for seen in names.seen if seen.startswith("conv2d")}
    assert ("dgrad" in ran) == ("x" in wanted)
    assert ("wgrad" in ran) == (wanted != "x")
    _, all_wanted = operation(name)
    expected = torch.autograd.grad(function(*all_wanted).sum(), all_wanted)
    for tensor, dt in zip(tensors, expected, strict=True):
        assert (tensor.grad is not None) == tensor.requires_grad
        assert tensor.grad is None or torch.equal(tensor.grad, dt)


# What is kept for the backward pass


def kept_bytes(function):
    """The bytes that a graph keeps, the same memory counted once."""
    kept = {}

    def pack(tensor):
        kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = function()
    return sum(kept.values()), y


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, channels_last])
def test_nothing_else_is_kept(memory_format):
    x = torch.randn(2, 3, 16, 16).contiguous(memory_format=memory_format).requires_grad_()
    w, b = torch.randn(8, 3, 3, 3, requires_grad=True), torch.randn(8, requires_grad=True)
    both = x.nbytes + w.nbytes
    pooled = 2 * 8 * 7 * 7
    for function, expected in (
        (lambda: fc.conv2d(x, w, b), both),
        (lambda: fc.conv2d_relu(x, w, b), both + 2 * 14 * 2 * 8),
        (lambda: fc.conv2d_relu_max_pool2d(x, w, b, pool_kernel_size=2), both + pooled),
        (lambda: fc.relu(x), x.numel() // 8),
        (lambda: fc.relu(x * 1, inplace=True), x.numel() // 8),
        (lambda: fc.max_pool2d(x, 2), 2 * 3 * 8 * 8),
        (lambda: fc.max_pool2d(x, 16, 1, 8), 2 * 3 * 17 * 17 * 4),
    ):
        kept, y = kept_bytes(function)
        assert kept == expected
        before = torch.autograd.grad(y.sum(), x, retain_graph=True)
        with torch.no_grad():
            y.zero_()  # the output is not among them
        assert torch.equal(torch.autograd.grad(y.sum(), x)[0], before[0])


@pytest.mark.parametrize("name", ["conv2d", "conv2d_relu", "block"])
@pytest.mark.parametrize("changed", [0, 1])
def test_changing_what_was_kept_is_an_error(name, changed):
    function, tensors = operation(name)
    y = function(*tensors)
    with torch.no_grad():
        tensors[changed].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("name", MAIN)
def test_second_backward_without_retain_graph_is_an_error(name):
    function, tensors = operation(name)
    y = function(*tensors).sum()
    y.backward()
    with pytest.raises(RuntimeError, match="second time"):
        y.backward()


def test_gradients_add_up():
    _, (x, w, b) = operation("conv2d")
    fc.conv2d(x, w, b, groups=2).sum().backward()
    once = [t.grad.clone() for t in (x, w, b)]
    fc.conv2d(x, w, b, groups=2).sum().backward()
    assert_same([t.grad for t in (x, w, b)], [2 * g for g in once])


# ReLU in place


def test_relu_in_place_counts_as_a_change():
    x = torch.randn(5)
    version = x._version
    assert fc.relu(x, inplace=True) is x
    assert x._version == version + 1
    x = torch.randn(4, 6)[:, ::2]  # with gaps
    version = x._version
    fc.relu(x, inplace=True)
    assert x._version > version and (x >= 0).all()
    a = torch.randn(5, requires_grad=True)
    product = a * 2
    y = product * product
    fc.relu(product, inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


@pytest.mark.parametrize("part", [(), 0, (slice(None), 1), (..., slice(0, 3, 2))], ids=str)
def test_relu_in_place_on_a_view(part):
    found = []
    for relu in (fc.relu, F.relu):
        a = _random(3, 4, 5).requires_grad_()
        b = a * 2
        relu(b[part], inplace=True)
        found.append((b, *torch.autograd.grad(b.square().sum(), a)))
    assert_same(*found)


def test_relu_in_place_where_torch_refuses():
    leaf = torch.randn(3, requires_grad=True)
    expanded = torch.randn(1).expand(3)
    with torch.inference_mode():
        inference = torch.randn(3)
    for x in (leaf, leaf[:2], expanded):
        for relu in (F.relu, fc.relu):
            with pytest.raises(RuntimeError):
                relu(x, inplace=True)
    for relu in (F.relu, fc.relu):
        with torch.no_grad():
            assert relu(leaf, inplace=True) is leaf
        with torch.inference_mode():
            assert relu(inference, inplace=True) is inference
        with pytest.raises(RuntimeError, match="inference"):
            relu(inference, inplace=True)


# torch.func and forward AD


def loss_of(function):
    return lambda *tensors: function(*tensors).square().sum()


def detached(name):
    function, tensors = operation(name)
    return function, [t.detach() for t in tensors]


@pytest.mark.parametrize("name", OPERATIONS)
def test_func_grad(name):
    function, tensors = detached(name)
    everything = tuple(range(len(tensors)))
    found = grad(loss_of(function), argnums=everything)(*tensors)
    assert_same(found, results(*operation(name))[1:])


@pytest.mark.parametrize("name", OPERATIONS)
def test_vmap(name):
    function, (x, *rest) = detached(name)
    xs = torch.stack([x, 0.5 * x, x.flip(0)], 2)
    each = [function(xs[:, :, i], *rest) for i in range(3)]
    found = vmap(lambda x: function(x, *rest), in_dims=2, out_dims=1)(xs)
    assert_same([found], [torch.stack(each, 1)])
    # everything mapped, and gradients of each sample
    stacks = [torch.stack([t, 0.5 * t]) for t in (x, *rest)]
    everything = tuple(range(len(stacks)))
    found = vmap(grad(loss_of(function), argnums=everything))(*stacks)
    for i in range(2):
        sample = [t[i].clone().requires_grad_() for t in stacks]
        assert_same([g[i] for g in found], results(function, sample)[1:])


@pytest.mark.parametrize("name", MAIN)
def test_jacobian(name):
    function, (x, *rest) = detached(name)
    found = jacrev(lambda x: function(x, *rest))(x)
    expected = torch.autograd.functional.jacobian(lambda x: function(x, *rest), x)
    assert_same([found], [expected])


@pytest.mark.parametrize("name", OPERATIONS)
def test_forward_ad(name):
    # By torch's own operators.
    function, (x, *rest) = detached(name)
    tangent = _random(*x.shape, seed=3)
    y, found = jvp(lambda x: function(x, *rest), (x,), (tangent,))
    jacobian = torch.autograd.functional.jacobian(lambda x: function(x, *rest), x)
    expected = (jacobian * tangent).flatten(y.dim()).sum(-1)
    assert_same([y, found], [function(x, *rest), expected])


@pytest.mark.parametrize("name", OPERATIONS)
def test_hessian_vector_product(name):
    function, (x, *rest) = detached(name)
    gradient = grad(lambda x: loss_of(function)(x, *rest))
    v = _random(*x.shape, seed=3)
    leaf = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(loss_of(function)(leaf, *rest), leaf, create_graph=True)
    (expected,) = torch.autograd.grad(first, leaf, v)
    forward_over_reverse = jvp(gradient, (x,), (v,))[1]
    reverse_over_reverse = grad(lambda x: (gradient(x) * v).sum())(x)
    # called when the transform is over: its tensors wrap others then
    late = vjp(gradient, x)[1](v)[0]
    assert_same([forward_over_reverse, reverse_over_reverse, late], [expected] * 3)


@pytest.mark.parametrize("name", OPERATIONS)
def test_gradient_with_a_tangent(name):
    # The graph is made before the forward-AD level: fastconv's formulas by torch's operators.
    function, tensors = operation(name)
    y = function(*tensors)
    dy = _random(*y.shape, seed=3)
    expected = torch.autograd.grad(y, tensors, dy, retain_graph=True)
    with forward_ad.dual_level():
        found = torch.autograd.grad(y, tensors, forward_ad.make_dual(dy, 2 * dy))
        pairs = [forward_ad.unpack_dual(dt) for dt in found]
    assert_same([pair.primal for pair in pairs], expected)
    assert_same([pair.tangent for pair in pairs], [2 * dt for dt in expected])


class Net(torch.nn.Module):
    """Every operation once."""

    def __init__(self):
        super().__init__()
        self.block = fastconv.ConvReLUMaxPool2d(3, 4, 3, padding=1, pool_kernel_size=2)
        self.conv_relu = fastconv.ConvReLU2d(4, 4, 3, padding="same", bias=False)
        self.conv = fastconv.Conv2d(4, 6, 2, groups=2)
        self.relu, self.pool = fastconv.ReLU(), fastconv.MaxPool2d(2, 1)
        self.last = torch.nn.Linear(6 * 4, 5)

    def forward(self, x):
        x = self.conv(self.conv_relu(self.block(x)))
        return self.last(self.pool(self.relu(x)).flatten(1))


def net_and_input(n=2):
    torch.manual_seed(0)
    return Net().double(), _random(n, 3, 8, 8)


def training_step(model, x):
    """The output and all gradients."""
    y = model(x)
    return [y.detach(), *torch.autograd.grad(y.square().sum(), list(model.parameters()))]


@pytest.mark.slow
def test_functional_call_and_per_sample_gradients():
    model, x = net_and_input()
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters, x):
        return functional_call(model, parameters, (x,)).square().sum()

    expected = training_step(model, x)[1:]
    assert_same(grad(loss)(parameters, x).values(), expected)
    samples = vmap(grad(loss), in_dims=(None, 0))(parameters, x.unsqueeze(1))
    assert_same([g.sum(0) for g in samples.values()], expected)
    stacked = stack_module_state([model, model])[0]
    both = vmap(lambda p: functional_call(model, p, (x,)))(stacked)
    assert_same(both, [model(x)] * 2)


# Compilers and tracers


SAMPLES = {
    "conv2d": lambda: (X(), W(), B(), (1, 2, 1, 0, 2, 1, 1, 1, 2)),
    "conv2d_dgrad": lambda: (
        _random(2, 4, 3, 2),
        W(),
        (5, 4),
        False,
        (1, 1, 0, 0, 0, 0, 1, 1, 2),
    ),
    "conv2d_wgrad": lambda: (
        X(),
        _random(2, 4, 3, 2),
        (4, 1, 3, 3),
        True,
        True,
        True,
        (1, 1, 0, 0, 0, 0, 1, 1, 2),
    ),
    "conv2d_relu": lambda: (X(), W(), B(), (1, 1, 1, 1, 1, 1, 1, 1, 2), (), True),
    "conv2d_relu_max_pool2d": lambda: (
        X(),
        W(),
        None,
        (1, 1, 1, 1, 1, 1, 1, 1, 2),
        (2, 2, 2, 2, 0, 0, 1, 1, 0),
        True,
    ),
    "relu": lambda: (X(), True),
    "max_pool2d": lambda: (X(), (2, 2, 2, 2, 0, 0, 1, 1, 1), True),
}


@pytest.mark.slow
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, channels_last], ids=str)
@pytest.mark.parametrize("name", SAMPLES)
def test_opcheck(name, memory_format):
    arguments = [
        a.contiguous(memory_format=memory_format) if isinstance(a, Tensor) and a.dim() == 4 else a
        for a in SAMPLES[name]()
    ]
    if name == "conv2d_wgrad":
        arguments[3] = memory_format == channels_last
    wanted = [
        a.requires_grad_() if isinstance(a, Tensor) and a.is_floating_point() else a
        for a in arguments
    ]
    torch.library.opcheck(getattr(torch.ops.fastconv, name).default, tuple(wanted))


@pytest.mark.slow
@pytest.mark.parametrize("save", [False, True])
def test_opcheck_without_gradients(save):
    # What is not asked for is empty, in reality as in the fake kernel.
    def check(name, arguments):
        op = getattr(torch.ops.fastconv, name).default
        torch.library.opcheck(op, arguments, test_utils=("test_schema", "test_faketensor"))

    for name in ("conv2d_relu", "conv2d_relu_max_pool2d", "relu", "max_pool2d"):
        check(name, (*SAMPLES[name]()[:-1], save))
    for want_weight, want_bias in ((True, False), (False, True)):
        x, dy, size, _, _, _, conv = SAMPLES["conv2d_wgrad"]()
        check("conv2d_wgrad", (x, dy, size, False, want_weight, want_bias, conv))


def test_no_pool_is_none_or_empty():
    # Programs that were saved before it could be None have an empty list.
    *arguments, _, save = SAMPLES["conv2d_relu"]()
    none, empty = (torch.ops.fastconv.conv2d_relu(*arguments, pool, save) for pool in (None, ()))
    assert all(torch.equal(a, b) for a, b in zip(none, empty, strict=True))


@pytest.fixture
def dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [False, True])
def test_compile(dynamo, dynamic):
    model, _ = net_and_input()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for n in (2, 3, 5):
        x = _random(n, 3, 8, 8)
        assert_same(training_step(compiled, x), training_step(model, x))
    x = x.contiguous(memory_format=channels_last)
    assert_same(training_step(compiled, x), training_step(model, x))
    with torch.no_grad():
        assert_same([compiled(x)], [model(x)])


@pytest.mark.slow
def test_compile_with_inductor(dynamo):
    model, x = net_and_input()
    compiled = torch.compile(model, fullgraph=True)
    assert_same(training_step(compiled, x), training_step(model, x))


@pytest.mark.slow
def test_compiled_transforms(dynamo):
    model, x = net_and_input()
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters, x):
        return functional_call(model, parameters, (x,)).square().sum()

    samples = vmap(grad(loss), in_dims=(None, 0))
    found = torch.compile(samples, backend="aot_eager")(parameters, x.unsqueeze(1))
    assert_same(found.values(), samples(parameters, x.unsqueeze(1)).values())
    tangent = _random(*x.shape, seed=3)
    forward = torch.compile(lambda x: jvp(model, (x,), (tangent,)), backend="aot_eager")
    assert_same(forward(x), jvp(model, (x,), (tangent,)))


@pytest.mark.slow
def test_compile_under_autocast(dynamo):
    model, x = net_and_input()
    model, x = model.float(), x.float()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, expected = compiled(x), model(x)
    assert found.dtype == expected.dtype == torch.bfloat16
    assert torch.equal(found, expected)


@pytest.mark.slow
def test_export(tmp_path):
    model, x = net_and_input()
    batch = torch.export.Dim("batch", min=2, max=64)
    exported = torch.export.export(model, (x,), dynamic_shapes=({0: batch},))
    torch.export.save(exported, tmp_path / "net.pt2")
    loaded = torch.export.load(tmp_path / "net.pt2").module()
    x = _random(7, 3, 8, 8)
    assert_same(training_step(loaded, x), training_step(model, x))
    names = {str(node.target) for node in exported.graph.nodes}
    assert {
        f"fastconv.{name}.default" for name in ("conv2d", "conv2d_relu", "conv2d_relu_max_pool2d")
    } <= names


def test_graph_made_without_gradients_says_so():
    model, x = net_and_input()
    with torch.no_grad():
        exported = torch.export.export(model, (x,)).module()
    assert_same([exported(x)], [model(x)])
    with pytest.raises(RuntimeError, match="made without gradients"):
        training_step(exported, x)


def test_jit_trace(tmp_path):
    model, x = net_and_input()
    traced = torch.jit.trace(model, (x,))
    torch.jit.save(traced, tmp_path / "net.pt")
    loaded = torch.jit.load(tmp_path / "net.pt")
    x = _random(5, 3, 8, 8)
    for other in (traced, loaded):
        assert_same(training_step(other, x), training_step(model, x))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
def test_make_fx(mode):
    from torch.fx.experimental.proxy_tensor import make_fx

    model, x = net_and_input()
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def step(parameters, x):
        return grad(lambda p: functional_call(model, p, (x,)).square().sum())(parameters)

    graph = make_fx(step, tracing_mode=mode)(parameters, x)
    assert_same(graph(parameters, x).values(), step(parameters, x).values())


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name != "relu in place"])
def test_meta_and_fake_tensors(name):
    from torch._subclasses import FakeTensorMode

    for layout in (torch.contiguous_format, channels_last):
        function, tensors = operation(name)
        tensors = [
            t.detach().contiguous(memory_format=layout).requires_grad_() if t.dim() == 4 else t
            for t in tensors
        ]
        y = function(*tensors)
        expected = [y, *torch.autograd.grad(y.sum(), tensors)]
        metas = [torch.empty_like(t, device="meta", requires_grad=True) for t in tensors]
        check_like(function, metas, expected)
        with FakeTensorMode() as mode:
            check_like(function, [mode.from_tensor(t) for t in tensors], expected)


def check_like(function, tensors, expected):
    """The output and the gradients look as expected, whatever they hold."""
    y = function(*tensors)
    found = [y, *torch.autograd.grad(y.sum(), tensors)]
    for a, b in zip(found, expected, strict=True):
        assert (a.shape, a.stride(), a.dtype) == (b.shape, b.stride(), b.dtype)


# Tensors and modes of many kinds


class Plain(Tensor):
    """A subclass that changes nothing."""


@pytest.mark.parametrize("name", OPERATIONS)
def test_the_long_way_gives_the_same_bits(name):
    function, tensors = operation(name)
    expected = results(function, tensors)
    for context in (Names(), torch.device("cpu")):
        with context:
            found = results(function, tensors)
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    y = function(*(t.detach().as_subclass(Plain) for t in tensors))
    assert type(y) is Plain
    assert torch.equal(y.as_subclass(Tensor), expected[0])


def test_wrapper_subclass():
    from torch.testing._internal.two_tensor import TwoTensor

    for name in OPERATIONS:
        function, tensors = detached(name)
        y = function(*(TwoTensor(t, 2 * t) for t in tensors))
        assert torch.equal(y.a, function(*tensors))
        assert torch.equal(y.b, function(*(2 * t for t in tensors)))


@pytest.mark.parametrize("name", OPERATIONS)
def test_negated_view(name):
    # The imaginary part of a conjugate is stored with the other sign.
    function, tensors = detached(name)
    negated = [torch.complex(t, -t).conj().imag for t in tensors]
    assert all(t.is_neg() for t in negated)
    assert_same([function(*negated)], [function(*tensors)])
    function, tensors = operation(name)
    y = function(*tensors)
    dy = _random(*y.shape)
    found = torch.autograd.grad(y, tensors, torch.complex(dy, -dy).conj().imag, retain_graph=True)
    assert_same(found, torch.autograd.grad(y, tensors, dy))


def test_negated_view_of_one_value():
    # No copy is made of it, whatever its strides.
    x = torch.full((1, 1, 1, 1), 1 - 2j).conj().imag
    assert x.is_neg() and x.item() == 2
    one = torch.ones(1, 1, 1, 1)
    for y in (fc.relu(x), fc.max_pool2d(x, 1), fc.conv2d(x, one), fc.conv2d(one, x)):
        assert y.item() == 2
    assert fc.relu(x, inplace=True) is x and x.item() == 2


@pytest.mark.parametrize("name", OPERATIONS)
def test_no_grad_and_inference_mode(name):
    function, tensors = operation(name)
    expected = function(*tensors).detach()
    with torch.no_grad():
        y = function(*tensors)
        assert torch.equal(y, expected) and not y.requires_grad
    with torch.inference_mode():
        y = function(*tensors)
        assert torch.equal(y, expected) and y.is_inference()


def test_checkpoint():
    from torch.utils.checkpoint import checkpoint

    model, x = net_and_input()
    expected = training_step(model, x)
    y = checkpoint(model, x, use_reentrant=False)
    found = torch.autograd.grad(y.square().sum(), list(model.parameters()))
    assert_same(found, expected[1:])


def test_autocast():
    model, x = net_and_input()
    model, x = model.float(), x.float()
    own = fastconv.revert(model)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for a, b in zip(training_step(model, x), training_step(own, x), strict=True):
            assert a.dtype == b.dtype and a.shape == b.shape
        leaves = [t.float().requires_grad_() for t in (X(), W(), B())]
        found = fc.conv2d(*leaves, groups=2)
        grads = torch.autograd.grad(found.square().sum(), leaves)
        assert fc.relu(leaves[0]).dtype == fc.max_pool2d(leaves[0], 2).dtype == torch.float32
    # The same as casting by hand.
    cast = [t.bfloat16() for t in leaves]
    expected = fc.conv2d(*cast, groups=2)
    assert torch.equal(found, expected)
    expected_grads = torch.autograd.grad(expected.square().sum(), leaves)
    for a, b in zip(grads, expected_grads, strict=True):
        assert a.dtype == b.dtype == torch.float32 and torch.equal(a, b)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        double = fc.conv2d(X(), W(), B(), groups=2)
        assert torch.equal(double, fc.conv2d(X(), W(), B(), groups=2))
        assert double.dtype == torch.float64
    with torch.autocast("cpu", enabled=False):
        assert model(x).dtype == torch.float32


def second_derivatives(functions, dtype):
    """Two layers' output, gradients and gradients of these, for integers that 8 bits can hold."""
    conv2d, relu, max_pool2d, block = functions
    generator = torch.Generator().manual_seed(0)

    def leaf(*size, least=-1):
        values = torch.randint(least, 2, size, generator=generator)
        return values.to(dtype).requires_grad_()

    x, w, b = leaf(2, 3, 6, 7), leaf(4, 3, 3, 3), leaf(4)
    found = []
    for y in (block(x, w, b), relu(max_pool2d(conv2d(x, w, b, padding=1), 3, 2, 1))):
        dy = leaf(*y.shape)
        first = torch.autograd.grad(y, (x, w, b), dy, create_graph=True)
        small = [
            leaf(*t.shape, least=0).detach() * (torch.arange(t.numel()) % 8 == 0).view(t.shape)
            for t in first
        ]  # so that sums stay small
        found += [y, *first, *torch.autograd.grad(first, (x, w, dy), small)]
    return found


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_second_derivatives_of_16_bit_numbers(dtype):
    def block(x, w, b):
        return F.max_pool2d(F.relu(F.conv2d(x, w, b)), 2)

    def own(x, w, b):
        return fc.conv2d_relu_max_pool2d(x, w, b, pool_kernel_size=2)

    expected = second_derivatives((F.conv2d, F.relu, F.max_pool2d, block), torch.float64)
    found = second_derivatives((fc.conv2d, fc.relu, fc.max_pool2d, own), dtype)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == dtype and b.any() and torch.equal(b.to(dtype).double(), b)
        assert torch.equal(a.double(), b)


def test_other_kinds_of_tensors_are_torchs():
    integers = torch.arange(-8, 8).view(1, 1, 4, 4)
    assert torch.equal(fc.relu(integers), F.relu(integers))
    assert torch.equal(fc.max_pool2d(integers, 2), F.max_pool2d(integers, 2))
    weight = torch.ones(1, 1, 2, 2, dtype=torch.long)
    assert torch.equal(fc.conv2d(integers, weight), F.conv2d(integers, weight))
    z = torch.randn(1, 2, 4, 4, dtype=torch.complex64)
    w = torch.randn(3, 2, 2, 2, dtype=torch.complex64)
    assert torch.equal(fc.conv2d(z, w), F.conv2d(z, w))
    sparse = torch.randn(3, 4).relu().to_sparse()
    assert torch.equal(fc.relu(sparse).to_dense(), sparse.to_dense())
    quantized = torch.quantize_per_tensor(torch.randn(4), 0.1, 10, torch.quint8)
    assert torch.equal(fc.relu(quantized).dequantize(), F.relu(quantized).dequantize())
    nested = torch.nested.nested_tensor([torch.ones(2), -torch.ones(3)])
    assert [t.sum().item() for t in fc.relu(nested).unbind()] == [2, 0]
    dense = torch.randn(1, 2, 4, 4)
    assert torch.equal(fc.relu(dense.to_mkldnn()).to_dense(), F.relu(dense))


def test_calls_of_the_same_forms():
    # The second call skips the checks of the first: not where anything else has changed.
    x, w, b = (t.float() for t in (X(), W(), B()))
    expected = fc.conv2d(x, w, b, groups=2)
    for _ in range(2):
        assert torch.equal(fc.conv2d(x, w, b, groups=2), expected)
        with pytest.raises(RuntimeError, match="input has 2 channels"):
            fc.conv2d(x, w, b)
        with pytest.raises(RuntimeError, match="dtype"):
            fc.conv2d(x, w.double(), b, groups=2)
        with pytest.raises(TypeError, match="groups"):
            fc.conv2d(x, w, b, groups=2.0)
        assert fc.conv2d(x, w, None, groups=2).dtype == torch.float32
        assert fc.conv2d(x, w, b, 1, (0, 1), groups=2).shape[3] == expected.shape[3] + 2
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert fc.conv2d(x, w, b, groups=2).dtype == torch.bfloat16
        assert not fc.conv2d(x, w, b, groups=2).requires_grad
        y = fc.conv2d(x, w.requires_grad_(), b, groups=2)
        assert y.requires_grad and y.grad_fn is not None
        with torch.no_grad():
            assert not fc.conv2d(x, w, b, groups=2).requires_grad
        w = w.detach()
        far = x.contiguous(memory_format=channels_last)
        assert fc.conv2d(far, w, b, groups=2).is_contiguous(memory_format=channels_last)
        fastconv.set_precision("highest")
        assert_same([fc.conv2d(x, w, b, groups=2)], [expected])
        fastconv.set_precision("high")


@pytest.mark.parametrize("name", OPERATIONS)
def test_no_tensor_is_kept_alive(name):
    function, tensors = operation(name)
    for wanted in (True, False):
        given = [t.detach().clone().requires_grad_(wanted) for t in tensors]
        for _ in range(2):
            function(*given)
        alive = [weakref.ref(t) for t in given]
        del given
        gc.collect()
        assert not any(reference() is not None for reference in alive)


def test_a_tensor_that_outlived_its_transform():
    kept, x = [], X()
    grad(lambda x: (kept.append(x * 1), x.sum())[1])(x)
    (late,) = kept
    for function in (fc.relu, lambda x: fc.max_pool2d(x, 2), lambda x: fc.conv2d(x, W(), groups=2)):
        for _ in range(2):
            expected = function(x)
        assert_same([function(late)], [expected])


def test_without_torchs_private_names(run_python):
    # A torch that lacks one of them: no call counts as plain, all take the registered operators.
    done = run_python(
        "import torch\n"
        "name = '_len_torch_function_stack'\n"
        "function = getattr(torch._C, name)\n"
        "delattr(torch._C, name)\n"
        "import fastconv\n"
        "setattr(torch._C, name, function)\n"
        "assert not fastconv.torch_internals.quiet()\n"
        "x = torch.randn(2, 3, 6, 6, requires_grad=True)\n"
        "layer = fastconv.ConvReLUMaxPool2d(3, 4, 3, pool_kernel_size=2)\n"
        "y = fastconv.relu(layer(x), inplace=True)\n"
        "y.sum().backward()\n"
        "print(y.grad_fn is not None, x.grad.shape)\n"
    )
    assert done.stdout.strip() == "True torch.Size([2, 3, 6, 6])", done.stderr


def test_calls_from_many_threads():
    model, x = net_and_input()
    expected = training_step(model, x)
    found = {}

    def work(i):
        found[i] = [training_step(model, x) for _ in range(5)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for step in (step for steps in found.values() for step in steps):
        assert all(torch.equal(a, b) for a, b in zip(step, expected, strict=True))


@pytest.mark.parametrize(
    "conv, pool, message",
    [
        ([1] * 8, None, "conv must have 9 values, got 8"),
        ([1] * 9, [2] * 4, "pool must have 9 values, got 4"),
    ],
)
def test_a_spec_of_another_length_is_refused(conv, pool, message):
    x, w = torch.ones(1, 2, 5, 5), torch.ones(3, 2, 3, 3)
    with pytest.raises(ValueError, match=message):
        torch.ops.fastconv.conv2d_relu_max_pool2d(x, w, None, conv, pool, False)
