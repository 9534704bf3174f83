"""Tests that runs stopped anywhere, in any way, resume to the same bits."""

import json
import os
import random
import signal
import sys

import PIL.Image
import pytest
import torch

import noise_images
from fastconv import training
from fastconv.data import reader
from fastconv.training import Settings, TrainingError, UsageError
from fastconv.training.checkpoint import load_checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return noise_images.write(tmp_path_factory.mktemp("images"), 24, light=60, spread=190)


def silent(line):
    pass


# Networks and settings that keep something in their state, or take chances.
RUNS = {
    "momentum": dict(momentum=0.9, warmup=1.5, clip=0.1),
    "augmentation and early stopping": dict(augment=True, patience=2, epochs=5, lr=0.02),
    "dropout": dict(model="SimpleCNN", image_size=85, dropout=0.3, label_smoothing=0.1),
    "batch norm in parts": dict(model="resnet50", image_size=32, accumulate=2, epochs=1),
    "channels_last in bfloat16": dict(channels_last=True, precision="bfloat16", schedule="step"),
    "scaled float16": dict(precision="float16", weight_decay=0.01),
}


def settings(images, out, **changes):
    values = dict(data=str(images), image_size=8, epochs=3, batch_size=8, lr=0.01, device="cpu")
    return Settings(**(values | changes), out=out)


def results(folder):
    """All that has to be the same: the weights, and the metrics but for the times."""
    metrics = json.loads((folder / "metrics.json").read_text())
    for epoch in metrics["epochs"]:
        del epoch["images_per_second"], epoch["waiting"]
    kept = {name: metrics[name] for name in ("epochs", "best_epoch", "test")}
    network, about = load_checkpoint(folder / "model.safetensors")
    weights = {name: value.numpy().tobytes() for name, value in network.state_dict().items()}
    return weights, about, kept


class Interruption:
    """Sends this process a signal when a network is called for the n-th time.

    Not by a hook for all modules: with one, converted chains run layer by layer, to other bits.
    """

    def __init__(self, number, calls):
        self.left = calls
        self.number = number

    def __enter__(self):
        self.before = torch.nn.Linear.forward

        def forward(module, x):
            self._count(module)
            return self.before(module, x)

        torch.nn.Linear.forward = forward
        return self

    def __exit__(self, *error):
        torch.nn.Linear.forward = self.before

    def _count(self, module):
        # Of one layer that every network here has once.
        if module.out_features == 2:
            self.left -= 1
            if self.left == 0:
                signal.raise_signal(self.number)


def calls_of(run, *arguments):
    """How many calls of the network a run has."""
    with Interruption(signal.SIGINT, 10**9) as count:
        run(*arguments)
    return 10**9 - count.left


