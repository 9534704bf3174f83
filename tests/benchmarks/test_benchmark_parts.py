"""Tests whole parts of the benchmarks that need new processes or compilers, on tiny problems."""

import json

import pytest
import torch

import fastconv
from measure import calls, fresh, timing, tiny_calls
from parts import memory, networks, overhead, startup

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def short(monkeypatch, one_thread):
    """Makes as few calls as possible."""
    monkeypatch.setattr(timing, "SAMPLE_SECONDS", 1e-9)


@pytest.fixture
def tiny(monkeypatch):
    """The networks, with small images."""
    sizes = {"CNN": 16, "CaseStudyCNN": 16, "SimpleCNN": 96, "SqueezeNet 1.1": 64, "ResNet-50": 64}
    changed = {n: e._replace(image_size=sizes[n], batch=4) for n, e in networks.NETWORKS.items()}
    monkeypatch.setattr(networks, "NETWORKS", changed)


def test_networks(tiny):
    found = networks.run(list(networks.NETWORKS), 1, compiled=False)
    assert json.loads(json.dumps(found)) == found
    modes = [(e["network"], e["mode"], e["batch"]) for e in found["networks"]]
    assert modes == [
        (name, mode, batch)
        for name in networks.NETWORKS
        for mode, batch in (("training step", 4), ("inference", 1))
    ]
    summary = networks.summary(found)
    assert "| ResNet-50, 64x64 | inference, batch 1 |" in summary
    assert len(networks.text(found).splitlines()) > len(summary.splitlines()) + 4 * len(modes)


def test_a_compiled_network(tiny):
    network = networks.NETWORKS["CNN"]
    found = networks.run_network("CNN", network, "inference", 1, 1, compiled=True)
    assert list(found["milliseconds"]) == [
        "torch eager NCHW",
        "torch eager channels_last",
        "torch.compile channels_last",
        "fastconv NCHW",
        "fastconv channels_last",
        "fastconv compiled channels_last",
    ]


def test_a_network_of_16_bits_runs_by_autocast(tiny):
    found = networks.run(["CNN"], 1, compiled=False, dtype="bfloat16")
    for entry in found["networks"]:
        assert [name for name in entry["milliseconds"] if name.startswith(calls.FLOAT32)] == [
            f"{calls.FLOAT32} {name}" for name in calls.FORMATS
        ]
    assert "bfloat16, medians" in networks.summary(found)


@pytest.mark.parametrize("mode", networks.MODES)
def test_a_wrong_network_is_not_timed(tiny, monkeypatch, mode):
    def broken(model, **options):
        model = right(model, **options)
        with torch.no_grad():
            model.features[0].weight *= 1.1
        return model

    right = fastconv.convert
    monkeypatch.setattr(fastconv, "convert", broken)
    monkeypatch.setattr(timing, "alternate", lambda *_, **__: pytest.fail("it was timed"))
    with pytest.raises(AssertionError, match=f"CNN, {mode}, fastconv NCHW: result . is off by"):
        networks.run_network("CNN", networks.NETWORKS["CNN"], mode, 2, 1, compiled=False)


@pytest.mark.skipif(not memory._CLEAR.exists(), reason="needs Linux")
def test_memory(tiny):
    found = memory.run(["CNN"], 2, compiled=False, batch=8)
    [entry] = found["networks"]
    assert list(entry["bytes"]) == [str(v) for v in networks.variants(compiled=False)]
    assert all(t["q1"] > 0 for t in entry["bytes"].values())
    assert "| CNN, 16x16, batch 8 |" in memory.summary(found)


@pytest.mark.skipif(not memory._CLEAR.exists(), reason="needs Linux")
def test_memory_counts_what_a_step_takes(run_python):
    code = """if 1:
        import sys
        sys.path.insert(0, sys.argv[1])
        import torch
        from parts import memory, networks

        class Greedy(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = torch.nn.Parameter(torch.ones(1))

            def forward(self, x):
                torch.ones(50_000_000).sum()  # and freed again
                return x.flatten(1)[:, :10] * self.weight

        networks.NETWORKS["CNN"] = networks.NETWORKS["CNN"]._replace(build=lambda size: Greedy())
        print(*memory.measure("CNN", "torch eager NCHW", 2, 16, 2))
    """
    done = run_python(code, str(fresh.BENCHMARKS), **memory._ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    for peak in map(int, done.stdout.split()):
        assert 198e6 < peak < 220e6


def test_overhead(monkeypatch):
    monkeypatch.setattr(overhead, "OPERATIONS", {"relu": overhead.OPERATIONS["relu"]})
    block = "converted ResNet block"
    monkeypatch.setattr(overhead, "MODULES", {block: overhead.MODULES[block]})
    found = overhead.run(1, processes=1)
    assert [(call["operation"], call["mode"]) for call in found["calls"]] == [
        (name, mode) for name in ("relu", block) for mode in overhead.MODES
    ]
    what = {entry["what"]: list(entry["milliseconds"]) for entry in found["startup"]}
    assert what["import torch"] == ["torch", "fastconv"]
    assert what["import fastconv, after torch"] == ["fastconv"]
    assert what[f"first {tiny_calls.BLOCK}, forward + backward"] == ["torch", "fastconv"]
    sizes = startup.installed_bytes()
    assert sizes["all"] >= sizes["kernels"] + sizes["pictures"] and sizes["kernels"] > 100_000
    assert "of that kernels" in overhead.text(found)
