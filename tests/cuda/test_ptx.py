"""Tests the CUDA version that the kernels need, by the PTX versions of instructions and targets."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# The PTX version in which each instruction first appears, by the PTX ISA.
PTX_OF_INSTRUCTIONS = {
    "cp.async.ca.shared.global": (7, 0),
    "cp.async.cg.shared.global": (7, 0),
    "cp.async.commit_group": (7, 0),
    "cp.async.wait_group": (7, 0),
    "cvt.f32.f16": (1, 0),
    "cvt.rn.bf16.f32": (7, 0),
    "cvt.rn.f16.f32": (1, 0),
    "cvt.rna.tf32.f32": (7, 0),
    "ldmatrix.sync.aligned.m8n8.x2.shared.b16": (6, 5),
    "ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16": (6, 5),
    "ldmatrix.sync.aligned.m8n8.x4.shared.b16": (6, 5),
    "ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16": (6, 5),
    "mma.sp.sync.aligned.m16n8k16.row.col.f32.tf32.tf32.f32": (7, 1),
    "mma.sp.sync.aligned.m16n8k32.row.col.f32.bf16.bf16.f32": (7, 1),
    "mma.sp.sync.aligned.m16n8k32.row.col.f32.f16.f16.f32": (7, 1),
    "mma.sp::ordered_metadata.sync.aligned.m16n8k16.row.col.f32.tf32.tf32.f32": (8, 5),
    "mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32.bf16.bf16.f32": (8, 5),
    "mma.sp::ordered_metadata.sync.aligned.m16n8k32.row.col.f32.f16.f16.f32": (8, 5),
    "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32": (7, 0),
    "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32": (7, 0),
    "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32": (7, 0),
    "shl.b32": (1, 0),
    "shl.b64": (1, 0),
}
# The same for the targets, and the PTX version of each CUDA release.
PTX_OF_TARGETS = {"80-real": (7, 0), "80-virtual": (7, 0), "90a-real": (8, 0)}
PTX_OF_CUDA = {(12, 0): (8, 0), (12, 4): (8, 4), (12, 5): (8, 5), (13, 0): (9, 0)}


def instructions(cuda, folder):
    """The instructions in csrc/simt as nvcc of this release of CUDA reads it."""
    (folder / "cuda_runtime.h").touch()
    command = ["g++", "-std=c++17", "-E", "-P", "-x", "c++", f"-I{folder}", "-D__CUDA_ARCH__=800"]
    command += [
        f"-D__CUDACC_VER_{part}__={n}" for part, n in zip(("MAJOR", "MINOR"), cuda, strict=True)
    ]
    done = subprocess.run(
        [*command, ROOT / "csrc" / "simt" / "simt.h"], check=True, capture_output=True, text=True
    )
    texts = re.findall(r'\basm(?: volatile)?\(\s*((?:"[^"]*"\s*)+)', done.stdout)
    assert len(texts) == done.stdout.count("asm(") + done.stdout.count("asm volatile(")
    joined = ("".join(re.findall(r'"([^"]*)"', text)) for text in texts)
    return {statement.split()[0] for text in joined for statement in text.split(";") if statement}


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
@pytest.mark.parametrize("cuda", PTX_OF_CUDA)
def test_no_instruction_is_newer_than_the_cuda_that_compiles_it(cuda, tmp_path):
    found = instructions(cuda, tmp_path)
    unknown = found - set(PTX_OF_INSTRUCTIONS)
    assert not unknown, "which PTX has them first?"
    assert {name for name in found if PTX_OF_INSTRUCTIONS[name] > PTX_OF_CUDA[cuda]} == set()
    # The plain instruction is slower on some GPUs.
    ordered = any(name.startswith("mma.sp::ordered_metadata.") for name in found)
    assert ordered == (cuda >= (12, 5))


def test_the_cuda_that_is_said_to_be_needed_is_the_first_with_all_targets():
    targets = re.search(r'CMAKE_CUDA_ARCHITECTURES "(.*)"', (ROOT / "CMakeLists.txt").read_text())
    newest = max(PTX_OF_TARGETS[target] for target in targets[1].split(";"))
    [needed] = [cuda for cuda, ptx in PTX_OF_CUDA.items() if ptx == newest]
    text = "CUDA {}.{} or newer".format(*needed)
    assert text in (ROOT / "README.md").read_text()
    assert text in (ROOT / "cmake" / "nvcc.cmake").read_text()
