"""Tests the forwards that convert sets: which module they run, and how tools handle them."""

import copy
import functools
import gc
import inspect
import pickle
import subprocess
import sys
import threading
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastconv
from code_models import Tutorial, X, build


class Flagged(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.pool, self.use_pool = nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), True

    def forward(self, x):
        x = F.relu(self.conv(x))
        return self.pool(x) if self.use_pool else x


def pool(size):
    layer = nn.MaxPool2d(2)
    layer.kernel_size = size
    return layer


# A module, and a change that makes a shallow copy different.
SHALLOW = {
    "code": (Flagged, {"use_pool": False}),
    "sequential": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), {}),
    "conv": (lambda: nn.Conv2d(3, 4, 3), {"stride": (2, 2)}),
    "pool": (lambda: nn.MaxPool2d(2), {"kernel_size": 3}),
    "relu": (nn.ReLU, {}),
}


@pytest.mark.parametrize("name", SHALLOW)
def test_shallow_copies(name):
    make, attributes = SHALLOW[name]
    original = make().double()
    converted = fastconv.convert(original)
    pairs = []
    for model in (original, converted):
        other = copy.copy(model)
        vars(other).update(attributes)
        pairs.append((model, other))
    for theirs, ours in zip(*pairs, strict=True):
        torch.testing.assert_close(ours(X()), theirs(X()))
        torch.testing.assert_close(forward_of(ours, X()), theirs(X()))
        compiled = torch.compile(ours, backend="eager")
        torch.testing.assert_close(compiled(X()), theirs(X()))
        torch.testing.assert_close(copy.deepcopy(ours)(X()), theirs(X()))
        torch.testing.assert_close(pickle.loads(pickle.dumps(ours))(X()), theirs(X()))
    # also once the module itself is gone
    (theirs, _), (_, ours) = pairs[0], pairs[1]
    expected = pairs[0][1](X())
    del converted, theirs, pairs, model, other
    torch.testing.assert_close(ours(X()), expected)
    torch.testing.assert_close(forward_of(ours, X()), expected)


def forward_of(model, x):
    """forward() without a call of the module does not run its hooks."""
    return model.forward(x)


def test_a_direct_call_among_copies_says_what_to_do():
    converted = fastconv.convert(Flagged())
    other = copy.copy(converted)
    with pytest.raises(RuntimeError, match="call the one you mean, module"):
        converted.forward(X()), other.forward(X())
    del other
    assert converted.double().forward(X()).shape[2] == 7


def test_replicas_of_data_parallel(fused):
    """Makes replicas like torch on several GPUs: `__dict__` is shared, contents are copied."""
    converted = fastconv.convert(build(Tutorial))
    replicas = {m: m._replicate_for_data_parallel() for m in converted.modules()}
    for module, replica in replicas.items():
        for name, child in module._modules.items():
            setattr(replica, name, replicas[child])
        for name, parameter in module._parameters.items():
            setattr(replica, name, parameter.detach() * 2)
    doubled = copy.deepcopy(converted)
    with torch.no_grad():
        for parameter in doubled.parameters():
            parameter.mul_(2)
    expected = doubled(X()), converted(X())
    fused()
    torch.testing.assert_close((replicas[converted](X()), converted(X())), expected)
    assert fused() == (4, 0)


def test_a_forward_lent_to_another_module():
    """A forward stays bound to its own module, like a method."""
    for make in (Flagged, lambda: nn.Conv2d(3, 4, 3)):
        theirs = make().double(), make().double()
        ours = [fastconv.convert(model) for model in theirs]
        for a, b in (theirs, ours):
            b.forward = a.forward
        torch.testing.assert_close(ours[1](X()), theirs[0](X()))
        torch.testing.assert_close(theirs[1](X()), theirs[0](X()))


@pytest.mark.parametrize("name", SHALLOW)
@pytest.mark.parametrize("how", ["called", "copied", "compiled", "explained"])
def test_no_cycle_keeps_a_model(name, how):
    converted = fastconv.convert(SHALLOW[name][0]())
    x = torch.randn(1, 3, 16, 16, requires_grad=True)
    gc.collect()
    gc.disable()
    try:
        if how == "called":
            converted(x).sum().backward()
        elif how == "copied":
            converted = copy.deepcopy(converted)
            converted(x)
        elif how == "explained":
            fastconv.explain(converted)
        else:
            torch.compile(converted, backend="eager")(x)
            torch.compiler.reset()
            gc.collect()
        gone = weakref.ref(converted)
        del converted
        assert gone() is None
    finally:
        gc.enable()


def test_hooks_set_later(fused):
    converted = fastconv.convert(build(Tutorial))
    expected, seen = converted(X()), []
    assert fused() == (2, 0)
    handles = [
        module.register_forward_hook(lambda *call: seen.append(call))
        for module in converted.modules()
    ]
    torch.testing.assert_close(converted(X()), expected)
    # the pool is called twice
    assert len(seen) == 6 and fused() == (0, 0)
    for handle in handles:
        handle.remove()
    converted(X())
    assert fused() == (2, 0)


def test_layers_are_found_by_type():
    converted = fastconv.convert(build(Tutorial))
    kinds = [type(module) for module in converted.modules()]
    assert kinds == [type(module) for module in build(Tutorial).modules()]
    assert inspect.signature(converted.forward) == inspect.signature(build(Tutorial).forward)
    assert inspect.signature(converted.conv1.forward) == inspect.signature(
        nn.Conv2d(1, 1, 1).forward
    )


