"""Tests fastconv evaluate: the table, and which images of a folder are tested."""

import json

import PIL.Image
import pytest

from fastconv.cli import main


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


def test_evaluate(run_folder, capsys):
    assert main(["evaluate", "--checkpoint", str(run_folder), "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "CNN after epoch 4" in lines[0]
    assert lines[1].split() == ["class", "precision", "recall", "F1", "images"]
    assert [line.split()[0] for line in lines[2:5]] == ["dark", "light", "mean"]
    accuracy = json.loads((run_folder / "metrics.json").read_text())["test"]["accuracy"]
    assert lines[-2] == "only 2 test images: each of them is 50.0% of the accuracy"
    assert lines[-1] == f"test accuracy {accuracy:.1%}"


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

    def test_parts_without_a_test_folder(self, run_folder, make_classes, tmp_path, fails):
        make_classes("split/train", "dark", "light")
        make_classes("split/val", "dark", "light")
        options = ["--checkpoint", run_folder, "--data", tmp_path / "split"]
        assert fails(2, "evaluate", *options) == (
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

    def test_classes_that_the_network_does_not_know(self, run_folder, make_classes, fails):
        folder = make_classes("other", "cat", "dark", "dog")
        message = fails(2, "evaluate", "--checkpoint", run_folder, "--data", folder)
        text = "the network has no class cat, dog; its classes are dark, light"
        assert message == f"fastconv: {folder}: {text}\n"

    def test_images_that_it_was_trained_with(self, run_folder, images, capsys):
        lines = evaluated(capsys, run_folder, images)
        assert lines[0].startswith(f"{images}: the network was trained with images of this folder")
        assert mean_of(lines)[-1] == "24"

    def test_what_holds_no_images(self, run_folder, tmp_path, fails):
        options = ["--checkpoint", run_folder, "--data", tmp_path]
        assert "needs a sub-folder of images" in fails(2, "evaluate", *options)
        (tmp_path / "dark").mkdir()
        (tmp_path / "dark" / "photo.heic").write_text("of a phone")
        message = fails(2, "evaluate", *options)
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
