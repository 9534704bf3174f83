"""Tests calls with tensors of two devices: one clear error before any memory is touched."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

import fastconv
from fastconv import functional as fc
from fastconv.geometry import ConvSpec, PoolSpec
from fastconv.kernels.plan import Plan
from fastconv.kernels.workspace import workspace
from fastconv.operators import conv2d, conv2d_dgrad, conv2d_wgrad
from fastconv.operators.conv2d_relu import (
    conv2d_relu,
    conv2d_relu_dgrad,
    conv2d_relu_max_pool2d,
    conv2d_relu_wgrad,
)
from fastconv.operators.max_pool2d import max_pool2d_backward
from fastconv.operators.relu import relu_backward

X, W, B, DY = torch.ones(2, 3, 6, 6), torch.ones(4, 3, 3, 3), torch.ones(4), torch.ones(2, 4, 6, 6)
BITS = torch.ones(2, 6, 1, 4, dtype=torch.uint8)
CONV, W_SIZE = ConvSpec(1, 1, 1, 1, 1, 1, 1, 1, 1), (4, 3, 3, 3)
POOL, POOLED = PoolSpec(2, 2, 2, 2, 0, 0, 1, 1, 0), torch.ones(2, 4, 3, 3)
WINNERS = torch.ones(2, 4, 3, 3, dtype=torch.uint8)

# Every operator that takes more than one tensor.
CALLS = {
    conv2d: (X, W, B, CONV),
    conv2d_dgrad: (DY, W, (6, 6), False, CONV),
    conv2d_wgrad: (X, DY, W_SIZE, False, True, True, CONV),
    conv2d_relu: (X, W, B, CONV, None),
    conv2d_relu_max_pool2d: (X, W, B, CONV, POOL),
    conv2d_relu_dgrad: (DY, W, BITS, (6, 6), False, CONV, None),
    conv2d_relu_wgrad: (X, DY, BITS, W_SIZE, False, True, True, CONV, None),
    relu_backward: (X, torch.ones(27, dtype=torch.uint8), X.stride()),
    max_pool2d_backward: (POOLED, WINNERS, (6, 6), False, POOL),
}


class Shell(Tensor):
    """A tensor of a GPU, as far as it shows without one: it has no memory at all."""

    @staticmethod
    def __new__(cls, like):
        return Tensor._make_wrapper_subclass(
            cls, like.shape, strides=like.stride(), dtype=like.dtype, device="cuda:0"
        )

    @classmethod
    def __torch_dispatch__(cls, function, *_):
        raise AssertionError(f"{function} was called")


def on_cuda(tensor):
    """A tensor that the guards of the short way take for a plain one of the first GPU."""
    if torch.cuda.is_available():
        return tensor.cuda()
    shell = Shell(tensor)
    shell.__class__ = Tensor
    return shell


def on_meta(tensor):
    return tensor.to("meta")


def mixtures(arguments, move):
    """The arguments with one tensor elsewhere, or all but one."""
    tensors = [i for i, a in enumerate(arguments) if isinstance(a, Tensor)]
    for one in tensors:
        others = [i for i in tensors if i != one]
        for moved in ([one], others):
            yield [move(a) if i in moved else a for i, a in enumerate(arguments)]


def expect_refusal(call, *arguments, match):
    with pytest.raises(RuntimeError, match=match) as error:
        call(*arguments)
    assert "\n" not in str(error.value)


ONE_DEVICE = r"^fastconv::\w+: all tensors must be on one device, got \S+ and \S+$"


@pytest.mark.gpu
@pytest.mark.parametrize("move", [on_cuda, on_meta])
@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_short_way(call, move):
    assert len([a for a in CALLS[call] if isinstance(a, Tensor)]) > 1
    for arguments in mixtures(CALLS[call], move):
        expect_refusal(call, *arguments, match=ONE_DEVICE)


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_registered_operator(call):
    operator = getattr(torch.ops.fastconv, call.__name__).default
    more = len(operator._schema.arguments) - len(CALLS[call])  # `save`
    for arguments in mixtures(CALLS[call], on_meta):
        expect_refusal(operator, *arguments, *(True,) * more, match=ONE_DEVICE)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        # Torch itself may notice first.
        match = f"{ONE_DEVICE}|two different devices"
        for arguments in mixtures(CALLS[call], lambda t: torch.empty_like(t, device="cuda")):
            arguments = [mode.from_tensor(a) if type(a) is Tensor else a for a in arguments]
            expect_refusal(operator, *arguments, *(True,) * more, match=match)


def test_every_operator_of_several_tensors_is_here():
    tested = {call.__name__ for call in CALLS}
    for name in torch._C._dispatch_get_all_op_names():
        if name.startswith("fastconv::"):
            name = name.split("::")[1]
            schema = getattr(torch.ops.fastconv, name).default._schema
            several = sum("Tensor" in str(a.type) for a in schema.arguments) > 1
            assert several == (name in tested), name


@pytest.mark.gpu
@pytest.mark.parametrize("move", [on_cuda, on_meta])
@pytest.mark.parametrize(
    "call, more",
    [(fc.conv2d, {}), (fc.conv2d_relu, {}), (fc.conv2d_relu_max_pool2d, {"pool_kernel_size": 2})],
)
def test_functions(call, more, move, monkeypatch):
    monkeypatch.setattr(fastconv.kernels, "usable", lambda device: True)
    match = (
        rf"^{call.__name__}: (\w+) and (\w+) must be on the same device, "
        r"got \1 on \S+ and \2 on \S+; \1\.to\('\S+'\) moves it$"
    )
    for x, w, b in mixtures((X, W, B), move):
        expect_refusal(lambda x, w, b: call(x, w, b, **more), x, w, b, match=match)


@pytest.mark.parametrize(
    "call, more",
    [(fc.conv2d, {}), (fc.conv2d_relu, {}), (fc.conv2d_relu_max_pool2d, {"pool_kernel_size": 2})],
)
def test_saved_tensors_that_came_back_elsewhere(call, more):
    # The gradient is on the CPU, what was kept no longer: a hook's fault, but not a crash.
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, on_meta):
        y = call(X.clone().requires_grad_(), W.clone().requires_grad_(), **more)
    expect_refusal(lambda: y.sum().backward(), match=ONE_DEVICE)


def test_a_kernel_runs_on_its_tensors_gpu_and_torch_goes_back(monkeypatch):
    if torch.version.cuda is not None:
        pytest.skip("needs a torch without CUDA")
    current, seen = [1], []

    class Device:
        """torch.cuda.device."""

        def __init__(self, device):
            self.device = device

        def __enter__(self):
            current.append(self.device)

        def __exit__(self, *_):
            current.pop()

    monkeypatch.setattr(torch.cuda, "device", Device)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: current[-1])
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=0))
    plan = Plan("relu_fprop", 0)
    plan.prepared = lambda *addresses: seen.append(list(current))
    plan.run((on_cuda(X), None, None), (), ())
    current[:] = [0]
    plan.run((on_cuda(X), None, None), (), ())
    assert seen == [[1, 0], [0]] and current == [0]


def test_workspace_is_where_the_tensors_are():
    # Of the thread's last call, which was on the CPU, nothing may be left for another device.
    ours = workspace(1 << 16, X)
    again = workspace(1 << 15, X)
    assert again is ours
    theirs = workspace(1 << 15, on_meta(X))
    assert theirs.device.type == "meta"
    again = workspace(1 << 15, X)
    assert again is ours
    # On another stream the last call's kernel may still run.
    assert workspace(1 << 15, on_meta(X)) is not theirs


def test_private_names_of_torch_are_in_one_file():
    pattern = r"\btorch\._(?!_(?:version|file)__)\w|\b_dynamo_|\b_cuda_get|\btorch\.cuda\._"
    for path in Path(fastconv.__file__).parent.rglob("*.py"):
        found = path.name != "torch_internals.py" and re.search(pattern, path.read_text())
        assert not found, f"{path}: {found[0]}"
