"""Tests tensors of plain type without memory that a kernel could read.

The tensors of batched gradients and of functionalization wrap others. Some gradients, such as
sgn's, are torch's zero without memory. All results are compared with torch.nn.functional's.
"""

import threading

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._vmap_internals import _vmap
from torch.autograd import gradcheck, gradgradcheck
from torch.autograd.functional import hessian, jacobian
from torch.func import functionalize, grad, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.checkpoint import checkpoint

from fastconv import functional as fc


def _random(*size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, generator=generator, dtype=torch.float64)


def X():
    return _random(2, 2, 6, 5)


def W():
    return _random(4, 1, 3, 3, seed=1)


def B():
    return _random(4, seed=2)


def _block(x, w, b=None):
    return F.max_pool2d(F.relu(F.conv2d(x, w, b, 1, 1, 1, 2)), 3, 2, 1)


def _own_block(x, w, b=None):
    return fc.conv2d_relu_max_pool2d(x, w, b, 1, 1, 1, 2, 3, 2, 1)


def _both(function):
    """A function of the library's functions, for fastconv and for torch."""
    return tuple(lambda *given, name=name: function(name, *given) for name in (fc, F))


# One entry for each operation and way of calling: ours, torch's, and the tensors.
OPERATIONS = {
    "conv2d": (*_both(lambda lib, x, w, b: lib.conv2d(x, w, b, 2, 1, 1, 2)), (X, W, B)),
    "conv2d without bias": (*_both(lambda lib, x, w: lib.conv2d(x, w, groups=2)), (X, W)),
    "conv2d 3-D": (*_both(lambda lib, x, w, b: lib.conv2d(x[0], w, b, groups=2)), (X, W, B)),
    "conv2d_relu": (
        lambda x, w, b: fc.conv2d_relu(x, w, b, 1, 1, 1, 2),
        lambda x, w, b: F.relu(F.conv2d(x, w, b, 1, 1, 1, 2)),
        (X, W, B),
    ),
    "block": (_own_block, _block, (X, W, B)),
    "block without bias": (_own_block, _block, (X, W)),
    "block 16x17": (
        lambda x, w, b: fc.conv2d_relu_max_pool2d(x, w, b, 1, 1, 1, 2, (16, 17), 1, 8),
        lambda x, w, b: F.max_pool2d(F.relu(F.conv2d(x, w, b, 1, 1, 1, 2)), (16, 17), 1, 8),
        (X, W, B),
    ),
    "relu": (*_both(lambda lib, x: lib.relu(x)), (X,)),
    "relu in place": (*_both(lambda lib, x: lib.relu(x * 1.5, inplace=True)), (X,)),
    "max_pool2d": (*_both(lambda lib, x: lib.max_pool2d(x, 3, 2, 1)), (X,)),
    "max_pool2d 3-D": (*_both(lambda lib, x: lib.max_pool2d(x[0], 2)), (X,)),
    "max_pool2d indices": (
        *_both(lambda lib, x: lib.max_pool2d(x, 2, return_indices=True)[0]),
        (X,),
    ),
    "all in a row": (
        lambda x, w, b: fc.relu(fc.max_pool2d(fc.conv2d_relu(x, w, b, padding=1, groups=2), 2)),
        lambda x, w, b: F.relu(F.max_pool2d(F.relu(F.conv2d(x, w, b, padding=1, groups=2)), 2)),
        (X, W, B),
    ),
}
operations = pytest.mark.parametrize("name", OPERATIONS)


def leaves(name, layout=torch.contiguous_format):
    return [
        (t.contiguous(memory_format=layout) if t.dim() == 4 else t).requires_grad_()
        for t in (make() for make in OPERATIONS[name][2])
    ]


def assert_same(found, expected):
    torch.testing.assert_close(list(found), list(expected))


# Batched gradients


