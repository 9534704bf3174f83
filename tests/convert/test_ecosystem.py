"""Tests that other tools give the same results for converted models as for the originals.

The tools find layers by type, set hooks on them later, or replace them.
"""

import copy
import importlib
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.profiler import profile

import fastconv

# The tools warn about their own use of torch.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


class Code(nn.Module):
    """Chains in code."""

    def __init__(self):
        super().__init__()
        self.conv1, self.relu1 = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU()
        self.pool1 = nn.MaxPool2d(2)
        self.conv2, self.norm2, self.relu2 = nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU()
        self.conv3, self.relu3 = nn.Conv2d(6, 6, 3, padding=1, groups=2), nn.ReLU()
        self.pool3 = nn.MaxPool2d(2)
        self.flatten, self.last = nn.Flatten(), nn.Linear(54, 5)

    def forward(self, x):
        x = self.pool1(self.relu1(self.conv1(x)))
        x = self.relu2(self.norm2(self.conv2(x)))
        x = self.pool3(self.relu3(self.conv3(x)))
        return self.last(self.flatten(x))


def sequential():
    """The same layers of the same names in a Sequential."""
    model = Code()
    return nn.Sequential(OrderedDict(model.named_children()))


KINDS = {"code": Code, "Sequential": sequential}


@pytest.fixture(params=KINDS)
def pair(request):
    """A model in eval mode and the same converted; their layers have the same names."""
    torch.manual_seed(0)
    model = KINDS[request.param]()
    for _ in range(3):
        model(torch.randn(4, 3, 16, 16))  # statistics
    model.eval()
    converted = fastconv.convert(copy.deepcopy(model))
    assert fused(converted)
    return converted, model


def X(n=2):
    return torch.randn(n, 3, 16, 16, generator=torch.Generator().manual_seed(n))


def fused(model):
    """Whether a call runs fused blocks."""
    with profile() as profiler, torch.no_grad():
        model(X())
    return "fastconv::conv2d_relu_max_pool2d" in {event.name for event in profiler.events()}


def layer(model, name):
    return dict(model.named_modules())[name]


