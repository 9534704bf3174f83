"""Tests convert and revert: the layers' conversion, and that nothing else changes."""

import copy
import pickle

import pytest
import torch
from torch import nn

import fastconv
from fastconv import models

X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def chain():
    """A Sequential with all kinds of fusible layers and some others."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2, 1, ceil_mode=True),
        nn.Conv2d(4, 4, 3, padding="same", bias=False),
        nn.ReLU(),
        nn.BatchNorm2d(4),
        nn.Sequential(nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), nn.ReLU()),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 6, 1),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(24, 5),
    )


# The numbers of its chains with a pool and without.
CHAINS = (2, 2)


def types(sequential):
    return [type(layer).__name__ for layer in sequential]


def assert_same(model, expected, x=X):
    """Output and gradients, in float64, where rounding does not show."""
    results = []
    for m in (model, expected):
        m, x = copy.deepcopy(m).double(), x.double()
        y = m(x)
        results.append([y, *torch.autograd.grad(y.square().sum(), list(m.parameters()))])
    torch.testing.assert_close(*results)


def test_chains_are_fused(fused):
    model = chain()
    converted = fastconv.convert(model)
    assert types(converted) == types(model) and types(converted[6]) == ["Conv2d", "ReLU"]
    for layer in converted.modules():
        assert type(layer).__module__.startswith("torch.")
    converted(X)
    assert fused() == CHAINS
    assert_same(converted, model)


def test_names_stay():
    model = chain()
    converted = fastconv.convert(model)
    assert len(converted) == len(model)
    assert list(converted.state_dict()) == list(model.state_dict())
    assert [n for n, _ in converted.named_parameters()] == [n for n, _ in model.named_parameters()]
    names = [name for name, _ in model.named_modules()]
    assert [name for name, _ in converted.named_modules()] == names
    converted.load_state_dict(chain().state_dict())


@pytest.mark.parametrize("fuse", [False, True])
def test_the_model_itself_does_not_change(fuse):
    model = chain()
    before = types(model)
    converted = fastconv.convert(model, fuse=fuse)
    assert types(model) == before and converted is not model
    assert all(type(layer).__module__.startswith("torch.") for layer in model.modules())
    for a, b in zip(
        [*model.parameters(), *model.buffers()],
        [*converted.parameters(), *converted.buffers()],
        strict=True,
    ):
        assert a is b  # an optimizer made before goes on


def test_in_place(fused):
    model = chain()
    assert fastconv.convert(model, inplace=True) is model
    model(X)
    assert fused() == CHAINS
    assert fastconv.revert(model, inplace=True) is model
    assert repr(model) == repr(chain())
    model(X)
    assert fused() == (0, 0)


def test_without_fusing(fused):
    model = chain()
    converted = fastconv.convert(model, fuse=False)
    assert types(converted) == types(model)
    assert_same(converted, model)
    assert fused() == (0, 0)
    # also for a fused model
    converted = fastconv.convert(fastconv.convert(model), fuse=False)
    assert_same(converted, model)
    assert fused() == (0, 0)


@pytest.mark.parametrize("fuse", [False, True])
def test_revert(fuse):
    model = chain().eval()
    converted = fastconv.convert(model, fuse=fuse).train()
    back = fastconv.revert(converted)
    assert repr(back) == repr(model)
    assert [type(a) for a in back.modules()] == [type(a) for a in model.modules()]
    assert all(layer.training for layer in back.modules())
    for a, b in zip(back.modules(), model.modules(), strict=True):
        assert set(vars(a)) == set(vars(b))
    assert all(a is b for a, b in zip(back.parameters(), model.parameters(), strict=True))
    assert "forward" in vars(converted[0])
    assert_same(back.eval(), model)


def test_twice_is_once():
    once = fastconv.convert(chain())
    assert repr(fastconv.convert(once)) == repr(once)
    assert_same(fastconv.convert(once), chain())
    plain = fastconv.convert(chain(), fuse=False)
    assert repr(fastconv.convert(plain)) == repr(once)
    assert repr(fastconv.revert(fastconv.convert(plain))) == repr(chain())
    assert repr(fastconv.revert(chain())) == repr(chain())


@pytest.mark.parametrize("layer", [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2)], ids=repr)
def test_a_single_layer(layer):
    converted = fastconv.convert(layer)
    assert type(converted) is type(layer) and repr(converted) == repr(layer)
    with torch.profiler.profile() as profile:
        torch.testing.assert_close(converted(X), layer(X))
    assert any(event.name.startswith("fastconv::") for event in profile.events())
    assert vars(fastconv.revert(converted)).keys() == vars(layer).keys()


def test_copies():
    converted = fastconv.convert(chain())
    for other in (copy.deepcopy(converted), pickle.loads(pickle.dumps(converted))):
        assert_same(other, converted)
        assert repr(fastconv.revert(other)) == repr(chain())


HOOKS = {
    "register_forward_hook": lambda module, args, output: None,
    "register_forward_pre_hook": lambda module, args: None,
    "register_full_backward_hook": lambda module, grads, outputs: None,
    "register_full_backward_pre_hook": lambda module, grads: None,
}


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("kind", HOOKS)
def test_layers_with_hooks_are_not_fused(kind, place, fused):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2))
    calls = []

    def hook(*arguments):
        calls.append(arguments[0])
        return HOOKS[kind](*arguments)

    getattr(model[place], kind)(hook)
    converted = fastconv.convert(model)
    converted(X.clone().requires_grad_()).sum().backward()
    assert calls == [converted[place]]
    assert fused() == (0, 0)
    # without the hook again
    for hooks in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"):
        getattr(converted[place], hooks).clear()
    converted(X)
    assert fused() == (1, 0) and len(calls) == 1


def test_hooks_around_a_chain_stay(fused):
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
    shapes = []
    model[0].register_forward_hook(lambda module, args, y: shapes.append(y.shape))
    converted = fastconv.convert(model)
    converted(X)
    assert shapes == [(2, 4, 14, 14)] and fused() == (0, 1)


class Conv(nn.Conv2d):
    """A subclass may do anything."""


class Chain(nn.Sequential):
    def forward(self, x):
        return super().forward(x) + self[0](x).sum()


def test_what_is_left_alone(fused):
    def convs():
        return nn.Conv2d(3, 3, 3, padding=1)

    parametrised = nn.utils.parametrizations.weight_norm(convs())
    own_forward = convs()
    own_forward.forward = lambda x: -x
    for conv in (Conv(3, 3, 3, padding=1), parametrised, own_forward):
        model = nn.Sequential(conv, nn.ReLU())
        converted = fastconv.convert(model)
        assert type(converted[0]) is type(conv)
        assert vars(converted[0]).keys() == vars(conv).keys()
        assert "forward" in vars(converted[1])
        assert torch.equal(converted(X), model(X))
    # a convolution with a hook that makes its weight
    model = nn.Sequential(torch.nn.utils.spectral_norm(convs()), nn.ReLU()).eval()
    model(X)
    converted = fastconv.convert(model)
    torch.testing.assert_close(converted(X), model(X))
    assert fused() == (0, 0)
    # a Sequential with a forward of its own is code
    model = Chain(convs(), nn.ReLU())
    converted = fastconv.convert(model)
    converted(X)
    assert fused() == (0, 1)
    assert_same(converted, model)


def test_pool_with_indices_is_not_fused(fused):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2, return_indices=True))
    converted = fastconv.convert(model)
    assert len(converted(X)) == 2
    assert fused() == (0, 1)


class TwoPaths(nn.Module):
    """One convolution in a chain and elsewhere, one ReLU in two chains."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        relu = nn.ReLU()
        self.shared = nn.Conv2d(3, 3, 3, padding=1)
        self.first = nn.Sequential(self.shared, relu)
        self.second = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), relu)
        self.third = nn.Sequential(nn.BatchNorm2d(3), relu)

    def forward(self, x):
        return self.third(self.second(self.first(x) + self.shared(x)))


