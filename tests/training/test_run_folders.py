"""Tests resumed runs: from any place, with more epochs, one process at a time."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import noise_images
from fastconv import data, training
from fastconv.cli import main
from fastconv.training import DivergedError, Settings, UsageError
from fastconv.training.checkpoint import load_checkpoint, read_description
from fastconv.training.run_folder import new_run_folder

pytestmark = pytest.mark.slow


@pytest.fixture
def images(tmp_path, monkeypatch):
    """A folder of images, named relatively to the current one."""
    monkeypatch.chdir(tmp_path)
    return noise_images.write(Path("images"), 12, light=60, spread=190)


def settings(out, **changes):
    values = dict(data="images", image_size=8, epochs=2, batch_size=8, lr=0.01, device="cpu")
    return Settings(**(values | changes), out=Path(out))


def silent(line):
    pass


def stop_after_an_epoch(line):
    if line.startswith("epoch 1/"):
        signal.raise_signal(signal.SIGINT)


def train_and_stop(out, **changes):
    with pytest.raises(KeyboardInterrupt):
        training.train(settings(out, **changes), stop_after_an_epoch)
    return Path(out)


def results(folder):
    """The weights, and the metrics but for times and places."""
    metrics = json.loads((folder / "metrics.json").read_text())
    for epoch in metrics["epochs"]:
        del epoch["images_per_second"], epoch["waiting"]
    weights = load_checkpoint(folder / "model.safetensors")[0].state_dict()
    values = {name: value.numpy().tobytes() for name, value in weights.items()}
    return values, {name: metrics[name] for name in ("epochs", "best_epoch", "test")}


class TestTheImages:
    @pytest.mark.parametrize("spelling", ["images", "./images/", "other/../images", "link"])
    def test_any_spelling_of_their_folder_goes_on(self, images, spelling):
        os.mkdir("other")
        os.symlink("images", "link")
        out = train_and_stop("run", data=spelling)
        assert training.resume(out, silent)["test"]

    def test_a_moved_folder_is_named_again(self, images, tmp_path):
        training.train(settings("whole"), silent)
        out = train_and_stop("run")
        os.rename("images", "moved")
        with pytest.raises(UsageError) as caught:
            training.resume(out, silent)
        assert str(caught.value) == (
            f"{tmp_path / 'images'}: no such folder; where the images were moved, "
            "`fastconv train --resume run --data DIR` says where they are"
        )
        assert main(["train", "--resume", "run", "--data", "moved"]) == 0
        assert results(out) == results(Path("whole"))
        moved = str(tmp_path / "moved")
        assert json.loads((out / "settings.json").read_text())["data"] == moved
        assert json.loads((out / "metrics.json").read_text())["settings"]["data"] == moved
        assert read_description(out / "model.safetensors").data == moved

    @pytest.mark.parametrize("change", ["name", "content", "class", "number"])
    def test_others_are_refused(self, images, change):
        out = train_and_stop("run")
        shutil.copytree("images", "others")
        others = Path("others")
        if change == "name":
            os.rename(others / "dark" / "3.png", others / "dark" / "33.png")
        elif change == "content":
            shutil.copy(others / "dark" / "3.png", others / "dark" / "4.png")
        elif change == "class":
            os.rename(others / "dark", others / "black")
        else:
            os.remove(others / "dark" / "3.png")
        with pytest.raises(UsageError, match="images are no longer those that it was") as caught:
            training.resume(out, silent, data="others")
        named = f"--config {out}/settings.json --data {others.resolve()} --out {out}-2"
        assert f"`fastconv train {named}` begins anew" in str(caught.value)
        assert training.resume(out, silent)["test"]

    def test_the_fingerprint_is_that_of_the_parts_wherever_they_lie(self, images):
        shutil.copytree("images", "copy")
        first, copy, other = (
            data.load(*arguments).fingerprint
            for arguments in (("images", 8), ("copy", 8), ("images", 8, 1))
        )
        assert first == copy != other
        packaged = [data.load(image_size=28, seed=seed).fingerprint for seed in (0, 0, 1)]
        assert packaged[0] == packaged[1] != packaged[2]

    def test_a_state_of_an_older_version_is_refused(self, images):
        out = train_and_stop("run")
        state = out / "state.safetensors"
        state.write_bytes(state.read_bytes().replace(b'\\"format\\": 2', b'\\"format\\": 1'))
        with pytest.raises(UsageError) as caught:
            training.resume(out, silent)
        assert str(caught.value) == (
            "run/state.safetensors: another version of fastconv wrote it, and this one cannot go "
            "on from it; `fastconv train --config run/settings.json --out run-2` begins anew"
        )

    def test_a_run_folder_among_the_images_is_refused(self, images):
        with pytest.raises(UsageError) as caught:
            training.train(settings("images/run"), silent)
        text = "images/run: lies in the folder of images, choose an --out outside images"
        assert str(caught.value) == text
        assert not Path("images/run").exists()


TRAINS = """if True:
    import sys
    from pathlib import Path
    from fastconv import training

    def told(line):
        if line.startswith("epoch"):
            print(line, flush=True)
            sys.stdin.readline()  # until the test has tried to train into the same folder

    training.train(training.Settings(
        data="images", image_size=8, epochs=2, batch_size=8, lr=0.01, device="cpu", out=Path("run")
    ), told)
