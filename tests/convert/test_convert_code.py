"""convert on models that were not written for it: chains in the code of forward."""

import copy
import inspect
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastconv
from fastconv import functional
from fastconv.models.squeezenet1_1 import Fire as FireOfAnySize


def X(size=16, channels=3):
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(0)).double()


class Tutorial(nn.Module):
    """PyTorch's CIFAR10 tutorial: one pool for both chains."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(6, 8, 3)
        self.fc1 = nn.Linear(32, 5)

    def forward(self, x):
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        return self.fc1(torch.flatten(x, 1))


class Mnist(nn.Module):
    """PyTorch's MNIST example."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, 1)
        self.conv2 = nn.Conv2d(8, 8, 3, 1)
        self.dropout1 = nn.Dropout(0.25)
        self.fc1 = nn.Linear(288, 5)

    def forward(self, x):
        x = self.conv1(x)
        x = F.relu(x)
        x = self.conv2(x)
        x = F.relu(x)
        x = F.max_pool2d(x, 2)
        x = self.dropout1(x)
        x = torch.flatten(x, 1)
        x = F.dropout(x, training=self.training)
        return F.log_softmax(self.fc1(x), dim=1)


class OldMnist(nn.Module):
    """The MNIST example of older times: the pool comes before the ReLU."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 10, kernel_size=5)
        self.conv2 = nn.Conv2d(10, 20, kernel_size=3)
        self.conv2_drop = nn.Dropout2d()
        self.fc1 = nn.Linear(80, 5)

    def forward(self, x):
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(F.max_pool2d(self.conv2_drop(self.conv2(x)), 2))
        return self.fc1(x.view(-1, 80))


class Fire(FireOfAnySize):
    """SqueezeNet's."""

    def __init__(self):
        super().__init__(3, 4, 6)


class Residual(nn.Module):
    """One ReLU, in place, in a chain and behind a sum."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 3, 3, padding=1)
        self.conv2 = nn.Conv2d(3, 3, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        identity = x
        out = self.relu(self.conv1(x))
        out = self.conv2(out)
        out += identity
        return self.relu(out)


class DoubleConv(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.double_conv = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, padding=1),
            nn.ReLU(inplace=True),
        )

    def forward(self, x):
        return self.double_conv(x)


class UNet(nn.Module):
    """Skip connections; the last convolution's value has two users."""

    def __init__(self):
        super().__init__()
        self.down1, self.down2 = DoubleConv(3, 4), DoubleConv(4, 8)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.conv = DoubleConv(8, 4)
        self.out = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        skip = self.down1(x)
        x = self.down2(F.max_pool2d(skip, 2))
        x = self.out(self.conv(torch.cat([self.up(x), skip], dim=1)))
        return F.relu(x) + torch.sigmoid(x)


class BasicConv(nn.Module):
    def __init__(self, *arguments, **keywords):
        super().__init__()
        self.conv = nn.Conv2d(*arguments, **keywords)

    def forward(self, x):
        return F.relu(self.conv(x), inplace=True)


class Inception(nn.Module):
    def __init__(self):
        super().__init__()
        self.branch1 = BasicConv(3, 4, kernel_size=1)
        self.branch3_1 = BasicConv(3, 4, kernel_size=1)
        self.branch3_2a = BasicConv(4, 4, kernel_size=(1, 3), padding=(0, 1))
        self.branch3_2b = BasicConv(4, 4, kernel_size=(3, 1), padding=(1, 0))

    def _forward(self, x):
        branch3 = self.branch3_1(x)
        branch3 = [self.branch3_2a(branch3), self.branch3_2b(branch3)]
        return [self.branch1(x), torch.cat(branch3, 1)]

    def forward(self, x):
        return torch.cat(self._forward(x), 1)


class Loops(nn.Module):
    """Layers in lists, some of which are asked for their class: they are known."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(3, 3, 3, padding=1) for _ in range(3)])
        self.layers = nn.ModuleDict(
            {"conv": nn.Conv2d(3, 4, 3), "relu": nn.ReLU(), "pool": nn.MaxPool2d(2)}
        )
        self.features = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 1))

    def forward(self, x):
        for conv in self.convs:
            x = torch.relu(conv(x)).contiguous()
        for layer in self.layers.values():
            x = layer(x)
        kept = []
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.Conv2d):
                kept.append(x.mean())
        return x + sum(kept)


class Tied(nn.Module):
    """One convolution at three places, and a weight that is used without its layer."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.relu = nn.ReLU()

    def forward(self, x):
        x = self.relu(self.conv(x))
        x = F.max_pool2d(self.conv(x).relu(), kernel_size=3, stride=1)
        return self.conv(x) + F.conv2d(x, self.conv.weight, padding=1)