def assert_same(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def needed(name):
    return pytest.importorskip(name, reason=f"needs {name}: pip install fastconv[ecosystem]")


# captum


@pytest.mark.parametrize("name", ["Saliency", "GuidedBackprop", "Deconvolution"])
def test_captum_gradients(pair, name):
    attr = needed("captum.attr")
    found, expected = (
        getattr(attr, name)(model).attribute(X().requires_grad_(), target=1) for model in pair
    )
    assert expected.abs().max() > 0
    assert_same(found, expected)
    assert fused(pair[0])  # its hooks are gone again


@pytest.mark.parametrize("name", ["DeepLift", "LRP"])
def test_captum_rules(pair, name):
    # By the type of each layer, with hooks before and behind it.
    attr = needed("captum.attr")
    rules = importlib.import_module("captum.attr._utils.lrp_rules")
    for model in pair:
        layer(model, "flatten").rule = rules.EpsilonRule()  # captum has none for it
    found, expected = (
        getattr(attr, name)(model).attribute(X().requires_grad_(), target=1) for model in pair
    )
    assert expected.abs().max() > 0
    assert_same(found, expected)
    assert fused(pair[0])


@pytest.mark.parametrize("name", ["conv1", "relu1", "pool1", "conv2", "conv3", "relu3"])
def test_captum_layers(pair, name):
    attr = needed("captum.attr")
    results = []
    for model in pair:
        inside = layer(model, name)
        activation = attr.LayerActivation(model, inside).attribute(X())
        cam = attr.LayerGradCam(model, inside).attribute(X(), target=2)
        conductance = attr.LayerConductance(model, inside).attribute(X(), target=2, n_steps=5)
        results.append([activation, cam, conductance])
    assert all(result.abs().max() > 0 for result in results[1])
    assert_same(*results)
    assert fused(pair[0])


# grad-cam


def grad_cam():
    try:
        return importlib.import_module("pytorch_grad_cam")
    except (ImportError, RuntimeError) as error:  # a torchvision of another torch: RuntimeError
        pytest.skip(f"needs grad-cam and a torchvision that fits torch ({error})")


@pytest.mark.parametrize("name", ["conv1", "relu1", "pool1", "conv3", "relu3"])
def test_grad_cam(pair, name):
    tool = grad_cam()
    targets = importlib.import_module("pytorch_grad_cam.utils.model_targets")
    maps = []
    for model in pair:
        with tool.GradCAM(model=model, target_layers=[layer(model, name)]) as cam:
            chosen = [targets.ClassifierOutputTarget(3)] * 2
            maps.append(torch.from_numpy(cam(input_tensor=X(), targets=chosen)))
    assert maps[1].abs().max() > 0
    assert_same(*maps)
    assert fused(pair[0])


def test_grad_cam_replaces_relus(pair):
    tool = grad_cam()
    found, expected = (
        torch.from_numpy(tool.GuidedBackpropReLUModel(model)(X(1), target_category=1))
        for model in pair
    )
    assert expected.abs().max() > 0
    assert_same(found, expected)


# torch.ao's eager quantizers, which replace modules by their types


def quantized(model, fuse=()):
    """Quantizes by torch.ao's eager mode: after training in eval mode, else during training."""
    from torch.ao import quantization as ao

    training, engine = model.training, torch.backends.quantized.engine
    model = nn.Sequential(ao.QuantStub(), model, ao.DeQuantStub()).train(training)
    if fuse:
        names = [[f"1.{name}" for name in chain] for chain in fuse]
        model = (ao.fuse_modules_qat if training else ao.fuse_modules)(model, names)
    if training:
        model.qconfig = ao.get_default_qat_qconfig(engine)
        ao.prepare_qat(model, inplace=True)
    else:
        model.qconfig = ao.get_default_qconfig(engine)
        ao.prepare(model, inplace=True)
    for n in range(2, 5):
        model(X(n))
    return ao.convert(model.eval())


CHAINS = [["conv1", "relu1"], ["conv2", "norm2", "relu2"], ["conv3", "relu3"]]


@pytest.mark.parametrize("fuse", [(), CHAINS], ids=["single", "fused"])
@pytest.mark.parametrize("training", [False, True])
def test_eager_quantization(pair, fuse, training):
    found, expected = (quantized(model.train(training), fuse) for model in pair)
    types = [[type(module) for module in model.modules()] for model in (found, expected)]
    assert types[0] == types[1]
    assert any("quantized" in kind.__module__ for kind in types[0])
    for n in (2, 3):
        assert_same(found(X(n)), expected(X(n)))


def test_own_layers_are_not_quantized():
    layers = nn.Sequential(fastconv.Conv2d(3, 4, 3), fastconv.ReLU(), fastconv.MaxPool2d(2)).eval()
    taken = fastconv.revert(layers)
    kinds = [
        [type(module).__module__ for module in quantized(model)[1]]
        for model in (layers, taken, fastconv.convert(taken))
    ]
    assert "quantized" not in kinds[0][0]
    assert "quantized" in kinds[1][0] and kinds[2] == kinds[1]


def test_dynamic_quantization(pair):
    from torch.ao.quantization import quantize_dynamic

    found, expected = (quantize_dynamic(model, {nn.Linear}) for model in pair)
    assert "dynamic" in type(layer(found, "last")).__module__
    assert_same(found(X()), expected(X()))


def test_fuse_modules(pair):
    from torch.ao.quantization import fuse_modules

    found, expected = (fuse_modules(model, CHAINS) for model in pair)
    assert [type(m) for m in found.modules()] == [type(m) for m in expected.modules()]
    assert_same(found(X()), expected(X()))


def test_graph_quantization(pair):
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    done = []
    for model in pair:
        graph = prepare_fx(model, get_default_qconfig_mapping(), (X(),))
        for n in (2, 3):
            graph(X(n))
        done.append(convert_fx(graph))
    kinds = [[type(module) for module in graph.modules()] for graph in done]
    assert sorted(map(str, kinds[0])) == sorted(map(str, kinds[1]))
    assert_same(done[0](X()), done[1](X()))


# torch.fx


def test_fx_fuses_batch_norm(pair):
    from torch.fx.experimental.optimization import fuse

    found, expected = (fuse(copy.deepcopy(model)) for model in pair)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in found.modules())
    assert_same(found(X()), expected(X()))


class Features(torch.fx.Interpreter):
    """The output of every module in a graph, by its name."""

    def __init__(self, graph):
        super().__init__(graph)
        self.seen = {}

    def call_module(self, target, args, kwargs):
        self.seen[target] = super().call_module(target, args, kwargs)
        return self.seen[target]


def test_fx_features(pair):
    seen = []
    for model in pair:
        features = Features(torch.fx.symbolic_trace(model))
        features.run(X())
        seen.append(features.seen)
    assert list(seen[0]) == list(seen[1])
    assert_same(*seen)


def test_hooks_that_are_set_later(pair):
    # All feature extractors do this.
    seen = []
    for model in pair:
        found = {}
        handles = [
            module.register_forward_hook(
                lambda module, args, y, name=name, found=found: found.__setitem__(name, y)
            )
            for name, module in model.named_modules()
            if not list(module.children())
        ]
        model(X())
        for handle in handles:
            handle.remove()
        seen.append(found)
    assert list(seen[0]) == list(seen[1])
    assert_same(*seen)
    assert fused(pair[0])
