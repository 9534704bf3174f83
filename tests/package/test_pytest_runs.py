"""Tests runs of pytest: the chosen tests, messages about compiling, and required tools."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import emulated

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
# pytest as its command runs it. With `python -m pytest` ./fastconv would hide the installed one.
PYTEST = "import sys; sys.path.remove(''); import pytest; sys.exit(pytest.main(sys.argv[1:]))"
# CMake as it is when there is something to compile.
CMAKE = """#!/bin/sh
[ "$1" = --build ] && echo "[1/2] Building CXX object a.o" && echo "[2/2] Linking CXX a.so"
exit 0
"""


def pytest_output(*arguments, **environment):
    done = subprocess.run(
        [sys.executable, "-c", PYTEST, "-p", "no:cacheprovider", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    return done.stdout


def test_quick_tests_and_the_rest_are_all():
    relu, code = "tests/kernels/test_relu.py", "tests/convert/test_convert_code.py"

    def chosen(*options):
        output = pytest_output("-q", "--collect-only", *options, relu, code)
        return [line for line in output.splitlines() if "::" in line]

    quick, rest, everything = chosen(), chosen("--rest"), chosen("--all")
    assert sorted(quick + rest) == sorted(everything) and len(set(everything)) == len(everything)
    assert f"{relu}::test_zero_dimensions[cpu]" in quick
    assert f"{relu}::test_zero_dimensions[emulated]" in rest
    assert f"{code}::test_functional_call" in quick and f"{code}::test_in_a_new_process" in rest


def test_quick_tests_need_no_emulated_build():
    plan = pytest_output("-q", "--setup-plan", "tests/kernels", "tests/cuda")
    assert "tests/kernels/test_relu.py::" in plan and "fixtures used: " in plan
    assert not {"emulated_builds", "emulated_kernels", "counted_kernels"} & set(
        re.findall(r"\w+", plan)
    )


@pytest.mark.skipif(bool(emulated.missing()), reason="needs what builds the emulator")
@pytest.mark.parametrize("options", [(), ("-s",)], ids=["captured", "not captured"])
def test_who_waits_for_the_emulator_reads_so(options, tmp_path):
    cmake = tmp_path / "bin" / "cmake"
    cmake.parent.mkdir()
    cmake.write_text(CMAKE)
    cmake.chmod(0o755)
    output = pytest_output(
        "--all",
        "tests/cuda/test_emulator.py::test_every_fault_is_listed",
        *options,
        PATH=f"{cmake.parent}:{os.environ['PATH']}",
        FASTCONV_EMULATED_DIR=str(tmp_path / "builds"),
    )
    said = [line for line in output.splitlines() if "the CUDA emulator" in line]
    assert said[0] == (
        f"compiling the CUDA emulator (asan, plain, race) in {tmp_path / 'builds'}, "
        "up to ten minutes on two cores"
    )
    assert said[1].startswith("compiled the CUDA emulator (") and len(said) == 2
    assert "1 passed" in output


@pytest.mark.parametrize(
    "required, outcome", [("", "1 skipped"), ("nvcc|cuobjdump", "1 error"), ("nvc", "1 skipped")]
)
def test_what_is_required_is_no_reason_to_skip(required, outcome, tmp_path):
    # Nothing but the compilers that the test asks for before it asks for nvcc.
    for name in ("g++", "cmake"):
        (tmp_path / name).symlink_to("/usr/bin/true")
    test = "tests/cuda/test_nvcc.py::test_targets_that_nvcc_does_not_have_are_named"
    output = pytest_output("--all", test, PATH=str(tmp_path), FASTCONV_REQUIRE=required)
    assert outcome in output.splitlines()[-1]
    assert "needs nvcc" in output