"""


class TestOneProcessARun:
    @pytest.fixture
    def process(self, images):
        """One that trains into run/, and waits there after its first epoch."""
        with subprocess.Popen(
            [sys.executable, "-c", TRAINS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout.readline().startswith("epoch 1/2")
            yield process
            process.kill()

    def test_a_second_one_is_refused_by_one_line(self, process, capsys):
        before = Path("run/settings.json").read_bytes()
        for options in (
            ["--resume", "run"],
            ["--resume", "run/../run", "--epochs", "5"],
            ["--data", "images", "--out", "run", "--image-size", "8", "--seed", "1"],
        ):
            assert main(["train", *options]) == 2
            assert capsys.readouterr().err == (
                f"fastconv: {options[3] if '--out' in options else options[1]}: another `fastconv "
                "train` is writing into it; wait for its end, or stop it\n"
            )
        assert Path("run/settings.json").read_bytes() == before
        process.communicate("\n\n")
        assert process.returncode == 0
        assert main(["train", "--resume", "run", "--epochs", "3"]) == 0

    def test_a_killed_one_lets_go(self, process):
        process.kill()
        process.wait()
        assert training.resume(Path("run"), silent)["test"]

    def test_two_begin_at_once(self, images):
        """The second comes while the first still reads its images."""
        with (
            new_run_folder(Path("run"), "CNN"),
            pytest.raises(UsageError, match="another `fastconv train` is writing into it"),
        ):
            training.train(settings("run"), silent)
        assert training.train(settings("run"), silent)["test"]

    def test_what_fails_before_it_begins_leaves_nothing(self, images):
        with pytest.raises(UsageError, match="too small"):
            training.train(settings("new", model="SimpleCNN"), silent)
        assert not Path("new").exists()
        os.mkdir("mine")
        with pytest.raises(UsageError, match="too small"):
            training.train(settings("mine", model="SimpleCNN"), silent)
        assert Path("mine").exists()
        with pytest.raises(UsageError, match="too small"):
            training.train(Settings("SimpleCNN", "images", image_size=8), silent)
        assert os.listdir("runs") == []


class TestMoreEpochs:
    @pytest.mark.parametrize("schedule", ["step", "constant"])
    def test_a_finished_run_becomes_the_longer_one(self, images, schedule):
        options = dict(schedule=schedule, decay_every=2, augment=True)
        training.train(settings("whole", epochs=4, **options), silent)
        training.train(settings("run", **options), silent)
        metrics = training.resume(Path("run"), silent, epochs=4)
        assert metrics["continued"] == [2]
        assert results(Path("run")) == results(Path("whole"))
        assert json.loads(Path("run/settings.json").read_text())["epochs"] == 4
        assert json.loads(Path("run/metrics.json").read_text()) == metrics

    def test_a_cosine_goes_on_along_the_longer_curve(self, images):
        training.train(settings("run", lr=0.1), silent)
        metrics = training.resume(Path("run"), silent, epochs=4)
        rates = [epoch["lr"] for epoch in metrics["epochs"]]
        assert rates == pytest.approx([0.1, 0.05, 0.05, 0.1 * (1 - 0.5**0.5) / 2])

    def test_stopped_again_it_goes_on_to_the_new_number(self, images):
        training.train(settings("run"), silent)

        def stop(line):
            if line.startswith("epoch 3/"):
                signal.raise_signal(signal.SIGINT)

        with pytest.raises(KeyboardInterrupt):
            training.resume(Path("run"), stop, epochs=5)
        assert json.loads(Path("run/metrics.json").read_text())["test"] is None
        assert len(training.resume(Path("run"), silent)["epochs"]) == 5

    def test_a_stopped_run_gets_another_number(self, images):
        train_and_stop("run", epochs=5)
        metrics = training.resume(Path("run"), silent, epochs=3)
        assert (len(metrics["epochs"]), metrics["continued"]) == (3, [])
        train_and_stop("done", epochs=5)
        assert len(training.resume(Path("done"), silent, epochs=1)["epochs"]) == 1

    def test_early_stopping_counts_anew(self, images):
        options = dict(epochs=20, lr=1e-9, patience=1, schedule="constant")
        done = len(training.train(settings("run", **options), silent)["epochs"])
        assert done < 20
        metrics = training.resume(Path("run"), silent, epochs=20)
        assert done < len(metrics["epochs"]) < 20

    def test_no_more_than_there_are(self, images, capsys):
        training.train(settings("run"), silent)
        for epochs in (1, 2):
            assert main(["train", "--resume", "run", "--epochs", str(epochs)]) == 2
            assert capsys.readouterr().err.endswith(
                f"run: 2 epochs are done, epochs must be above that, got {epochs}\n"
            )
        assert json.loads(Path("run/settings.json").read_text())["epochs"] == 2
        assert json.loads(Path("run/metrics.json").read_text())["test"]


def test_the_advice_after_divergence_trains(images, capsys):
    """At rates that lead to NaN, and at a tenth of these no more."""
    with pytest.raises(DivergedError) as caught:
        training.train(settings("my run", recipe="document", lr=60, epochs=3), silent)
    message = str(caught.value)
    assert "--resume" not in message
    command = message.split("`")[1]
    assert command == ("fastconv train --config 'my run/settings.json' --lr 6 --out 'my run-2'")
    while True:
        program, *words = shlex.split(command)
        status = main(words)
        if status == 0:
            break
        command = capsys.readouterr().err.split("`")[1]
    assert program == "fastconv"


def test_a_slower_backbone_gets_a_tenth_too(images):
    training.train(settings("first", epochs=1), silent)
    weights = Path("first/model.safetensors")
    with pytest.raises(DivergedError) as caught:
        training.train(settings("run", weights=weights, lr=1e20, backbone_lr=1e18), silent)
    assert " --lr 1e+19 --backbone-lr 1e+17 --out run-2`" in str(caught.value)


def test_equal_runs_have_equal_files(images):
    """All but those with times, and the names of the folders."""
    for name in ("a", "b"):
        training.train(settings(f"{name}/run"), silent)
    names = [path.name for path in Path("a/run").iterdir()]
    assert {"model.safetensors", "settings.json", "accuracy.png", "accuracy-dark.png"} < set(names)
    for name in {*names} - {"metrics.json", "report.html", "state.safetensors"}:
        assert Path("a/run", name).read_bytes() == Path("b/run", name).read_bytes(), name
    assert results(Path("a/run")) == results(Path("b/run"))


def test_a_run_that_cannot_take_a_step_leaves_its_folder_free(images):
    refused = settings("run", model="resnet50", image_size=32, batch_size=1, epochs=1)
    with pytest.raises(UsageError, match="cannot be trained on one image"):
        training.train(refused, silent)
    assert not Path("run").exists()
    with pytest.raises(UsageError, match="cannot be trained on one image"):
        training.train(refused, silent)
