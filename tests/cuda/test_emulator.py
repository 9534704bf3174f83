"""Tests the emulator, which runs CUDA kernels without a GPU.

Its wrappers match their definitions. It reports every planted fault with its line.
"""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import emulated
from emulated import BUILDS, RUNS, KernelError, Run, wrappers
from fastconv.testing.kernels import WHY_NOT_ON_CUDA
from gates import code

SOURCE = Path(emulated.__file__).with_name("broken_kernels.cu")
CMAKE = emulated.ROOT / "CMakeLists.txt"

# Fault, the builds that must report it (in every order of threads), and what the report says.
RACE, ASAN, ALL = ("race",), ("asan",), BUILDS
FAULTS = {
    "no_barrier_before_overwrite": (RACE, "data race in shared memory"),
    "no_barrier_before_read": (RACE, "data race in shared memory"),
    "two_warps_write": (RACE, "data race in shared memory"),
    "no_sync_warp": (RACE, "data race in shared memory|nobody has written"),
    "write_after_other_warps_read": (RACE, "data race in shared memory"),
    "write_after_other_lanes_read": (RACE, "data race in shared memory"),
    "bytes_overlap": (RACE, "data race in shared memory"),
    "global_without_barrier": (RACE, "data race in global memory.*no barrier"),
    "shuffle_for_sync_warp": (RACE, "data race in shared memory"),
    "copy_never_waited": (ALL, "not waited for"),
    "copy_not_committed": (ALL, "not waited for"),
    "copy_waited_one_short": (RACE, "copy under way"),
    "copy_without_barrier": (RACE, "data race in shared memory|nobody has written|copy under way"),
    "shared_out_of_bounds": (("race", "asan"), "out of bounds of shared|use-after-poison"),
    "shared_pack_out_of_bounds": (ALL, "out of bounds of shared"),
    "global_out_of_bounds": (ASAN, "heap-buffer-overflow"),
    "global_copy_out_of_bounds": (ASAN, "out of bounds of global"),
    "local_out_of_bounds": (
        ASAN,
        "stack-buffer-overflow|insufficient space|out of bounds for type",
    ),
    "divergent_barrier": (ALL, "divergent barrier.*waits in sync at"),
    "return_before_barrier": (ALL, "divergent barrier.*has returned"),
    "lanes_missing": (ALL, "shuffle_xor needs all 32 lanes.*missing: 31"),
    "lanes_at_two_lines": (ALL, "shuffle_xor needs all 32 lanes"),
    "misaligned_load": (ALL, "misaligned read of 8 bytes"),
    "misaligned_cast": (ASAN, "misaligned address"),
    "index_overflow": (ASAN, "signed integer overflow"),
    "blocks_write": (RACE, "data race in global memory.*nothing orders blocks"),
    "blocks_read_written": (RACE, "data race in global memory.*nothing orders blocks"),
    "uninitialized_shared": (RACE, "nobody has written"),
    "shared_of_last_block": (RACE, "nobody has written"),
    "too_little_shared": (ALL, "more shared memory than the launch gave"),
}
COUNTED = {"bank_conflicts", "ldmatrix_bank_conflicts", "uncoalesced"}
ENTRIES = re.findall(r"^FAULT\((\w+)", SOURCE.read_text(), re.MULTILINE)


def marked(which, fault):
    """The line of broken_kernels.cu that a comment marks; None if there is none."""
    for number, line in enumerate(SOURCE.read_text().splitlines(), 1):
        if re.search(rf"// {which}: {fault}$", line):
            return f"{SOURCE.name}:{number}"
    return None


def run_fault(build, fault, broken, run, **options):
    size = 1024 if fault in COUNTED else 128
    x, y = np.arange(1, size + 1, dtype=np.float32), np.zeros(size, np.float32)
    if fault == "global_copy_out_of_bounds":
        x = x[:128]
    counters = emulated.load(build).call(f"broken_{fault}", [x, y], [int(broken)], run, **options)
    return y, counters


@pytest.fixture(scope="module", autouse=True)
def libraries(emulated_builds):
    emulated_builds()  # all at once
    yield
    emulated.load("asan").close()


def test_every_fault_is_listed():
    assert set(ENTRIES) == set(FAULTS) | COUNTED | {"much_shared"}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_is_caught(fault):
    builds, text = FAULTS[fault]
    here, there = marked("here", fault), marked("there", fault)
    assert here
    for build in builds:
        for run in RUNS if build != "asan" else RUNS[:1]:
            with pytest.raises(KernelError) as caught:
                run_fault(build, fault, True, run)
            report = str(caught.value)
            where = f"{fault}, {build}, {run}: {report}"
            assert re.search(text, report, re.DOTALL), where
            # Which of two accesses comes second depends on the order of threads.
            assert re.search(rf"{here}\b", report) or (
                there and re.search(rf"{there}\b", report)
            ), where
            if "data race" in report:
                assert re.search(rf"{here}\b", report), where
                assert re.search(rf"{there or here}\b", report), where


