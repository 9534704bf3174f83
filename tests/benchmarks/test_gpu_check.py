"""Tests benchmarks/gpu_check.py without a GPU."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import emulated
import fastconv
import gpu.blocks
import gpu.dry_run
import gpu.layers
import gpu.parts
import gpu.small_set
import gpu.sweep
import gpu_check
import readme_table
from emulated import wrappers
from fastconv import implementations
from fastconv.testing import Problem
from gpu import outcomes, report
from gpu.budget import Budget
from show import table

SCRIPT = Path(gpu_check.__file__)
ROOT = SCRIPT.parents[1]


class Clock:
    """A clock that tests advance."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_budget():
    clock = Clock()
    budget = Budget(60, clock)
    assert budget.left() == 60 and budget.allows(60) and not budget.allows(61)
    clock.now += 59
    assert budget.left() == 1 and not budget.allows(2)
    clock.now += 100
    assert budget.left() == 0 and not budget.allows(1)


def test_parts_are_chosen_by_name_and_keep_their_order():
    assert gpu_check.choose(None) == gpu_check.PARTS
    assert [part.name for part in gpu_check.choose("blocks, build")] == ["build", "blocks"]
    for wrong in ("nonsense", "build,nonsense", ""):
        with pytest.raises(ValueError, match="there are build, wrappers"):
            gpu_check.choose(wrong)


def test_every_part_has_a_function_and_is_in_the_help():
    names = [part.name for part in gpu_check.PARTS]
    assert list(gpu.parts.PARTS) == names
    for name in names:
        assert f"\n    {name} " in gpu_check.__doc__