@pytest.mark.slow
@operations
def test_batched_gradients_by_torchs_own_checks(name):
    function, _, _ = OPERATIONS[name]
    assert gradcheck(function, leaves(name), check_batched_grad=True)
    assert gradgradcheck(function, leaves(name), check_batched_grad=True)


def gradients(y, tensors, dys, batched, **options):
    """A gradient for each of dys, stacked: at once, or one after another."""
    options = dict(retain_graph=True, allow_unused=True, **options)
    if batched:
        return torch.autograd.grad(y, tensors, dys, is_grads_batched=True, **options)
    if isinstance(dys, Tensor):
        dys = (dys,)
    each = [torch.autograd.grad(y, tensors, dy, **options) for dy in zip(*dys, strict=True)]
    return [None if parts[0] is None else torch.stack(parts) for parts in zip(*each, strict=True)]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@operations
def test_batched_gradients(name, layout):
    # torch's own batched gradients of channels_last pools fail, hence one after another there.
    function, theirs, _ = OPERATIONS[name]
    found = []
    for operation, batched in ((function, True), (theirs, False)):
        tensors = leaves(name, layout)
        y = operation(*tensors)
        dys = _random(3, *y.shape, seed=4).requires_grad_()
        first = gradients(y, tensors, dys, batched, create_graph=True)
        ddys = [_random(2, *t.shape, seed=i) for i, t in enumerate(first)]
        second = gradients(first, (*tensors, dys), ddys, batched)
        found.append([*first, *(t for t in second if t is not None and t.any())])
    assert_same(*found)


# torch's own pools refuse forward-mode.
@pytest.mark.parametrize(
    ("name", "strategy"),
    [
        *((name, "reverse-mode") for name in OPERATIONS),
        *((name, "forward-mode") for name in OPERATIONS if name.startswith(("conv2d", "relu"))),
    ],
)
def test_jacobian_and_hessian(name, strategy):
    def loss_of(function):
        return lambda *given: function(*given).pow(3).sum()

    found = []
    for function in OPERATIONS[name][:2]:
        tensors = tuple(t.detach() for t in leaves(name))
        first = jacobian(function, tensors, vectorize=True, strategy=strategy)
        second = hessian(
            loss_of(function), tensors, vectorize=True, outer_jacobian_strategy=strategy
        )
        found.append([*first, *(part for row in second for part in row)])
    assert_same(*found)


def test_batched_gradients_of_a_batched_call():
    # Two levels: the inner batch is one of the outer's tensors.
    found = []
    for function in OPERATIONS["block"][:2]:
        tensors = leaves("block")
        y = function(*tensors)

        def inner(dy, y=y, tensors=tensors):
            return torch.autograd.grad(y, tensors, dy, retain_graph=True, is_grads_batched=True)

        found.append(_vmap(inner)(_random(2, 3, *y.shape)))
    assert_same(*found)


class InBackward(torch.autograd.Function):
    """A function of the gradient, as own backward passes may have it."""

    @staticmethod
    def forward(ctx, x, function):
        ctx.function = function
        return x.clone()

    @staticmethod
    def backward(ctx, dy):
        return ctx.function(dy), None


@operations
def test_operations_in_a_batched_backward(name):
    function, theirs, _ = OPERATIONS[name]
    x, *rest = leaves(name)
    seen, dys = [], _random(3, *x.shape, seed=4)

    def note(dy):
        seen.append(function(dy, *rest))
        return dy

    y = InBackward.apply(x, note)

    def backward(dy):
        torch.autograd.grad(y, x, dy)
        return seen[0]

    found = _vmap(backward)(dys)
    assert_same([found], [torch.stack([theirs(dy, *rest) for dy in dys]).detach()])


@operations
def test_batched_gradients_of_a_checkpoint(name):
    found = []
    for function in OPERATIONS[name][:2]:
        tensors = leaves(name)
        y = checkpoint(function, *tensors, use_reentrant=False)
        dy = _random(3, *y.shape)
        found.append(torch.autograd.grad(y, tensors, dy, is_grads_batched=True))
    assert_same(*found)


# Zeros without memory


