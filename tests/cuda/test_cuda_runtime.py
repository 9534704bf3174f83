"""Tests csrc/simt/device.cu, compiled by g++ against ./cuda_runtime in place of CUDA's runtime."""

import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")

ROOT, HERE = Path(__file__).parents[2], Path(__file__).with_name("cuda_runtime")


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """The output of device_calls.cpp, by the text before the colon."""
    program = tmp_path_factory.mktemp("runtime") / "program"
    command = ["g++", "-std=c++17", "-O0", "-g", "-Wall", "-Wextra", "-Werror", "-pthread"]
    sources = [HERE / "device_calls.cpp", "-x", "c++", ROOT / "csrc" / "simt" / "device.cu"]
    built = subprocess.run(
        [*command, "-I", HERE, *sources, "-o", program], capture_output=True, text=True
    )
    assert built.returncode == 0, built.stderr
    lines = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    return dict(line.split(":", 1) for line in lines.splitlines())


def test_no_device_gets_a_context_that_nobody_asked_for(said):
    # CUDA's current device is 0 in a new thread, which has no context there.
    assert said["contexts after make_current(1)"].split() == ["1"]
    assert said["contexts after runs_on(1)"].split() == ["1"]


def test_a_kernels_limit_is_set_once_on_each_device_to_the_most(said):
    assert said["limits after eight threads"].split() == [f"0:{99 << 10}", f"1:{227 << 10}"]
    assert sorted(said["limits after another kernel"].split()) == sorted(
        [f"0:{99 << 10}", f"1:{227 << 10}", f"0:{99 << 10}"]
    )


def test_a_limit_that_could_not_be_set_is_set_by_a_later_launch(said):
    assert said["short of memory"].strip() == "out of memory"
    assert said["limits after an error"].split() == []


LASTING = [
    "InsufficientDriver",
    "SystemDriverMismatch",
    "CompatNotSupportedOnDevice",
    "InvalidDevice",
    "InvalidDeviceFunction",
    "NoKernelImageForDevice",
    "InvalidKernelImage",
    "InvalidPtx",
    "UnsupportedPtxVersion",
    "JitCompilerNotFound",
    "JitCompilationDisabled",
]
PASSING = ["MemoryAllocation", "InitializationError", "DevicesUnavailable", "SystemNotReady"]


def test_only_errors_that_last_are_said_to(said):
    header = (HERE / "cuda_runtime.h").read_text()
    names = header[header.index("cudaSuccess") : header.index("last_error")].split(",")
    names = [name.strip().removeprefix("cudaError") for name in names if name.strip()]
    found = {name: said[str(status)].split(", ")[1] for status, name in enumerate(names) if status}
    assert found == {**dict.fromkeys(LASTING, "lasts"), **dict.fromkeys(PASSING, "passing")}
    assert said["none"] == " , lasts" and said["count"] == " 2"
    assert said["no such device"] == " lasts"


def test_timers_measure_by_events_and_leave_none(said):
    assert said["measured"] == " 250" and said["no stop"] == " -1"
    assert said["no event"] == " none" and said["capturing"] == " none"
    assert said["events left"] == " 0"