class Several(nn.Module):
    """Values that more than the next layer wants."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.conv3 = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.pool = nn.MaxPool2d(2, return_indices=True)

    def forward(self, x):
        a = self.conv1(x)
        b = F.relu(a)
        c = self.conv2(b)
        torch.relu_(c)
        d, indices = self.pool(F.relu(self.conv3(c)))
        return a, d.sum() + F.max_pool2d(c, 2).sum(), indices


class Attention(nn.Module):
    """Optional arguments: only calls without them run fused."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x, mask=None, raw=False):
        y = self.conv(x)
        if raw:
            return y
        y = F.relu(y)
        return y if mask is None else y * mask


class OwnFunctions(nn.Module):
    """fastconv's functions are known as well."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3)

    def forward(self, x):
        x = functional.max_pool2d(functional.relu(self.conv1(x)), [2, 2])
        return functional.max_pool2d(F.relu(self.conv2(x)), 2, return_indices=True)


# What runs as one operation: how many chains with a pool, and how many without.
MODELS = {
    Tutorial: (2, 0), Mnist: (1, 1), OldMnist: (1, 0), Fire: (0, 3), Residual: (0, 1), UNet: (0, 6),
    Inception: (0, 4), Loops: (1, 3), Tied: (1, 1), Several: (0, 1), Attention: (0, 1),
    OwnFunctions: (1, 1),
}  # fmt: skip


def build(kind):
    torch.manual_seed(0)
    return kind().double()


def run(model, *arguments, parameters=None, **keywords):
    """Outputs and gradients."""
    torch.manual_seed(0)
    x, *others = arguments
    x = x.clone().requires_grad_()
    y = model(x * 1, *others, **keywords)
    y = [value for value in (y if isinstance(y, tuple) else (y,)) if value.is_floating_point()]
    inputs = [x, *(model.parameters() if parameters is None else parameters)]
    loss = sum(value.square().sum() for value in y)
    gradients = torch.autograd.grad(loss, inputs, allow_unused=True) if loss.requires_grad else ()
    return [*y, *gradients]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", MODELS, ids=lambda kind: kind.__name__)
def test_models(kind, training, fused):
    model = build(kind).train(training)
    attributes = [{k: id(v) for k, v in vars(m).items()} for m in model.modules()]
    names = [set(vars(m)) for m in model.modules()]
    expected = run(model, X())
    converted = fastconv.convert(model)
    torch.testing.assert_close(run(converted, X()), expected)
    assert fused() == MODELS[kind]
    # what does not change
    assert type(converted) is kind and list(converted.state_dict()) == list(model.state_dict())
    assert attributes == [{k: id(v) for k, v in vars(m).items()} for m in model.modules()]
    for a, b in zip(model.parameters(), converted.parameters(), strict=True):
        assert a is b
    assert inspect.signature(converted.forward) == inspect.signature(model.forward)
    # copies
    for other in (
        copy.deepcopy(converted),
        pickle.loads(pickle.dumps(converted)),
        fastconv.convert(converted),
    ):
        torch.testing.assert_close(run(other, X()), expected)
        assert fused() == MODELS[kind]
        with torch.no_grad():
            next(other.parameters()).add_(1)
        assert not torch.equal(run(other, X())[0], expected[0])
        with torch.no_grad():
            next(other.parameters()).sub_(1)
        fused()
    # and back
    back = fastconv.revert(converted)
    assert repr(back) == repr(model) and names == [set(vars(m)) for m in back.modules()]
    torch.testing.assert_close(run(back, X()), expected)
    assert fused() == (0, 0)
    # one by one
    single = fastconv.convert(model, fuse=False)
    torch.testing.assert_close(run(single, X()), expected)
    assert fused() == (0, 0)


def test_the_mode_may_change_later(fused):
    model = build(Mnist)
    converted = fastconv.convert(model)
    for training in (False, True, False):
        model.train(training), converted.train(training)
        torch.testing.assert_close(run(converted, X()), run(model, X()))
        assert fused() == (1, 1)


def test_other_calls_run_the_own_forward(fused):
    model = build(Attention)
    converted = fastconv.convert(model)
    mask = torch.rand(16, 16).double()
    for arguments, keywords, count in (
        ((), {}, 1),
        ((mask,), {}, 0),
        ((), {"mask": mask}, 0),
        ((), {"raw": True}, 0),
        ((None, True), {}, 0),
    ):
        expected = run(model, X(), *arguments, **keywords)
        torch.testing.assert_close(run(converted, X(), *arguments, **keywords), expected)
        assert fused() == (0, count)
    assert torch.equal(converted(x=X()), converted(X()))
    assert fused() == (0, 2)
    with pytest.raises(TypeError, match="forward"):
        converted()
    with pytest.raises(TypeError, match="forward"):
        converted(y=X())


def test_layers_stay_single(fused):
    """Other methods, users of a layer and hooks meet what they expect."""
    model = build(Tutorial)
    converted = fastconv.convert(model)
    torch.testing.assert_close(converted.conv1(X()), model.conv1(X()))
    assert fused() == (0, 0)
    seen = []
    converted.conv1.register_forward_hook(lambda module, args, y: seen.append(y))
    torch.testing.assert_close(run(converted, X()), run(model, X()))
    assert fused() == (1, 0)  # the other chain
    torch.testing.assert_close(seen[0], model.conv1(X()))
    converted.conv2 = nn.utils.parametrizations.weight_norm(converted.conv2)
    torch.testing.assert_close(converted(X()), model(X()))
    assert fused() == (0, 0)


def test_global_hooks_see_every_layer(fused):
    converted = fastconv.convert(build(Tutorial))
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda m, args, y: seen.append(m))
    try:
        converted(X())
    finally:
        handle.remove()
    assert converted.conv1 in seen and converted.pool in seen and fused() == (0, 0)
    converted(X())
    assert fused() == (2, 0)


class Flag(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3)
        self.use_pool = True

    def forward(self, x):
        x = self.conv(x).relu()
        return F.max_pool2d(x, 2) if self.use_pool else x


def test_flags_may_change(fused):
    converted = fastconv.convert(build(Flag))
    assert converted(X()).shape[2] == 7 and fused() == (1, 0)
    converted.use_pool = False
    assert converted(X()).shape[2] == 14 and fused() == (0, 0)


def test_a_hooked_layer_is_not_fused(fused):
    model = build(Fire)
    seen = []
    model.squeeze.register_forward_hook(lambda module, args, y: seen.append(y.min()))
    converted = fastconv.convert(model)
    assert seen == []
    converted(X())
    assert fused() == (0, 2) and seen[0] < 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Tutorial, Mnist, OldMnist, Residual])
def test_compiler_export_and_tracing(kind):
    model = build(kind).eval()
    converted = fastconv.convert(model)
    expected = model(X())
    torch.testing.assert_close(
        torch.compile(converted, fullgraph=True, backend="aot_eager")(X()), expected
    )
    for strict in (False, True):
        program = torch.export.export(converted, (X(),), strict=strict)
        names = [str(node.target) for node in program.graph.nodes]
        assert any("fastconv.conv2d_relu" in name for name in names)
        torch.testing.assert_close(program.module()(X()), expected)
    torch.testing.assert_close(torch.fx.symbolic_trace(converted)(X()), expected)
    outer = nn.Sequential(converted)
    torch.testing.assert_close(torch.fx.symbolic_trace(outer)(X()), expected)


@pytest.mark.slow
def test_one_graph_for_all_batches():
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()
    compiled = torch.compile(fastconv.convert(build(Tutorial)), fullgraph=True, backend=counter)
    for n in (2, 3, 4, 5):
        compiled(X()[:1].expand(n, -1, -1, -1))
    assert counter.frame_count <= 2  # static, then dynamic


@pytest.mark.slow
def test_in_a_new_process(tmp_path, run_python):
    """torch.save and torch.load."""
    from fastconv import models

    torch.manual_seed(0)
    block = models.resnet50(3, layers="torch").layer1[1].double().eval()
    converted = fastconv.convert(block, fold_batchnorm=True)
    assert "forward" in vars(converted)
    y = converted(X(8, 256))
    torch.save((converted, X(8, 256), y), tmp_path / "model.pt")
    code = (
        f"import torch; m, x, y = torch.load({str(tmp_path / 'model.pt')!r}, weights_only=False);"
        "assert m.forward.module() is m; torch.testing.assert_close(m(x), y)"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr


def test_graph_modules(fused):
    """Its code is its graph."""
    graph = torch.fx.symbolic_trace(build(Fire))
    model = nn.Sequential(graph, nn.ReLU())
    converted = fastconv.convert(model)
    torch.testing.assert_close(run(converted, X()), run(model, X()))
    assert fused() == (0, 3)
    torch.testing.assert_close(run(copy.deepcopy(converted), X()), run(model, X()))
    # of another graph, the class's forward runs
    for edited in (model[0], converted[0]):
        relu = next(node for node in edited.graph.nodes if node.target == "squeeze_activation")
        relu.replace_all_uses_with(relu.args[0])
        edited.recompile()
    fused()
    torch.testing.assert_close(run(converted, X()), run(model, X()))
    assert fused() == (0, 0)


def test_functional_call():
    model = build(Tutorial)
    converted = fastconv.convert(model)
    parameters = {name: p.detach() * 2 for name, p in model.named_parameters()}
    expected = torch.func.functional_call(model, parameters, X())
    torch.testing.assert_close(torch.func.functional_call(converted, parameters, X()), expected)


def test_weights_of_another_dtype_or_device_are_converted_too():
    model = build(Tutorial).half()
    converted = fastconv.convert(model)
    torch.testing.assert_close(converted(X().half()), model(X().half()))
    meta = fastconv.convert(build(Tutorial).to("meta"))
    assert meta(X().to("meta")).shape == (2, 5)