def zero(t, form):
    """torch's zero without memory, of a tensor's shape."""
    if form == "whole":
        return torch._efficientzerotensor(t.shape, dtype=t.dtype)
    if form == "expanded":
        return torch._efficientzerotensor((1,) * t.dim(), dtype=t.dtype).expand(t.shape)
    if form == "sliced":  # its address is not 0
        return torch._efficientzerotensor((t.shape[0] + 1, *t.shape[1:]), dtype=t.dtype)[1:]
    if form == "channels_last":
        return torch._efficientzerotensor(t.shape, dtype=t.dtype).contiguous(
            memory_format=torch.channels_last if t.dim() == 4 else torch.contiguous_format
        )
    assert form == "negated"
    made = torch._efficientzerotensor(t.shape, dtype=torch.complex128).conj().imag
    assert made.is_neg() and made._is_zerotensor()
    return made


FORMS = ("whole", "expanded", "sliced", "channels_last", "negated")


@pytest.mark.parametrize("form", FORMS)
@operations
def test_zeros_as_gradients(name, form):
    found = []
    for function in OPERATIONS[name][:2]:
        tensors = leaves(name)
        for _ in range(2):  # the second call is one that was checked before
            y = function(*tensors)
            first = torch.autograd.grad(y, tensors, zero(y, form))
        found.append(first)
    assert all(not t.any() for t in found[0])
    assert_same(*found)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", [name for name in OPERATIONS if name != "relu in place"])
def test_zeros_as_arguments(name, form):
    for chosen in range(len(OPERATIONS[name][2])):
        found = []
        for function in OPERATIONS[name][:2]:
            plain = [t.detach() for t in leaves(name)]
            function(*plain)  # this form of call is known from now on
            plain[chosen] = zero(plain[chosen], form)
            tensors = [t.requires_grad_() for t in leaves(name)]
            tensors[chosen] = plain[chosen].detach().requires_grad_()
            y = function(*tensors)
            dy = _random(*y.shape, seed=3).requires_grad_()
            first = torch.autograd.grad(y, tensors, dy, create_graph=True)
            ddy = [_random(*t.shape, seed=i) for i, t in enumerate(first)]
            second = torch.autograd.grad(first, (*tensors, dy), ddy, allow_unused=True)
            found.append(
                [function(*plain), y, *first, *(t for t in second if t is not None and t.any())]
            )
        assert_same(*found)


@operations
def test_gradients_of_a_zero_gradient(name):
    found = []
    for function in OPERATIONS[name][:2]:
        tensors = leaves(name)
        y = function(*tensors)
        dy = zero(y, "whole").requires_grad_()
        first = torch.autograd.grad(y, tensors, dy, create_graph=True)
        ddy = [_random(*t.shape, seed=i) for i, t in enumerate(first)]
        second = torch.autograd.grad(first, (*tensors, dy), ddy, allow_unused=True)
        found.append([t for t in second if t is not None and t.any()])
    assert len(found[0]) == 1  # dy's
    assert_same(*found)


def test_a_layer_before_sgn():
    found = []
    for block in (_own_block, _block):
        tensors = leaves("block")
        y = torch.sgn(block(*tensors))
        found.append(torch.autograd.grad(y[:, 1:].sum() + y.square().sum(), tensors))
    assert_same(*found)


def test_relu_in_place_is_refused_by_zeros():
    for form in ("whole", "sliced"):
        x = zero(X(), form)
        for relu in (fc.relu, F.relu):
            with pytest.raises(RuntimeError, match="immutable"):
                relu(x, inplace=True)


# Others


