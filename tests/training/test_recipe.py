"""Tests the recipe: its values by the number of images, and that it learns from few."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import noise_images
import textures
from fastconv import training
from fastconv.training import Settings
from fastconv.training.recipe import resolved

DOCUMENT = (10, 64, 0.001, None, 0.0)


def values(settings):
    return settings.epochs, settings.batch_size, settings.lr, settings.clip, settings.warmup


def silent(line):
    pass


def test_without_data_it_is_the_documents():
    assert values(resolved(Settings(), 4500)) == DOCUMENT
    assert values(resolved(Settings(model="resnet50"), 4500)) == DOCUMENT


@pytest.mark.parametrize("count", [10, 500, 10**6])
def test_the_documents_can_be_had_for_any_images(count):
    assert values(resolved(Settings(data="photos", recipe="document"), count)) == DOCUMENT


@pytest.mark.parametrize("count", [64_000, 10**6])
def test_with_enough_images_it_is_the_documents(count):
    assert values(resolved(Settings(data="photos"), count)) == DOCUMENT


@pytest.mark.parametrize(
    "count, expected",
    [
        (82, (60, 8, 0.01, 0.5, 6.0)),
        (320, (60, 16, 0.0083, 0.5, 6.0)),
        (2000, (10, 16, 0.008, 0.5, 1.0)),
        (20_000, (10, 64, 0.0032, 0.5, 1.0)),
    ],
)
def test_fewer_images_are_seen_more_often_in_smaller_batches(count, expected):
    assert values(resolved(Settings(data="photos"), count)) == expected


@given(st.integers(2, 10**6))
def test_it_changes_little_with_an_image_more(count):
    (epochs, batch, lr, *_), (epochs2, batch2, lr2, *_) = (
        values(resolved(Settings(data="photos"), n)) for n in (count, count + 1)
    )
    assert 10 <= epochs2 <= epochs <= 60
    assert 8 <= batch <= batch2 <= 64 or epochs2 < epochs
    assert 0.001 <= lr <= 0.01
    assert 0.4 < (lr2 / batch2) / (lr / batch) < 2.5


@given(
    st.integers(2, 10**6),
    st.integers(1, 500),
    st.integers(1, 500),
    st.floats(1e-6, 10),
    st.floats(1e-3, 10),
    st.floats(0, 10),
)
def test_what_is_said_stays(count, epochs, batch_size, lr, clip, warmup):
    given = dict(epochs=epochs, batch_size=batch_size, lr=lr, clip=clip, warmup=warmup)
    for name in given:
        one = {name: given[name]}
        assert getattr(resolved(Settings(data="photos", **one), count), name) == given[name]
    settings = Settings(data="photos", **given)
    assert resolved(settings, count) == settings


def test_larger_batches_have_a_higher_rate():
    rates = [resolved(Settings(data="x", batch_size=n), 20_000).lr for n in (16, 32, 64)]
    assert rates == [0.001, 0.0016, 0.0032]


@pytest.mark.parametrize("processes, accumulate, least", [(1, 1, 8), (8, 1, 16), (2, 4, 16)])
def test_each_part_of_a_batch_has_two_images(processes, accumulate, least):
    settings = resolved(Settings(data="photos", accumulate=accumulate), 82, processes)
    assert settings.batch_size == least


def test_batch_norm_needs_no_clipping():
    assert resolved(Settings(data="photos"), 82, batch_norm=True).clip is None
    assert resolved(Settings(data="photos", clip=2.0), 82, batch_norm=True).clip == 2


@pytest.mark.parametrize("schedule, warmup", [("cosine", 6), ("step", 0), ("constant", 0)])
def test_a_rate_that_falls_over_all_epochs_rises_at_first(schedule, warmup):
    assert resolved(Settings(data="photos", schedule=schedule), 82).warmup == warmup


class TestFineTuning:
    def settings(self, count, **changes):
        return resolved(Settings(data="photos", weights=Path("x"), **changes), count)

    def test_pretrained_layers_have_the_documents_rate(self):
        assert (self.settings(82).lr, self.settings(82).backbone_lr) == (0.01, 0.001)
        assert self.settings(10**6).backbone_lr == 0.001
        assert self.settings(82, lr=1e-4).backbone_lr == 1e-4
        assert self.settings(82, backbone_lr=0.3).backbone_lr == 0.3

    def test_it_takes_fewer_epochs(self):
        assert [self.settings(n).epochs for n in (82, 1500, 10**5)] == [20, 13, 10]

    def test_frozen_layers_have_none(self):
        assert self.settings(82, freeze=True).backbone_lr is None


def test_a_run_keeps_what_it_was_given(tmp_path):
    """Resumed, and made again from its settings, though other images would have another recipe."""
    images = noise_images.write(tmp_path / "images", 12)
    out = tmp_path / "run"
    changes = dict(epochs=2, image_size=8, device="cpu")

    def stop(line):
        if line.startswith("epoch 1/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training.train(Settings(data=str(images), out=out, **changes), stop)
    kept = json.loads((out / "settings.json").read_text())
    assert (kept["recipe"], kept["epochs"], kept["batch_size"]) == ("automatic", 2, 8)
    assert (kept["lr"], kept["clip"], kept["warmup"]) == (0.01, 0.5, 0.2)
    resumed = training.resume(out, silent)["settings"]
    again = Settings.from_json(out / "settings.json", out=tmp_path / "again")
    assert resolved(again, 10**6) == again
    for name in ("epochs", "batch_size", "lr", "clip", "warmup"):
        assert resumed[name] == kept[name] == getattr(again, name)


@pytest.mark.slow
@pytest.mark.parametrize("model, clip", [("CNN", 0.5), ("resnet50", None)])
def test_gradients_are_clipped_where_the_network_needs_it(tmp_path, model, clip):
    images = noise_images.write(tmp_path / "images", 12)
    settings = Settings(
        model=model, data=str(images), image_size=32, epochs=1, out=tmp_path / "run"
    )
    assert training.train(settings, silent)["settings"]["clip"] == clip


@pytest.mark.slow
def test_it_learns_from_few_images(tmp_path, one_thread):
    data = textures.write(tmp_path / "textures", train=16, val=4, test=20)
    lines = []
    settings = Settings(data=str(data), out=tmp_path / "run", image_size=48, device="cpu")
    metrics = training.train(settings, lines.append)
    assert metrics["test"]["accuracy"] > 0.6  # by chance 0.25
    assert metrics["test"]["doubt"] is None
    assert "; 60 epochs, batches of 8, learning rate 0.01 -> " in lines[0]
