"""Tests FASTCONV_VERBOSE: a line on sys.stderr per kernel call, and at level 2 the reasons."""

import re

import pytest

from fastconv.testing import Problem

CHILD = """
import importlib.util, io, sys
import torch
import fastconv
from fastconv import functional
from fastconv.testing import Problem, inputs, kernels

torch.set_num_threads(1)
device, text, precision = sys.argv[1:4]
fastconv.set_precision(precision)
if len(sys.argv) > 4:
    spec = importlib.util.spec_from_file_location(*sys.argv[4:])
    kernels.modules[device] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kernels.modules[device])
sys.stderr = lines = io.StringIO()
if text == "prepared":
    x, w = torch.ones(1, 16, 8, 8), torch.ones(16, 16, 3, 3)
    for _ in range(3):
        functional.conv2d(x, w)
elif text == "relu":
    y, mask = kernels.relu_fprop(torch.ones(37), device=device)
    kernels.relu_bprop(y, mask, device=device)
else:
    problem = Problem.parse(text)
    data, code = inputs.make(problem), kernels.make_code(problem, 0.5) if problem.k else None
    name = "highest" if precision == "highest" else ""
    if not problem.k:
        y, code = kernels.max_pool2d_fprop(problem, data.x, device=device)
        kernels.max_pool2d_bprop(problem, data.dy, code, device=device)
    else:
        kernels.fprop(problem, *data[:3], name, device=device)
        kernels.dgrad(problem, data.dy, code, data.w, name, layout=problem.layout, device=device)
        want_bias = {"want_bias": problem.bias}
        kernels.wgrad(problem, data.x, data.dy, code, name, device=device, **want_bias)
sys.stdout.write(lines.getvalue())
"""

LINE = re.compile(r"fastconv: (\w+) (\S+) (\S+) (\S+)(?: (\d+\.\d) us)?")
WHY = re.compile(r"fastconv:     not ([\w]+): (.+)")
POOL = "_pool2x2s2x2p0x0d1x1c0"
PROBLEMS = {
    "convolution": "mb2ic16ih9iw8oc24kh3kw2sh2sw1ph1pw2dh1dw2g2_nobias_f32_nhwc",
    "padded on two sides": "mb1ic4ih9iw8oc8kh2kw4ph0pw1pb1pr2_f64_nchw",
    "relu": "mb1ic8ih8iw8oc16kh3kw3ph1pw1_relu_bf16_nhwc",
    "pool": f"mb1ic8ih8iw8oc16kh3kw3ph1pw1{POOL}_f16_nchw",
    "ceil_mode": "mb1ic8ih10iw9oc16kh3kw3ph1pw1_pool3x2s2x3p1x0d1x2c1_f32_nhwc",
    "max_pool2d": "mb2ic5ih10iw11_pool3x3s2x2p1x1d1x1c1_f32_nchw",
}


@pytest.fixture
def said(run_python, request):
    """The lines of a child process."""

    def run(level, device, text, precision="high"):
        module = ()
        if device == "emulated":
            kernels = request.getfixturevalue("emulated_kernels")
            module = kernels.__name__, kernels.__file__
        done = run_python(CHILD, device, text, precision, *module, FASTCONV_VERBOSE=level)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return run


def operations(problem):
    if not problem.k:
        return ["max_pool2d_fprop", "max_pool2d_bprop"]
    return [f"conv2d_{direction}" for direction in ("fprop", "dgrad", "wgrad")]


@pytest.mark.parametrize("device", ["cpu", "emulated"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_a_line_names_the_call(name, device, said):
    problem = Problem.parse(PROBLEMS[name])
    lines = [LINE.fullmatch(line).groups() for line in said("1", device, PROBLEMS[name])]
    assert [line[0] for line in lines] == operations(problem)
    for operation, text, place, implementation, microseconds in lines:
        bias = problem.bias or operation == "conv2d_dgrad"  # which has none
        assert Problem.parse(text) == problem.replace(bias=bias)
        assert implementation
        if device == "cpu":
            assert place.startswith("cpu:") and float(microseconds) > 0
        else:  # where measuring would wait
            assert place == "cuda:0" and microseconds is None


def test_emulated_tf32_is_said(said, emulated_kernels):
    text = "mb1ic8ih8iw8oc16kh3kw3_tf32_nhwc"
    assert {Problem.parse(line.split()[2]).tf32 for line in said("1", "emulated", text)} == {True}


@pytest.mark.parametrize("device", ["cpu", "emulated"])
def test_relus_are_said(device, said):
    lines = [LINE.fullmatch(line).groups() for line in said("1", device, "relu")]
    assert [line[0] for line in lines] == ["relu_fprop", "relu_bprop"]
    for _, text, *_ in lines:
        assert Problem.parse(text).x_size == (1, 1, 1, 37) and Problem.parse(text).relu


def test_prepared_calls_are_said(said):
    assert len(said("1", "cpu", "prepared")) == 3


@pytest.mark.slow
def test_level_2_says_why_not(said):
    lines = said("2", "cpu", "mb1ic8ih9iw9oc16kh3kw3sh2sw2_f32_nhwc")
    found = dict(WHY.fullmatch(line).groups() for line in lines if "not" in line)
    assert set(found) >= {"depthwise", "winograd"}
    assert all(why.startswith("takes only ") for why in found.values())
    exact = said("2", "cpu", "mb4ic32ih16iw16oc32kh3kw3ph1pw1_f32_nhwc", "highest")
    assert "fastconv:     not winograd: not exact" in exact


def test_emulated_level_2_says_costs_and_times(said, emulated_kernels):
    lines = said("2", "emulated", "mb1ic8ih8iw8oc16kh3kw3_f16_nhwc")
    assert all(float(LINE.fullmatch(line)[5]) > 0 for line in lines if "not" not in line)
    assert any(re.search(r"not mma128x128: costs \d+ cycles, \w+ \d+$", line) for line in lines)


@pytest.mark.parametrize("level", ["0", ""])
def test_nothing_is_said_unasked(level, said):
    assert said(level, "cpu", PROBLEMS["relu"]) == []


@pytest.mark.slow
@pytest.mark.parametrize("level", ["3", "-1", "yes", "1 "])
def test_a_wrong_level_fails_the_import(level, run_python):
    done = run_python("import fastconv", FASTCONV_VERBOSE=level)
    assert done.returncode != 0
    assert f"FASTCONV_VERBOSE must be 0, 1 or 2, got {level}" in done.stderr


@pytest.mark.parametrize("stderr", ["closed", "None", "3"])
def test_a_call_does_not_fail_for_want_of_a_place_to_print(stderr, run_python):
    code = f"""
import os, sys, torch, fastconv
closed = open(os.devnull, "w")
closed.close()
before, sys.stderr = sys.stderr, {stderr}
y = [fastconv.functional.relu(torch.ones(3)) for _ in range(2)]
sys.stderr = before
print(y[1].tolist())
"""
    done = run_python(code, FASTCONV_VERBOSE="1")
    assert (done.returncode, done.stdout, done.stderr) == (0, "[1.0, 1.0, 1.0]\n", "")
