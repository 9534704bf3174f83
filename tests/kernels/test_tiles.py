"""Tests csrc/cpu/tiles.h: AMX's instructions as machine code, and kernels on its portable twin."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from fastconv import _C

ROOT = Path(__file__).parents[2]
SUPPORTED = _C.build_info()["isas_supported"]
SETS = [isa for isa in ("amx", "avx2x16_amx") if isa in SUPPORTED]

# Compilers see no reason to keep stores that only an assembler's line reads.
SOURCE = """
#include "csrc/cpu/tiles.h"
using namespace fastconv::cpu::FASTCONV_ISA;

extern "C" void sums(float* out) {
    alignas(64) float first[256];
    for (int i = 0; i < 256; ++i) first[i] = 3;
    Tiles tiles(16, 32);
    tiles.load<0>(first, 64);
    tiles.multiply_add<0, 4, 6>();
    tiles.store<0>(out, 64);
}
extern "C" float last(float* out) {
    out[255] = 1;
    Tiles tiles(16, 32);
    tiles.zero<0>();
    tiles.store<0>(out, 64);
    return out[255];
}
"""


@pytest.fixture(scope="module")
def functions(tmp_path_factory):
    """The instructions of SOURCE's functions."""
    if not shutil.which("g++") or not shutil.which("objdump"):
        pytest.skip("needs g++ and objdump")
    folder = tmp_path_factory.mktemp("tiles")
    (folder / "tiles.cpp").write_text(SOURCE)
    flags = "-O3 -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512bf16 -mfma -mf16c"
    defines = "-DFASTCONV_VECTOR_BYTES=64 -DFASTCONV_ISA=amx -DFASTCONV_TILES=1"
    command = ["g++", "-std=c++17", "-Wno-psabi", *flags.split(), *defines.split(), f"-I{ROOT}"]
    subprocess.run([*command, "-c", "tiles.cpp", "-o", "tiles.o"], cwd=folder, check=True)
    shown = subprocess.check_output(
        ["objdump", "-d", "--no-show-raw-insn", folder / "tiles.o"], text=True
    )
    parts = re.split(r"^[0-9a-f]+ <(\w+)>:$", shown, flags=re.M)
    lines = {n: body.strip().splitlines() for n, body in zip(parts[1::2], parts[2::2], strict=True)}
    return {
        name: [line.split(":", 1)[1].strip() for line in body if ":" in line]
        for name, body in lines.items()
    }


def places(instructions, pattern):
    return [i for i, text in enumerate(instructions) if re.match(pattern, text)]


def test_stores_stay_in_front_of_what_reads_them(functions):
    code = functions["sums"]
    [configured], [loaded] = places(code, "ldtilecfg"), places(code, "tileloadd")
    into_memory = places(code, r"v?mov\w* .*,[^,]*\(")
    assert any(i < configured for i in into_memory), code
    assert any(i < loaded for i in into_memory), code
    constant = [i for i in into_memory if i < loaded]
    assert len(constant) >= 5, code  # the shapes, and the sums in a loop or in a row


def test_the_order_of_instructions(functions):
    kinds = "ldtilecfg|tileloadd|tilezero|tdpbf16ps|tilestored|tilerelease"
    found = {
        name: [t.split()[0] for t in code if re.match(kinds, t)] for name, code in functions.items()
    }
    assert found["sums"] == ["ldtilecfg", "tileloadd", "tdpbf16ps", "tilestored", "tilerelease"]
    assert found["last"] == ["ldtilecfg", "tilezero", "tilestored", "tilerelease"]
    [product] = [t for t in functions["sums"] if t.startswith("tdpbf16ps")]
    assert product.split()[1] == "%tmm6,%tmm4,%tmm0"  # AT&T's order: weights, x, sums


def test_what_a_tile_stored_is_read_again(functions):
    code = functions["last"]
    [stored] = places(code, "tilestored")
    assert places(code, r"vmovss 0x3fc\(%rdi\),%xmm0")[-1] > stored, code


CHILD = """
import sys
import torch
from fastconv import _C
from fastconv.testing import Problem, kernels, reference

assert _C.build_info()["isa"] == sys.argv[1]
torch.manual_seed(0)


def error(x, w, problem):
    y, _ = kernels.fprop(problem, x, w, None, "tiles")
    exact = reference.conv2d(problem, x.double(), w.double(), None)
    return ((y.double() - exact).abs().max() / exact.abs().max()).item()


def problem_of(channels, kernel):
    text = f"mb1ic{channels}ih{kernel + 9}iw{kernel + 9}oc32kh{kernel}kw{kernel}_nobias_f32_nchw"
    return Problem.parse(text)


def parameters(problem, draw):
    return draw(problem.x_size), draw(problem.w_size)


for channels, kernel in ((8, 1), (1, 9), (3, 3), (16, 1), (64, 1), (16, 3), (64, 3), (512, 3)):
    problem = problem_of(channels, kernel)
    if "tiles" not in kernels.implementations("fprop", problem):
        continue
    for name, draw in (("normal", torch.randn), ("positive", torch.rand)):
        x, w = parameters(problem, draw)
        assert error(x, w, problem) < 1.5e-5, (name, problem)
        # A power of two changes no digit.
        y, _ = kernels.fprop(problem, x, w, None, "tiles")
        scaled, _ = kernels.fprop(problem, x * 2.0**40, w * 2.0**-70, None, "tiles")
        assert torch.equal(scaled, y * 2.0**-30), (name, problem)
    for value in torch.rand(8).tolist():
        x, w = parameters(problem, lambda size: torch.full(size, value))
        assert error(x, w, problem) < 3e-5, (value, problem)  # all products err alike
# Short sums have the product of the second parts, too: it is 2^-16 of these.
problem = problem_of(8, 1)
x, w = parameters(problem, lambda size: torch.full(size, 1 + 2.0**-8 - 2.0**-20))
assert error(x, w, problem) < 5e-6
# The largest number has a finite first part.
problem = problem_of(16, 1)
x, w = torch.zeros(problem.x_size), torch.zeros(problem.w_size)
x[0, 0], w[:, 0] = torch.finfo(torch.float32).max, 0.5
assert error(x, w, problem) < 1e-5
"""


@pytest.mark.skipif(not SETS, reason="needs AMX, or a build with FASTCONV_TEST_ISA=ON")
@pytest.mark.parametrize("isa", SETS)
def test_float32_as_products_of_two_parts(isa, run_python):
    done = run_python(CHILD, isa, FASTCONV_ISA=isa)
    assert done.returncode == 0, done.stderr
