"""Tests the build of csrc/cuda and, without a GPU, the calls from Python to it."""

import re
import shutil
import subprocess
import zlib
from pathlib import Path

import pytest
import torch

from fastconv import _C

ROOT = Path(__file__).parents[2]
CUDA = ROOT / "csrc" / "cuda"


def kernel_entries():
    """The functions that csrc/cuda/kernels.h declares."""
    text = (CUDA / "kernels.h").read_text()
    return set(re.findall(r"^void (\w+)\(", text, re.MULTILINE))


def test_one_table_of_kernels_feeds_both_builds():
    table = re.search(
        r"set\(cuda_kernel_sources(.*?)\)", (CUDA / "kernels.cmake").read_text(), re.S
    )
    assert {*table[1].split()} == {"dispatch.cpp", *(path.name for path in CUDA.glob("*.cu"))}
    for build in (ROOT / "CMakeLists.txt", ROOT / "tests" / "cuda" / "emulated" / "CMakeLists.txt"):
        text = build.read_text()
        assert re.search(r"include\(\S*csrc/cuda/kernels.cmake\)", text), build
        assert "${cuda_kernel_sources}" in text, build
        assert not re.search(r"csrc/cuda/\w+\.cu", text), f"{build} has a list of its own"


def test_every_kernel_entry_is_called_by_the_binding():
    entries = kernel_entries()
    assert len(entries) == 4
    binding = (ROOT / "csrc" / "python" / "cuda_device.h").read_text()
    for entry in entries:
        assert re.search(rf"cuda::{entry}\b", binding), entry
    for entry in (*entries, "conv2d_fprop", "conv2d_dgrad", "conv2d_wgrad"):
        assert hasattr(_C, f"cuda_{entry}"), entry


# This program calls all of the binding's queries about GPUs.
WITHOUT_NVCC = """
#include <cstdio>
#include <stdexcept>
#include "csrc/cuda/dispatch.h"
#include "csrc/cuda/kernels.h"
#include "csrc/simt/device.h"
using namespace fastconv;
template <class F> void need(F* function) { if (!function) std::puts("null"); }
int main() {
    %s
    std::puts(simt::device_count().answer.error.c_str());
    std::puts(simt::runs_on(0).error.c_str());
    std::puts(simt::make_current(0).c_str());
    std::puts(cuda::refuse({}).c_str());
    if (!cuda::implementations<FpropArgs>().empty()) std::puts("fprop");
    if (!cuda::implementations<DgradArgs>().empty()) std::puts("dgrad");
    if (!cuda::implementations<WgradArgs>().empty()) std::puts("wgrad");
    try {
        cuda::relu_fprop(DType::float32, nullptr, nullptr, nullptr, 1, nullptr);
    } catch (const std::runtime_error& error) {
        std::puts(error.what());
    }
}
"""


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_a_build_without_nvcc_links_and_says_so(tmp_path):
    # Compiling everything takes minutes. These headers declare all that the binding needs.
    binding = (ROOT / "csrc" / "python" / "cuda_device.h").read_text()
    headers = set(re.findall(r'#include "\.\./((?:cuda|simt)/.*)"', binding))
    assert headers == {"cuda/codes.h", "cuda/dispatch.h", "cuda/kernels.h", "simt/device.h"}
    device = (ROOT / "csrc" / "simt" / "device.h").read_text()
    names = [f"cuda::{entry}" for entry in kernel_entries()]
    names += [f"simt::{name}" for name in re.findall(r"^[\w:]+\*? (\w+)\(", device, re.MULTILINE)]
    assert len(names) == 9
    program, source = tmp_path / "program", tmp_path / "program.cpp"
    source.write_text(WITHOUT_NVCC % "\n    ".join(f"need({name});" for name in names))
    command = ["g++", "-std=c++17", "-O0", "-Wall", "-Wextra", "-Werror", "-I", ROOT]
    command += [source, CUDA / "none.cpp", "-o", program]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    said = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    assert said.splitlines() == ["this build has no CUDA kernels"] * 5


def test_wheel_is_small():
    package = [p for p in (ROOT / "fastconv").rglob("*") if p.is_file() and p.suffix != ".pyc"]
    compressed = [len(zlib.compress(p.read_bytes(), 1)) for p in {*package, Path(_C.__file__)}]
    assert sum(compressed) < 30e6


def test_only_simt_knows_cuda():
    # The emulator does not know anything else that a kernel might use.
    banned = (
        r"cuda_runtime|<<<|\basm\b|__syncthreads|threadIdx|blockIdx|__shared__|\bfloat4\b|__half"
    )
    for path in [*CUDA.iterdir(), *(ROOT / "csrc" / "python").iterdir()]:
        found = re.search(banned, path.read_text())
        assert found is None, f"{path}: {found[0]}"


def test_entry_without_a_gpu_is_one_clear_error():
    if _C.cuda_device_count()[0]:
        pytest.skip("there is a GPU")
    x = torch.ones(4)
    buffer = (x.data_ptr(), x.nbytes, 0, (4,), (1,))
    with pytest.raises(RuntimeError, match=r"^cuda_relu_fprop: .*(driver|device|no CUDA kernels)"):
        _C.cuda_relu_fprop(buffer, buffer, None, 0, 0)


@pytest.mark.slow
def test_why_not_is_said_once_and_a_compiler_takes_it_for_a_constant(run_python):
    if _C.cuda_device_count()[0]:
        pytest.skip("there is a GPU")
    done = run_python(
        "import warnings, torch\n"
        "from fastconv import kernels\n"
        "warnings.simplefilter('always')\n"
        "def f(x): return x + 1 if kernels.usable(0) else x - 1\n"
        "y = torch.compile(f, fullgraph=True, backend='eager')(torch.zeros(1))\n"
        "print(y.item(), kernels.usable(1), kernels.usable(0))"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["-1.0", "False", "False"]
    assert done.stderr.count("GPUs are left to torch's own operators: ") == 1


@pytest.mark.parametrize("operation", ["relu", "max_pool2d", "conv2d", "conv2d_relu"])
def test_operators_are_registered_for_cuda(operation):
    for name in (f"fastconv::{operation}", f"fastconv::{operation}_dgrad"):
        if hasattr(torch.ops.fastconv, name.split("::")[1]):
            assert torch._C._dispatch_has_kernel_for_dispatch_key(name, "CUDA"), name
