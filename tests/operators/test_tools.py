"""Tests that torch's tools work the same on fastconv's layers as on torch's."""

import copy
import sys
import textwrap
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import fusion, parametrizations, parametrize, prune, spectral_norm, weight_norm
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

import fastconv
from fastconv import functional
from fastconv.testing import kernels


class Net(nn.Module):
    """A network of one module's layers: torch.nn's or fastconv's."""

    def __init__(self, layers=nn):
        super().__init__()
        self.conv1 = layers.Conv2d(3, 4, 3, padding=1)
        self.conv2 = layers.Conv2d(4, 6, 3, groups=2)
        self.norm = nn.BatchNorm2d(6)
        self.relu, self.pool = layers.ReLU(), layers.MaxPool2d(2)
        self.last = nn.Linear(6 * 9, 5)

    def forward(self, x):
        x = self.relu(self.norm(self.conv2(self.relu(self.conv1(x)))))
        return self.last(self.pool(x).flatten(1))


class Blocks(nn.Module):
    """The same in fused blocks."""

    def __init__(self):
        super().__init__()
        self.conv1 = fastconv.ConvReLU2d(3, 4, 3, padding=1)
        self.conv2 = fastconv.ConvReLUMaxPool2d(4, 6, 3, groups=2, pool_kernel_size=2)
        self.last = nn.Linear(6 * 9, 5)

    def forward(self, x):
        return self.last(self.conv2(self.conv1(x)).flatten(1))


def pair():
    """The same network in fastconv's and in torch's layers, in float64."""
    torch.manual_seed(0)
    theirs = Net().double()
    ours = Net(fastconv).double()
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


def X(n=2):
    generator = torch.Generator().manual_seed(n)
    return torch.randn(n, 3, 8, 8, generator=generator, dtype=torch.float64)


def step(model, x):
    """The output and all gradients."""
    y = model(x)
    return [y.detach(), *torch.autograd.grad(y.square().sum(), list(model.parameters()))]


def assert_same_steps(ours, theirs, x=None):
    x = X() if x is None else x
    torch.testing.assert_close(step(ours, x), step(theirs, x))


# torch.nn.utils and torch.nn.init