@pytest.mark.parametrize(
    "arguments, says",
    [
        ([], "--out"),
        (["--out", "x", "--parts", "nonsense"], "no part 'nonsense'"),
        (["--out", "x"], "gpu_check needs a GPU: torch"),
        (["--out", "x"], "; --dry-run does without"),
    ],
)
def test_command_line_without_a_gpu(arguments, says, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    command = [sys.executable, str(SCRIPT), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert says in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1 or "usage" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_dry_run_runs_every_part_and_says_what_it_left_out(emulated_builds, tmp_path):
    emulated_builds("plain")
    command = [sys.executable, str(SCRIPT), "--out", str(tmp_path / "dry"), "--dry-run"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    found = report.Report(tmp_path / "dry").parts
    assert list(found) == [part.name for part in gpu_check.PARTS] == list(gpu.dry_run.PARTS)
    for name, part in found.items():
        assert part["status"] == "ok" and not part.get("problems"), name
        assert "; not run: " in part["summary"], name
        assert "result" not in part, name  # no time of a CPU is taken for a GPU's
    assert "95 of 95 wrappers' cases" in found["wrappers"]["summary"]
    assert "105 of 105 layers" in found["layers"]["summary"]


def kernel_names(launches):
    """Names of the kernels' templates."""
    return {re.search(r"(\w+_kernel)\b", launch["kernel"])[1] for launch in json.loads(launches)}


def test_compute_sanitizer_sees_every_kind_of_kernel(emulated_kernels):
    emulated.configure(emulated_kernels, count=True)
    try:
        emulated_kernels.take_launches()
        ran = list(gpu.small_set.run("emulated"))
        launched = kernel_names(emulated_kernels.take_launches())
    finally:
        emulated.configure(emulated_kernels)
    sources = [path.read_text() for path in (ROOT / "csrc" / "cuda").glob("*.cuh")]
    pattern = r"FASTCONV_KERNEL(?:_BOUNDS\([^)]*\))?\s+(\w+)\("
    assert launched == {name for text in sources for name in re.findall(pattern, text)}

    kinds = {direction: set() for direction in ("fprop", "dgrad", "wgrad")}
    seen = set()
    for operation, variant, text in ran:
        if operation in kinds:
            problem = Problem.parse(text)
            kind = gpu.small_set.kind(variant)
            kinds[operation].add(kind)
            dtype = "tf32" if problem.tf32 else str(problem.dtype)
            seen.add((kind, dtype, problem.layout, problem.pool and problem.pool.window))
    both = {"exact", "mma"}
    assert kinds == {
        "fprop": both | {"first"},
        "dgrad": both,
        "wgrad": both | {"first", "windows", "sparse_windows"},
    }
    for kind in ("mma", "first", "windows", "sparse_windows"):
        assert {dtype for k, dtype, *_ in seen if k == kind} == {
            "tf32",
            "torch.float16",
            "torch.bfloat16",
        }, kind
    assert {layout for k, dtype, layout, _ in seen if dtype == "torch.float16"} == {"nchw", "nhwc"}
    for kind in ("exact", "mma", "first"):
        assert {(2, 2), (3, 3), None} <= {pool for k, _, _, pool in seen if k == kind}, kind


def test_cases_beyond_a_blocks_shared_memory_are_not_asked():
    cases = wrappers.cases()
    written = {}

    def check(most):
        asked = []

        def call(entry, arrays, numbers):
            asked.append(entry)
            raise RuntimeError("invalid argument")

        gpu.parts.check_wrappers(lambda **r: written.update(r), call, most)
        assert len(asked) == len(written["problems"])
        return len(asked), written["summary"].partition("; ")[2]

    most = 227 << 10
    assert check(most) == (len(cases), "")
    names = [f"{size << 10} bytes of shared memory" for size in (100, 160)]
    not_asked = f"not asked: {', '.join(names)}, where a block has 99 KiB"
    assert check(99 << 10) == (len(cases) - 2, not_asked)


def run_parts(folder, seconds, took, bad=()):
    """gpu_check.run with parts that write a result and take the given time."""
    clock = Clock()
    limits = {}

    def part(chosen, where, limit):
        limits[chosen.name] = limit
        clock.now += min(took.get(chosen.name, 0), limit)
        if chosen.name not in bad:
            report.Report(where).write(chosen.name, status="ok", summary="done")
        return dict(bad).get(chosen.name, "")

    code = gpu_check.run(gpu_check.PARTS, folder, Budget(seconds, clock), part)
    return code, report.Report(folder).parts, limits


def test_parts_stop_when_time_is_short(tmp_path):
    code, parts, limits = run_parts(tmp_path, 475, {"build": 150, "tests": 300, "cpu": 35})
    assert code == 0 and [p["status"] for p in parts.values()] == ["ok"] * 8
    assert limits["tests"] == 100 and limits["blocks"] == 475 - 150 - 100 - 35

    code, parts, _ = run_parts(tmp_path, 130, {"build": 115})
    assert code == 1 and parts["build"]["status"] == "ok"
    assert {p["status"] for name, p in parts.items() if name != "build"} == {"left out"}
    assert parts["blocks"]["summary"] == "15 s are left, it takes 30"
    assert "| blocks | left out | 15 s are left" in (tmp_path / "gpu.md").read_text()


def test_a_part_that_ends_badly_does_not_end_the_others(tmp_path):
    bad = {"tests": "exit code -6, see tests.log", "cpu": "ended after 35 s"}
    code, parts, _ = run_parts(tmp_path, 475, {}, bad)
    assert code == 1
    assert parts["tests"]["status"] == "failed" and "exit code -6" in parts["tests"]["summary"]
    assert parts["cpu"]["status"] == "out of time" and parts["blocks"]["status"] == "ok"


def test_a_part_is_a_process_whose_end_shows(tmp_path):
    report.Report(tmp_path).write("nonsense", status="started")
    part = gpu_check.Part("nonsense", 0, 60)
    assert gpu_check._run(part, tmp_path, 60) == "exit code 1, see nonsense.log"
    assert "KeyError" in (tmp_path / "nonsense.log").read_text()


PYTEST = """\
tests/test_a.py::test_one[cuda] PASSED                                   [ 20%]
tests/test_a.py::test_two[cuda-a b] FAILED                               [ 40%]
tests/test_a.py::test_three SKIPPED (needs a thing)                      [ 60%]
tests/test_a.py::test_four printed something
more
PASSED                                                                   [ 80%]
"""
LAST = "=========== 1 failed, 2 passed, 1 skipped in 3.21s (0:00:03) ===========\n"


def test_outcomes_of_pytest():
    found = outcomes.read(PYTEST + LAST)
    assert found["counts"] == {"PASSED": 2, "FAILED": 1, "SKIPPED": 1}
    assert found["failed"] == ["tests/test_a.py::test_two[cuda-a b]"]
    assert found["ended"] and not found["unfinished"] and not found["ok"]
    assert outcomes.read(PYTEST.replace("FAILED", "PASSED") + LAST)["ok"]
    killed = outcomes.read(PYTEST.replace("FAILED", "PASSED") + "tests/test_a.py::test_five ")
    assert killed["unfinished"] == "tests/test_a.py::test_five" and not killed["ok"]
    assert not outcomes.read("no tests ran")["ok"]


def times(**medians):
    return {name.replace("_", " "): {"q1": m, "median": m, "q3": m} for name, m in medians.items()}


WHERE = {
    "gpu": "Test GPU",
    "driver": "1.2",
    "torch": "2.0",
    "cudnn": 9,
    "convolutions use tf32": True,
}
MODES = {"forward": times(torch_eager_NCHW=0.4, fastconv_NCHW=0.1), "backward": {}}


def made_up(block, batch, repeat, compiled, device):
    modes = {**MODES, "backward": times(torch_eager_NCHW=0.3)}
    return {
        "letter": block.letter,
        "name": block.name,
        "problem": str(block.problem),
        "milliseconds": modes,
        "wall": modes,
        "wrong": [],
    }


def taking(seconds, clock, function):
    """The function, slowed down."""

    def slow(*arguments):
        clock.now += seconds
        return function(*arguments)

    return slow


def test_blocks_are_written_one_by_one_as_far_as_time_reaches():
    clock = Clock()
    written = []

    slow = taking(15, clock, made_up)
    # Seven blocks, two of them again with torch.compile, which needs 40 seconds at first.
    gpu.blocks.run(lambda **r: written.append(r), Budget(7 * 15 + 60, clock), WHERE, slow)
    counts = [len(w["result"]["blocks"]) for w in written if "result" in w]
    assert counts == [1, 2, 3, 4, 5, 6, 7, 7, 7]
    last = written[-1]["problems"]
    assert last == ["CaseStudy-3 with torch.compile and 4 more: left out, 30 s are left"]


def test_a_block_that_fails_does_not_end_the_others():
    def fails(block, *arguments):
        if block.letter == "B":
            raise RuntimeError("no kernel")
        return made_up(block, *arguments)

    written = {}
    gpu.blocks.run(lambda **r: written.update(r), Budget(1e4, Clock()), WHERE, fails)
    assert written["status"] == "failed" and len(written["result"]["blocks"]) == 6
    assert written["problems"][0] == "CaseStudy-2: RuntimeError: no kernel"


def test_report_of_made_up_results(tmp_path):
    found = report.Report(tmp_path)
    found.write("build", status="ok", summary="a | b", seconds=12.3)
    gpu.blocks.run(lambda **r: found.write("blocks", **r), Budget(1e4, Clock()), WHERE, made_up)
    text = (tmp_path / "gpu.md").read_text()
    assert "| build | ok | a / b | 12 |" in text
    assert "| 400 -> 100 (**4.0x**) | 300 -> none |" in text
    assert "| A CaseStudy-1 | forward | fastconv NCHW | 100 | 100-100 | 4.00x | 100 |" in text
    assert "us, device time, L2 cache flushed, batch 64, float32, medians of 25" in text
    assert "(eager, NCHW and channels_last)" in text
    assert "Test GPU, driver 1.2, torch 2.0 with TF32, cuDNN 9." in text
    # The same file makes README's table.
    parts = json.loads((tmp_path / "gpu.json").read_text())
    assert readme_table.gpu([parts]) == table.summary(parts["parts"]["blocks"]["result"])


def made_up_layer(problem, repeat):
    assert problem.n == 32 and problem.layout == "nhwc" and repeat == 15
    modes = {"forward": times(torch=0.4, fastconv=0.1), "backward": times(torch=0.3)}
    return {"milliseconds": modes, "wrong": []}


def test_layers_are_written_one_by_one_as_far_as_time_reaches():
    clock = Clock()
    written = []

    slow = taking(10, clock, made_up_layer)
    # The first dtype and four layers of the next.
    gpu.layers.run(lambda **r: written.append(r), Budget(35 * 10 + 48, clock), WHERE, slow)
    counts = [len(w["result"]["layers"]) for w in written if "result" in w]
    assert counts == list(range(1, 40))
    *_, last, end = written
    dtypes = [layer["dtype"] for layer in last["result"]["layers"]]
    assert dtypes == ["bf16"] * 35 + ["f16"] * 4
    assert last["summary"] == "39 of 105 layers measured" and last["problems"] == []
    macs = [
        Problem.parse(layer["problem"]).macs * layer["uses"] for layer in last["result"]["layers"]
    ]
    assert macs[:35] == sorted(macs[:35], reverse=True) and macs[35:] == macs[:4]
    assert len(end["problems"]) == 1
    assert end["problems"][0].endswith("_f16_nhwc and 65 more: left out, 8 s are left")


def test_a_layer_that_is_wrong_or_fails_is_told_and_does_not_end_the_others():
    def fails(problem, repeat):
        if (problem.r, problem.dtype) == (7, torch.float16):
            raise RuntimeError("no kernel")
        wrong = ["forward, fastconv: y is wrong"] * ((problem.r, problem.dtype) == (7, torch.float))
        return {**made_up_layer(problem, repeat), "wrong": wrong}

    written = {}
    gpu.layers.run(lambda **r: written.update(r), Budget(1e4, Clock()), WHERE, fails)
    assert written["status"] == "failed" and len(written["result"]["layers"]) == 104
    stem = "ResNet-50 mb32ic3ih224iw224oc64kh7kw7sh2sw2ph3pw3dh1dw1g1_nobias"
    assert written["problems"] == [
        f"{stem}_f16_nhwc: RuntimeError: no kernel",
        f"{stem}_f32_nhwc: forward, fastconv: y is wrong",
    ]


def test_report_of_made_up_layers(tmp_path):
    found = report.Report(tmp_path)
    gpu.layers.run(
        lambda **r: found.write("layers", **r), Budget(1e4, Clock()), WHERE, made_up_layer
    )
    text = (tmp_path / "gpu.md").read_text()
    assert "| layer | dtype | forward, torch us | forward, fastconv us | forward, ratio |" in text
    numbers = "400 | 100 | **4.0x** | 300 | none |  |"
    assert f"| ResNet-50: 3->64 7x7 s2, 224x224 | bf16 | {numbers}" in text
    assert f"| ResNet-50: 256->256 3x3, 14x14, 5 times | f32 | {numbers}" in text
    assert f"| VGG-16: 512->512 3x3, 14x14, ReLU, 2 times | f16 | {numbers}" in text
    assert f"| VGG-16: 512->512 3x3, 14x14, pool 2 | f16 | {numbers}" in text
    assert "us, device time, L2 cache flushed, batch 32, channels_last, medians of 15." in text


def made_up_sweep(problem, repeat):
    """The default is the fastest forward, and slower than another one of wgrad's."""
    found = {name: {"median": ms} for name, ms in (("mma128x128", 0.2), ("mma64x64", 0.3))}
    other = {name: {"median": ms} for name, ms in (("mma128x64", 0.2), ("mma128x32", 0.1))}
    return {"milliseconds": {"fprop": found, "wgrad": other}, "wrong": []}


def test_sweep_gives_a_table_of_what_is_faster_than_the_default(tmp_path):
    found = report.Report(tmp_path)
    budget = Budget(1e4, Clock())
    gpu.sweep.run(lambda **r: found.write("sweep", **r), tmp_path, budget, WHERE, made_up_sweep)
    assert found.parts["sweep"]["summary"] == "70 of 140 defaults are not the fastest"
    text = (tmp_path / "gpu.md").read_text()
    numbers = "wgrad | 200 | 100 | **2.0x** | mma128x64 | mma128x32 |"
    assert f"| ResNet-50: 256->256 3x3, 14x14 | bf16 | {numbers}" in text
    path = tmp_path / "implementations.json"
    entries = json.loads(path.read_text())["implementations"]
    assert len(entries) == 70
    assert {e["direction"] + e["implementation"] for e in entries} == {"wgradmma128x32"}
    try:
        fastconv.load_implementations(path)
        assert len(implementations.table) == 70
    finally:
        fastconv.load_implementations(None)


def test_readme_says_when_no_gpu_was_measured():
    assert readme_table.gpu([]) == "Not measured."
    assert readme_table.gpu([{"parts": {"build": {"status": "failed"}}}]) == "Not measured."
