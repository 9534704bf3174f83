"""Tests whether a GPU has kernels: the cached answers of CUDA, and the choice of tests."""

import contextlib
import warnings

import pytest
import torch

from fastconv import _C, kernels
from fastconv.kernels import gpus


@pytest.fixture
def answers(monkeypatch):
    """CUDA's answers to a build for GPUs, one per query."""
    answers = []
    build = {**_C.build_info(), "cuda": True, "cuda_targets": ["sm_80", "compute_80"]}
    monkeypatch.setattr(_C, "build_info", lambda: build)
    monkeypatch.setattr(_C, "cuda_device_count", lambda: answers.pop(0))
    monkeypatch.setattr(_C, "cuda_why_not_on", lambda device: answers.pop(0))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(gpus, "_lasting", {})
    monkeypatch.setattr(gpus, "_said", set())
    return answers


ONE = (1, "", False)


def test_an_error_that_passes_is_asked_for_again(answers):
    answers += [ONE, ("out of memory", True), ONE, ("", False)]
    with pytest.warns(match="out of memory; later calls ask again$"):
        assert not kernels.usable(0)
    assert kernels.usable(0) and kernels.usable(0)
    assert answers == []


def test_a_driver_that_is_not_up_yet_is_asked_for_again(answers):
    answers += [(0, "initialization error", True), ONE, ("", False)]
    assert kernels.why_not_on(0) == "initialization error; later calls ask again"
    assert kernels.why_not_on(0) == ""


@pytest.mark.parametrize(
    "said, why",
    [
        ([(0, "insufficient", False)], "driver too old for fastconv (insufficient)"),
        ([ONE, ("no image", False)], "fastconv was built for sm_80 compute_80 (no image)"),
        ([ONE, ("", False)], ""),
    ],
)
def test_an_answer_that_lasts_is_remembered_for_each_gpu(said, why, answers):
    answers += 2 * said
    assert [kernels.why_not_on(device) for device in (0, 1, 0, 1)] == [why] * 4
    assert answers == []


def test_each_reason_is_said_once(answers):
    busy, image = (ONE, ("busy", True)), (ONE, ("no image", False))
    answers += [*busy, *busy, *image]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert not any(kernels.usable(0) for _ in range(5))
    assert [str(w.message).split(": ")[1].split()[0] for w in said] == ["busy;", "fastconv"]


def test_tests_on_a_gpu_are_left_out_where_it_has_no_kernels(run_python):
    # As torch is on a machine whose GPU this build has no code for.
    done = run_python(
        "import torch\n"
        "torch.cuda.is_available, torch.cuda.current_device = lambda: True, lambda: 0\n"
        "from fastconv import _C\n"
        "build = {**_C.build_info(), 'cuda': False, 'cuda_why': 'no nvcc'}\n"
        "_C.build_info = lambda: build\n"
        "from fastconv.testing import kernels\n"
        "print(kernels.DEVICES, kernels.WHY_NOT_ON_CUDA)"
    )
    assert done.returncode == 0, done.stderr
    why = "fastconv was built without CUDA (no nvcc)"
    assert done.stdout.strip() == f"('cpu', 'emulated') {why}"
