"""Tests PyTorch's own sample and error inputs of these operations and layers, in all dtypes.

The samples are private to torch (torch.testing._internal) and change with its version.
"""

from unittest import mock

import pytest
import torch
from torch import Tensor

import fastconv
from fastconv import functional
from fastconv.testing import errors

pytest.importorskip("expecttest", reason="torch's sample inputs need expecttest")
# Importing them freezes torch's flags for the whole process, which other tests set.
with mock.patch.object(torch.backends, "disable_global_flags"):
    invocations = pytest.importorskip("torch.testing._internal.common_methods_invocations")
    modules = pytest.importorskip("torch.testing._internal.common_modules")

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
OPERATIONS = {
    op.name.removeprefix("nn.functional."): op
    for op in invocations.op_db
    if op.name in ("nn.functional.conv2d", "nn.functional.relu", "nn.functional.max_pool2d")
}
MODULES = {
    info.name.removeprefix("nn."): info
    for info in modules.module_db
    if info.name in ("nn.Conv2d", "nn.ReLU", "nn.MaxPool2d")
}


def samples(name, dtype):
    """Torch's samples: the input, the positional and the named arguments, made from one seed."""
    torch.manual_seed(0)
    for sample in OPERATIONS[name].sample_inputs("cpu", dtype, requires_grad=True):
        yield sample.input, sample.args, sample.kwargs


def derivatives(function, leaves, change=Tensor.clone):
    """The output, its gradients and second derivatives, for changed leaves.

    The random cotangents (changed too) are the same for all dtypes.
    """
    generator = torch.Generator().manual_seed(1)
    leaves = [change(t.detach()).requires_grad_() for t in leaves]

    def cotangent(like):
        made = torch.randn(like.shape, generator=generator).to(torch.bfloat16)  # exact in float16
        return change(made).to(like.dtype)

    outputs = function(*leaves)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    dy = cotangent(outputs[0]).requires_grad_()
    first = torch.autograd.grad(outputs[0], leaves, dy, create_graph=True)
    second = torch.autograd.grad(
        first, [dy, *leaves], list(map(cotangent, first)), materialize_grads=True, allow_unused=True
    )
    return [t.detach() for t in outputs], [t.detach() for t in (*first, *second)]


def check(name, ours, theirs, leaves):
    """Compares with torch in float64 by the one rule; indices have to be equal."""
    results = [derivatives(function, leaves) for function in (ours, theirs)]
    results.append(derivatives(theirs, leaves, Tensor.double))
    results.append(derivatives(theirs, leaves, lambda t: t.double().abs()))
    for found, own, _, _ in zip(*(outputs for outputs, _ in results), strict=True):
        assert found.stride() == own.stride(), name
    for found, own, exact, size in zip(*map(sum, results, [[]] * 4), strict=True):
        assert found.dtype == own.dtype, name
        if found.is_floating_point():
            scale = size.max().item() if size.numel() else 0.0
            errors.check_close(found, exact, own, scale, factor=errors.GRADIENT, name=name)
        else:
            assert torch.equal(found, own), name


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", OPERATIONS)
def test_samples(name, dtype):
    ours, theirs = getattr(functional, name), getattr(torch.nn.functional, name)
    count = 0
    for x, args, kwargs in samples(name, dtype):
        tensors = [x, *(a for a in args if isinstance(a, Tensor))]
        rest = [a for a in args if a is not None and not isinstance(a, Tensor)]
        leaves = [t for t in tensors if t.requires_grad]
        assert len(leaves) == len(tensors) and not rest, "samples of a kind not known here"
        label = f"{name} {[list(t.shape) for t in leaves]} {kwargs} {dtype}"
        check(
            label,
            lambda *t, k=kwargs: ours(*t, **k),
            lambda *t, k=kwargs: theirs(*t, **k),
            leaves,
        )
        count += 1
    assert count >= 4


@pytest.mark.parametrize("name", OPERATIONS)
def test_second_derivatives_of_samples(name):
    ours = getattr(functional, name)
    for i, (x, args, kwargs) in enumerate(samples(name, torch.float64)):
        if name == "max_pool2d" and i % 29:
            continue  # 1440 samples that differ by little
        leaves = [x, *(a for a in args if isinstance(a, Tensor))]

        def y_of(*leaves, k=kwargs):
            y = ours(*leaves, **k)
            return y[0] if isinstance(y, tuple) else y

        assert torch.autograd.gradcheck(y_of, leaves, fast_mode=True), kwargs
        assert torch.autograd.gradgradcheck(y_of, leaves, fast_mode=True), kwargs


@pytest.mark.parametrize("name", [name for name, op in OPERATIONS.items() if op.error_inputs_func])
def test_error_inputs(name):
    for error in OPERATIONS[name].error_inputs("cpu"):
        sample = error.sample_input
        for function in (getattr(torch.nn.functional, name), getattr(functional, name)):
            with pytest.raises(error.error_type):
                function(sample.input, *sample.args, **sample.kwargs)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", MODULES)
def test_module_samples(name, dtype):
    info = MODULES[name]
    options = dict(device="cpu", dtype=dtype, requires_grad=True, training=True)
    for sample in info.module_inputs_func(info, **options):
        made, called = sample.constructor_input, sample.forward_input
        kwargs = dict(made.kwargs)
        if name == "Conv2d":
            kwargs |= dict(device="cpu", dtype=dtype)
        theirs = info.module_cls(*made.args, **kwargs)
        ours = getattr(fastconv, name)(*made.args, **kwargs)
        ours.load_state_dict(theirs.state_dict())

        names = [name for name, _ in theirs.named_parameters()]

        def function_of(module, names=names):
            def function(x, *values):
                values = dict(zip(names, values, strict=True))
                return torch.func.functional_call(module, values, (x * 1,))  # x may be a leaf

            return function

        label = f"{name} {made.args} {made.kwargs} {sample.desc} {dtype}"
        leaves = [called.args[0], *theirs.parameters()]
        check(label, function_of(ours), function_of(theirs), leaves)


@pytest.mark.parametrize("name", [n for n, i in MODULES.items() if i.module_error_inputs_func])
def test_module_error_inputs(name):
    info = MODULES[name]
    options = dict(device="cpu", dtype=torch.float32, requires_grad=False, training=True)
    for error in info.module_error_inputs_func(info, **options):
        made, called = (
            error.module_error_input.constructor_input,
            error.module_error_input.forward_input,
        )
        for cls in (info.module_cls, getattr(fastconv, name)):
            with pytest.raises(error.error_type):
                cls(*made.args, **made.kwargs)(*called.args, **called.kwargs)