def test_shared_layers(fused):
    model = TwoPaths()
    converted = fastconv.convert(model)
    assert converted.first[0] is converted.shared
    converted(X)
    assert fused() == (0, 2)
    assert_same(converted, model)
    back = fastconv.revert(converted)
    assert repr(back) == repr(model)
    assert back.first[1] is back.second[1] is back.third[1]


def test_a_layer_in_two_sequentials(fused):
    shared = nn.Conv2d(3, 3, 3, padding=1)
    model = nn.Sequential(nn.Sequential(shared, nn.ReLU()), nn.Sequential(shared, nn.Tanh()))
    converted = fastconv.convert(model)
    converted(X)
    assert fused() == (0, 1)
    assert_same(converted, model)


def test_tied_weights_stay_tied():
    model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU(), nn.Conv2d(3, 3, 3))
    model[2].weight = model[0].weight
    for inplace in (False, True):
        converted = fastconv.convert(model, inplace=inplace)
        assert converted[2].weight is converted[0].weight is model[0].weight


def test_blocks_of_the_users():
    block = fastconv.ConvReLUMaxPool2d(3, 4, 3, pool_kernel_size=3, pool_stride=2, ceil_mode=True)
    model = nn.ModuleDict({"a": block, "b": block, "c": fastconv.ConvReLU2d(3, 4, 3)})
    assert repr(fastconv.convert(model)) == repr(model)
    back = fastconv.revert(model)
    assert [type(layer) for layer in back["a"]] == [nn.Conv2d, nn.ReLU, nn.MaxPool2d]
    assert back["a"] is back["b"]
    assert [type(layer) for layer in back["c"]] == [nn.Conv2d, nn.ReLU]
    torch.testing.assert_close(back["a"](X), block(X))
    assert type(fastconv.revert(block)) is nn.Sequential
    assert type(block) is fastconv.ConvReLUMaxPool2d