@pytest.mark.parametrize(
    "change",
    [
        weight_norm,
        spectral_norm,
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
        parametrizations.orthogonal,
        lambda conv: prune.l1_unstructured(conv, "weight", 0.3),
        lambda conv: prune.ln_structured(conv, "weight", 0.5, n=2, dim=0),
    ],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_parametrised_weights(change):
    ours, theirs = pair()
    for model in (ours, theirs):
        torch.manual_seed(1)
        change(model.conv1)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert_same_steps(ours, theirs)
    assert_same_steps(ours, theirs)  # spectral_norm iterates from call to call


def test_parametrisations_and_pruning_are_removed_again():
    ours, theirs = pair()
    for model in (ours, theirs):
        parametrizations.weight_norm(model.conv1)
        parametrize.remove_parametrizations(model.conv1, "weight")
        prune.l1_unstructured(model.conv2, "weight", 0.5)
        prune.remove(model.conv2, "weight")
    assert type(ours.conv1) is fastconv.Conv2d
    assert_same_steps(ours, theirs)


def test_convolution_and_batch_norm_fused():
    ours, theirs = pair()
    for model in (ours, theirs):
        model(X())  # statistics
        model.eval()
    fused = fusion.fuse_conv_bn_eval(ours.conv2, ours.norm)
    assert type(fused) is fastconv.Conv2d
    x = torch.randn(2, 4, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(fused(x), theirs.norm(theirs.conv2(x)))


@pytest.mark.parametrize(
    "init", ["kaiming_normal_", "xavier_uniform_", "orthogonal_", "dirac_", "trunc_normal_"]
)
def test_init(init):
    weights = []
    for layers in (nn, fastconv):
        torch.manual_seed(2)
        conv = layers.Conv2d(4, 6, 3)
        getattr(nn.init, init)(conv.weight)
        weights.append(conv.weight.detach())
        conv.reset_parameters()
        weights.append(conv.weight.detach().clone())
    assert torch.equal(weights[0], weights[2]) and torch.equal(weights[1], weights[3])


def test_lazy_layers_become_torchs(fused):
    # torch's own class says what it turns into; `convert` takes it from there.
    model = nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU())
    model(torch.randn(1, 3, 8, 8))
    converted = fastconv.convert(model)
    converted(torch.randn(1, 3, 8, 8))
    assert fused() == (0, 1)


# Autograd: hooks, retain_graph, checkpoints


def test_hooks():
    seen = []
    for model in pair():
        calls = []

        def note(text, calls=calls):
            return lambda *args: calls.append(text)

        model.conv1.register_forward_pre_hook(note("pre"))
        model.conv1.register_forward_hook(note("forward"))
        model.conv1.register_full_backward_hook(note("backward"))
        model.conv1.weight.register_hook(lambda g: 2 * g)
        model.conv2.weight.register_post_accumulate_grad_hook(note("accumulated"))
        y = model.conv1(X().requires_grad_())
        y.register_hook(note("y"))
        y.retain_grad()
        model.conv2(y).square().sum().backward()
        seen.append((calls, y.grad, model.conv1.weight.grad))
    assert seen[0][0] == seen[1][0]
    torch.testing.assert_close(seen[0][1:], seen[1][1:])


def test_a_graph_is_kept():
    ours, theirs = pair()
    found = []
    for model in (ours, theirs):
        loss = model(X()).square().sum()
        for _ in range(2):
            loss.backward(retain_graph=True)
        found.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoint_sequential(reentrant):
    from torch.utils.checkpoint import checkpoint_sequential

    conv = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 2), nn.ReLU()
    ).double()
    converted = fastconv.convert(conv)
    x = X().requires_grad_()
    found = checkpoint_sequential(converted, 2, x, use_reentrant=reentrant)
    expected = conv(x)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(
        torch.autograd.grad(found.sum(), x) if not reentrant else (gradient(found, x),),
        torch.autograd.grad(expected.sum(), x),
    )


def gradient(y, x):
    """By backward(), which alone works with reentrant checkpoints."""
    y.sum().backward()
    return x.grad


# torch.compile, export, fx


@pytest.fixture
def dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize("make", [lambda: pair()[0], lambda: Blocks().double()])
def test_no_batch_size_is_compiled_again(dynamo, make):
    model, graphs = make(), []

    def count(graph, inputs):
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    compiled = torch.compile(model, fullgraph=True, backend=count)
    for n in (2, 3, 4, 7, 5):
        assert_same_steps(compiled, model, X(n))
    assert len(graphs) <= 2  # static, then for any batch size


def operators_of(model, *x):
    """The names of the operators that a compiled model calls, forward."""
    from torch._dynamo.backends.common import aot_autograd

    names = []

    def note(graph, inputs):
        names.extend(str(n.target) for n in graph.graph.nodes if n.op == "call_function")
        return graph.forward

    torch.compile(model, fullgraph=True, backend=aot_autograd(fw_compiler=note))(*x)
    return names


@pytest.mark.slow
def test_lone_relu_and_pool_are_left_to_the_compiler(dynamo):
    ours, _ = pair()
    with torch.no_grad():
        names = operators_of(ours.eval(), X())
    assert any("relu" in name and "aten" in name for name in names)
    assert any("max_pool2d" in name and "aten" in name for name in names)
    assert "fastconv.conv2d.default" in names
    with torch.no_grad():
        names = operators_of(Blocks().double(), X())
    assert {"fastconv.conv2d_relu.default", "fastconv.conv2d_relu_max_pool2d.default"} <= set(names)
    assert not any("relu" in name and "aten" in name for name in names)


def test_symbolic_trace():
    for model in (pair()[0], Blocks().double()):
        graph = torch.fx.symbolic_trace(model)
        assert_same_steps(graph, model)
        targets = {n.target for n in graph.graph.nodes if n.op == "call_function"}
        assert functional.conv2d_relu in targets or functional.conv2d in targets