@pytest.mark.parametrize("fault", ENTRIES)
def test_corrected_kernel_is_clean(fault):
    expected, _ = run_fault("plain", fault, False, Run())
    assert expected.any()
    for build in BUILDS:
        for run in RUNS:
            result, _ = run_fault(build, fault, False, run)
            np.testing.assert_array_equal(result, expected, err_msg=f"{fault}, {build}, {run}")


@pytest.mark.parametrize("fault", ["no_barrier_before_overwrite", "no_barrier_before_read"])
def test_orders_of_threads_differ(fault):
    # Even the plain build shows such a fault, since some order gives a wrong result.
    expected, _ = run_fault("plain", fault, False, Run())
    results = [run_fault("plain", fault, True, run)[0] for run in RUNS]
    assert any((result != expected).any() for result in results)


def test_late_copies_come_late():
    expected, _ = run_fault("plain", "copy_waited_one_short", False, Run())
    early, _ = run_fault("plain", "copy_waited_one_short", True, Run())
    late, _ = run_fault("plain", "copy_waited_one_short", True, Run(late_copies=True))
    np.testing.assert_array_equal(early, expected)
    assert np.isnan(late).any()  # shared memory's initial content


def counted(fault, broken):
    _, counters = run_fault("race", fault, broken, Run(), count=True)
    here = marked("here", fault)
    space = "global" if fault == "uncoalesced" else "shared"
    [line] = [
        c for c in counters if c["line"].endswith(here) and c["space"] == space and not c["write"]
    ]
    return line["accesses"], line["cost"], line["least"]


def test_bank_conflicts_are_counted():
    assert counted("bank_conflicts", True) == (32, 32 * 32, 32)
    assert counted("bank_conflicts", False) == (32, 32, 32)
    assert counted("ldmatrix_bank_conflicts", True) == (2, 2 * 4 * 8, 2 * 4)
    assert counted("ldmatrix_bank_conflicts", False) == (2, 2 * 4, 2 * 4)


def test_uncoalesced_accesses_are_counted():
    assert counted("uncoalesced", True) == (32, 32 * 32, 32 * 4)
    assert counted("uncoalesced", False) == (32, 32 * 4, 32 * 4)


def test_bytes_are_counted():
    _, counters = run_fault("race", "uncoalesced", False, Run(), count=True)
    moved = {c["write"]: c["bytes"] for c in counters if c["space"] == "global"}
    assert moved == {False: 4096, True: 4096}


CASES = wrappers.cases()


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "_"))
def test_wrapper(case, build):
    for run in RUNS if build == "plain" else RUNS[-2:]:
        case.check(lambda *arguments, run=run: emulated.load(build).call(*arguments, run))


@pytest.mark.parametrize("blocks, threads", [((0, 1, 1), 32), ((1, 1, 1), 48), ((1, 1, 1), 1056)])
def test_impossible_launch(blocks, threads):
    with pytest.raises(KernelError, match="invalid"):
        emulated.load("plain").call("wrapper_index", [np.zeros(1, np.int32)], [*blocks, threads])


def test_wrapper_kernels_compile_with_nvcc_for_newer_gpus_too():
    if shutil.which("nvcc") is None:
        pytest.skip("needs nvcc")
    if code.tool("cuobjdump") is None:
        pytest.skip("needs cuobjdump")
    found = code.run("cuobjdump", "--list-elf", "--list-ptx", emulated.build_cuda())
    assert set(re.findall(r"\.(sm_\w+\.\w+)", found)) == {
        "sm_80.cubin",
        "sm_90a.cubin",
        "sm_80.ptx",
    }


def test_wrapper_kernels_are_built_for_the_targets_of_the_others():
    targets = re.search(r'CMAKE_CUDA_ARCHITECTURES "(\w.*?)"', CMAKE.read_text())[1].split(";")
    kinds = {"real": "sm", "virtual": "compute"}
    named = [target.split("-") for target in targets]
    assert tuple(f"{kinds[kind]}_{number}" for number, kind in named) == emulated.CUDA_TARGETS


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "_"))
def test_wrapper_on_gpu(case):
    if WHY_NOT_ON_CUDA:
        pytest.skip(WHY_NOT_ON_CUDA)
    if shutil.which("nvcc") is None:
        pytest.skip("needs nvcc")
    library = emulated.load_cuda()
    if case.shared_bytes > library.most_shared_bytes():
        pytest.skip("a block has less shared memory on this GPU")
    case.check(library.call)
