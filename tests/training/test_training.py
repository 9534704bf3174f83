"""Tests the functions of training: results, run folders, and robust checkpoints."""

import json
import math
import os
import shutil
import signal

import pytest
import torch
from safetensors import safe_open

import noise_images
from fastconv import data, models, training
from fastconv.data.preprocessing import MEAN, STD
from fastconv.training import Description, Settings, TrainingError, UsageError
from fastconv.training.atomic import replace_file
from fastconv.training.checkpoint import load_checkpoint, read_description, save_checkpoint
from fastconv.training.distributed import ALONE
from fastconv.training.epoch import batches_of_epoch
from fastconv.training.run_folder import find_checkpoint
from fastconv.training.scores import Scores
from fastconv.training.tensor_file import write_tensors
from fastconv.training.trainer import Trainer


@pytest.fixture
def images(tmp_path):
    return noise_images.write(tmp_path / "images", 24)


def settings(images, tmp_path, **changes):
    values = dict(data=str(images), image_size=8, epochs=3, batch_size=8, lr=0.01, device="cpu")
    return Settings(**(values | {"out": tmp_path / "run"} | changes))


def silent(line):
    pass


def description(**changes):
    values = dict(
        model="CNN",
        layers="fastconv",
        classes=["a", "b"],
        image_size=8,
        resize=9,
        epoch=1,
        data="fashion-mnist",
        seed=0,
    )
    return Description(**(values | changes))


