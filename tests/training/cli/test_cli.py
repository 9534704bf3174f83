"""Tests the command line as a whole: help, messages for wrong words, no tracebacks."""

import re

import pytest

from fastconv._train_options import GROUPS
from fastconv.cli import _parser, main
from fastconv.training.settings import setting_types


def test_info(capsys):
    import fastconv

    assert main(["info"]) == 0
    assert capsys.readouterr().out == f"{fastconv.info()}\n"


def test_version_and_help(capsys):
    for option in ("--version", "--help"):
        with pytest.raises(SystemExit) as stop:
            main([option])
        assert stop.value.code == 0
        assert "fastconv" in capsys.readouterr().out


def test_no_command_shows_the_help(capsys):
    assert main([]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("usage: fastconv ") and captured.err == ""
    assert all(name in captured.out for name in ("train", "evaluate", "predict", "info"))


def test_the_help_of_train_has_every_setting_in_a_group_and_examples_that_parse(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = capsys.readouterr().out
    names = [name for group in GROUPS.values() for name in group]
    assert sorted(names) == sorted(setting_types())
    assert all(f"\n{title}:\n" in text for title in GROUPS)
    assert all(f"--{name.replace('_', '-')}" in text for name in names)
    examples = re.findall(r"^  fastconv (train .*)$", text, re.M)
    assert len(examples) == 2
    for example in examples:
        given = _parser().parse_args(example.split())
        assert given.data == "photos"


def test_wrong_use(fails, images, tmp_path):
    assert "unknown model 'VGG'" in fails(2, "train", "--model", "VGG")
    assert "top must be" in fails(2, "predict", "x.png", "--top", "0")
    assert "holds no images" in fails(2, "predict", tmp_path)
    assert "not allowed with" in fails(2, "train", "--config", "a", "--resume", "b")
    assert "CNN has no dropout layer" in fails(2, "train", "--dropout", "0.1")
    assert "IMAGE" in fails(2, "predict")
    assert "invalid int value: 'x'" in fails(2, "train", "--epochs", "x")
    assert "batch_size must be" in fails(2, "train", "--batch-size", "0")
    assert "lr must be above 0" in fails(2, "train", "--lr", "-1")
    assert "no such folder" in fails(2, "train", "--data", tmp_path / "no")
    assert "cannot be used here" in fails(2, "train", "--device", "warp9")
    assert "is too small" in fails(2, "train", "--model", "simplecnn", "--image-size", "9")
    assert "no such checkpoint" in fails(2, "evaluate", "--checkpoint", tmp_path / "no")
    assert "no model.safetensors" in fails(2, "evaluate", "--checkpoint", tmp_path)
    (tmp_path / "text").write_text("hello")
    message = fails(2, "predict", "x.png", "--checkpoint", tmp_path / "text")
    assert "not a readable safetensors file" in message


@pytest.mark.parametrize(
    "words, message",
    [
        (
            "trian",
            "fastconv: argument COMMAND: unknown 'trian', did you mean train? choose one",
        ),
        ("train --epoch 3", "fastconv train: unknown option --epoch, did you mean --epochs? (see "),
        (
            "train --btach-size=3",
            "fastconv train: unknown option --btach-size, did you mean",
        ),
        (
            "train -lr 1",
            "fastconv train: unknown option -lr, did you mean --lr? (see ",
        ),
        ("train --augmen", "did you mean --augment? (see fastconv train --help)"),
        (
            "train --precision bf16",
            "unknown 'bf16', did you mean bfloat16? choose one of ",
        ),
        ("train --model restnet50", "fastconv: unknown model 'restnet50', did you mean resnet50?"),
        ("train photos", "fastconv train: unexpected 'photos', did you mean --data photos? (see "),
        ("train nothing", "fastconv train: unexpected 'nothing' (see fastconv train --help)"),
        (
            "evaluate photos",
            "did you mean --data photos or --checkpoint photos? (see ",
        ),
        (
            "evaluate --layers troch",
            "unknown 'troch', did you mean torch? choose one of ",
        ),
        (
            "predict --tpo 1 x.png",
            "fastconv predict: unknown option --tpo, did you mean --top?",
        ),
        ("predict x.png --device gpu", "no such device, did you mean cuda?"),
        ("info x", "fastconv info: unexpected 'x' (see fastconv info --help)"),
        ("--frobnicate train", "fastconv: unknown option --frobnicate (see fastconv --help)"),
    ],
)
def test_what_was_meant(words, message, fails, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    assert message in fails(2, *words.split())


def test_import_fastconv_loads_nothing_for_training(run_python):
    code = """if True:
        import sys
        import fastconv, fastconv.cli, fastconv.models, fastconv.data, fastconv.training
        for name in ("matplotlib", "PIL", "safetensors"):
            assert name not in sys.modules, name
    """
    result = run_python(code)
    assert result.returncode == 0, result.stderr
