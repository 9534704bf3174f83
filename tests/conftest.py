"""The settings and fixtures of all tests."""

import os
import re
import subprocess
import sys

import pytest
import torch
from hypothesis import HealthCheck, is_hypothesis_test, settings

import emulated
from fastconv import functional
from fastconv.testing import kernels

# The examples are the same every time; `HYPOTHESIS_PROFILE=thorough pytest` draws new ones.
_common = dict(
    deadline=None,
    print_blob=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
settings.register_profile("ci", max_examples=60, derandomize=True, database=None, **_common)
settings.register_profile("thorough", max_examples=1000, **_common)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    """FASTCONV_REQUIRE names required tools. Tests that would be skipped without them fail.

    It is a regular expression, such as nvcc|cuobjdump. CI sets it.
    """
    report = yield
    required = os.environ.get("FASTCONV_REQUIRE")
    if report.skipped and required and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2]
        if re.search(rf"needs .*\b({required})\b", reason):
            report.outcome, report.longrepr = "failed", f"{reason}, which FASTCONV_REQUIRE names"
    return report


@pytest.fixture(autouse=True)
def threads_as_before():
    """Restores torch's number of threads after a test."""
    before = torch.get_num_threads()
    yield
    if torch.get_num_threads() != before:
        torch.set_num_threads(before)


@pytest.fixture
def one_thread(threads_as_before):
    """One thread, for many small operations, where threads mostly wait for each other."""
    torch.set_num_threads(1)


def pytest_configure(config):
    """Announces builds of the emulator, although pytest captures prints of tests."""

    def say(text):
        with config.pluginmanager.get_plugin("capturemanager").global_and_fixture_disabled():
            config.pluginmanager.get_plugin("terminalreporter").write_line(text)

    emulated.say = say


def pytest_report_header():
    """Says why tests of kernels on a GPU do not run."""
    why = kernels.WHY_NOT_ON_CUDA
    return f"left out: tests of kernels on a GPU: {why}" if why else None


def pytest_addoption(parser):
    """Adds the options for slow tests; without them only the quick tests run."""
    group = parser.getgroup("fastconv")
    one_of = dict(dest="which", action="store_const", default="quick")
    group.addoption("--all", const="all", help="run slow and emulated tests too", **one_of)
    group.addoption("--rest", const="rest", help="run slow and emulated tests alone", **one_of)


@pytest.hookimpl(tryfirst=True)  # so that -m sees the markers that are set here
def pytest_collection_modifyitems(config, items):
    """Marks tests by the device that they run on; chooses quick ones, the rest, or all.

    A test is slow if it is marked so, if it draws random examples (hypothesis), or if it needs the
    emulated builds, which take minutes to compile: by the fixture `emulated_builds`, or by the
    device "emulated".
    """
    chosen, others = [], []
    for item in items:
        device = item.callspec.params.get("device") if hasattr(item, "callspec") else None
        if device == "emulated" or "emulated_builds" in item.fixturenames:
            item.add_marker("emulated")
        if device == "cuda":
            item.add_marker("gpu")
        if is_hypothesis_test(getattr(item, "obj", None)):
            item.add_marker("slow")
        slow = any(map(item.get_closest_marker, ("slow", "emulated")))
        wanted = config.option.which in ("all", "rest" if slow else "quick")
        (chosen if wanted else others).append(item)
    config.hook.pytest_deselected(items=others)
    items[:] = chosen


@pytest.fixture(scope="session")
def emulated_builds():
    """`emulated.build`, which compiles changed builds. Tests that load a build need it."""
    if missing := emulated.missing():
        pytest.skip(f"needs {', '.join(missing)}")
    return emulated.build


@pytest.fixture(scope="session")
def emulated_kernels(emulated_builds):
    """The CUDA kernels for a CPU: kernels.modules["emulated"].

    FASTCONV_EMULATED_BUILD chooses among the builds that find faults: plain, race or asan.
    """
    name = os.environ.get("FASTCONV_EMULATED_BUILD", "plain")
    kernels.modules["emulated"] = emulated.load_kernels(name)
    return kernels.modules["emulated"]


@pytest.fixture(scope="module")
def counted_kernels(emulated_builds):
    """The same in the race build, which counts how they use memory."""
    module = emulated.load_kernels("race")
    emulated.configure(module, count=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(kernels.modules, "emulated", module)
        yield module
    emulated.configure(module)


@pytest.fixture(scope="session", params=kernels.DEVICES)
def device(request):
    """The device of a test's kernels: the CPU, the CUDA emulator and, if any, a GPU."""
    if request.param == "emulated":
        request.getfixturevalue("emulated_kernels")
    return request.param


@pytest.fixture
def run_python(tmp_path):
    """Runs code in a new process and returns the result of subprocess.run.

    The process runs in an empty folder, since the repository's ./fastconv, which has no compiled
    part, would shadow the installed package. The time limit ends a hang.
    """

    def run(code, *arguments, options=("-S",) if sys.flags.no_site else (), **environment):
        return subprocess.run(
            [sys.executable, *options, "-c", code, *arguments],
            env={**os.environ, **environment},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
        )

    return run


@pytest.fixture
def fused(monkeypatch):
    """A function that counts fused operations since its last call: with a pool, and without."""
    calls = []

    def counted(name, run):
        def call(*arguments):
            calls.append(name)
            return run(*arguments)

        return call

    for name in ("conv2d_relu_max_pool2d", "conv2d_relu"):
        monkeypatch.setattr(functional, name, counted(name, getattr(functional, name)))

    def count():
        counts = calls.count("conv2d_relu_max_pool2d"), calls.count("conv2d_relu")
        calls.clear()
        return counts

    return count
