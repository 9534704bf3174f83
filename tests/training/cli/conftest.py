"""Fixtures of the command line's tests: images, a network that knows them, failing commands."""

import pytest

import noise_images
from fastconv.cli import main


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    return noise_images.write(tmp_path_factory.mktemp("images"), 12)


@pytest.fixture(scope="session")
def run_folder(images, tmp_path_factory):
    """A trained network."""
    out = tmp_path_factory.mktemp("runs") / "run"
    options = ["--data", str(images), "--epochs", "4", "--lr", "0.02", "--out", str(out)]
    assert main(["train", *options, *noise_images.TINY]) == 0
    return out


@pytest.fixture
def fails(capsys):
    """A function that runs a command which must fail, with one line, and returns the line."""

    def fails(status, *arguments):
        try:
            result = main([str(argument) for argument in arguments])
        except SystemExit as stop:  # argparse
            result = stop.code
        captured = capsys.readouterr()
        assert result == status, captured.err
        assert captured.err.count("\n") == 1, captured.err
        return captured.err

    return fails
