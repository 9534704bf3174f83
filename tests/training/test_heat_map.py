"""Tests heat maps: Grad-CAM's definition, both kinds of layers, an unchanged model."""

import numpy as np
import PIL.Image
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastconv
from fastconv import models
from fastconv.data import Preprocessing
from fastconv.training import UsageError
from fastconv.training.explain import Answer, Explanations, explain
from fastconv.training.heat_map import heat_map, overlay


class Code(nn.Module):
    """Features made by calls, which `convert` fuses by a forward of its own; then their mean."""

    def __init__(self, channels=6, classes=3):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, channels, 3)
        self.head = nn.Linear(channels, classes)

    def features(self, x):
        x = F.relu(self.first(x))
        return F.max_pool2d(F.relu(self.second(x)), 2)

    def forward(self, x):
        return self.head(self.features(x).mean(dim=(2, 3)))


class Sequence(Code):
    """The same as layers."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            self.first, nn.ReLU(inplace=True), self.second, nn.ReLU(inplace=True), nn.MaxPool2d(2)
        )

    def features(self, x):
        return self.layers(x)


def image(height=20, width=28):
    return torch.randn(1, 3, height, width, dtype=torch.float64)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize(
    "name, size",
    [("CNN", 32), ("CaseStudyCNN", 32), ("SimpleCNN", 224), ("SimpleCNN", 96), ("resnet50", 40)],
)
def test_the_same_for_either_kind_of_layers(name, size):
    """SimpleCNN's last pool leaves one pixel at 96: what is in front of it counts."""
    found = []
    for layers in models.LAYERS:
        torch.manual_seed(1)
        model = models.create(name, 3, size, layers).double().eval()
        torch.manual_seed(2)
        x = image(size, size)
        found.append(torch.stack([heat_map(model, x, label) for label in range(3)]))
    assert found[0].shape == (3, size, size)
    assert found[0].max() == 1 and found[0].min() == 0
    assert len(found[0].unique()) > 100
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("convert", [False, True])
def test_the_definition(convert):
    """Where the head is linear, the gradients are its weights."""
    model = nn.Sequential(Sequence().layers, nn.Flatten(), nn.Linear(6 * 9 * 13, 3)).double().eval()
    x = image()
    maps = model[0](x)
    weights = model[2].weight[2].view(1, 6, 9, 13).mean(dim=(2, 3), keepdim=True)
    expected = (weights * maps).sum(dim=1, keepdim=True).relu()
    expected = F.interpolate(expected, (20, 28), mode="bilinear")[0, 0].detach()
    assert expected.max() > 0
    model = fastconv.convert(model) if convert else model
    torch.testing.assert_close(heat_map(model, x, 2), expected / expected.max())


def test_code_that_convert_fused():
    model, x = Code().double().eval(), image()
    converted = fastconv.convert(model)
    assert "forward" in converted.__dict__
    torch.testing.assert_close(heat_map(converted, x, 0), heat_map(model, x, 0))


