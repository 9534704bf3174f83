"""Tests commands that end early: by an output without a reader, Ctrl-C or a kill."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from fastconv.cli import main
from fastconv.training.checkpoint import load_checkpoint
from noise_images import TINY

pytestmark = pytest.mark.slow


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
