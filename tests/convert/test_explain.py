"""Tests explain: its notes on layers, and that they match convert."""

import gc
import os

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn import utils
from torch.nn.utils import prune

import fastconv
from code_models import MODELS, Fire, Inception, Tutorial, UNet, X, build
from fastconv import models


def becomes(report):
    return {row.name: row.becomes for row in report.rows}


class Everything(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 1)
        )
        self.head = nn.Conv2d(4, 4, 1)
        self.branch = Branch()

    def forward(self, x):
        x = F.relu(self.head(self.body(x)))
        return F.max_pool2d(self.branch(x).relu(), 2)


class Branch(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        if x.shape[1] == 4:
            x = F.relu(self.conv(x))
        return x


def test_the_table():
    report = fastconv.explain(Everything())
    text = str(report)
    lines = [line.split(None, 3) for line in text.splitlines()]
    assert lines[:8] == [
        ["layer", "type", "becomes"],
        ["forward", "1", ".relu(),", lines[1][3]],
        ["body.0", "Conv2d", "fused", "with body.1 and body.2"],
        ["body.1", "ReLU", "fused", "behind body.0"],
        ["body.2", "MaxPool2d", "fused", "behind body.0"],
        ["body.3", "Conv2d", "converted", "no ReLU behind it"],
        ["head", "Conv2d", "fused", "with relu(), in the forward of Everything"],
        ["branch.conv", "Conv2d", "converted", "the code of Branch stays as it is"],
    ]
    assert lines[1][3].split(None, 2)[:2] == ["1", "max_pool2d()"]
    assert text.splitlines()[9:11] == [
        "1 left alone, 4 fused, 2 converted",
        "left alone: as torch runs it; fused: one kernel with its neighbors; "
        "converted: a kernel of fastconv's by itself",
    ]
    where = r"  branch (Branch): branches on data (test_explain.py:"
    assert where in text and ": if x.shape[1] == 4:)" in text
    assert report.counts() == {"fused": 4, "converted": 2, "left alone": 1}
    assert report["head"].layer == "Conv2d"
    with pytest.raises(KeyError):
        report["tail"]
    assert str(fastconv.explain(nn.Linear(2, 2))).endswith("nothing here for fastconv")
    assert "(model)" in str(fastconv.explain(nn.ReLU()))


class Mine(nn.Conv2d):
    pass


def left_alone():
    own = nn.Conv2d(3, 3, 3)
    own.forward = lambda x: x
    hooked = nn.Conv2d(3, 3, 3)
    hooked.register_forward_hook(lambda *args: None)
    script = torch.jit.script(nn.Conv2d(3, 3, 3))
    quantized = torch.ao.nn.quantized.Conv2d(3, 3, 3)
    return nn.ModuleDict(
        {
            "mine": Mine(3, 3, 3), "own": own, "lazy": nn.LazyConv2d(3, 3),
            "parametrised": utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 3)),
            "script": script, "quantized": quantized,
            "hooked": hooked, "pruned": prune.identity(nn.Conv2d(3, 3, 3), "weight"),
            "plain": nn.Conv2d(3, 3, 3), "ours": fastconv.Conv2d(3, 3, 3),
            "block": fastconv.ConvReLU2d(3, 3, 3), "other": nn.Conv1d(3, 3, 3),
        }
    )  # fmt: skip


def test_why_layers_are_left_alone():
    model = left_alone()
    report = fastconv.explain(model)
    notes = {row.name: (row.becomes, row.note) for row in report.rows}
    assert notes == {
        "mine": ("left alone", f"a subclass, {__name__}.Mine"),
        "own": ("left alone", "a forward of its own was set on it"),
        "lazy": ("left alone", "not initialized yet; run the model once, then convert"),
        "parametrised": ("left alone", "parametrised"),
        "script": ("left alone", "TorchScript's Conv2d"),
        "quantized": ("left alone", "quantized"),
        "hooked": ("converted", "has hooks, so it is not fused"),
        "pruned": ("converted", "has hooks, so it is not fused"),
        "plain": ("converted", ""),
        "ours": ("converted", ""),
        "block": ("fused", "one block"),
    }
    converted = fastconv.convert(model)
    for name, (what, _) in notes.items():
        assert type(converted[name]) is type(model[name])
        has_forward = "forward" in vars(converted[name]).keys() - vars(model[name]).keys()
        assert has_forward == (what == "converted" and name != "ours")
    for a, b in zip(model.parameters(), converted.parameters(), strict=True):
        assert a is b


