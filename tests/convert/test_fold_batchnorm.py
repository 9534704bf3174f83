"""Tests convert(fold_batchnorm=True), which folds BatchNorm into the convolution in front."""

import copy
import pickle
import types

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastconv
from code_models import X
from fastconv import models
from fastconv.nn import FoldedBatchNorm2d


class BasicBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(3)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(3, 3, 3, padding=1, padding_mode="reflect")
        self.bn2 = nn.BatchNorm2d(3, affine=False)

    def forward(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x
        return self.relu(out)


def sequential():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 3, 1),
        nn.BatchNorm2d(3),
    )  # fmt: skip


MODELS = {
    "code": (BasicBlock, 2, (0, 1)),
    "sequential": (sequential, 2, (1, 0)),
    "both": (lambda: nn.Sequential(BasicBlock(), sequential()), 4, (1, 1)),
    "resnet50": (lambda: models.resnet50(3, "torch"), 53, (1, 32)),
}


def build(make):
    """A model in eval mode with statistics as after training."""
    torch.manual_seed(0)
    model = make().double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 2)
                nn.init.uniform_(module.bias)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_folding(name, fused):
    make, count, chains = MODELS[name]
    model = build(make)
    x = X(32 if name == "resnet50" else 16)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    expected = model(x)
    converted = fastconv.convert(model, fold_batchnorm=True)
    assert sum(isinstance(m, FoldedBatchNorm2d) for m in converted.modules()) == count
    torch.testing.assert_close(converted(x), expected)
    assert fused() == chains
    assert "running_mean" not in str(converted.state_dict().keys())
    # the model itself is untouched
    assert not any(isinstance(m, FoldedBatchNorm2d) for m in model.modules())
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    # copies and other conversions
    for other in (
        copy.deepcopy(converted),
        pickle.loads(pickle.dumps(converted)),
        fastconv.convert(converted),
        fastconv.convert(converted, fold_batchnorm=True),
        fastconv.convert(fastconv.convert(model), fold_batchnorm=True),
    ):
        torch.testing.assert_close(other(x), expected)
        assert fused() == chains
    single = fastconv.convert(model, fuse=False, fold_batchnorm=True)
    torch.testing.assert_close(single(x), expected)
    assert fused() == (0, 0)
    torch.testing.assert_close(fastconv.convert(single)(x), expected)
    assert fused() == chains
    # and back
    back = fastconv.revert(converted)
    assert repr(back) == repr(model)
    for a, b in zip(
        [*back.parameters(), *back.buffers()], [*model.parameters(), *model.buffers()], strict=True
    ):
        assert a is b
    for a, b in zip(back.modules(), model.modules(), strict=True):
        assert set(vars(a)) == set(vars(b))
    torch.testing.assert_close(back(x), expected)


def test_in_place_and_back():
    model = build(BasicBlock)
    weight, expected = model.conv1.weight, model(X())
    assert fastconv.convert(model, inplace=True, fold_batchnorm=True) is model
    assert model.conv1.weight is not weight and model.conv1.bias is not None
    torch.testing.assert_close(model(X()), expected)
    fastconv.revert(model, inplace=True)
    assert model.conv1.weight is weight and model.conv1.bias is None
    torch.testing.assert_close(model(X()), expected)


def test_training():
    model = nn.Sequential(build(BasicBlock).train())
    for mode in (True, False):
        model.train(mode), model[0].bn1.train()
        with pytest.raises(ValueError, match="fold_batchnorm needs a model in eval mode"):
            fastconv.convert(model, fold_batchnorm=True)
    converted = fastconv.convert(model.eval(), fold_batchnorm=True)
    with pytest.raises(RuntimeError, match="were folded into convolutions"):
        converted.train()
    converted.eval()
    back = fastconv.revert(converted).train()
    assert back[0].bn1.training


def test_what_moves_the_model_moves_what_revert_needs():
    model = build(BasicBlock)
    expected = model(X())
    converted = fastconv.convert(copy.deepcopy(model), fold_batchnorm=True).float()
    back = fastconv.revert(converted)
    assert all(value.dtype != torch.float64 for value in back.state_dict().values())
    torch.testing.assert_close(back(X().float()), expected.float())


class Uses(nn.Module):
    """A convolution and a BatchNorm that do not only run one behind the other."""

    def __init__(self):
        super().__init__()
        self.conv, self.conv2 = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.bn = nn.BatchNorm2d(3)


