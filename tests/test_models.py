"""The networks: shapes, names, and the same numbers with both kinds of layers."""

import pytest
import torch

import fastconv
from fastconv import models

pytestmark = pytest.mark.quick

# Sizes that are cheap, one of them odd, and the features that the first FC layer then sees.
SMALL = {"CNN": 13, "CaseStudyCNN": 17, "SimpleCNN": 85, "resnet50": 32}


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
    if name == "SimpleCNN":  # the only one with dropout, whose noise is not the question here
        ours.classifier[0].p = theirs.classifier[0].p = 0.0
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
    ours = {type(m) for m in build(name).modules()}
    assert not ours & {torch.nn.Conv2d, torch.nn.ReLU, torch.nn.MaxPool2d}
    assert any(issubclass(kind, fastconv.Conv2d) for kind in ours)
    theirs = {type(m) for m in build(name, "torch").modules()}
    assert not any(kind.__module__.startswith("fastconv.nn") for kind in theirs)


def test_small_networks_run_on_fused_blocks():
    for name, blocks in (("CNN", 1), ("CaseStudyCNN", 3), ("SimpleCNN", 3)):
        kinds = [type(m) for m in build(name).features]
        assert kinds.count(fastconv.ConvReLUMaxPool2d) == blocks
        assert kinds.count(fastconv.nn.Placeholder) == 2 * blocks


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


def test_resnet50_has_torchvisions_names_and_size():
    with torch.device("meta"):
        state = fastconv.resnet50().state_dict()
    assert len(state) == 320
    assert sum(v.numel() for k, v in state.items() if "running" not in k and "num_b" not in k) == (
        25_557_032
    )
    shapes = {
        "conv1.weight": (64, 3, 7, 7),
        "bn1.num_batches_tracked": (),
        "layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "layer1.0.downsample.1.running_mean": (256,),
        "layer2.3.conv2.weight": (128, 128, 3, 3),
        "layer3.5.bn3.bias": (1024,),
        "layer4.2.conv3.weight": (2048, 512, 1, 1),
        "fc.weight": (1000, 2048),
        "fc.bias": (1000,),
    }
    assert {key: tuple(state[key].shape) for key in shapes} == shapes


def test_case_study_probabilities():
    model = build("CaseStudyCNN").eval()
    x = torch.randn(3, 3, 17, 17)
    probabilities = model.probabilities(x)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(3))
    torch.testing.assert_close(probabilities, model(x).softmax(dim=1))


def test_wrong_arguments():
    with pytest.raises(ValueError, match=r"unknown model 'VGG', choose one of CNN, "):
        models.create("VGG", 10, 112)
    with pytest.raises(ValueError, match="layers must be 'fastconv' or 'torch', got 'jax'"):
        models.CNN(layers="jax")
    for name, smallest in (("CNN", 2), ("CaseStudyCNN", 8), ("SimpleCNN", 85)):
        with torch.device("meta"):
            models.create(name, 10, smallest)
        with pytest.raises(ValueError, match=f"{name}: image_size {smallest - 1} is too small"):
            models.create(name, 10, smallest - 1)


def test_convert_and_revert_keep_the_network():
    ours = build("CaseStudyCNN").double()
    x = torch.randn(2, 3, 17, 17, dtype=torch.float64)
    theirs = fastconv.revert(ours)
    assert list(theirs.state_dict()) == list(ours.state_dict())
    assert not any(type(m).__module__.startswith("fastconv.nn") for m in theirs.modules())
    torch.testing.assert_close(theirs(x), ours(x))
