"""Tests csrc/cpu/elements.h and vec.h: float16 and bfloat16 in memory, float in registers."""

import ctypes
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from fastconv import _C
from fastconv.problem import HALF_DTYPES

ROOT = Path(__file__).parents[2]
ISAS = [isa for isa in _C.build_info()["isas_supported"] if isa != "neon"]

# Vectors and the tail behind them, all at once: as copies in kernels do it.
SOURCE = """
#include "csrc/cpu/pack.h"
using namespace fastconv::cpu;
using namespace fastconv::cpu::FASTCONV_ISA;

template <class E>
static void both_ways(E* narrow, float* wide, int64_t count, bool widening, bool by_vectors) {
    const int64_t step = by_vectors ? count : 1;
    for (int64_t i = 0; i < count; i += step)
        if (widening) copy_row(step, narrow + i, wide + i);
        else copy_row(step, static_cast<const float*>(wide + i), narrow + i);
}
extern "C" void f16(void* narrow, float* wide, int64_t count, int widening, int by_vectors) {
    both_ways(static_cast<half*>(narrow), wide, count, widening, by_vectors);
}
extern "C" void bf16(void* narrow, float* wide, int64_t count, int widening, int by_vectors) {
    both_ways(static_cast<bfloat16*>(narrow), wide, count, widening, by_vectors);
}
"""


def flags_of(isa):
    text = (ROOT / "CMakeLists.txt").read_text()
    flags = re.search(rf"set\({isa}_flags ([^)]*)\)", text).group(1)
    # An extension's flags begin with those of the set that it extends.
    return re.sub(r"\$\{(\w+)_flags\}", lambda found: " ".join(flags_of(found[1])), flags).split()


@pytest.fixture(scope="module", params=ISAS)
def library(request, tmp_path_factory):
    """The conversions as CMakeLists.txt compiles them for an instruction set."""
    if shutil.which("g++") is None:
        pytest.skip("needs g++")
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "elements.cpp").write_text(SOURCE)
    flags = flags_of(request.param)
    common = ["-std=c++17", "-O3", "-ffp-contract=fast", "-fno-trapping-math", "-Wno-psabi"]
    command = ["g++", *common, *flags, f"-DFASTCONV_ISA={request.param}", f"-I{ROOT}", "-shared"]
    subprocess.run([*command, "-fPIC", "elements.cpp", "-o", "elements.so"], cwd=folder, check=True)
    return ctypes.CDLL(str(folder / "elements.so"))


def convert(library, name, source, by_vectors):
    """Integers of 16 bits to those of their floats, or the other way."""
    widening = source.dtype == torch.int16
    result = torch.empty(source.shape, dtype=torch.int32 if widening else torch.int16)
    narrow, wide = (source, result) if widening else (result, source)
    pointers = [ctypes.c_void_p(t.data_ptr()) for t in (narrow, wide)]
    getattr(library, name)(*pointers, ctypes.c_int64(len(source)), widening, by_vectors)
    return result


def all_words():
    return torch.arange(-(2**15), 2**15).to(torch.int16)


def interesting_floats(dtype):
    """Bits of all numbers of the dtype, of the midpoints between two, and of their neighbors."""
    words = all_words()
    exact = words.view(dtype).float()
    above = (words + 1).view(dtype).float()  # the next, further from zero
    between = (exact.double() + above.double()) / 2
    near = torch.cat([exact.view(torch.int32), between.float().view(torch.int32)])
    beside = torch.cat([near, near + 1, near - 1])
    spread = torch.arange(-(2**31), 2**31, 4099).to(torch.int32)  # NaNs and subnormals too
    edges = torch.tensor([65519.996, 65520.0, 3.4e38, 1e-45, 6e-8, 2.98e-8, torch.inf, torch.nan])
    return torch.cat([beside, spread, edges.view(torch.int32), -edges.view(torch.int32)])


def same(found, expected, dtype):
    """Equal bits; any quiet NaN for a NaN."""
    nan = expected.view(dtype).isnan()
    quiet = found.view(dtype).isnan()
    return bool(((found == expected) | (nan & quiet)).all())


@pytest.mark.parametrize("by_vectors", [True, False])
@pytest.mark.parametrize("name", HALF_DTYPES)
def test_widening(library, name, by_vectors):
    words = all_words()[:-3]  # a tail as well
    expected = words.view(HALF_DTYPES[name]).float().view(torch.int32)
    assert same(convert(library, name, words, by_vectors), expected, torch.float32)


@pytest.mark.parametrize("by_vectors", [True, False])
@pytest.mark.parametrize("name", HALF_DTYPES)
def test_rounding(library, name, by_vectors):
    dtype = HALF_DTYPES[name]
    bits = interesting_floats(dtype)
    expected = bits.view(torch.float32).to(dtype).view(torch.int16)
    assert same(convert(library, name, bits, by_vectors), expected, dtype)


@pytest.mark.parametrize("name", HALF_DTYPES)
def test_vectors_and_single_numbers_give_the_same_bits(library, name):
    for source in (all_words(), interesting_floats(HALF_DTYPES[name])):  # NaNs' bits too
        found = [convert(library, name, source, by_vectors) for by_vectors in (True, False)]
        assert torch.equal(*found)