@pytest.mark.parametrize("fuse", [True, False])
@pytest.mark.parametrize(
    "make",
    [*MODELS, Everything, lambda: models.CNN(layers="torch"), lambda: models.resnet50(3, "torch")],
    ids=[*(kind.__name__ for kind in MODELS), "Everything", "CNN", "resnet50"],
)
def test_it_says_what_convert_does(make, fuse):
    model = make()
    report = fastconv.explain(model, fuse=fuse)
    converted = fastconv.convert(model, fuse=fuse)
    for layer in converted.modules():
        if isinstance(layer, nn.Conv2d | nn.ReLU | nn.MaxPool2d):
            assert "forward" in vars(layer)
    in_code = any("in the forward of" in row.note for row in report.rows)
    assert in_code == any(
        type(vars(module).get("forward")).__name__ == "CodeForward"
        for module in converted.modules()
    )
    # a converted model's report is its current state
    assert becomes(fastconv.explain(converted, fuse=fuse)) == becomes(report)


def test_several_chains():
    report = fastconv.explain(build(Tutorial))
    where = ", in the forward of Tutorial"
    assert report["pool"].note == f"behind conv1{where}; behind conv2{where}"
    assert report["conv1"].note == f"with relu() and pool{where}"
    assert fastconv.explain(build(Fire)).counts() == {"fused": 6}
    assert fastconv.explain(build(Inception)).counts() == {"fused": 4}
    report = fastconv.explain(build(UNet))
    assert report["forward"].layer == "1 max_pool2d(), 1 relu()"
    assert (report["out"].becomes, report["out"].note) == ("converted", "2 users of its value")


class InBetween(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.conv2, self.bn2 = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.conv3, self.conv4, self.conv5 = (nn.Conv2d(3, 3, 1) for _ in range(3))
        self.relu, self.head = nn.ReLU(), nn.Linear(3, 3)

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(y)) + x)
        x = F.relu(F.avg_pool2d(self.conv3(x), 2))
        x = self.conv4(x).sigmoid().abs().relu()
        x = self.conv5(x)
        x += 1
        return self.head(F.relu(x).mean((2, 3)))


class MyReLU(nn.ReLU):
    pass


FOLD = ": model.eval() and convert(..., fold_batchnorm=True) fuses them for inference"


@pytest.mark.parametrize("convert", [False, True])
def test_what_stands_between_a_convolution_and_its_relu(convert):
    model = nn.ModuleDict({"code": InBetween(), "layers": nn.Sequential()}).eval()
    for behind in (
        [nn.BatchNorm2d(4), nn.ReLU()],
        [nn.Dropout2d(), nn.MaxPool2d(2), nn.ReLU()],
        [nn.BatchNorm2d(4), nn.MaxPool2d(2), nn.ReLU()],
        [nn.GroupNorm(2, 4), nn.Sigmoid(), nn.ReLU()],
        [nn.LeakyReLU(), nn.Conv2d(4, 4, 3), nn.ReLU()],
        [MyReLU()],
    ):
        model["layers"].append(nn.Sequential(nn.Conv2d(3, 4, 3), *behind).eval())
    expected = {
        "code.conv1": f"BatchNorm2d code.bn1 stands between it and the ReLU{FOLD}",
        "code.conv2": "BatchNorm2d code.bn2 and + stand between it and the ReLU",
        "code.conv3": "avg_pool2d() stands between it and the ReLU",
        "code.conv4": ".sigmoid() and .abs() stand between it and the ReLU",
        "code.conv5": "+= stands between it and the ReLU",
        "layers.0.0": f"BatchNorm2d layers.0.1 stands between it and the ReLU{FOLD}",
        "layers.1.0": "Dropout2d layers.1.1 stands between it and the ReLU",
        "layers.2.0": f"BatchNorm2d layers.2.1 stands between it and the ReLU{FOLD}",
        "layers.3.0": "GroupNorm layers.3.1 and Sigmoid layers.3.2 stand between it and the ReLU",
        "layers.4.0": "no ReLU behind it",
        "layers.5.0": f"MyReLU layers.5.1 behind it cannot join it: a subclass, {__name__}.MyReLU",
    }
    if convert:
        model = fastconv.convert(model)
    report = fastconv.explain(model)
    assert {name: report[name].note for name in expected} == expected
    folded = fastconv.explain(model, fold_batchnorm=True)
    assert folded["code.conv2"].note == "+ stands between it and the ReLU"
    for name in ("code.conv1", "layers.0.0", "layers.2.0"):
        assert folded[name].becomes == "fused"


