"""Tests the networks: shapes, names, and the same numbers with both kinds of layers."""

import json
import math
from pathlib import Path

import pytest
import torch

import fastconv
from fastconv import models

# Sizes that are cheap, one of them odd, and the features that the first FC layer then sees.
SMALL = {"CNN": 13, "CaseStudyCNN": 17, "SimpleCNN": 85, "resnet50": 32, "squeezenet1_1": 33}
TORCHVISION = json.loads(Path(__file__).with_name("torchvision_names.json").read_text())


def build(name, layers="fastconv", num_classes=7):
    torch.manual_seed(0)
    return models.create(name, num_classes, SMALL[name], layers)


@pytest.mark.parametrize("name", models.MODELS)
def test_both_kinds_of_layers_have_the_same_weights(name):
    ours, theirs = build(name).state_dict(), build(name, "torch").state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize("name", models.MODELS)
def test_both_kinds_of_layers_give_the_same_numbers(name):
    ours, theirs = build(name).double(), build(name, "torch").double()
    for module in (*ours.modules(), *theirs.modules()):
        if isinstance(module, torch.nn.Dropout):  # its noise is not the question here
            module.p = 0.0
    x = torch.randn(4, 3, SMALL[name], SMALL[name], dtype=torch.float64)
    y, expected = ours(x), theirs(x)
    assert y.shape == (4, 7)
    torch.testing.assert_close(y, expected)
    y.square().mean().backward()
    expected.square().mean().backward()
    for ours_grad, theirs_grad in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(ours_grad.grad, theirs_grad.grad)


@pytest.mark.parametrize("name", models.MODELS)
@pytest.mark.parametrize("layers", models.LAYERS)
def test_channels_last_input_and_weights(name, layers):
    model = build(name, layers).double().eval()
    x = torch.randn(2, 3, SMALL[name], SMALL[name], dtype=torch.float64)
    expected = model(x)
    model = model.to(memory_format=torch.channels_last)
    torch.testing.assert_close(model(x.to(memory_format=torch.channels_last)), expected)


@pytest.mark.parametrize("name", models.MODELS)
def test_the_layers_are_of_the_kind_asked_for(name):
    kinds = torch.nn.Conv2d, torch.nn.ReLU, torch.nn.MaxPool2d
    for layers in ("fastconv", "torch"):
        for module in build(name, layers).modules():
            if isinstance(module, kinds):
                assert ("forward" in vars(module)) == (layers == "fastconv")


@pytest.mark.parametrize(
    "model, features",
    [
        (lambda: models.CNN(), 32 * 56 * 56),
        (lambda: models.CaseStudyCNN(image_size=56), 128 * 7 * 7),
        (lambda: models.SimpleCNN(), 256 * 3 * 3),
        (lambda: models.SimpleCNN(image_size=448), 256 * 6 * 6),
    ],
)
def test_the_first_fully_connected_layer_follows_from_the_image_size(model, features):
    with torch.device("meta"):
        linear = next(m for m in model().modules() if isinstance(m, torch.nn.Linear))
    assert linear.in_features == features


@pytest.mark.parametrize("name", ["resnet50", "squeezenet1_1"])
def test_torchvisions_names_and_shapes(name):
    with torch.device("meta"):
        state = getattr(fastconv, name)().state_dict()
    found = [(key, list(value.shape)) for key, value in state.items()]
    assert found == list(TORCHVISION[name].items())


def test_squeezenet_begins_as_torchvisions():
    torch.manual_seed(0)
    model = fastconv.squeezenet1_1(dropout=0.25)
    convs = {k: m for k, m in model.named_modules() if isinstance(m, torch.nn.Conv2d)}
    assert len(convs) == 26
    assert not any(conv.bias.any() for conv in convs.values())
    last = convs.pop("classifier.1")
    assert last.weight.std().item() == pytest.approx(0.01, rel=0.02)
    for conv in convs.values():
        bound = math.sqrt(6 / conv.weight[0].numel())
        assert 0.98 * bound < conv.weight.abs().max() <= bound
    assert model.classifier[0].p == 0.25


@pytest.mark.parametrize(
    "name, head",
    [
        ("CNN", "classifier.2"),
        ("CaseStudyCNN", "classifier.2"),
        ("SimpleCNN", "classifier.5"),
        ("resnet50", "fc"),
        ("squeezenet1_1", "classifier.1"),
    ],
)
def test_the_head(name, head):
    assert models.head_names(name, SMALL[name]) == [f"{head}.weight", f"{head}.bias"]


def test_default_image_sizes():
    assert models.default_image_size("CNN") == 112
    assert models.default_image_size("squeezenet1_1") == 224
    assert models.default_image_size("timm:resnet18") == 224
    with pytest.raises(ValueError, match="unknown model 'VGG'"):
        models.default_image_size("VGG")


def test_case_study_probabilities():
    model = build("CaseStudyCNN").eval()
    x = torch.randn(3, 3, 17, 17)
    probabilities = model.probabilities(x)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(3))
    torch.testing.assert_close(probabilities, model(x).softmax(dim=1))


def test_wrong_arguments():
    for name in ("VGG", "keras:VGG"):
        with pytest.raises(ValueError, match=f"unknown model '{name}', .*one of CNN, .*timm:"):
            models.create(name, 10, 112)
    with pytest.raises(ValueError, match="layers must be 'fastconv' or 'torch', got 'jax'"):
        models.CNN(layers="jax")
    smallest_sizes = {"CNN": 2, "CaseStudyCNN": 8, "SimpleCNN": 85, "squeezenet1_1": 17}
    for name, smallest in smallest_sizes.items():
        with torch.device("meta"):
            model = models.create(name, 10, smallest)
            assert model(torch.empty(2, 3, smallest, smallest)).shape == (2, 10)
        with pytest.raises(
            ValueError, match=f"{name}: image_size {smallest - 1} is too small, it "
        ):
            models.create(name, 10, smallest - 1)


def test_convert_and_revert_keep_the_network():
    ours = build("CaseStudyCNN").double()
    x = torch.randn(2, 3, 17, 17, dtype=torch.float64)
    theirs = fastconv.revert(ours)
    assert list(theirs.state_dict()) == list(ours.state_dict())
    assert not any(type(m).__module__.startswith("fastconv.nn") for m in theirs.modules())
    torch.testing.assert_close(theirs(x), ours(x))
