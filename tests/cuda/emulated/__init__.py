"""Runs CUDA kernels in the emulator (csrc/emulator), for tests.

    library = emulated.load("race")                      # or "plain", "asan"
    library.call("relu_fprop", [x, y], [x.size], emulated.Run("random", seed=3))

An entry (FASTCONV_ENTRY in a .cu file of this folder) takes numpy arrays and integers. Arrays are
copied to memory of their exact size and back, so y holds the result. Arrays that are not writeable
are not copied back. A report raises KernelError. `load_cuda` offers the same call on a GPU.
"""

import ctypes
import dataclasses
import fcntl
import functools
import importlib.util
import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[3]
SCHEDULES = ("forward", "reverse", "random", "ahead")
BUILDS = ("plain", "race", "asan")


class KernelError(RuntimeError):
    """The emulator's report, "file:line: what"; or AddressSanitizer's or UBSan's."""


@dataclasses.dataclass(frozen=True)
class Run:
    """The order of threads, and the time at which asynchronous copies move their bytes.

    seed: of `random`; of `ahead`, the warp that runs ahead.
    """

    schedule: str = "forward"
    seed: int = 0
    late_copies: bool = False

    def __str__(self):
        return f"{self.schedule}{self.seed}{'-late' if self.late_copies else ''}"


RUNS = [
    Run(schedule, seed, late)
    for schedule, seed in [
        ("forward", 0),
        ("reverse", 0),
        ("random", 1),
        ("random", 2),
        ("ahead", 0),
        ("ahead", 1),
    ]
    for late in (False, True)
]


class Library:
    """The library of a build, in this process."""

    def __init__(self, path):
        self._library = ctypes.CDLL(str(path))

    def _raw(self, entry, pointers=(), numbers=()):
        function = getattr(self._library, entry)
        function.restype = ctypes.c_char_p
        result = function(
            (ctypes.c_void_p * len(pointers))(*pointers), (ctypes.c_int64 * len(numbers))(*numbers)
        )
        return None if result is None else result.decode()

    def _checked(self, *arguments):
        error = self._raw(*arguments)
        if error is not None:
            raise KernelError(error)

    def _device_copy(self, array):
        address = ctypes.c_void_p()
        self._checked("emulator_allocate", [ctypes.addressof(address)], [array.nbytes])
        ctypes.memmove(address.value, array.ctypes.data, array.nbytes)
        return address.value

    def call(self, entry, arrays, numbers=(), run=Run(), count=False):
        """With `count`, in the race build, returns the counters of csrc/emulator/counters.h."""
        assert all(a is None or a.flags.c_contiguous for a in arrays)
        settings = [SCHEDULES.index(run.schedule), run.seed, run.late_copies, count]
        self._checked("emulator_configure", [], settings)
        device = [a if a is None else self._device_copy(a) for a in arrays]
        try:
            self._checked(entry, device, numbers)
            for array, address in zip(arrays, device, strict=True):
                if array is not None and array.flags.writeable:
                    ctypes.memmove(array.ctypes.data, address, array.nbytes)
        finally:
            for address in device:
                if address is not None:
                    self._raw("emulator_free", [address])
        return json.loads(self._raw("emulator_take_counters")) if count else None