@pytest.mark.parametrize("top", [True, False])
@pytest.mark.parametrize("left", [True, False])
def test_the_corner_that_decides_is_hot(top, left):
    rows = slice(0, 8) if top else slice(24, 32)
    columns = slice(0, 8) if left else slice(24, 32)
    x = torch.zeros(1, 3, 32, 32)
    x[:, :, rows, columns] = 1
    model = nn.Sequential(
        nn.Conv2d(3, 1, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(256, 2)
    )
    nn.init.ones_(model[0].weight)
    nn.init.zeros_(model[0].bias)
    nn.init.constant_(model[4].weight[0], 1.0)
    nn.init.constant_(model[4].weight[1], -1.0)
    heat = heat_map(fastconv.convert(model.eval()), x, label=0)
    assert heat[rows, columns].min() > 0.5
    heat[rows, columns] = 0
    assert (heat > 0.3).sum() == 0
    # The other class is what the bright corner speaks against.
    assert torch.equal(heat_map(model, x, label=1), torch.zeros(32, 32))


def test_frozen_weights_and_inference_mode():
    model, x = Sequence().eval(), image().float()
    expected = heat_map(model, x, 0)
    model.requires_grad_(False)
    with torch.inference_mode():
        assert torch.equal(heat_map(model, x.clone(), 0), expected)


def test_the_model_and_the_image_are_left_as_they_were():
    model = nn.Sequential(nn.ReLU(inplace=True), *Sequence().layers, nn.Flatten(), nn.LazyLinear(2))
    x = image().float()
    model(x.clone())
    model = fastconv.convert(model.eval())
    before = x.clone()
    heat_map(model, x, 0)
    assert torch.equal(x, before) and not x.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert all("forward" in vars(module) for module in model if isinstance(module, nn.Conv2d))


@pytest.mark.parametrize(
    "model, x, message",
    [
        (Sequence(), image(), r"evaluation mode, call model\.eval\(\) first"),
        (Sequence().eval(), image()[0], r"expected one image \[1, C, H, W\], got \[3, 20, 28\]"),
        (Sequence().eval(), torch.zeros(2, 3, 20, 28), r"one image .* got \[2, 3, 20, 28\]"),
        (nn.Sequential(nn.Flatten(), nn.Linear(12, 2)).eval(), torch.zeros(1, 3, 2, 2), "no modul"),
    ],
)
def test_errors(model, x, message):
    with pytest.raises(ValueError, match=message):
        heat_map(model, x, 0)


class Corner(nn.Module):
    """Its class 0 is what is light in the left half, 1 what is not."""

    def __init__(self):
        super().__init__()
        self.conv, self.relu = nn.Conv2d(3, 1, 1), nn.ReLU()
        nn.init.ones_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)

    def forward(self, x):
        left = self.relu(self.conv(x))[..., : x.shape[-1] // 2].mean(dim=(1, 2, 3))
        return torch.stack([left, -left], dim=1)


@pytest.mark.parametrize("index, evidence", [(0, True), (1, False)])
def test_the_picture_of_an_explanation(index, evidence, tmp_path):
    pixels = np.zeros((60, 90, 3), np.uint8)
    pixels[:, :35] = (250, 200, 150)
    PIL.Image.fromarray(pixels).save(tmp_path / "image.png")
    arguments = (tmp_path / "image.png", Preprocessing(32, 36), Answer(index, "left $1", 0.934))
    figure = explain(Corner().eval(), *arguments)
    title, *captions = [figure.get_suptitle(), *(axes.get_title() for axes in figure.axes)]
    assert title == r"left \$1 93.4%"
    expected = "what speaks for this class, " if evidence else "no evidence: no part of the picture"
    assert captions[1].startswith(expected)
    picture, heat = (axes.images[0].get_array().astype(int) for axes in figure.axes)
    assert picture.shape == heat.shape == (448, 448, 3)
    assert (picture[:, 40:80] == (250, 200, 150)).all() and not picture[:, 380:].any()
    colored = np.ptp(heat, axis=2) > 50  # the picture itself is gray there
    assert colored[:, 40:80].all() == evidence and not colored[:, 380:].any()


def test_a_network_that_cannot_be_explained(tmp_path):
    PIL.Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2)).eval()
    pictures = Explanations(tmp_path / "why")
    arguments = (tmp_path / "image.png", Preprocessing(8, 8), Answer(0, "left", 0.5))
    with pytest.raises(UsageError, match=r"image\.png: cannot be explained \(heat_map: no module"):
        pictures.draw(model, *arguments)
    assert not list((tmp_path / "why").iterdir())


def test_long_names(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    pictures = Explanations(tmp_path / "why")
    for end in "ab":
        image = tmp_path / f"{'y' * 250}{end}.png"
        PIL.Image.new("RGB", (8, 8)).save(image)
        pictures.draw(model, image, Preprocessing(8, 8), Answer(0, "left", 0.5))
    found = sorted(path.name for path in (tmp_path / "why").iterdir())
    assert found == [f"{'y' * 200}-2.png", f"{'y' * 200}.png"]


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_overlay(mode):
    picture = PIL.Image.new(mode, (40, 30), 100 if mode == "L" else (100, 110, 120))
    heat = torch.zeros(6, 8)
    heat[:, 4:] = 1
    result = overlay(picture, heat)
    assert (result.mode, result.size) == ("RGB", (40, 30))
    pixels = np.asarray(result).astype(int)
    assert (pixels[:, :15] == np.asarray(picture.convert("L"))[0, 0]).all()  # gray
    red, green, blue = pixels[:, 25:].transpose(2, 0, 1)
    assert (np.minimum(red, green) > blue).all()  # yellow