def test_symbolic_trace_of_functions():
    def f(x, w, b):
        y = functional.conv2d_relu(functional.conv2d(x, w, b, padding=1), w)
        y = functional.conv2d_relu_max_pool2d(y, w, b, pool_kernel_size=2)
        return functional.max_pool2d(functional.relu(y), 1)

    graph = torch.fx.symbolic_trace(f)
    x, w, b = torch.randn(2, 3, 9, 9), torch.randn(3, 3, 3, 3), torch.randn(3)
    assert torch.equal(graph(x, w, b), f(x, w, b))


class Subclass(fastconv.Conv2d):
    """A user's own layer."""


class Calls(nn.Module):
    """A user's module with one of fastconv's functions."""

    def __init__(self, function, *rest):
        super().__init__()
        self.function, self.rest = function, rest

    def forward(self, x):
        return self.function(x, *self.rest)


def calls_relu(x):
    return functional.relu(x)


UNSCRIPTABLE = {
    "Conv2d": lambda: fastconv.Conv2d(3, 3, 3),
    "Conv2d, reflect": lambda: fastconv.Conv2d(3, 3, 3, padding=1, padding_mode="reflect"),
    "ReLU": fastconv.ReLU,
    "MaxPool2d": lambda: fastconv.MaxPool2d(2),
    "ConvReLU2d": lambda: fastconv.ConvReLU2d(3, 3, 3),
    "ConvReLUMaxPool2d": lambda: fastconv.ConvReLUMaxPool2d(3, 3, 3, pool_kernel_size=2),
    "subclass": lambda: Subclass(3, 3, 3),
    "child": lambda: nn.Sequential(nn.Conv2d(3, 3, 3), nn.Sequential(fastconv.ReLU())),
    "function": lambda: functional.max_pool2d,
    "caller": lambda: calls_relu,
    "calling module": lambda: Calls(functional.relu),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("name", UNSCRIPTABLE)
def test_torch_jit_script_says_what_to_do(name):
    given, x = UNSCRIPTABLE[name](), torch.randn(2, 3, 8, 8)
    for _ in range(1 if name == "calling module" else 2):  # torch itself refuses a second try
        with pytest.raises(RuntimeError, match=r"script fastconv.revert\(model\), .*jit.trace"):
            torch.jit.script(given)
    if isinstance(given, nn.Module):
        torch.testing.assert_close(torch.jit.trace(given, x)(x), given(x))
        if name not in ("subclass", "calling module"):  # which revert leaves alone
            torch.testing.assert_close(torch.jit.script(fastconv.revert(given))(x), given(x))


class Noting(torch.Tensor):
    """A subclass that writes down which functions it meets."""

    seen: ClassVar[list] = []

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        cls.seen.append(function)
        return super().__torch_function__(function, types, args, kwargs or {})


def test_tensor_subclasses_are_asked():
    x = torch.randn(1, 3, 8, 8).as_subclass(Noting)
    w = torch.randn(3, 3, 3, 3)
    for function, args in (
        (functional.conv2d, (x, w)),
        (functional.conv2d_relu, (x, w)),
        (functional.conv2d_relu_max_pool2d, (x, w, None, 1, 0, 1, 1, 2)),
        (functional.relu, (x,)),
        (functional.max_pool2d, (x, 2)),
    ):
        Noting.seen.clear()
        y = function(*args)
        assert type(y) is Noting and function in Noting.seen
        plain = [a.as_subclass(torch.Tensor) if type(a) is Noting else a for a in args]
        assert torch.equal(y.as_subclass(torch.Tensor), function(*plain))


# Counting and profiling


def test_flop_counter():
    def counted(model, backward):
        with FlopCounterMode(display=False) as counter:
            y = model(X())
            if backward:
                y.sum().backward()
        return counter.get_total_flops()

    # Without groups: torch counts those of a weight's gradient as if there were none.
    theirs = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3), nn.ReLU()
    ).double()
    for ours in (fastconv.convert(theirs), fastconv.convert(theirs, fuse=False)):
        for backward in (False, True):
            assert counted(ours, backward) == counted(theirs, backward) > 0