@pytest.mark.parametrize("function", [fastconv.convert, fastconv.revert])
@pytest.mark.parametrize("wrong", [None, 3, torch.nn.functional.relu, X])
def test_not_a_module(function, wrong):
    with pytest.raises(TypeError, match=f"{function.__name__}: expected a torch.nn.Module, got"):
        function(wrong)


@pytest.mark.parametrize("name", models.MODELS)
def test_networks(name, fused):
    sizes = {"CNN": 16, "CaseStudyCNN": 16, "SimpleCNN": 85, "resnet50": 32, "squeezenet1_1": 33}
    size = sizes[name]
    torch.manual_seed(0)
    model = models.create(name, 3, size, layers="torch").eval()
    converted = fastconv.convert(model)
    assert list(converted.state_dict()) == list(model.state_dict())
    # SqueezeNet's Fire modules have two chains each, one in a Sequential below the network.
    blocks = {
        "CNN": (1, 0), "CaseStudyCNN": (3, 0), "SimpleCNN": (3, 0), "resnet50": (0, 0),
        "squeezenet1_1": (1, 25),
    }  # fmt: skip
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(converted.double()(x.double()), model.double()(x.double()))
    assert fused() == blocks[name]
    assert repr(fastconv.revert(converted)) == repr(model)


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.MaxPool2d(3, 1, 1), nn.MaxPool2d(3, 2)])
def test_a_pool_before_the_relu(pool, fused):
    """The same values and gradients, also where no value is above 0 and where values tie."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), pool, nn.ReLU())
    converted = fastconv.convert(model)
    converted(X)
    assert fused() == (1, 0)
    for x in (X, X - 3, X.round().clamp(-1, 1), torch.zeros_like(X)):
        assert_same(converted, model, x)
    assert repr(fastconv.revert(converted)) == repr(model)


def test_a_dilated_pool_before_the_relu_is_not_fused(fused):
    """A dilated pool's windows may be empty, which is -inf before a ReLU and 0 behind it."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2, 1, 1, dilation=14), nn.ReLU())
    converted = fastconv.convert(model)
    converted(X)
    assert fused() == (0, 0)
    converted[1].dilation = 1
    converted[1], converted[2] = converted[2], converted[1]
    converted[2].dilation = 14
    converted = fastconv.convert(converted)
    converted(X)
    assert fused() == (1, 0)


class InCode(nn.Module):
    """`chain` without its flattening, as code."""

    def __init__(self, layers):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


@pytest.mark.parametrize("wrap", [lambda layers: nn.Sequential(*layers), InCode])
@pytest.mark.parametrize("weights", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("inputs", [torch.contiguous_format, torch.channels_last])
def test_memory_formats_are_torchs(inputs, weights, wrap):
    """Code behind a block may call view(), as the document's CNN does."""
    x = X.to(memory_format=inputs)
    for size in (1, 3, 5, 11):
        model = wrap(list(chain())[:size]).to(memory_format=weights)
        y, expected = fastconv.convert(model)(x), model(x)
        assert y.stride() == expected.stride(), size


@pytest.mark.parametrize("name", ["CNN", "CaseStudyCNN", "SimpleCNN"])
def test_channels_last_where_torch_takes_it(name):
    model = models.create(name, 3, 112, layers="torch").eval()
    x = torch.randn(2, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    converted = fastconv.convert(model)
    for _ in range(2):
        for y in (x, x.to(memory_format=torch.channels_last)):
            torch.testing.assert_close(converted(y), model(y), rtol=1e-4, atol=1e-5)
        model.to(memory_format=torch.channels_last)