class TestTrain:
    def test_it_learns_and_writes_its_folder(self, images, tmp_path):
        lines = []
        metrics = training.train(settings(images, tmp_path), lines.append)
        out = tmp_path / "run"
        assert sorted(name for name in os.listdir(out) if not name.endswith(".png")) == [
            ".lock",
            "metrics.json",
            "model.safetensors",
            "report.html",
            "settings.json",
            "state.safetensors",
        ]
        assert json.loads((out / "metrics.json").read_text()) == metrics
        assert [epoch["epoch"] for epoch in metrics["epochs"]] == [1, 2, 3]
        for epoch in metrics["epochs"]:
            assert math.isfinite(epoch["train_loss"])
            assert 0 <= epoch["train_accuracy"] <= 1
            assert 0 <= epoch["val_accuracy"] <= 1
            assert epoch["images_per_second"] > 0
        assert metrics["epochs"][-1]["train_loss"] < metrics["epochs"][0]["train_loss"]
        assert metrics["test"]["accuracy"] == metrics["test"]["recall"] == 1
        assert metrics["epochs"][-1]["train_accuracy"] > metrics["epochs"][0]["train_accuracy"]
        assert metrics["images"] == {"train": 40, "val": 4, "test": 4}
        assert metrics["images_per_class"] == {"train": [20, 20], "val": [2, 2], "test": [2, 2]}
        assert metrics["settings"]["lr"] == 0.01
        assert metrics["environment"]["torch"] == torch.__version__
        assert metrics["best_epoch"] == 1 + max(
            range(3),
            key=lambda i: (
                metrics["epochs"][i]["val_accuracy"],
                -metrics["epochs"][i]["val_loss"],
            ),
        )
        assert len(lines) == 1 + 3 + 2
        assert lines[-2] == "only 4 test images: each of them is 25.0% of the accuracy"
        assert lines[-1].startswith("test accuracy 100.0% with the weights of epoch ")

    def test_the_checkpoint_gives_the_test_accuracy_again(self, images, tmp_path):
        metrics = training.train(settings(images, tmp_path, epochs=1, lr=0.001), silent)
        model, about = load_checkpoint(tmp_path / "run" / "model.safetensors")
        assert about == description(
            classes=["dark", "light"],
            data=str(images),
            epoch=1,
            seed=0,
            resize=9,
            doubt=about.doubt,
        )
        test = data.load(about.data, about.image_size, about.seed, parts=("test",)).parts["test"]
        scores = training.evaluate(model, test)
        assert scores.accuracy == metrics["test"]["accuracy"]
        assert scores.loss == pytest.approx(metrics["test"]["loss"], rel=1e-5)

    @pytest.mark.slow
    @pytest.mark.parametrize("model, size", [("CNN", 8), ("SimpleCNN", 85)])
    def test_same_seed_same_numbers(self, images, tmp_path, model, size):
        def run(name, seed):
            options = dict(epochs=2, seed=seed, model=model, image_size=size)
            training.train(settings(images, tmp_path, out=tmp_path / name, **options), silent)
            metrics = json.loads((tmp_path / name / "metrics.json").read_text())
            weights = load_checkpoint(tmp_path / name / "model.safetensors")[0].state_dict()
            return [epoch["train_loss"] for epoch in metrics["epochs"]], weights

        (losses, weights), (losses_again, weights_again) = run("a", 3), run("b", 3)
        assert losses == losses_again
        assert all(torch.equal(weights[name], weights_again[name]) for name in weights)
        assert run("c", 4)[0] != losses

    def test_the_learning_rate_falls_along_a_cosine(self, images, tmp_path):
        metrics = training.train(settings(images, tmp_path, lr=0.1), silent)
        rates = [epoch["lr"] for epoch in metrics["epochs"]]
        assert rates == pytest.approx([0.1, 0.075, 0.025])

    @pytest.mark.slow
    def test_both_kinds_of_layers_train_alike(self, images, tmp_path):
        losses = {}
        for layers in models.LAYERS:
            options = dict(layers=layers, out=tmp_path / layers, epochs=2)
            metrics = training.train(settings(images, tmp_path, **options), silent)
            losses[layers] = [epoch["train_loss"] for epoch in metrics["epochs"]]
        assert losses["fastconv"] == pytest.approx(losses["torch"], rel=1e-3)

    def test_a_diverging_loss_stops_the_run(self, images, tmp_path):
        out = tmp_path / "run"
        with pytest.raises(TrainingError) as caught:
            training.train(settings(images, tmp_path, lr=1e20), silent)
        assert "loss became nan in epoch 1; `fastconv train --config" in str(caught.value)
        assert "\n" not in str(caught.value)
        assert not (out / "model.safetensors").exists()

    @pytest.mark.parametrize("mode", ["training", "validation"])
    def test_a_diverging_loss_keeps_the_last_checkpoint(self, images, tmp_path, mode):
        """In the second epoch the network is fed with NaN, in training or in validation."""
        lines = []

        def poison(module, inputs):
            second_epoch = len(lines) == 2  # the line that begins a run, and the first epoch's
            if isinstance(module, models.CNN) and second_epoch:
                return inputs[0] * (math.nan if module.training == (mode == "training") else 1)
            return None

        hook = torch.nn.modules.module.register_module_forward_pre_hook(poison)
        try:
            with pytest.raises(TrainingError, match=f"{mode} loss became nan in epoch 2"):
                training.train(settings(images, tmp_path), lines.append)
        finally:
            hook.remove()
        model, about = load_checkpoint(tmp_path / "run" / "model.safetensors")
        assert about.epoch == 1
        assert all(parameter.isfinite().all() for parameter in model.parameters())

    def test_a_rest_that_batch_norm_cannot_take_is_left_out(self):
        def sizes(count, batch_size, processes=1):
            settings = Settings(batch_size=batch_size)
            chunks = batches_of_epoch(settings, count, 1, processes)
            return [len(chunk) for chunk in chunks]

        assert sizes(5, 2) == [2, 2]
        assert sizes(6, 4) == [4, 2]
        assert sizes(1, 4) == [1]
        assert sizes(3, 1) == [1, 1, 1]
        assert sizes(7, 4, processes=2) == [4]
        assert sizes(8, 4, processes=2) == [4, 4]

    @pytest.mark.parametrize("images_in_step, accumulate", [(2, 2), (3, 2), (5, 3), (7, 8)])
    def test_no_part_of_a_batch_is_one_image(self, images_in_step, accumulate):
        """Behind 32x32 pixels ResNet-50 has maps of one, on which batch norm needs two images."""
        settings = Settings(model="resnet50", image_size=32, accumulate=accumulate, lr=0.1)
        network = models.create("resnet50", 2, 32)
        head = models.head_names("resnet50", 32)
        trainer = Trainer(network, settings, head, torch.device("cpu"), ALONE)
        trainer.begin()
        sizes = []
        network.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
        labels = torch.arange(images_in_step) % 2
        trainer.step(torch.randn(images_in_step, 3, 32, 32), labels, images_in_step, 1.0)
        assert sum(sizes) == images_in_step
        assert min(sizes) >= 2

    def test_batch_norm_on_one_image_is_refused(self, images, tmp_path):
        options = dict(model="resnet50", image_size=32, batch_size=1, epochs=1)
        with pytest.raises(UsageError) as caught:
            training.train(settings(images, tmp_path, **options), silent)
        assert str(caught.value) == (
            "batch norm cannot be trained on one image: choose a batch_size of at least two "
            "images for each process, got 1 for 1"
        )

    def test_an_unusable_device(self, images, tmp_path):
        for device in ("warp9", "meta"):
            with pytest.raises(UsageError, match=f"device '{device}' cannot be used here: "):
                training.train(settings(images, tmp_path, device=device), silent)

    def test_too_small_for_the_network(self, images, tmp_path):
        with pytest.raises(UsageError, match="SimpleCNN: image_size 8 is too small"):
            training.train(settings(images, tmp_path, model="SimpleCNN"), silent)
        assert not (tmp_path / "run").exists()


