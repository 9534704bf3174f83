"""Tests that fastconv.info matches the build and torch."""

import pytest
import torch

import fastconv
from fastconv.info import cuda

BUILD = fastconv._C.build_info()


def test_answers():
    info = fastconv.info()
    assert list(info) == [
        "version", "compiler", "cuda build", "cuda targets", "cuda switch", "instruction sets",
        "in use", "precision", "torch", "threads", "gpu",
    ]  # fmt: skip
    assert info["version"] == BUILD["version"] == fastconv.__version__
    assert info["torch"] == torch.__version__
    assert info["threads"] == torch.get_num_threads()
    assert [name.split()[0] for name in info["instruction sets"]] == BUILD["isas"]
    assert info["in use"].split()[0] == BUILD["isa"]


@pytest.mark.gpu
def test_cuda():
    info = fastconv.info()
    said = cuda(BUILD["cuda"], BUILD["cuda_why"], BUILD["cuda_targets"])
    assert {name: info[name] for name in said} == said
    if not torch.cuda.is_available():
        assert info["gpu"] in ("none", "there is one, but not for this torch")


def test_cuda_kernels_their_reason_and_how_to_have_the_other_build():
    assert cuda(True, "nvcc 13.0.88", ["sm_80", "compute_80"]) == {
        "cuda build": "yes: nvcc 13.0.88",
        "cuda targets": ["sm_80", "compute_80"],
        "cuda switch": "pip install . -C cmake.define.FASTCONV_CUDA=OFF",
    }
    assert cuda(False, "/bin/nvcc does not run: Permission denied", []) == {
        "cuda build": "no: /bin/nvcc does not run: Permission denied",
        "cuda targets": "none",
        "cuda switch": "pip install . -C cmake.define.FASTCONV_CUDA=ON",
    }


def test_what_never_ran_is_called_untested():
    for name in fastconv.info()["instruction sets"]:
        tested = name.split()[0] not in ("amx", "neon")
        assert ("untested" in name) != tested
        assert ("not on this CPU" in name) != (name.split()[0] in BUILD["isas_supported"])


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
