"""Tests the compiled CUDA kernels without a GPU: registers, local memory and main loops."""

import re
from pathlib import Path

import pytest

from fastconv import _C
from gates import code, loops
from gates.declared import DECLARED, declaration

ROOT = Path(__file__).parents[2]
TARGETS = {"sm_80", "sm_90a"}


@pytest.fixture(scope="module")
def kernels():
    """All kernels of all targets."""
    if missing := code.missing():
        pytest.skip(f"needs {', '.join(missing)}")
    return code.kernels()


def assert_none(wrong):
    assert not wrong, "\n".join(wrong)


def test_targets(kernels):
    found = {target: {k.name for k in kernels if k.target == target} for target in TARGETS}
    assert {k.target for k in kernels} == TARGETS
    assert found["sm_80"] == found["sm_90a"]
    # PTX, which the driver compiles for newer GPUs.
    ptx = code.run("cuobjdump", "--list-ptx", _C.__file__)
    assert set(re.findall(r"\.(sm_\w+)\.ptx", ptx)) == {"sm_80"}


def test_every_kernel_of_the_sources_is_there(kernels):
    # A template that is never launched has no code and no test.
    sources = [p.read_text() for p in (ROOT / "csrc" / "cuda").iterdir() if p.suffix[:3] == ".cu"]
    pattern = r"FASTCONV_KERNEL(?:_BOUNDS\([^)]*\))?\s+(\w+)\("
    written = {name for text in sources for name in re.findall(pattern, text)}
    assert written == {re.match(r"\w+", k.name)[0] for k in kernels}


def test_every_kernel_is_declared(kernels):
    assert_none([str(k) for k in kernels if declaration(k.name) is None])
    used = {declaration(k.name) and declaration(k.name).kernel for k in kernels}
    assert_none([entry.kernel for entry in DECLARED if entry.kernel not in used])


def test_no_local_memory_and_no_more_registers_than_declared(kernels):
    wrong = []
    for kernel in kernels:
        if kernel.stack or kernel.local:
            wrong.append(f"{kernel}: {kernel.stack} bytes of stack, {kernel.local} of local memory")
        if any(i.is_a("LDL") or i.is_a("STL") for i in kernel.instructions):
            wrong.append(f"{kernel}: spills, or an array that is not in registers")
        entry = declaration(kernel.name)
        if entry is not None and kernel.registers > entry.registers:
            wrong.append(f"{kernel}: {kernel.registers} registers, declared {entry.registers}")
    assert_none(wrong)


def test_main_loops_hold_what_is_declared(kernels):
    assert_none(
        [
            f"{kernel}: no loop holds {entry.holds}"
            for kernel in kernels
            if (entry := declaration(kernel.name)) and not loops.main_loop(kernel, entry.holds)
        ]
    )


def test_main_loops_divide_no_integers(kernels):
    wrong = []
    for kernel in kernels:
        entry = declaration(kernel.name)
        found = loops.divisions((entry and loops.main_loop(kernel, entry.holds)) or [])
        if found:
            wrong.append(f"{kernel}: divides at {found[0].address:#x}")
    assert_none(wrong)


LISTING = """
.text._Z1fv:
        /*0000*/                   IMAD.MOV.U32 R1, RZ, RZ, c[0x0][0x28] ;
.L_x_0:
        /*0010*/                   LDG.E.128 R4, [R2.64] ;
.L_x_1:
        /*0020*/                   FFMA R0, R4, R5, R0 ;
        /*0030*/              @!P0 BRA `(.L_x_1) ;
        /*0040*/               @P2 BRA `(.L_x_3) ;
.L_x_2:
        /*0050*/               @P1 BRA `(.L_x_0) ;
        /*0060*/                   EXIT ;
.L_x_3:
        /*0070*/                   I2F.U32.RP R7, R6 ;
        /*0080*/                   BRA `(.L_x_2);
.L_x_4:
        /*0090*/                   BRA `(.L_x_4);
"""


def test_loops_of_a_listing():
    kernel = code.Kernel("f", "sm_80", 8, 0, 0, *code.disassembly(LISTING)["_Z1fv"])
    found = [[i.address // 16 for i in loop] for loop in loops.loops(kernel)]
    # Code that was moved behind the end belongs to the outer loop. The trap at the end is no loop.
    assert found == [[2, 3], [1, 2, 3, 4, 5, 7, 8]]
    outer = loops.main_loop(kernel, {"LDG.128": 1})
    assert [i.opcode for i in loops.divisions(outer)] == ["I2F.U32.RP"]
    assert len(loops.main_loop(kernel, {"FFMA": 1})) == 2
    assert loops.main_loop(kernel, {"FFMA": 2}) is None


def test_names_and_resources():
    text = "void fastconv::cuda::(anonymous namespace)::f<fastconv::simt::half, 8>(int*, long)"
    assert code.short(text) == "f<half, 8>"
    assert code.short("probe()") == ""
    used = " Function _Z1fv:\n  REG:14 STACK:8 SHARED:0 LOCAL:0 CONSTANT[0]:384 TEXTURE:0\n"
    assert code.resources(used) == {"_Z1fv": (14, 8, 0)}
