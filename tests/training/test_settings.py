"""Tests settings: their ranges and files, and their use by the schedules and the trainer."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from fastconv import models
from fastconv.training import DivergedError, Settings, UsageError
from fastconv.training.distributed import ALONE
from fastconv.training.epoch import Position
from fastconv.training.schedule import rate_factor
from fastconv.training.settings import find_device, setting_types
from fastconv.training.state import load_state, save_state
from fastconv.training.trainer import Trainer


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model": "VGG"}, r"unknown model 'VGG', .*choose one of CNN, "),
        ({"model": "restnet50"}, r"unknown model 'restnet50', did you mean resnet50\? choose"),
        (
            {"model": "resnet18"},
            r"did you mean torchvision:resnet18( or .*)?\? choose one of ",
        ),
        ({"model": "VGG16"}, r"did you mean torchvision:vgg16( or .*)?\? "),
        ({"model": "mobilnet_v2"}, r"did you mean torchvision:mobilenet_v2( or .*)?\? "),
        ({"model": "tim:resnet18"}, r"did you mean timm:resnet18\? "),
        (
            {"precision": "bf16"},
            r"unknown precision 'bf16', did you mean bfloat16\? choose",
        ),
        ({"layers": "jax"}, "unknown layers 'jax', choose one of fastconv, torch"),
        ({"schedule": "slow"}, "unknown schedule 'slow', choose one of cosine, step, constant"),
        ({"precision": "int8"}, "unknown precision 'int8', choose one of float32, "),
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"image_size": -3}, "image_size must be at least 1, got -3"),
        ({"patience": 0}, "patience must be at least 1, got 0"),
        ({"lr": 0.0}, "lr must be above 0, got 0.0"),
        ({"lr": math.nan}, "lr must be above 0, got nan"),
        ({"clip": 0.0}, "clip must be above 0, got 0.0"),
        ({"recipe": "mine"}, "unknown recipe 'mine', choose one of automatic, document"),
        ({"momentum": 1.0}, "momentum must be at least 0 and below 1, got 1.0"),
        ({"dropout": -0.1}, "dropout must be at least 0 and below 1, got -0.1"),
        ({"crop": 0.0}, "crop must be above 0 and at most 1, got 0.0"),
        ({"warmup": -1.0}, "warmup must be at least 0, got -1.0"),
        ({"seed": -1}, "seed must be between 0 and"),
        ({"epochs": "3"}, "epochs must be int, got '3'"),
        ({"epochs": 1.5}, "epochs must be int, got 1.5"),
        ({"lr": "0.1"}, "lr must be float, got '0.1'"),
        ({"lr": True}, "lr must be float, got True"),
        ({"augment": 1}, "augment must be bool, got 1"),
        ({"out": 3}, "out must be Path, got 3"),
        ({"model": None}, "model must be str, got None"),
        ({"data": b"photos"}, "data must be str, got b'photos'"),
        ({"freeze": True}, "freeze and backbone_lr need weights to start from"),
        (
            {"freeze": True, "backbone_lr": 0.1, "weights": Path("x")},
            "freeze and backbone_lr exclude each other",
        ),
    ],
)
def test_wrong_settings(changes, message):
    with pytest.raises(UsageError, match=message):
        Settings(**changes)


def test_numbers_of_other_libraries():
    settings = Settings(epochs=np.int64(3), lr=np.float32(0.5), momentum=0)
    assert (settings.epochs, settings.lr, settings.momentum) == (3, 0.5, 0.0)
    assert json.loads(json.dumps(settings.to_json()))["epochs"] == 3


def test_the_image_size_follows_the_network():
    assert Settings().image_size == 112
    assert Settings(model="simplecnn").image_size == 224
    assert Settings(model="simplecnn").model == "SimpleCNN"
    assert Settings(image_size=28).image_size == 28


def test_augment_sets_what_is_not_said():
    assert not Settings().augmentation
    usual = Settings(augment=True).augmentation
    assert (usual.rotation, usual.crop, usual.flip, usual.colour) == (15, 0.5, True, 0.2)
    some = Settings(augment=True, flip=False, rotation=3.0).augmentation
    assert (some.rotation, some.crop, some.flip, some.colour) == (3, 0.5, False, 0.2)
    alone = Settings(colour=0.4).augmentation
    assert (alone.rotation, alone.crop, alone.flip, alone.colour) == (0, 1, False, 0.4)


class TestFiles:
    def write(self, tmp_path, content):
        path = tmp_path / "settings.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    def test_all_come_back(self, tmp_path):
        settings = Settings(
            model="SimpleCNN", augment=True, patience=3, weights=Path("a/b"), freeze=True
        )
        path = self.write(tmp_path, settings.to_json())
        assert Settings.from_json(path) == settings

    def test_some_of_them_and_changes_before_them(self, tmp_path):
        path = self.write(tmp_path, {"lr": 1, "epochs": 3, "out": None})
        assert Settings.from_json(path) == Settings(lr=1.0, epochs=3)
        assert Settings.from_json(path, epochs=4) == Settings(lr=1.0, epochs=4)

    @pytest.mark.parametrize(
        "content, message",
        [
            ("{", "not a readable JSON file"),
            ("[1]", "must hold an object of settings"),
            ({"learning_rat": 1}, "unknown setting 'learning_rat'"),
            ({"epoch": 1}, "unknown setting 'epoch', did you mean epochs?"),
            ({"batch-size": 1}, "unknown setting 'batch-size', did you mean batch_size?"),
            ({"epochs": 1.5}, "epochs must be int, got 1.5"),
            ({"epochs": True}, "epochs must be int, got True"),
            ({"momentum": None}, "momentum must be float, got None"),
            ({"flip": "yes"}, "flip must be bool, got 'yes'"),
            ({"out": 3}, "out must be Path, got 3"),
        ],
    )
    def test_wrong_files(self, tmp_path, content, message):
        with pytest.raises(UsageError) as caught:
            Settings.from_json(self.write(tmp_path, content))
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_no_file(self, tmp_path):
        with pytest.raises(UsageError, match="not a readable JSON file"):
            Settings.from_json(tmp_path / "no")


@pytest.mark.parametrize(
    "name, message",
    [
        ("gpu", "device 'gpu' cannot be used here: no such device, did you mean cuda?"),
        ("cdua:1", "device 'cdua:1' cannot be used here: no such device, did you mean cuda?"),
        ("warp9", "no such device, use one of cpu, cuda, mps, xpu"),
    ],
)
def test_unknown_devices(name, message):
    with pytest.raises(UsageError) as caught:
        find_device(name)
    assert str(caught.value).endswith(message)


def test_every_setting_has_a_type_and_help():
    types = setting_types()
    assert list(types) == list(Settings().to_json())
    assert all(setting.help for setting in types.values())
    assert types["momentum"][:3] == (float, False, ())
    assert types["patience"][:3] == (int, True, ())
    assert types["out"][:3] == (Path, True, ())
    assert types["schedule"][:3] == (str, False, ("cosine", "step", "constant"))


class TestSchedule:
    def factors(self, **changes):
        settings = Settings(**{"epochs": 4, "warmup": 0.0, **changes})
        return [rate_factor(settings, epoch, 1) for epoch in range(1, 5)]

    def test_cosine(self):
        half = math.cos(math.pi / 4) / 2
        assert self.factors() == pytest.approx([1, 0.5 + half, 0.5, 0.5 - half])

    def test_step(self):
        factors = self.factors(schedule="step", decay_every=2, decay_factor=0.3)
        assert factors == pytest.approx([1, 1, 0.3, 0.3])

    def test_constant(self):
        assert self.factors(schedule="constant") == [1] * 4

    def test_warm_up_rises_step_by_step(self):
        settings = Settings(schedule="constant", warmup=1.5)
        numbers = [(1, 0.25), (1, 1), (2, 0.25), (2, 0.5), (2, 0.75)]
        found = [rate_factor(settings, *number) for number in numbers]
        assert found == pytest.approx([0.25 / 1.5, 1 / 1.5, 1.25 / 1.5, 1, 1])


class TestTrainer:
    HEAD = ("classifier.2.weight", "classifier.2.bias")

    def trainer(self, **changes):
        torch.manual_seed(0)
        settings = Settings(**{"layers": "torch", "momentum": 0.5, "lr": 0.1, **changes})
        network = models.create("CNN", 3, 8, settings.layers)
        return Trainer(network, settings, self.HEAD, torch.device("cpu"), ALONE)

    def batch(self, count=6):
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(count, 3, 8, 8, generator=generator)
        return x, torch.arange(count) % 3

    def weights(self, trainer):
        return {name: value.clone() for name, value in trainer.network.state_dict().items()}

    def test_a_step_is_torchs(self):
        trainer, reference = self.trainer(weight_decay=0.01), self.trainer().network
        optimizer = torch.optim.SGD(reference.parameters(), 0.1, 0.5, weight_decay=0.01)
        x, y = self.batch()
        for _ in range(3):
            loss = torch.nn.functional.cross_entropy(reference(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            assert trainer.step(x, y, len(x), 1.0).loss == pytest.approx(6 * loss.item())
        for name, value in reference.state_dict().items():
            torch.testing.assert_close(trainer.network.state_dict()[name], value)

    def test_parts_of_a_batch_give_the_same_step(self):
        x, y = self.batch(7)
        whole, parts = (
            self.trainer(label_smoothing=0.1),
            self.trainer(label_smoothing=0.1, accumulate=3),
        )
        correct = int((whole.network(x).argmax(dim=1) == y).sum())
        (loss, named), (other_loss, other_named) = (t.step(x, y, 7, 1.0) for t in (whole, parts))
        assert loss == pytest.approx(other_loss, rel=1e-5)
        assert named == other_named == correct
        for name, value in self.weights(whole).items():
            torch.testing.assert_close(parts.network.state_dict()[name], value)

    def test_freezing_trains_the_head_alone(self):
        trainer = self.trainer(freeze=True, weights=Path("x"))
        before = self.weights(trainer)
        trainer.step(*self.batch(), 6, 1.0)
        changed = {n for n, v in self.weights(trainer).items() if not torch.equal(v, before[n])}
        assert changed == set(self.HEAD)

    def test_freezing_keeps_statistics_and_dropout(self):
        settings = Settings(freeze=True, weights=Path("x"), lr=0.1)
        network = torch.nn.Sequential(
            torch.nn.BatchNorm2d(3, affine=False),
            torch.nn.Conv2d(3, 4, 1),
            torch.nn.BatchNorm2d(4),
            torch.nn.Dropout(),
            torch.nn.Conv2d(4, 2, 1),
        )
        trainer = Trainer(network, settings, ("4.weight", "4.bias"), torch.device("cpu"), ALONE)
        trainer.begin()
        assert [module.training for module in network] == [False, False, False, True, True]

    def test_a_lower_rate_for_the_backbone(self):
        trainer = self.trainer(backbone_lr=1e-9, weights=Path("x"))
        before = self.weights(trainer)
        trainer.step(*self.batch(), 6, 0.5)
        for name, value in self.weights(trainer).items():
            moved = (value - before[name]).abs().max().item()
            assert (moved > 1e-4) == (name in self.HEAD)
        assert [g["lr"] for g in trainer.optimizer.param_groups] == [0.5e-9, 0.05]

    @pytest.mark.parametrize("precision", ["float32", "float16"])
    def test_a_large_gradient_is_scaled_down(self, precision):
        """Without momentum a step is the rate times the gradient."""
        lengths = {}
        for clip in (None, 1e9, 0.01):
            trainer = self.trainer(precision=precision, clip=clip, momentum=0.0)
            before = self.weights(trainer)
            trainer.step(*self.batch(), 6, 1.0)
            changes = [(v - before[n]).flatten() for n, v in self.weights(trainer).items()]
            lengths[clip] = torch.cat(changes).norm().item()
        assert lengths[None] == lengths[1e9] > 0.002
        assert lengths[0.01] == pytest.approx(0.1 * 0.01, rel=1e-3)

    @pytest.mark.parametrize("precision", ["float32", "float16"])
    def test_a_loss_that_is_no_number_changes_nothing(self, precision):
        trainer = self.trainer(precision=precision)
        before = self.weights(trainer)
        x, y = self.batch()
        with pytest.raises(DivergedError, match="the training loss became nan"):
            trainer.step(x * math.nan, y, 6, 1.0)
        assert all(torch.equal(v, before[n]) for n, v in self.weights(trainer).items())

    @pytest.mark.parametrize("channels_last", [False, True])
    def test_tensors_take_it_back(self, channels_last):
        trainer, other = (self.trainer(channels_last=channels_last) for _ in range(2))
        if channels_last:
            trainer.network.to(memory_format=torch.channels_last)
        trainer.step(*self.batch(), 6, 1.0)
        other.load_tensors(trainer.tensors())
        for one in (trainer, other):
            one.step(*self.batch(), 6, 1.0)
        assert all(torch.equal(v, trainer.tensors()[n]) for n, v in other.tensors().items())

    def test_the_state_has_the_scale_of_float16(self, tmp_path):
        trainer, other = (self.trainer(precision="float16") for _ in range(2))
        trainer.step(*self.batch(), 6, 1.0)
        trainer.scaler.update(1024.0)
        path = tmp_path / "state.safetensors"
        save_state(path, trainer, Position(step=1), {}, "data")
        assert load_state(path, other, "data") == (Position(step=1), {}, [])
        other.step(*self.batch(), 6, 1.0)
        assert other.scaler.get_scale() == 1024
