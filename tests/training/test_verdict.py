"""Tests the warning about a network that is no better than naming the most frequent class."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import noise_images
from fastconv.cli import main
from fastconv.training import Settings
from fastconv.training.checkpoint import read_description
from fastconv.training.recipe import resolved
from fastconv.training.verdict import advice, doubt, interval


@pytest.mark.parametrize(
    "confusion, expected",
    [
        ([[9, 0], [8, 0]], "all 17 test images were called cat"),
        ([[0, 5], [0, 9]], "all 14 test images were called dog"),
        ([[5, 5], [4, 5]], "no better than calling all 19 test images cat (52.6%)"),
        ([[2, 8], [9, 1]], "no better than calling all 20 test images cat (50.0%)"),
        # 12 or more of 20 coins fall right in a quarter of all cases, 15 or more in 2 %.
        ([[6, 4], [4, 6]], "which may be chance: calling all 20 test images cat gives 50.0%"),
        ([[8, 2], [3, 7]], None),
        ([[1, 0], [0, 1]], None),
        ([[520, 480], [450, 550]], None),
        ([[9, 0], [0, 0]], None),
        ([[3, 6], [0, 0]], None),
    ],
)
def test_what_speaks_against_a_network(confusion, expected):
    assert doubt(torch.tensor(confusion), ["cat", "dog"]) == expected


@given(st.integers(2, 50), st.integers(1, 20), st.integers(0, 2**32 - 1))
def test_a_guess_is_doubted_and_a_good_network_is_not(classes, count, seed):
    names = [str(i) for i in range(classes)]
    generator = torch.Generator().manual_seed(seed)
    right = torch.randint(1, count + 1, (classes,), generator=generator).diag()
    assert doubt(right, names) is None
    same = torch.zeros_like(right)
    same[:, int(right.diagonal().argmin())] = right.diagonal()
    assert doubt(same, names).startswith(f"all {right.sum()} test images were called ")


@pytest.mark.parametrize(
    "correct, images, expected",
    # As in R: binom::binom.wilson.
    [
        (0, 10, (0.0, 0.2775328)),
        (5, 10, (0.2365931, 0.7634069)),
        (10, 10, (0.7224672, 1.0)),
        (837, 1000, (0.8128243, 0.8585964)),
    ],
)
def test_intervals_are_wilsons(correct, images, expected):
    assert interval(correct, images) == pytest.approx(expected, abs=1e-4)


class TestAdvice:
    def settings(self, **changes):
        return resolved(Settings(data="photos", **changes), 82)

    def test_the_recipe_where_it_was_not_followed(self):
        settings = self.settings(lr=0.001, batch_size=64, epochs=30)
        expected = "try --epochs 60 --batch-size 8 --lr 0.01, the recipe for 82 images"
        assert advice(settings, 82) == expected
        assert advice(self.settings(recipe="document"), 82) == expected
        assert advice(self.settings(lr=0.1), 82).startswith("try --lr 0.01, ")

    def test_pretrained_weights(self):
        assert "--weights FILE --freeze" in advice(self.settings(), 82)
        assert "more training images" in advice(self.settings(weights="x", freeze=True), 82)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A network that learned nothing: the rate is too low for it."""
    root = tmp_path_factory.mktemp("doubtful")
    images = noise_images.write(root / "images", 24, light=0)
    options = ["--lr", "1e-9", "--epochs", "1", "--image-size", "8", "--device", "cpu"]
    main(["train", "--data", str(images), "--out", str(root / "run"), *options])
    return root


def test_train_predict_evaluate_and_the_report_say_so(run, capsys):
    metrics = json.loads((run / "run" / "metrics.json").read_text())
    problem = metrics["test"]["doubt"]
    assert "try --epochs 60 --lr 0.01, the recipe for 40 images" in problem
    assert problem in (run / "run" / "report.html").read_text()
    accuracy = f"test accuracy {metrics['test']['accuracy']:.1%}"
    assert read_description(run / "run" / "model.safetensors").doubt == f"{accuracy}, {problem}"

    checkpoint = ["--checkpoint", str(run / "run"), "--device", "cpu"]
    assert main(["predict", str(run / "images" / "dark" / "0.png"), *checkpoint]) == 0
    assert f"{accuracy}, {problem}" in capsys.readouterr().err
    assert main(["evaluate", *checkpoint]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"{accuracy}, {problem.partition(';')[0]}"


def test_the_last_line_of_train(run, capsys):
    options = ["--config", str(run / "run" / "settings.json"), "--out", str(run / "again")]
    assert main(["train", *options]) == 0
    problem = json.loads((run / "again" / "metrics.json").read_text())["test"]["doubt"]
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.endswith(f"with the weights of epoch 1, {problem}  ({run}/again/report.html)")