@pytest.mark.parametrize("sliced", [False, True])
@operations
def test_functional_tensors(name, sliced):
    def wrap(t):
        t = t.detach()
        if not sliced:
            return torch._to_functional_tensor(t)
        whole = torch.cat([t.new_zeros(1, *t.shape[1:]), t])
        return torch._to_functional_tensor(whole[1:])

    function, theirs, _ = OPERATIONS[name]
    plain = [t.detach() for t in leaves(name)]
    torch._enable_functionalization(reapply_views=True)
    try:
        y = function(*map(wrap, plain))
        assert torch._is_functional_tensor(y)
        torch._sync(y)
        y = torch._from_functional_tensor(y)
    finally:
        torch._disable_functionalization()
    assert_same([y], [theirs(*plain)])


def test_a_functional_workspace_is_not_kept():
    found, plain = [], (X(), W())

    def work():  # in a new thread, which has no workspace yet
        torch._enable_functionalization(reapply_views=True)
        try:
            fc.conv2d(*map(torch._to_functional_tensor, plain), groups=2)
        finally:
            torch._disable_functionalization()
        found.append(fc.conv2d(*plain, groups=2))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert_same(found, [F.conv2d(*plain, groups=2)])


# torch.func.functionalize


@pytest.mark.parametrize("remove", ["mutations", "mutations_and_views"])
@operations
def test_functionalize(name, remove):
    function, theirs, _ = OPERATIONS[name]
    plain = [t.detach() for t in leaves(name)]
    stacks = [torch.stack([t, 0.5 * t]) for t in plain]

    def loss(given, function):
        return function(*given).square().sum()

    def every(function):
        pure = functionalize(function, remove=remove)
        yield [pure(*plain)]
        yield grad(loss)(plain, pure)
        yield functionalize(grad(lambda given: loss(given, function)), remove=remove)(plain)
        yield [vmap(pure)(*stacks)]
        yield [functionalize(lambda *given: vmap(function)(*given), remove=remove)(*stacks)]
        graph = make_fx(lambda *given: pure(*given))(*plain)
        yield [graph(*(0.5 * t for t in plain))]
        # A graph that was made outside.
        tensors = leaves(name)
        y = function(*tensors)
        backward = functionalize(lambda dy: torch.autograd.grad(y, tensors, dy), remove=remove)
        yield backward(torch.ones_like(y))

    for found, expected in zip(every(function), every(theirs), strict=True):
        assert_same(found, expected)


def test_functionalize_gives_indices():
    function = functionalize(lambda x: fc.max_pool2d(x, 2, return_indices=True))
    assert_same(function(X()), F.max_pool2d(X(), 2, return_indices=True))


def test_functionalize_removes_mutations():
    weight = W()

    def step(x):
        fc.relu(x, inplace=True)
        return fc.conv2d(x.add_(1), weight, groups=2)

    graph = make_fx(functionalize(step))(X())
    names = [node.target._opname for node in graph.graph.nodes if node.op == "call_function"]
    assert "convolution" in names
    assert [name for name in names if name.endswith("_")] == ["copy_"]  # into the input, at the end
    changed = X()
    assert_same([graph(changed)], [F.conv2d(X().relu() + 1, weight, groups=2)])
    assert_same([changed], [X().relu() + 1])


@operations
def test_tensors_that_outlived_their_transform(name):
    function, theirs, _ = OPERATIONS[name]
    plain = [t.detach() for t in leaves(name)]
    kept = []

    def note(*given):
        kept.append([torch.cat([t, t])[t.shape[0] :] for t in given])
        return sum(t.sum() for t in given)

    torch.func.grad(note)(*plain)
    torch.func.functionalize(note)(*plain)
    for late in kept:
        for _ in range(2):
            assert_same([function(*late) + 0], [theirs(*plain)])


@pytest.mark.parametrize("name", ["conv2d", "conv2d_relu", "block", "relu", "max_pool2d"])
def test_freed_memory_is_an_error(name):
    function, _, _ = OPERATIONS[name]
    for offset in (0, 1):
        tensors = [t.detach() for t in leaves(name)]
        function(*tensors)
        x = torch.cat([tensors[0], tensors[0]])[offset : offset + 2]
        x.untyped_storage().resize_(0)
        with pytest.raises(RuntimeError, match="freed"):
            function(x, *tensors[1:])