def test_profiler_names():
    def names(function):
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            function()
        return {event.name for event in profiler.events()}

    x = X().requires_grad_()
    for model, forward, backward in (
        (
            pair()[0],
            {"conv2d", "relu", "max_pool2d"},
            {"conv2d_dgrad", "conv2d_wgrad", "relu_backward", "max_pool2d_backward"},
        ),
        (
            Blocks().double(),
            {"conv2d_relu", "conv2d_relu_max_pool2d"},
            {"conv2d_relu_dgrad", "conv2d_relu_wgrad"},
        ),
    ):
        forward, backward = ({f"fastconv::{n}" for n in some} for some in (forward, backward))
        with torch.no_grad():
            assert forward <= names(lambda model=model: model(x))
        assert forward | backward <= names(lambda model=model: model(x).sum().backward())


# Mixed precision


def test_grad_scaler():
    trained = []
    for model in pair():
        model.float()
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for n in (2, 3):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = F.cross_entropy(model(X(n).float()), torch.arange(n))
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        trained.append(model.state_dict())
    torch.testing.assert_close(*trained, rtol=0.02, atol=0.02)


# More than one process

DDP = """
import gc
import sys
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
import fastconv

def train(rank, layers):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 5)
    ).double()
    if layers == "fastconv":
        fastconv.convert(model, inplace=True)
        assert fastconv.explain(model)["0"].becomes == "fused"
    model = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for _ in range(3):
        optimizer.zero_grad()
        model(x[2 * rank : 2 * rank + 2]).square().mean().backward()
        optimizer.step()
    return model.module.state_dict()

def work(rank, store):
    dist.init_process_group("gloo", store=dist.FileStore(store, 2), rank=rank, world_size=2)
    torch.set_num_threads(1)
    torch.testing.assert_close(train(rank, "fastconv"), train(rank, "torch"))
    gc.collect()  # a DistributedDataParallel that outlives its group may abort the process
    dist.destroy_process_group()

if __name__ == "__main__":
    torch.multiprocessing.spawn(work, (sys.argv[1],), nprocs=2)
"""


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")
def test_distributed_data_parallel(tmp_path):
    run_script(tmp_path, DDP, str(tmp_path / "store"))


LOADER = """
import sys
import torch
from torch.utils.data import DataLoader, Dataset
import fastconv

class Features(Dataset):
    def __init__(self):
        torch.manual_seed(0)
        self.block = fastconv.ConvReLUMaxPool2d(3, 4, 3, pool_kernel_size=2)

    def __len__(self):
        return 6

    def __getitem__(self, i):
        with torch.no_grad():
            return self.block(torch.full((3, 8, 8), float(i)))

if __name__ == "__main__":
    features = Features()
    expected = torch.stack([features[i] for i in range(6)])
    for context in ("fork", "spawn"):
        loader = DataLoader(features, 2, num_workers=2, multiprocessing_context=context)
        assert torch.equal(torch.cat(list(loader)), expected), context
"""


@pytest.mark.slow
def test_data_loader_workers(tmp_path):
    run_script(tmp_path, LOADER)


def run_script(folder, code, *arguments):
    """A program in a file, since processes that are spawned read it again."""
    import subprocess

    script = folder / "script.py"
    script.write_text(textwrap.dedent(code))
    done = subprocess.run(
        [sys.executable, script, *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.gpu
@pytest.mark.skipif(kernels.WHY_NOT_ON_CUDA != "", reason=kernels.WHY_NOT_ON_CUDA)
def test_cuda_graph():
    model = Blocks().cuda()
    x = torch.randn(2, 3, 8, 8, device="cuda")
    model(x).sum().backward()  # what is made once
    graphed = torch.cuda.make_graphed_callables(copy.deepcopy(model), (x,))
    torch.testing.assert_close(step(graphed, x), step(model, x))
