"""Tests CMakeLists.txt with a broken nvcc: the kernels that it builds, and its message."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pybind11 = pytest.importorskip("pybind11")
pytestmark = pytest.mark.skipif(
    not (shutil.which("g++") and shutil.which("cmake")), reason="needs g++ and cmake"
)

ROOT = Path(__file__).parents[2]
# The broken ones are scripts, some on top of this machine's nvcc.
NVCC = shutil.which("nvcc") or "true"
OLD = """
case "$*" in
--version) echo "Cuda compilation tools, release 11.4, V11.4.152" ;;
*90a*) echo "nvcc fatal   : Unsupported gpu architecture 'compute_90a'"; exit 1 ;;
*) exec {nvcc} "$@" ;;
esac"""
REFUSES_GCC = """
[ "$*" = --version ] && echo "Cuda compilation tools, release 12.1, V12.1.66" && exit
echo "In file included from cuda_runtime.h:83,"
echo 'crt/host_config.h:132:2: error: #error -- unsupported GNU version! gcc "13"; \\$(later) @is@'
exit 1"""
# CMake identifies the compiler and then links a test program.
DETECTED_ONLY = """
case "$*" in
*CMAKE_*|*--generate-code*|*-arch=*) echo "ptxas fatal : Value 'sm_80' is not defined" ; exit 255 ;;
*) exec {nvcc} "$@" ;;
esac"""

# Each nvcc, and the message about it.
BROKEN = {
    "too old": (OLD, r"CUDA 11\.4 does not compile for sm_90a: nvcc fatal : Unsupported gpu arch"
                     r"itecture 'compute_90a' \(fastconv needs CUDA 12\.0 or newer\)"),
    "refuses gcc": (REFUSES_GCC, r"CUDA 12\.1 does not compile for sm_80: unsupported GNU version! "
                                 r'gcc "13"; \\\$\(later\) @is@'),
    "detected only": (DETECTED_ONLY, r"for sm_80: ptxas fatal : Value 'sm_80' is not defined"),
    "fails": ("exit 1", r"does not run: it says nothing"),
    "does not execute": ("exec /nowhere/nvcc", r"does not run: .*not found"),
    "compiles nothing": ("exit 0", r"compiles, but CMake cannot use it: CMake Error .*"),
}  # fmt: skip


@pytest.fixture
def configure(tmp_path, monkeypatch):
    """Runs CMake with this script as nvcc. Returns exit status, output and the reason."""
    for name in ("CUDACXX", "CUDA_PATH", "CUDA_HOME", "CUDAARCHS", "CUDAFLAGS", "CUDAHOSTCXX"):
        monkeypatch.delenv(name, raising=False)

    def run(script, *settings):
        if script is not None:
            nvcc = tmp_path / "bin" / "nvcc"
            nvcc.parent.mkdir()
            nvcc.write_text("#!/bin/sh\n" + script.replace("{nvcc}", NVCC) + "\n")
            nvcc.chmod(0o755)
            monkeypatch.setenv("PATH", str(nvcc.parent), prepend=":")
        build = tmp_path / "build"
        done = subprocess.run(
            [
                "cmake", "-S", ROOT, "-B", build, f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
                f"-DPython_EXECUTABLE={sys.executable}", *settings,
            ],
            capture_output=True,
            text=True,
        )  # fmt: skip
        header = build / "generated" / "cuda_why.h"
        why = re.search(r'R"why\((.*)\)why"', header.read_text())[1] if header.exists() else None
        return done.returncode, done.stdout + done.stderr, why

    return run


def one_line(text):
    return " ".join(text.split())


@pytest.mark.slow
@pytest.mark.parametrize("kind", BROKEN)
def test_auto_builds_for_cpus_and_says_why(kind, configure, tmp_path):
    script, reason = BROKEN[kind]
    status, output, why = configure(script)
    assert status == 0, output
    assert re.fullmatch(rf"{tmp_path}/bin/nvcc .*{reason}", why), why
    assert re.search(rf"CPU only \([\w;]+\); CUDA: {re.escape(why)}", one_line(output))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["refuses gcc", "does not execute"])
def test_on_ends_with_the_compiler_s_words(kind, configure):
    script, reason = BROKEN[kind]
    status, output, _ = configure(script, "-DFASTCONV_CUDA=ON")
    assert status != 0
    assert re.search(rf"FASTCONV_CUDA=ON, but \S+/bin/nvcc .*{reason}", one_line(output)), output
    assert "Name another nvcc in CUDACXX, or set FASTCONV_CUDA=OFF." in one_line(output)


@pytest.mark.slow
def test_a_compiler_named_by_hand_is_asked_too(configure):
    status, output, why = configure(None, "-DCMAKE_CUDA_COMPILER=/nowhere/nvcc")
    assert status == 0, output
    assert why.startswith("/nowhere/nvcc does not run: ")


@pytest.mark.slow
def test_off_asks_no_nvcc(configure):
    status, output, why = configure("exit 1", "-DFASTCONV_CUDA=OFF")
    assert status == 0, output
    assert why == "FASTCONV_CUDA=OFF"


@pytest.mark.parametrize("value", ["on", "1", "yes", "banana", ""])
def test_other_values_are_refused(value, configure):
    status, output, _ = configure("exit 1", f"-DFASTCONV_CUDA={value}")
    assert status != 0
    assert f"FASTCONV_CUDA is '{value}': it takes ON, OFF or AUTO" in one_line(output)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
@pytest.mark.parametrize(
    "settings, targets",
    [
        ([], "sm_80 sm_90a compute_80"),
        (["-DCMAKE_CUDA_ARCHITECTURES=90a-real;90-virtual"], "sm_90a compute_90"),
    ],
)
def test_an_nvcc_that_works_is_used(settings, targets, configure):
    status, output, why = configure(None, *settings)
    assert status == 0, output
    assert re.fullmatch(r"nvcc [\d.]+", why)
    assert f"and CUDA ({targets}; {why})" in one_line(output)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
def test_targets_that_nvcc_does_not_have_are_named(configure):
    status, output, why = configure(None, "-DCMAKE_CUDA_ARCHITECTURES=80-real;35-real")
    assert status == 0, output
    assert re.search(r"does not compile for sm_35: .*'(sm|compute)_35'", why), why