@pytest.mark.parametrize("name", RUNS)
def test_stopped_in_any_step_a_run_goes_on_to_the_same_bits(images, tmp_path, name):
    whole = settings(images, tmp_path / "whole", **RUNS[name])
    calls = calls_of(training.train, whole, silent)
    chance = random.Random(name)
    out = tmp_path / "run"
    with (
        Interruption(chance.choice((signal.SIGINT, signal.SIGTERM)), chance.randint(1, calls // 3)),
        pytest.raises(KeyboardInterrupt) as caught,
    ):
        training.train(settings(images, out, **RUNS[name]), silent)
    assert str(caught.value).startswith(f"stopped; `fastconv train --resume {out}` goes on")
    with (
        Interruption(signal.SIGINT, chance.randint(1, calls // 3)),
        pytest.raises(KeyboardInterrupt),
    ):
        training.resume(out, silent)
    metrics = training.resume(out, silent)
    assert results(out) == results(tmp_path / "whole")
    assert json.loads((out / "metrics.json").read_text()) == metrics


def test_stopped_in_validation(images, tmp_path, monkeypatch):
    training.train(settings(images, tmp_path / "whole"), silent)
    out = tmp_path / "run"

    before = torch.nn.Linear.forward

    def stop(module, x):
        if not module.training:
            signal.raise_signal(signal.SIGINT)
        return before(module, x)

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.Linear, "forward", stop)
        for run, argument in ((training.train, settings(images, out)), (training.resume, out)):
            with pytest.raises(KeyboardInterrupt):
                run(argument, silent)
    training.resume(out, silent)
    assert results(out) == results(tmp_path / "whole")


KILLED = """if True:
    import os, signal, sys, threading
    from pathlib import Path
    from fastconv import training

    module = sys.modules["fastconv.training.train"]
    module.SAVE_SECONDS, module.SAVE_SHARE = 0, 1e9  # a state after every step
    data, out, delay = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])

    def begun(line):  # when imports and data are done: kills this process at some moment
        if line.startswith("SimpleCNN with"):
            timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGKILL))
            timer.daemon = True
            timer.start()

    if (out / "state.safetensors").exists():
        training.resume(out, begun)
    else:
        training.train(training.Settings(
            model="SimpleCNN", image_size=85, data=data, epochs=3, batch_size=8, lr=0.01,
            device="cpu", augment=True, out=out,
        ), begun)
    os._exit(0)  # before the timer can kill what is finished
"""


@pytest.mark.parametrize("seed", range(2))
def test_killed_at_random_moments(images, tmp_path, run_python, seed):
    chance = random.Random(seed)
    options = dict(model="SimpleCNN", image_size=85, augment=True)
    training.train(settings(images, tmp_path / "whole", **options), silent)
    out = tmp_path / "run"
    kills = 0
    while True:
        delay = chance.uniform(0.05, 0.5) if kills < 4 else 1000  # a whole run takes a second
        done = run_python(KILLED, str(images), str(out), str(delay))
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        kills += 1
        if json.loads((out / "metrics.json").read_text())["test"]:
            break  # between the end of the run and that of its process
    assert kills
    assert results(out) == results(tmp_path / "whole")


FULL = """if True:
    import resource, sys
    from pathlib import Path
    from fastconv import training

    def fill(line):  # after the first epoch no file may be longer than this
        if line.startswith("epoch 1/"):
            resource.setrlimit(resource.RLIMIT_FSIZE, (5000, -1))

    data, out = sys.argv[1:]
    try:
        training.train(training.Settings(
            data=data, image_size=8, epochs=3, batch_size=8, lr=0.01, device="cpu", out=Path(out)
        ), fill)
    except training.TrainingError as error:
        print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs setrlimit")
def test_disk_full(images, tmp_path, run_python):
    out = tmp_path / "run"
    done = run_python(FULL, str(images), str(out))
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert "File too large" in line
    assert f"; `fastconv train --resume {out}` goes on" in line
    training.resume(out, silent)
    training.train(settings(images, tmp_path / "whole"), silent)
    assert results(out) == results(tmp_path / "whole")


@pytest.mark.skipif(not os.path.isdir("/sys/kernel"), reason="needs Linux's /sys")
def test_a_folder_that_may_not_be_written(images):
    """Not even by root, as whom this may run."""
    from pathlib import Path

    with pytest.raises(TrainingError) as caught:
        training.train(settings(images, Path("/sys/kernel")), silent)
    assert str(caught.value).startswith("/sys/kernel: cannot be written (")
    assert "\n" not in str(caught.value)


def test_an_image_that_goes_away(images, tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "MEMORY_LIMIT", 0)
    path = images / "dark" / "3.png"
    content = path.read_bytes()

    def take_away(line):
        if line.startswith("epoch 1/"):
            path.unlink()

    out = tmp_path / "run"
    try:
        with pytest.raises(TrainingError) as caught:
            training.train(settings(images, out), take_away)
    finally:
        path.write_bytes(content)
    assert str(caught.value).startswith(f"{path}: no such file; `fastconv train --resume {out}`")
    training.resume(out, silent)
    training.train(settings(images, tmp_path / "whole"), silent)
    assert results(out) == results(tmp_path / "whole")


class TestResume:
    @pytest.fixture
    def stopped(self, images, tmp_path):
        out = tmp_path / "run"
        with Interruption(signal.SIGINT, 8), pytest.raises(KeyboardInterrupt):
            training.train(settings(images, out), silent)
        return out

    def test_nothing_to_go_on_with(self, images, tmp_path):
        with pytest.raises(UsageError, match="no such run folder"):
            training.resume(tmp_path / "no", silent)
        message = r"there is nothing to go on with, it has no state\.safetensors"
        with pytest.raises(UsageError, match=message):
            training.resume(images, silent)
        training.train(settings(images, tmp_path / "run", epochs=1), silent)
        with pytest.raises(UsageError, match="the run is finished; `fastconv train --resume"):
            training.resume(tmp_path / "run", silent)

    def test_a_new_run_does_not_overwrite_it(self, stopped, images):
        before = (stopped / "state.safetensors").read_bytes()
        with pytest.raises(
            UsageError, match="holds a run that can go on; `fastconv train --resume"
        ):
            training.train(settings(images, stopped), silent)
        assert (stopped / "state.safetensors").read_bytes() == before

    def test_other_images(self, stopped, images):
        path = images / "dark" / "added.png"
        PIL.Image.new("RGB", (9, 9)).save(path)
        try:
            with pytest.raises(UsageError, match="the images are no longer those"):
                training.resume(stopped, silent)
        finally:
            path.unlink()

    def test_other_settings(self, stopped):
        path = stopped / "settings.json"
        path.write_text(path.read_text().replace('"CNN"', '"CaseStudyCNN"'))
        with pytest.raises(UsageError, match="does not fit the settings of its run"):
            training.resume(stopped, silent)

    def test_a_broken_state(self, stopped):
        path = stopped / "state.safetensors"
        path.write_bytes(path.read_bytes()[:-50])
        with pytest.raises(UsageError, match="not the state of a run"):
            training.resume(stopped, silent)

    def test_another_number_of_threads_is_noted(self, stopped):
        lines = []
        threads = torch.get_num_threads()
        torch.set_num_threads(threads + 1)
        try:
            training.resume(stopped, lines.append)
        finally:
            torch.set_num_threads(threads)
        text = f"{threads + 1} threads instead of {threads}: the numbers will differ by roundings"
        assert any(line.endswith(text) for line in lines)

    def test_the_second_ctrl_c_stops_at_once(self, images, tmp_path):
        def twice(module, inputs):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)

        hook = torch.nn.modules.module.register_module_forward_pre_hook(twice)
        try:
            with pytest.raises(KeyboardInterrupt, match="stopped; `fastconv train --resume"):
                training.train(settings(images, tmp_path / "run"), silent)
        finally:
            hook.remove()
        before = signal.getsignal(signal.SIGINT)
        assert before is not None
        training.resume(tmp_path / "run", silent)
        assert signal.getsignal(signal.SIGINT) is before