class TestAtomic:
    def test_killed_while_writing(self, tmp_path, run_python):
        """SIGKILL when half of the new checkpoint is on the disk: the old one is still there."""
        path = tmp_path / "model.safetensors"
        torch.manual_seed(0)
        model = models.CNN(2, 8)
        save_checkpoint(path, model, description())
        code = """if True:
            import os, signal, sys
            from pathlib import Path
            from fastconv.training.atomic import replace_file

            path = Path(sys.argv[1])
            content = path.read_bytes()

            def write(temporary):
                with open(temporary, "wb", buffering=0) as file:
                    file.write(content[: len(content) // 2])
                    os.kill(os.getpid(), signal.SIGKILL)

            replace_file(path, write)
        """
        assert run_python(code, str(path)).returncode == -signal.SIGKILL
        loaded, about = load_checkpoint(path)
        assert about == description()
        assert torch.equal(loaded.classifier[0].weight, model.classifier[0].weight)
        save_checkpoint(path, model, description(epoch=2))  # the rest of the killed one is no harm
        assert read_description(path).epoch == 2
        assert os.listdir(tmp_path) == ["model.safetensors"]

    def test_an_error_while_writing_leaves_the_old_file(self, tmp_path):
        path = tmp_path / "file"
        replace_file(path, lambda temporary: temporary.write_text("old"))

        def fail(temporary):
            temporary.write_text("ne")
            raise OSError("disk full")

        with pytest.raises(OSError, match="disk full"):
            replace_file(path, fail)
        assert path.read_text() == "old"
        assert os.listdir(tmp_path) == ["file"]