@pytest.mark.parametrize("name", SHALLOW)
def test_torch_jit_script_says_what_to_do(name):
    converted = fastconv.convert(SHALLOW[name][0]())
    with pytest.raises(Exception, match=r"script fastconv.revert\(model\), or use torch.jit.trace"):
        torch.jit.script(converted)
    torch.jit.script(fastconv.revert(converted))


@pytest.mark.parametrize("name", SHALLOW)
def test_torch_export_and_trace(name):
    converted = fastconv.convert(SHALLOW[name][0]()).double().eval()
    expected = converted(X())
    for strict in (False, True):
        program = torch.export.export(converted, (X(),), strict=strict)
        torch.testing.assert_close(program.module()(X()), expected)
    torch.testing.assert_close(torch.jit.trace(converted, (X(),))(X()), expected)


def test_a_result_may_be_changed_in_place():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).double()
    converted = fastconv.convert(model)
    gradients = []
    for change in (lambda y: y.add_(1), lambda y: y + 1):
        x = X().clone().requires_grad_()
        gradients.append(torch.autograd.grad(change(converted(x)).square().sum(), x))
    torch.testing.assert_close(*gradients)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        model(X().requires_grad_()).add_(1).sum().backward()


def test_edits_of_a_compiled_model():
    original = Flagged().double()
    converted = fastconv.convert(original)
    models = original, converted
    compiled = [torch.compile(model, backend="eager", fullgraph=True) for model in models]

    def same():
        torch.testing.assert_close(compiled[1](X()), compiled[0](X()))

    same()
    for model in models:
        model.use_pool = False
    same()
    for model in models:
        model.use_pool = True
    same()
    for model in models:
        model.pool = nn.AvgPool2d(2)
    same()
    for model in models:
        model.conv.register_forward_hook(lambda module, args, y: y * 2)
    same()
    for model in models:
        model.conv = nn.Identity()
    same()


def doubled_weight(self, name):
    value = object.__getattribute__(self, name)
    return {**value, "weight": value["weight"] * 2} if name == "_parameters" else value


PATCHES = [
    (nn.Conv2d, "forward", lambda self, x: x * 2),
    (nn.Conv2d, "_conv_forward", lambda self, x, weight, bias: F.conv2d(x, weight) * 2),
    (nn.Conv2d, "weight", property(lambda self: self._parameters["weight"] * 2)),
    (nn.Conv2d, "bias", property(lambda self: self._parameters["bias"] * 2)),
    (nn.Conv2d, "__getattr__", lambda self, name: nn.Module.__getattr__(self, name) * 2),
    (nn.Conv2d, "__getattribute__", doubled_weight),
    (nn.ReLU, "forward", lambda self, x: x * 2), (nn.MaxPool2d, "forward", lambda self, x: x * 2),
    (F, "conv2d", lambda x, weight, *rest: torch.conv2d(x, weight) * 2),
    (F, "relu", lambda x, inplace=False: x * 2), (F, "max_pool2d", lambda x, *rest, **more: x * 2),
    (nn.Sequential, "forward", lambda self, x: x * 2),
    (nn.Sequential, "__iter__", lambda self: iter([nn.Tanh()])),
    (nn.Module, "__call__", lambda self, *args: self.forward(*args) * 2),
]  # fmt: skip


@pytest.mark.parametrize("owner, name, value", PATCHES, ids=lambda value: str(value)[:30])
def test_patched_functions_of_torch(owner, name, value, monkeypatch):
    """Tools that count operations or cast their arguments do this."""
    models = Flagged(), nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2))
    models = [model.double() for model in models]
    converted = [fastconv.convert(model) for model in models]
    monkeypatch.setattr(owner, name, value, raising=False)
    for ours, theirs in zip(converted, models, strict=True):
        torch.testing.assert_close(ours(X()), theirs(X()))


@pytest.mark.slow
def test_calls_in_several_threads():
    converted = fastconv.convert(build(Tutorial)).eval()
    other = copy.copy(converted)
    expected, errors = converted(X()), []

    def work():
        try:
            for _ in range(50):
                torch.testing.assert_close(converted(X()), expected)
                torch.testing.assert_close(other(X()), expected)
                torch.testing.assert_close(forward_of(other, X()), expected)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_wrapped_forwards(fused):
    """Wraps the forward in another function, as accelerate does."""
    converted = fastconv.convert(build(Tutorial))
    expected = converted(X())
    converted.forward = functools.wraps(converted.forward)(functools.partial(converted.forward))
    fused()
    torch.testing.assert_close(converted(X()), expected)
    assert fused() == (2, 0)


@pytest.mark.slow
def test_types_for_type_checkers(tmp_path):
    """`convert` returns its argument's type; max_pool2d with indices returns two tensors."""
    pytest.importorskip("mypy", reason="needs mypy: pip install mypy")
    (tmp_path / "typed.py").write_text(
        "import torch\nfrom torch import Tensor, nn\nimport fastconv\n"
        "class Net(nn.Module):\n    def extra(self) -> int:\n        return 1\n"
        "net: Net = fastconv.convert(Net())\n"
        "y: Tensor = fastconv.max_pool2d(torch.ones(1, 1, 4, 4), 2)\n"
        "z: Tensor\ni: Tensor\n"
        "z, i = fastconv.max_pool2d(torch.ones(1, 1, 4, 4), 2, return_indices=True)\n"
        "wrong: int = fastconv.convert(net)\n"
    )
    command = [sys.executable, "-m", "mypy", "--ignore-missing-imports", "typed.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert "Found 1 error" in done.stdout and "typed.py:12: error" in done.stdout, done.stdout