class ChildLibrary:
    """The asan build, in another process.

    AddressSanitizer must be loaded at a process's start, and its report ends the process.
    """

    def __init__(self, path):
        self._path = path
        self._child = None

    def _start(self):
        runtime = subprocess.check_output(["g++", "-print-file-name=libasan.so"], text=True).strip()
        environment = {
            **os.environ,
            "LD_PRELOAD": runtime,
            "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        self._child = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("child.py"), self._path],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def call(self, entry, arrays, numbers=(), run=Run()):
        if self._child is None:
            self._start()
        child = self._child
        try:
            pickle.dump((entry, arrays, list(numbers), run), child.stdin)
            child.stdin.flush()
            results, error = pickle.load(child.stdout)
        except (EOFError, BrokenPipeError):
            report = child.communicate()[1].decode(errors="replace")
            self._child = None
            raise KernelError(report) from None
        if error is not None:
            raise KernelError(error)
        for array, result in zip(arrays, results, strict=True):
            if array is not None and array.flags.writeable:
                array[...] = result

    def close(self):
        if self._child is not None:
            self._child.communicate()
            self._child = None


class CudaLibrary(Library):
    """The same entries compiled by nvcc, on torch's current GPU."""

    def most_shared_bytes(self):
        """The largest shared memory of a block on the GPU, in bytes."""
        import torch

        return torch.cuda.get_device_properties().shared_memory_per_block_optin

    def call(self, entry, arrays, numbers=()):
        import torch

        device = [a if a is None else torch.from_numpy(a.view(np.uint8)).cuda() for a in arrays]
        self._checked(entry, [0 if t is None else t.data_ptr() for t in device], numbers)
        torch.cuda.synchronize()
        for array, tensor in zip(arrays, device, strict=True):
            if array is not None and array.flags.writeable:
                array.view(np.uint8)[...] = tensor.cpu().numpy()


def build_folder():
    return Path(os.environ.get("FASTCONV_EMULATED_DIR", ROOT / "build" / "emulated"))


def say(text):
    """Announces a long build. tests/conftest.py makes pytest print it."""
    print(text, file=sys.stderr, flush=True)


_built = set()


def build(*names):
    """Compiles the changed files of these builds, or of all builds, and returns their folder.

    A lock lets one process compile at a time.
    """
    wanted = sorted(set(names or BUILDS) - _built)
    if wanted:
        build_folder().mkdir(parents=True, exist_ok=True)
        with open(build_folder() / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            _build(wanted)
        _built.update(wanted)
    return build_folder()


def _build(names):
    import pybind11

    source = Path(__file__).parent
    folder = build_folder()
    settings = [
        f"-DPython_EXECUTABLE={sys.executable}",
        f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        *(["-G", "Ninja"] if shutil.which("ninja") else []),
    ]
    targets = [f"{kind}_{name}" for kind in ("emulated", "kernels") for name in names]
    what = f"the CUDA emulator ({', '.join(names)})"
    _run(what, "cmake", "-S", source, "-B", folder, *settings)
    parallel = "--parallel", str(os.cpu_count())
    _run(what, "cmake", "--build", folder, *parallel, "--target", *targets)


def _run(what, *command):
    """Runs CMake, and announces it if that compiles something.

    Raises:
        RuntimeError: CMake failed; the message has its output.
    """
    start, output = None, []
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, **pipes) as running:
        for line in running.stdout:
            output.append(line)
            if start is None and " Building " in line:
                start = time.monotonic()
                say(f"compiling {what} in {build_folder()}, up to ten minutes on two cores")
    if running.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{''.join(output)}")
    if start is not None:
        say(f"compiled {what} in {time.monotonic() - start:.0f} s")


@functools.cache
def load(name):
    path = build(name) / f"libemulated_{name}.so"
    return ChildLibrary(path) if name == "asan" else Library(path)


def missing():
    """The missing build tools."""
    tools = [tool for tool in ("g++", "cmake") if shutil.which(tool) is None]
    return tools if importlib.util.find_spec("pybind11") else [*tools, "pybind11"]


@functools.cache
def load_kernels(name):
    """The module whose entries are `fastconv._C`'s for CUDA.

    The asan build needs AddressSanitizer at the process's start:
    LD_PRELOAD=$(g++ -print-file-name=libasan.so).
    """
    module = f"kernels_{name}"
    [path] = build(name).glob(f"{module}.*.so")
    spec = importlib.util.spec_from_file_location(module, path)
    kernels = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kernels)
    return kernels


def configure(kernels, run=Run(), count=False):
    """Sets how the module's kernels run from now on."""
    kernels.configure(SCHEDULES.index(run.schedule), run.seed, run.late_copies, count)


# CMakeLists.txt's targets: GPUs' own code, and PTX that the driver compiles for newer ones.
CUDA_TARGETS = ("sm_80", "sm_90a", "compute_80")


def _for_target(target):
    """nvcc's option for a target, by its name in `fastconv._C.build_info()`."""
    kind, _, number = target.rpartition("_")
    if not number[0].isdigit():  # native, all
        return f"-arch={number}"
    code = target if kind else f"[compute_{number},sm_{number}]"
    return f"-gencode=arch=compute_{number},code={code}"


@functools.cache
def build_cuda(targets=CUDA_TARGETS):
    """Compiles the wrappers' test kernels with nvcc."""
    path = build_folder() / "libwrappers_cuda.so"
    path.parent.mkdir(parents=True, exist_ok=True)
    sources = Path(__file__).with_name("wrapper_kernels.cu"), ROOT / "csrc" / "simt" / "device.cu"
    options = ["-std=c++17", "-O3", "-shared", "-Xcompiler=-fPIC", *map(_for_target, targets)]
    subprocess.run(["nvcc", *options, *sources, "-o", path], check=True)
    return path


@functools.cache
def load_cuda():
    """For the GPUs that fastconv's own kernels were built for."""
    from fastconv import _C

    return CudaLibrary(build_cuda(tuple(_C.build_info()["cuda_targets"]) or CUDA_TARGETS))