def test_a_relu_with_hooks_is_named():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    model[1].register_forward_hook(lambda *args: None)
    assert fastconv.explain(model)["0"].note == "ReLU 1 behind it cannot join it: has hooks"


def test_an_edited_model():
    converted = fastconv.convert(build(Fire))
    assert fastconv.explain(converted).counts() == {"fused": 6}
    converted.squeeze_activation = nn.Identity()
    assert fastconv.explain(converted).counts() == {"fused": 4, "converted": 1}  # only called
    converted.extra, Fire.squeeze = nn.ReLU(), None
    try:
        report = fastconv.explain(converted)
    finally:
        del Fire.squeeze
    assert "has changed since convert; convert it again" in str(report)
    assert fastconv.explain(converted).counts()["fused"] == 4


@pytest.mark.slow
def test_folding():
    model = models.resnet50(3, "torch").eval()
    report = fastconv.explain(model, fold_batchnorm=True)
    assert report.counts() == {"folded": 53, "fused": 33 + 17 + 1, "converted": 20}
    assert report["bn1"].note == "into conv1"
    assert report["conv1"].note == "with relu and maxpool, in the forward of ResNet50"
    assert "also called by itself" in report["layer1.0.relu"].note
    converted = fastconv.convert(model, fold_batchnorm=True)
    again = fastconv.explain(converted)
    assert becomes(again) == becomes(report)
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.BatchNorm2d(3)).eval()
    report = fastconv.explain(model, fold_batchnorm=True)
    assert report["2"].note == "does not stand behind one convolution only"
    assert "2" not in becomes(fastconv.explain(model))


def test_wrong_arguments():
    with pytest.raises(TypeError, match=r"explain: expected a torch\.nn\.Module, got int"):
        fastconv.explain(3)
    with pytest.raises(ValueError, match="needs a model in eval mode"):
        fastconv.explain(nn.ReLU(), fold_batchnorm=True)


def test_containers_of_torch():
    """The layers that they hold are converted."""
    model = build(Tutorial).eval()
    for wrapped, becomes in (
        (nn.DataParallel(build(Fire)), "fused"),
        (nn.DataParallel(nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU()).double()), "fused"),
        (torch.compile(model, backend="eager"), "fused"),
    ):
        expected = wrapped(X())
        assert list(fastconv.explain(wrapped).counts()) == [becomes]
        converted = fastconv.convert(wrapped)
        assert type(converted) is type(wrapped)
        torch.testing.assert_close(converted(X()), expected)
        torch.testing.assert_close(fastconv.revert(converted)(X()), expected)


def test_data_parallel_training(tmp_path):
    store = f"file://{os.path.join(tmp_path, 'store')}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        for model in (
            fastconv.convert(nn.parallel.DistributedDataParallel(build(Tutorial))),
            nn.parallel.DistributedDataParallel(fastconv.convert(build(Tutorial))),
        ):
            assert "forward" in vars(model.module)
            model(X()).sum().backward()
            assert all(p.grad is not None for p in model.parameters())
    finally:
        model = None
        gc.collect()  # a DistributedDataParallel must not outlive its group
        torch.distributed.destroy_process_group()
