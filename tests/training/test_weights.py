"""Tests pretrained weights: all kinds of files, and the entries that are loaded."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fastconv import models
from fastconv.training import (
    Description,
    UsageError,
    Weights,
    load_pretrained,
    read_weights,
    save_checkpoint,
)

HEAD = ["classifier.2.weight", "classifier.2.bias"]


def cnn(num_classes=2, layers="fastconv", seed=1):
    torch.manual_seed(seed)
    return models.CNN(num_classes, 8, layers)


def message(action, *arguments):
    """What the error says, in one line."""
    with pytest.raises(UsageError) as caught:
        action(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- files ---------------------------------------------------------------------------------------


def save_legacy(state, path):
    torch.save(state, path, _use_new_zipfile_serialization=False)


FILES = {
    "safetensors": save_file,
    "torch": torch.save,
    "torch, before 1.6": save_legacy,
    "under state_dict": lambda state, path: torch.save({"epoch": 3, "state_dict": state}, path),
    "under model": lambda state, path: torch.save({"model": state, "optimizer": {}}, path),
    "DataParallel": lambda state, path: torch.save(
        {f"module.{name}": value for name, value in state.items()}, path
    ),
}


@pytest.mark.parametrize("kind", FILES)
def test_kinds_of_files(kind, tmp_path):
    path = tmp_path / "weights"  # no suffix: the content decides
    state = {"a.weight": torch.randn(2, 3), "a.bias": torch.randn(2)}
    FILES[kind](state, path)
    weights = read_weights(path)
    assert (weights.path, weights.classes) == (path, None)
    assert weights.tensors.keys() == state.keys()
    assert all(torch.equal(weights.tensors[name], state[name]) for name in state)


def test_the_class_list_of_a_checkpoint(tmp_path):
    path = tmp_path / "model.safetensors"
    about = Description("CNN", "fastconv", ["cat", "dog"], 8, 9, 1, "fashion-mnist", 0)
    save_checkpoint(path, cnn(), about)
    weights = read_weights(path)
    assert weights.classes == ["cat", "dog"]
    assert weights.tensors.keys() == cnn().state_dict().keys()


def test_a_pickle_runs_no_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "evil"),)

    for save in (torch.save, save_legacy):
        save({"a": torch.zeros(1), "b": Evil()}, tmp_path / "weights.pt")
        found = message(read_weights, tmp_path / "weights.pt")
        assert "weights.pt: holds posix.mkdir, and only tensors are loaded" in found
    assert os.listdir(tmp_path) == ["weights.pt"]


def test_a_pickled_network(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "model.pt")
    found = message(read_weights, tmp_path / "model.pt")
    assert "holds torch.nn.modules.linear.Linear" in found
    assert found.endswith("save the state_dict() alone")


def test_broken_files(tmp_path):
    path = tmp_path / "weights"
    assert message(read_weights, path) == (
        f"{path}: no such file of weights; ImageNet's for resnet50 and squeezenet1_1 are at "
        "download.pytorch.org/models/, see docs/training.md"
    )
    assert message(read_weights, tmp_path) == f"{tmp_path}: this folder has no model.safetensors"
    for content in (b"", b"hello", b"\x80\x02", b"PK\x03\x04" + bytes(100)):
        path.write_bytes(content)
        assert message(read_weights, path) == (
            f"{path}: neither a safetensors file nor one that torch.save wrote"
        )
    save_file({"a": torch.zeros(100)}, path)
    path.write_bytes(path.read_bytes()[:-100])
    assert message(read_weights, path).startswith(f"{path}: not a readable safetensors file (")
    torch.save({"a": torch.zeros(100)}, path)
    path.write_bytes(path.read_bytes()[:-100])
    assert "neither a safetensors file nor" in message(read_weights, path)


@pytest.mark.parametrize(
    "content, end",
    [
        ([torch.zeros(1)], "tensors"),
        ({}, "tensors"),
        (torch.zeros(1), "tensors"),
        ({"a": torch.zeros(1), "epoch": 3}, "tensors: 'epoch' is a int"),
        ({"state_dict": {3: torch.zeros(1)}}, "tensors: 3 is a Tensor"),
    ],
)
def test_files_of_other_things(content, end, tmp_path):
    path = tmp_path / "weights.pt"
    torch.save(content, path)
    assert message(read_weights, path) == f"{path}: holds no state_dict, which is a dict of {end}"


# --- into a network ------------------------------------------------------------------------------


def weights_of(model, classes=None):
    """Its weights as if read from a file."""
    return Weights(Path("old.pt"), model.state_dict(), classes)


@pytest.mark.parametrize("layers", models.LAYERS)
@pytest.mark.parametrize("classes", [None, ["a", "b"]])
def test_all_of_it_for_the_same_classes(layers, classes):
    model, old = cnn(layers=layers), cnn(layers="torch", seed=2)
    assert load_pretrained(model, weights_of(old, classes), HEAD, ["a", "b"])
    for name, value in old.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


@pytest.mark.parametrize(
    "outputs, classes", [(3, None), (3, ["a", "b", "c"]), (2, ["b", "a"]), (2, ["a", "c"])]
)
def test_all_but_the_head_for_other_classes(outputs, classes):
    model, before, old = cnn(), cnn().state_dict(), cnn(outputs, seed=2)
    assert not load_pretrained(model, weights_of(old, classes), HEAD, ["a", "b"])
    for name, value in model.state_dict().items():
        expected = before if name in HEAD else old.state_dict()
        assert torch.equal(value, expected[name]), name


def test_weights_without_a_head():
    model, old = cnn(), cnn(seed=2)
    tensors = {name: value for name, value in old.state_dict().items() if name not in HEAD}
    assert not load_pretrained(model, Weights(Path("old.pt"), tensors, None), HEAD, ["a", "b"])
    assert torch.equal(model.classifier[0].weight, old.classifier[0].weight)


def test_half_of_a_head_is_none():
    model, old = cnn(), weights_of(cnn(seed=2))
    del old.tensors["classifier.2.bias"]
    assert not load_pretrained(model, old, HEAD, ["a", "b"])
    assert torch.equal(model.classifier[2].weight, cnn().classifier[2].weight)


def test_other_dtypes_become_the_networks():
    model, old = cnn(), cnn(seed=2).half()
    assert load_pretrained(model, weights_of(old), HEAD, ["a", "b"])
    assert torch.equal(model.classifier[0].weight, old.classifier[0].weight.float())


def test_old_files_do_not_count_batches():
    def norm():
        return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))

    old, model = norm(), norm()
    old(torch.randn(2, 3, 4, 4))
    tensors = old.state_dict()
    del tensors["1.num_batches_tracked"]
    load_pretrained(model, Weights(Path("old.pt"), tensors, None), [], [])
    assert torch.equal(model[1].running_mean, old[1].running_mean)
    assert model[1].num_batches_tracked == 0


def test_weights_of_another_network():
    model, before = cnn(), cnn().state_dict()

    def found(**changes):
        tensors = cnn(seed=2).state_dict() | changes
        tensors = {name: value for name, value in tensors.items() if value is not None}
        return message(
            load_pretrained, model, Weights(Path("old.pt"), tensors, None), HEAD, ["a", "b"]
        )

    missing, unexpected, shape = "features.0.weight", "layer1.weight", torch.zeros(7)
    assert found(**{missing: None, "features.0.bias": None}) == (
        "2 of the network's 6 entries are not in old.pt, among them features.0.weight"
    )
    assert found(**{unexpected: shape}) == (
        "1 of the 7 entries of old.pt are not the network's, among them layer1.weight"
    )
    assert found(**{"classifier.0.bias": shape}) == (
        "1 of the 6 entries of old.pt have other shapes than the network's, "
        "among them classifier.0.bias: [7], expected [128]"
    )
    assert found(**{missing: None, unexpected: shape}) == (
        "1 of the network's 6 entries are not in old.pt, among them features.0.weight; "
        "1 of the 6 entries of old.pt are not the network's, among them layer1.weight"
    )
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)