class TestCheckpoint:
    @pytest.mark.slow
    @pytest.mark.parametrize("name, size", [("CNN", 9), ("SimpleCNN", 85), ("resnet50", 32)])
    def test_round_trip_with_either_kind_of_layers(self, tmp_path, name, size):
        path = tmp_path / "model.safetensors"
        model = models.create(name, 2, size).to(memory_format=torch.channels_last).eval()
        about = description(model=name, image_size=size)
        save_checkpoint(path, model, about)
        x = torch.randn(2, 3, size, size)
        for layers in (None, *models.LAYERS):
            loaded, read = load_checkpoint(path, layers)
            assert read == about
            assert not loaded.training
            torch.testing.assert_close(loaded(x), model(x), rtol=1e-4, atol=1e-4)

    def test_the_same_content_gives_the_same_bytes(self, tmp_path):
        tensors = {name: torch.arange(n) / 3 for n, name in enumerate(("ä", "b", "c"), 1)}
        written = set()
        for _ in range(10):
            write_tensors(tmp_path / "file", tensors, {"one": "1", "two": "2", "três": "3"})
            written.add((tmp_path / "file").read_bytes())
        assert len(written) == 1
        with safe_open(tmp_path / "file", framework="pt") as file:
            assert file.metadata() == {"format": "pt", "one": "1", "two": "2", "três": "3"}
            assert all(torch.equal(file.get_tensor(name), value) for name, value in tensors.items())

    def test_files_that_are_none(self, tmp_path):
        from safetensors.torch import save_file

        path = tmp_path / "model.safetensors"
        with pytest.raises(UsageError, match="no such checkpoint"):
            load_checkpoint(path)
        path.write_bytes(b"hello")
        with pytest.raises(UsageError, match="not a readable safetensors file"):
            load_checkpoint(path)
        save_file({"x": torch.zeros(1)}, path)
        with pytest.raises(UsageError, match="was not written by fastconv train"):
            load_checkpoint(path)
        save_checkpoint(path, models.CNN(3, 8), description())
        with pytest.raises(UsageError, match="does not fit its own description"):
            load_checkpoint(path)
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(UsageError, match="not a readable safetensors file"):
            load_checkpoint(path)

    def test_a_folder_that_cannot_be_written(self, tmp_path):
        with pytest.raises(TrainingError, match="cannot be written"):
            save_checkpoint(tmp_path / "no" / "model.safetensors", models.CNN(2, 8), description())


class TestRunFolder:
    def test_a_finished_run_is_not_overwritten(self, images, tmp_path):
        training.train(settings(images, tmp_path, epochs=1), silent)
        before = (tmp_path / "run" / "model.safetensors").read_bytes()
        message = "run: holds a finished run; `fastconv train --resume .*run --epochs N` goes on"
        with pytest.raises(UsageError, match=message):
            training.train(settings(images, tmp_path, epochs=1, seed=1), silent)
        assert (tmp_path / "run" / "model.safetensors").read_bytes() == before

    @pytest.mark.slow
    def test_default_folders_are_numbered_and_the_latest_is_found(
        self, images, tmp_path, monkeypatch
    ):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(UsageError, match=r"no checkpoint under runs/"):
            find_checkpoint(None)
        for number in (1, 2):
            training.train(settings(images, tmp_path, epochs=1, out=None), silent)
            found = find_checkpoint(None)
            assert str(found) == os.path.join("runs", f"cnn-{number}", "model.safetensors")
        assert find_checkpoint(found) == find_checkpoint(found.parent) == found
        with pytest.raises(UsageError, match=r"this folder has no model\.safetensors"):
            find_checkpoint(images)

    def test_a_folder_that_cannot_be_made(self, images, tmp_path):
        (tmp_path / "file").write_text("x")
        for out in (tmp_path / "file", tmp_path / "file" / "run"):
            with pytest.raises(UsageError, match="cannot make the folder"):
                training.train(settings(images, tmp_path, out=out), silent)


def test_scores():
    scores = Scores(0.0, torch.tensor([[8, 2, 0], [1, 9, 0], [5, 0, 0]]))
    assert scores.accuracy == pytest.approx(17 / 25)
    torch.testing.assert_close(scores.precision, torch.tensor([8 / 14, 9 / 11, 0.0]))
    torch.testing.assert_close(scores.recall, torch.tensor([0.8, 0.9, 0.0]))
    torch.testing.assert_close(scores.f1, torch.tensor([2 / 3, 6 / 7, 0.0]))
    assert scores.table(["cat", "dog", "elephant"]).splitlines() == [
        "class     precision  recall     F1  images",
        "cat           0.571   0.800  0.667      10",
        "dog           0.818   0.900  0.857      10",
        "elephant      0.000   0.000  0.000       5",
        "mean          0.463   0.567  0.508      25",
    ]


def test_few_images_are_warned_of():
    warnings = [Scores(0.0, torch.tensor([[n, 0], [0, 1]])).warning() for n in (4, 98, 99)]
    assert warnings == [
        "only 5 test images: each of them is 20.0% of the accuracy",
        "only 99 test images: each of them is 1.0% of the accuracy",
        None,
    ]


