"""fastconv.info: what it says is what the build and torch say."""

import pytest
import torch

import fastconv

pytestmark = pytest.mark.quick

BUILD = fastconv._C.build_info()


def test_answers():
    info = fastconv.info()
    assert list(info) == [
        "version", "compiler", "cuda build", "cuda targets", "instruction sets", "in use",
        "precision", "torch", "threads", "gpu",
    ]  # fmt: skip
    assert info["version"] == BUILD["version"] == fastconv.__version__
    assert info["torch"] == torch.__version__
    assert info["threads"] == torch.get_num_threads()
    assert [name.split()[0] for name in info["instruction sets"]] == BUILD["isas"]
    assert info["in use"].split()[0] == BUILD["isa"]


def test_cuda():
    info = fastconv.info()
    if BUILD["cuda"]:
        assert info["cuda build"] == "yes" and info["cuda targets"] == BUILD["cuda_targets"]
    else:
        assert info["cuda build"].startswith("no: ") and len(info["cuda build"]) > 4
    if not torch.cuda.is_available():
        assert info["gpu"] in ("none", "there is one, but not for this torch")


def test_what_never_ran_is_called_untested():
    for name in fastconv.info()["instruction sets"]:
        tested = name.split()[0] in ("baseline", "avx2", "avx2x16", "avx512")
        assert name.endswith(" (untested)") != tested


def test_text_has_a_line_for_each_answer():
    info = fastconv.info()
    lines = str(info).splitlines()
    assert len(lines) == len(info)
    for line, (key, value) in zip(lines, info.items(), strict=True):
        assert line.startswith(f"{key} ")
        if not isinstance(value, list):
            assert line.endswith(str(value))


def test_precision():
    assert fastconv.info()["precision"] == fastconv.get_precision() == "high"
    try:
        fastconv.set_precision("highest")
        assert fastconv.info()["precision"] == "highest"
    finally:
        fastconv.set_precision("high")
