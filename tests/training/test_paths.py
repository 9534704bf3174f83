"""Tests paths from Python: str and PathLike everywhere, run folders in place of checkpoints."""

import os
from pathlib import Path

import pytest
import torch

import fastconv
import noise_images
from fastconv.training import (
    Settings,
    UsageError,
    load_checkpoint,
    predict,
    read_weights,
    resume,
    save_checkpoint,
    train,
)
from fastconv.training.foreign import load_network
from fastconv.training.predict import find_images, predict_files


class Own:
    """A path that is neither str nor Path, such as py.path's or os.DirEntry."""

    def __init__(self, path):
        self.path = os.fspath(path)

    def __fspath__(self):
        return self.path


KINDS = (str, Path, Own)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return noise_images.write(tmp_path_factory.mktemp("images"), 12)


@pytest.fixture(scope="module")
def run(images, tmp_path_factory):
    """The folder of a finished run that was started with str for all paths."""
    out = tmp_path_factory.mktemp("runs") / "run"
    train(settings(images, out, str), log=lambda line: None)
    return out


def settings(images, out, kind, **changes):
    numbers = {"image_size": 8, "batch_size": 8, "epochs": 1, "device": "cpu", **changes}
    return Settings(data=kind(images), out=kind(out), **numbers)


@pytest.mark.parametrize("kind", KINDS)
def test_settings(kind):
    found = Settings(out=kind("run"), data=kind("photos"), weights=kind("a/x.pth"))
    assert (found.out, found.data, found.weights) == (Path("run"), "photos", Path("a/x.pth"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_is_stopped_and_resumed(kind, images, tmp_path):
    def stop(line):
        if line.startswith("epoch"):
            raise KeyboardInterrupt

    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(settings(images, out, kind, epochs=2), log=stop)
    assert len(resume(kind(out), log=lambda line: None)["epochs"]) == 2
    again = Settings.from_json(kind(out / "settings.json"))
    assert (again.data, again.epochs) == (str(images), 2)


@pytest.mark.parametrize("kind", KINDS)
def test_run_folders_and_checkpoints(kind, run, images, tmp_path):
    picture = images / "dark" / "0.png"
    path = tmp_path / "copy.safetensors"
    model, description = load_checkpoint(kind(run))
    save_checkpoint(kind(path), model, description)
    expected = predict(model, picture, description.preprocessing)
    for place in (run, run / "model.safetensors", path):
        for load in (load_checkpoint, lambda place: load_network(place, None)):
            model, found = load(kind(place))
            assert found == description
            assert torch.equal(predict(model, kind(picture), found.preprocessing), expected)
        weights = read_weights(kind(place))
        assert weights.classes == description.classes
        assert weights.tensors.keys() == model.state_dict().keys()


@pytest.mark.parametrize("kind", KINDS)
def test_images(kind, run, images):
    dataset = fastconv.data.load(kind(images), image_size=8)
    assert dataset.source == str(images)
    assert fastconv.data.load(kind("fashion-mnist"), image_size=8).source == "fashion-mnist"
    model, description = load_checkpoint(run)
    found = find_images([kind(images / "dark")])
    assert found == sorted((images / "dark").iterdir())
    files = [kind(path) for path in found]
    assert [path for path, _ in predict_files(model, files, description.preprocessing)] == found
    assert description.preprocessing.read(kind(found[0])).shape == (3, 8, 8)


def test_training_starts_from_the_weights_of_a_run(run, images, tmp_path):
    lines = []
    found = settings(images, tmp_path / "next", str, weights=str(run))
    train(found, log=lines.append)
    assert f"{run}: with its own last layer" in lines


def test_folders_without_a_checkpoint(tmp_path):
    for load in (load_checkpoint, read_weights):
        with pytest.raises(UsageError, match=r"this folder has no model\.safetensors"):
            load(str(tmp_path))
        with pytest.raises(UsageError, match=r"no such checkpoint|no such file of weights"):
            load(str(tmp_path / "no"))
