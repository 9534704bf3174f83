"""Tests networks of torchvision, timm and transformers by name."""

import sys
import types

import pytest
import torch

from fastconv import models, training

RESNET = dict(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")


def needs(package):
    return pytest.importorskip(package, reason=f"needs the package {package}")


@pytest.fixture
def saved(tmp_path):
    """Saves a configuration of transformers and gives the name of its network."""
    transformers = needs("transformers")

    def save(kind, **options):
        getattr(transformers, f"{kind}Config")(**options).save_pretrained(tmp_path)
        return f"transformers:{tmp_path}"

    return save


@pytest.fixture
def timm(monkeypatch):
    """What fastconv calls of timm, in its place."""
    stand_in = types.SimpleNamespace(list_models=lambda: ["resnet18", "resnet18d", "vgg16"])
    monkeypatch.setitem(sys.modules, "timm", stand_in)
    return stand_in


def test_a_network_of_transformers(saved):
    name = saved("ResNet", **RESNET)
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    found = {}
    for layers in models.LAYERS:
        torch.manual_seed(0)
        model = models.create(name, 5, 32, layers).double()
        assert model.training
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d):
                assert ("forward" in vars(module)) == (layers == "fastconv")
        logits = model(x)
        assert logits.shape == (2, 5)
        found[layers] = [logits, *torch.autograd.grad(logits.sum(), list(model.parameters()))]
    torch.testing.assert_close(found["fastconv"], found["torch"])


def test_its_own_weight_files_load(saved, tmp_path):
    name = saved("ResNet", **RESNET)
    transformers = needs("transformers")
    config = transformers.ResNetConfig(num_labels=2, **RESNET)
    theirs = transformers.ResNetForImageClassification(config).eval()
    theirs.save_pretrained(tmp_path)
    ours = models.create(name, 2, 32).eval()
    assert list(ours.state_dict()) == list(theirs.state_dict())
    weights = training.read_weights(tmp_path / "model.safetensors")
    assert training.load_pretrained(ours, weights, models.head_names(name, 32), ["a", "b"])
    x = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours(x), theirs(x).logits)


def test_the_head_of_a_network_of_transformers(saved):
    assert models.head_names(saved("ResNet", **RESNET), 32) == [
        "classifier.1.weight",
        "classifier.1.bias",
    ]


def test_weights_of_16_bits_are_trained_in_32(saved):
    model = models.create(saved("ResNet", dtype="float16", **RESNET), 2, 32)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def fails(name, size=32):
    """The message, which is one line."""
    with pytest.raises(ValueError) as caught:
        models.create(name, 2, size)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_folders_without_a_network_of_transformers(saved, tmp_path):
    name = f"transformers:{tmp_path}"
    assert fails(name).startswith(f"{name}: ")
    assert "config.json" in fails(name)
    assert "BertConfig" in fails(saved("Bert", hidden_size=8, num_attention_heads=1))
    assert fails(saved("DeiT")).startswith(f"{name}: ")  # which of two heads, it does not say


def test_images_of_the_wrong_size(saved):
    tiny = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    name = saved("ViT", image_size=32, patch_size=16, **tiny)
    assert models.create(name, 2, 32)(torch.zeros(1, 3, 32, 32)).shape == (1, 2)
    assert fails(name, size=48).startswith(f"{name}: fails on an image of 48x48 (")


@pytest.mark.parametrize("package", ["torchvision", "timm", "transformers"])
def test_a_missing_package(package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)  # import fails then
    message = fails(f"{package}:resnet18")
    assert message.startswith(f"{package}:resnet18: needs the package {package} (")
    assert message.endswith(f"): pip install {package}")


def test_unknown_names(timm):
    assert fails("timm:resnet81") == (
        "timm has no network 'resnet81', did you mean timm:resnet18 or timm:resnet18d?"
    )
    assert fails("timm:Q") == "timm has no network 'Q', it has 3 others"


def test_other_outputs_than_logits(timm):
    timm.create_model = lambda name, pretrained, num_classes: torch.nn.Conv2d(3, num_classes, 1)
    assert fails("timm:vgg16.tv_in1k", size=4) == (
        "timm:vgg16.tv_in1k: expected logits of shape [1, 2] for an image of 4x4, got [1, 2, 4, 4]"
    )


@pytest.mark.parametrize("package", ["torchvision", "timm"])
def test_the_real_packages(package):
    needs(package)
    name = f"{package}:resnet18"
    assert models.create(name, 3, 32)(torch.zeros(2, 3, 32, 32)).shape == (2, 3)
    assert models.head_names(name, 32) == ["fc.weight", "fc.bias"]
    assert f"{package}:resnet18" in fails(f"{package}:resnet81")


def test_the_head_where_the_constructor_needs_values(timm):
    class Network(torch.nn.Module):
        def __init__(self, num_classes):
            super().__init__()
            self.fc = torch.nn.Linear(int(torch.tensor(3)), num_classes)

        def forward(self, x):
            return self.fc(x.mean((2, 3)))

    timm.create_model = lambda name, pretrained, num_classes: Network(num_classes)
    before = torch.get_rng_state()
    assert models.head_names("timm:vgg16", 8) == ["fc.weight", "fc.bias"]
    assert torch.equal(torch.get_rng_state(), before)


def test_a_network_with_several_outputs_in_training():
    needs("torchvision")
    assert models.create("torchvision:googlenet", 3, 96)(torch.zeros(2, 3, 96, 96)).shape == (2, 3)
