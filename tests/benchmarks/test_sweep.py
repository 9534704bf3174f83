"""Tests the sweep over random convolutions on tiny problems, except its times."""

import json

import pytest
import torch
from torch import nn

import fastconv
from fastconv.testing import Problem
from measure import timing
from parts import sweep
from show import plot

TINY = [
    "mb2ic4ih9iw9oc6kh3kw3sh2sw2ph1pw1g2_{}_nhwc",
    "mb2ic3ih8iw8oc8kh1kw1_{}_nchw",
]


@pytest.fixture(autouse=True)
def short(monkeypatch, one_thread):
    """Makes as few calls as possible."""
    monkeypatch.setattr(timing, "SAMPLE_SECONDS", 1e-9)


@pytest.fixture
def tiny(monkeypatch):
    """A sweep of two tiny problems of the wanted dtype."""

    def draw(dtype, count, seed):
        return [Problem.parse(text.format(sweep.TYPES[dtype])) for text in TINY][:count]

    monkeypatch.setattr(sweep, "draw", draw)


def test_draws_are_repeatable_valid_and_of_every_kind():
    drawn = sweep.draw("bfloat16", 200, 7)
    assert drawn == sweep.draw("bfloat16", 200, 7)
    assert drawn[:50] == sweep.draw("bfloat16", 50, 7) != sweep.draw("bfloat16", 50, 8)
    assert [p.replace(dtype=torch.float32) for p in drawn] == sweep.draw("float32", 200, 7)
    assert len(set(drawn)) == 200
    for problem in drawn:
        assert problem.valid() and problem.macs >= 10**7 and problem.dtype == torch.bfloat16
    for wanted in (
        lambda p: p.groups == 1,
        lambda p: p.groups == p.c == p.k > 1,
        lambda p: p.groups == p.c > 1 and p.k == 2 * p.c,
        lambda p: 1 < p.groups < p.c,
        lambda p: p.stride == (2, 2),
        lambda p: p.layout == "nhwc",
        lambda p: p.layout == "nchw",
    ):
        assert 5 < sum(map(wanted, drawn)) < 195
    assert {p.r for p in drawn} == set(range(1, 8))


@pytest.mark.parametrize("dtype", sweep.TYPES)
def test_a_sweep_compares_with_torch_and_in_16_bits_with_float32(tiny, dtype, tmp_path):
    result = sweep.run(dtype, 2, 1, 1)
    assert json.loads(json.dumps(result)) == result
    others = ["torch"] + [sweep.FLOAT32] * (dtype != "float32")
    for entry in result["problems"]:
        assert list(entry["milliseconds"]) == ["forward", "forward+backward"]
        for times in entry["milliseconds"].values():
            assert set(times) == {"fastconv", *others}
    found = sweep.ratios(result)
    assert list(found) == others
    for modes in found.values():
        assert all(len(ratios) == 2 for ratios in modes.values())
    text = sweep.text(result)
    assert all(problem.format(sweep.TYPES[dtype]) for problem in TINY)
    assert text.count("the slowest") == 2 * len(others)
    plot.histograms(tmp_path / "sweep.png", result)
    assert (tmp_path / "sweep.png").stat().st_size > 10_000


def test_a_ratio_below_1_is_measured_again(tiny, monkeypatch):
    ours = iter([2.0, 4.0, 1.0, 8.0, 1.0])  # seconds of fastconv; torch takes 1

    def alternate(functions, repeat, **limits):
        return {name: [next(ours) if name == "fastconv" else 1.0] for name in functions}

    monkeypatch.setattr(timing, "alternate", alternate)
    [entry] = sweep.run("float32", 1, 1, 1)["problems"]
    ratios = sweep.ratios({"problems": [entry]})["torch"]
    assert ratios["forward"] == {entry["problem"]: 1 / 4}
    assert ratios["forward+backward"] == {entry["problem"]: 1.0}


@pytest.mark.parametrize("dtype", sweep.TYPES)
def test_a_wrong_layer_is_not_timed(tiny, monkeypatch, dtype):
    class Broken(nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer = layer
            self.weight, self.bias = layer.weight, layer.bias

        def forward(self, x):
            return 1.1 * self.layer(x)

    monkeypatch.setattr(fastconv, "convert", Broken)
    monkeypatch.setattr(timing, "alternate", lambda *_, **__: pytest.fail("it was timed"))
    with pytest.raises(AssertionError, match=r"y is off by 0\.1: mb2ic4"):
        sweep.run(dtype, 1, 1, 1)
