"""Tests that two processes train together: the same run, one set of files, a lost process."""

import json
import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

import noise_images
from fastconv.training.run_folder import new_run_folder

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="needs torch with gloo"),
]

OPTIONS = [
    *("--model", "SimpleCNN", "--image-size", "85", "--batch-size", "10"),
    *("--epochs", "2", "--lr", "0.01", "--device", "cpu"),
]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return noise_images.write(tmp_path_factory.mktemp("images"), 23, light=60, spread=190)


@pytest.fixture
def train(images, tmp_path):
    """Runs `fastconv train` in several processes, or a program in its place."""

    def run(*options, processes=2, program=("-m", "fastconv", "train")):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        return subprocess.run(
            [*command, f"--nproc-per-node={processes}", *program, *map(str, options)],
            cwd=tmp_path,  # not in the repository, whose ./fastconv has no compiled part
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


def metrics_of(folder):
    return json.loads((folder / "metrics.json").read_text())


def losses(folder):
    return [
        (e["train_loss"], e["val_loss"], e["val_accuracy"]) for e in metrics_of(folder)["epochs"]
    ]


def test_two_processes_make_the_run_of_one(images, tmp_path, train):
    options = ["--data", images, *OPTIONS, "--dropout", "0", "--accumulate", "2"]
    runs = {}
    for processes in (1, 2):
        out = tmp_path / f"run-{processes}"
        done = train(*options, "--out", out, processes=processes)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("epoch 1/2") == 1
        assert done.stdout.count("test accuracy") == 1
        runs[processes] = out
    for ours, theirs in zip(losses(runs[2]), losses(runs[1]), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
    ours, theirs = (metrics_of(folder) for folder in (runs[2], runs[1]))
    assert ours["environment"]["processes"] == 2
    assert ours["images"] == theirs["images"]
    assert ours["test"]["confusion"] == theirs["test"]["confusion"]
    assert sorted(os.listdir(runs[1])) == sorted(os.listdir(runs[2]))


LOST = """if True:
    import os, signal, sys
    import torch
    from fastconv import cli
    from fastconv.training import epoch

    module = sys.modules["fastconv.training.train"]
    module.SAVE_SECONDS, module.SAVE_SHARE = 0, 1e9  # a state after every step
    step = epoch.Trainer.step
    left = 4

    def fatal(*arguments):
        global left
        left -= 1
        if left == 0 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        return step(*arguments)

    epoch.Trainer.step = fatal
    sys.exit(cli.main(sys.argv[1:]))
"""


def test_a_lost_process_ends_the_run_which_then_goes_on(images, tmp_path, train):
    options = ["--data", images, *OPTIONS, "--augment"]  # and dropout
    whole, out = tmp_path / "whole", tmp_path / "run"
    done = train(*options, "--out", whole)
    assert done.returncode == 0, done.stderr

    (tmp_path / "lost.py").write_text(LOST)
    done = train(*options, "--out", out, program=("lost.py", "train"))
    assert done.returncode != 0
    (line,) = (
        line for line in done.stderr.splitlines() if "another process of this run was lost" in line
    )
    assert f"`fastconv train --resume {out}` goes on" in line
    assert not (out / "report.html").exists()

    done = train("--resume", out)
    assert done.returncode == 0, done.stderr
    assert f"{out}: goes on in epoch 1, step 3" in done.stdout
    assert losses(out) == losses(whole)
    weights = [load_file(folder / "model.safetensors") for folder in (out, whole)]
    assert all(torch.equal(weights[0][name], value) for name, value in weights[1].items())


def test_a_folder_that_another_process_trains_into(images, tmp_path, train):
    with new_run_folder(tmp_path / "run", "SimpleCNN"):
        done = train("--data", images, *OPTIONS, "--out", tmp_path / "run")
    assert done.returncode != 0
    assert done.stderr.count("another `fastconv train` is writing into it") == 1


def test_too_few_images(images, tmp_path, train):
    done = train("--data", images, *OPTIONS, "--out", tmp_path / "run", processes=5)
    assert done.returncode != 0
    assert "4 val images are too few for 5 processes" in done.stderr