class ConvTwice(Uses):
    def forward(self, x):
        return self.bn(self.conv(x)) + self.conv(x)


class BatchNormTwice(Uses):
    def forward(self, x):
        return self.bn(self.conv2(self.bn(self.conv(x))))


class TwoUsers(Uses):
    def forward(self, x):
        y = self.conv(x)
        return self.bn(y) + y


class Weight(Uses):
    def forward(self, x):
        return self.bn(self.conv(x)) + self.conv.weight.sum()


class Statistics(Uses):
    def forward(self, x):
        return self.bn(self.conv(x)) + self.bn.running_mean.sum()


class Functional(Uses):
    def forward(self, x):
        return self.bn(F.relu(self.conv(x)))


class Unknown(Uses):
    def forward(self, x):
        return self.bn(self.conv(x)) if x.shape[1] == 3 else self.conv(x)


class SometimesRaw(Uses):
    def forward(self, x, mask=None):
        y = self.conv(x)
        return self.bn(y) if mask is None else y * mask


class InTraining(Uses):
    def forward(self, x):
        return self.conv(x) if self.training else self.bn(self.conv(x))


class Outer(nn.Module):
    """Reads the layers that it holds."""

    def __init__(self):
        super().__init__()
        self.block = BasicBlock()

    def forward(self, x):
        return self.block.conv1(x) if x.shape[1] != 3 else self.block(x)


class Held(nn.Module):
    """Untraced code finds a block's convolution in an object."""

    def __init__(self):
        super().__init__()
        self.block = BasicBlock()
        self.held = types.SimpleNamespace(layers=[self.block.conv1])

    def forward(self, x):
        y = self.block(x)
        return y + self.held.layers[0](x) if x.shape[1] == 3 else y


@pytest.mark.parametrize(
    "kind",
    [
        ConvTwice, BatchNormTwice, TwoUsers, Weight, Statistics, Functional, Unknown, SometimesRaw,
        InTraining,
    ],
)  # fmt: skip
def test_other_uses_are_not_folded(kind):
    model = build(kind)
    converted = fastconv.convert(model, fold_batchnorm=True)
    assert type(converted.bn) is nn.BatchNorm2d
    torch.testing.assert_close(converted(X()), model(X()))


def test_layers_in_objects_are_not_folded():
    model = build(Held)
    converted = fastconv.convert(model, fold_batchnorm=True)
    assert type(converted.block.bn1) is nn.BatchNorm2d
    torch.testing.assert_close(converted(X()), model(X()))


def test_layers_that_are_not_folded():
    model = build(Outer)
    converted = fastconv.convert(model, fold_batchnorm=True)
    assert type(converted.block.bn1) is nn.BatchNorm2d  # the names in the code tell
    assert type(converted.block.bn2) is FoldedBatchNorm2d
    torch.testing.assert_close(converted(X()), model(X()))
    for change in (
        lambda layers: layers[0].register_forward_hook(lambda *args: None),
        lambda layers: layers[1].register_forward_hook(lambda *args: None),
        lambda layers: nn.utils.parametrizations.weight_norm(layers[0]),
    ):
        model = build(sequential)
        change(model)
        model.eval()
        converted = fastconv.convert(model, fold_batchnorm=True)
        assert type(converted[1]) is nn.BatchNorm2d
        assert type(converted[5]) is FoldedBatchNorm2d
        torch.testing.assert_close(converted(X()), model(X()))
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, track_running_stats=False)).eval()
    assert type(fastconv.convert(model, fold_batchnorm=True)[1]) is nn.BatchNorm2d


def test_tied_weights_get_one_each():
    model = build(lambda: nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)))
    model[2].weight = model[0].weight
    converted = fastconv.convert(model, fold_batchnorm=True)
    assert converted[2].weight is model[0].weight is not converted[0].weight
    torch.testing.assert_close(converted(X()), model(X()))


@pytest.mark.slow
def test_transformers_resnet(fused):
    """Its models branch and make objects; the blocks below do not."""
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"
    )
    model = build(lambda: transformers.ResNetForImageClassification(config))
    expected = model(X(32)).logits
    converted = fastconv.convert(model)
    torch.testing.assert_close(converted(X(32)).logits, expected)
    converted = fastconv.convert(model, fold_batchnorm=True)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in converted.modules())
    torch.testing.assert_close(converted(X(32)).logits, expected)
    assert fused() == (0, 3)
    assert repr(fastconv.revert(converted)) == repr(model)