def test_the_summary_is_json():
    scores = Scores(0.5, torch.tensor([[8, 2], [1, 9]]), None, [])
    summary = json.loads(json.dumps(scores.summary()))
    assert summary["accuracy"] == pytest.approx(17 / 20)
    assert summary["top5"] is None
    assert summary["confusion"] == [[8, 2], [1, 9]]
    assert summary["per_class"]["images"] == [10, 10]
    assert summary["f1"] == pytest.approx(sum(summary["per_class"]["f1"]) / 2)


def test_evaluate_counts_right():
    class Brightness(torch.nn.Module):
        """Says 1 for a light image."""

        def forward(self, x):
            light = x.mean(dim=(1, 2, 3))
            return torch.stack([-light, light], dim=1)

    pixels = torch.tensor([0, 255, 255, 0, 0], dtype=torch.uint8).view(5, 1, 1, 1)
    labels = torch.tensor([0, 1, 0, 0, 1])
    model = Brightness().train()
    scores = training.evaluate(model, data.MemoryImages(pixels, labels, 1), batch_size=2)
    assert scores.confusion.tolist() == [[2, 1], [1, 1]]
    assert model.training


def test_evaluate_finds_top_five_and_the_surest_mistakes():
    class Says(torch.nn.Module):
        """Logits are the image's first values."""

        def forward(self, x):
            return (x.flatten(1) * STD[0] + MEAN[0])[:, :7] * 10

    values = torch.zeros(4, 1, 1, 7, dtype=torch.uint8)
    values[0, 0, 0] = torch.tensor([255, 0, 0, 0, 0, 0, 0])  # surely 0
    values[1, 0, 0] = torch.tensor([250, 240, 230, 220, 210, 200, 0])  # 0, then 1, 2, ...
    values[2, 0, 0] = torch.tensor([250, 240, 230, 220, 210, 200, 0])
    values[3, 0, 0] = torch.tensor([0, 0, 0, 0, 0, 0, 255])  # surely 6
    images = data.MemoryImages(values.expand(4, 1, 7, 7), torch.tensor([3, 4, 5, 6]), 7)
    scores = training.evaluate(Says(), images, batch_size=3)
    assert scores.top5 == 3 / 4
    assert [(m.index, m.label, m.predicted) for m in scores.mistakes] == [
        (0, 3, 0),
        (1, 4, 0),
        (2, 5, 0),
    ]
    assert scores.mistakes[0].probability > 0.99 > scores.mistakes[1].probability


def test_tensorboard_logs(images, tmp_path):
    pytest.importorskip("tensorboard", reason="needs the package tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    metrics = training.train(settings(images, tmp_path, tensorboard=True), silent)
    logs = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    values = [(event.step, event.value) for event in logs.Scalars("accuracy/validation")]
    assert values == [(e["epoch"], pytest.approx(e["val_accuracy"])) for e in metrics["epochs"]]


class TestOptions:
    """Whole runs that differ in how steps are computed."""

    def losses(self, images, tmp_path, name, **changes):
        options = settings(images, tmp_path, out=tmp_path / name, epochs=2, **changes)
        return [epoch["train_loss"] for epoch in training.train(options, silent)["epochs"]]

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "changes, tolerance",
        [
            ({"channels_last": True}, 1e-4),
            ({"accumulate": 3}, 1e-4),
            ({"precision": "bfloat16"}, 0.05),
            ({"precision": "float16"}, 0.02),
        ],
    )
    def test_the_losses_are_about_the_same(self, images, tmp_path, changes, tolerance):
        usual = self.losses(images, tmp_path, "usual")
        assert self.losses(images, tmp_path, "other", **changes) == pytest.approx(
            usual, rel=tolerance
        )


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_steps(images, tmp_path):
    options = TestOptions()
    usual = options.losses(images, tmp_path, "usual")
    assert options.losses(images, tmp_path, "compiled", compile=True) == pytest.approx(usual, 1e-4)
