"""Tests fastconv train: its output, its files of settings, and its errors."""

import json
import re

import PIL.Image
import pytest

from fastconv.cli import main
from fastconv.training.checkpoint import load_checkpoint
from noise_images import TINY


def test_train_prints_a_line_for_every_epoch(images, tmp_path, capsys):
    out = tmp_path / "run"
    options = ["--data", str(images), "--epochs", "2", "--out", str(out), "--layers", "torch"]
    assert main(["train", *options, *TINY]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    first, *epochs, few, last = captured.out.splitlines()
    assert first.startswith("CNN with torch layers on cpu, ")
    for number, (line, left) in enumerate(zip(epochs, (r"  \d:\d\d left", ""), strict=True), 1):
        assert re.fullmatch(
            rf"epoch {number}/2  loss \d+\.\d+  validation accuracy \d+\.\d%  \d+ images/s"
            rf"( \(\d+% waiting for images\))?{left}",
            line,
        )
    assert few == "only 2 test images: each of them is 50.0% of the accuracy"
    assert re.fullmatch(
        r"test accuracy \d+\.\d% with the weights of epoch [12]  \(.*run/report\.html\)", last
    )
    assert json.loads((out / "metrics.json").read_text())["settings"]["layers"] == "torch"


def test_train_on_the_packaged_images(tmp_path, capsys):
    out = tmp_path / "run"
    options = ["--image-size", "14", "--epochs", "1", "--lr", "0.02", "--out", str(out)]
    assert main(["train", *options]) == 0
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["images"] == {"train": 4500, "val": 500, "test": 1000}
    assert metrics["test"]["accuracy"] > 0.5


@pytest.mark.slow
def test_settings_from_a_file_and_going_on(images, tmp_path, fails):
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"data": str(images), "epochs": 3, "lr": 0.02, "layers": "torch"}))
    out = tmp_path / "run"
    options = ["--config", str(config), "--epochs", "1", "--out", str(out), *TINY]
    assert main(["train", *options]) == 0
    settings = json.loads((out / "settings.json").read_text())
    assert (settings["epochs"], settings["lr"], settings["layers"]) == (1, 0.02, "torch")
    again = tmp_path / "again"
    assert main(["train", "--config", str(out / "settings.json"), "--out", str(again)]) == 0
    weights = [
        load_checkpoint(folder / "model.safetensors")[0].classifier[0].weight
        for folder in (out, again)
    ]
    assert weights[0].equal(weights[1])
    assert "the run is finished" in fails(2, "train", "--resume", out)
    message = fails(2, "train", "--resume", out, "--lr", "1")
    assert "takes all settings but --data and --epochs from the run: leave --lr out" in message


def test_a_broken_image_is_named_and_left_out(capsys, tmp_path, fails):
    images = tmp_path / "images"
    for name in ("a", "b"):
        (images / name).mkdir(parents=True)
        for i in range(4):
            PIL.Image.new("RGB", (9, 9)).save(images / name / f"{i}.png")
    broken = images / "b" / "2.png"
    broken.write_bytes(broken.read_bytes()[:40])
    options = ["--data", images, "--out", tmp_path / "out", "--epochs", "1", *TINY]
    assert str(broken) in fails(2, "train", *options, "--strict")
    assert not (tmp_path / "out").exists()
    assert main(["train", *map(str, options)]) == 0
    first, second = capsys.readouterr().out.splitlines()[:2]
    assert first == "left out 1 that cannot be read:"
    assert second.startswith(f"  {broken}: not a readable image")
    (skipped,) = json.loads((tmp_path / "out" / "metrics.json").read_text())["skipped"]
    assert skipped == second.strip()


def test_a_finished_run_is_kept(fails, images, run_folder):
    message = fails(2, "train", "--data", images, "--out", run_folder, *TINY)
    assert "holds a finished run" in message


def test_divergence(fails, images, tmp_path):
    options = ["--data", images, "--out", tmp_path / "run", "--lr", "1e20", *TINY]
    assert "loss became" in fails(1, "train", *options)
