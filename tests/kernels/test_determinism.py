"""Tests that bits are the same in every run, for any number of threads and in forked children."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from fastconv.functional import relu
from fastconv.testing import Problem, checks, inputs, kernels

PROBLEMS = {
    "A": "mb2ic3ih48iw48oc32kh5kw5ph2pw2_pool2x2s2x2p0x0d1x1c0_f32_nchw",
    "B": "mb2ic32ih22iw22oc64kh5kw5ph2pw2_pool2x2s2x2p0x0d1x1c0_f32_nhwc",
    "D": "mb2ic3ih48iw48oc64kh7kw7sh2sw2ph3pw3_pool3x3s2x2p0x0d1x1c0_f32_nchw",
    "E": "mb3ic64ih17iw17oc128kh3kw3sh2sw2ph1pw1_pool3x3s2x2p0x0d1x1c0_f32_nhwc",
    "relu": "mb3ic16ih15iw17oc24kh3kw3ph1pw1_relu_f32_nhwc",
    "convolution": "mb2ic32ih15iw17oc40kh3kw3ph1pw1_f32_nhwc",
    "1x1 float64": "mb5ic19ih9iw8oc33kh1kw1_f64_nchw",
    "A bfloat16": "mb2ic3ih48iw48oc32kh5kw5ph2pw2_pool2x2s2x2p0x0d1x1c0_bf16_nchw",
    "E float16": "mb3ic64ih17iw17oc128kh3kw3sh2sw2ph1pw1_pool3x3s2x2p0x0d1x1c0_f16_nhwc",
    "depthwise bfloat16": "mb2ic32ih15iw17oc32kh3kw3ph1pw1g32_bf16_nchw",
    "depthwise": "mb2ic32ih15iw17oc32kh3kw3ph1pw1g32_pool3x3s2x2p1x1d1x1c1_f32_nhwc",
    "few channels": "mb2ic32ih15iw17oc48kh3kw3ph1pw1g8_pool3x3s2x2p1x1d1x1c1_f32_nhwc",
    "groups": "mb2ic64ih15iw17oc96kh3kw3sh2sw2ph1pw1g4_f32_nhwc",
    "pool": "mb3ic19ih30iw33_pool3x3s2x2p1x1d1x1c1_f32_nchw",
    "pool channels_last": "mb3ic40ih30iw33_pool3x3s2x2p1x1d1x1c1_f64_nhwc",
    "pool float16": "mb3ic19ih30iw33_pool3x3s2x2p1x1d1x1c1_f16_nchw",
}
INTS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
THREADS = [1, 2, 3, 5]


def results(problem):
    """Output and gradients through fastconv.functional."""
    data = inputs.make(problem)
    leaves = [t.detach().requires_grad_() for t in data[:3] if t is not None]
    y = checks.apply(problem, *leaves, *[None] * (3 - len(leaves)))
    return [y.detach(), *torch.autograd.grad(y, leaves, data.dy)]


def assert_same_bits(found, expected, name):
    """Equal bit for bit, the sign of a zero too."""
    for i, (a, b) in enumerate(zip(found, expected, strict=True)):
        as_int = INTS[a.element_size()]
        same = a.contiguous().view(as_int) == b.contiguous().view(as_int)
        assert same.all(), f"{name}: result {i} has {int((~same).sum())} other values"


@pytest.mark.parametrize("name", PROBLEMS)
def test_any_number_of_threads(name):
    problem = Problem.parse(PROBLEMS[name])
    torch.set_num_threads(1)
    expected = results(problem)
    for threads in THREADS * 2:
        torch.set_num_threads(threads)
        assert_same_bits(results(problem), expected, f"{threads} threads, {problem}")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in PROBLEMS if "pool" not in name])
def test_any_number_of_threads_in_every_implementation(name):
    problem = Problem.parse(PROBLEMS[name])
    data, code = inputs.make(problem), kernels.make_code(problem, 0.5)
    runs = {
        "fprop": lambda *args: kernels.fprop(problem, *data[:3], *args)[:1],
        "dgrad": lambda *args: [kernels.dgrad(problem, data.dy, code, data.w, *args)],
        "wgrad": lambda *args: kernels.wgrad(problem, data.x, data.dy, code, *args),
    }
    for direction, run in runs.items():
        for implementation in kernels.implementations(direction, problem):
            expected = run(implementation, 1)
            for threads in THREADS:
                label = f"{direction} {implementation} {threads} threads, {problem}"
                assert_same_bits(run(implementation, threads), expected, label)


def test_relu_over_many_blocks():
    x = torch.randn(300_001)
    torch.set_num_threads(1)
    leaf = x.requires_grad_()
    dy = torch.randn_like(x)
    expected = [relu(leaf).detach(), *torch.autograd.grad(relu(leaf), leaf, dy)]
    for threads in THREADS:
        torch.set_num_threads(threads)
        found = [relu(leaf).detach(), *torch.autograd.grad(relu(leaf), leaf, dy)]
        assert_same_bits(found, expected, f"{threads} threads")


@pytest.mark.parametrize("name", ["A", "E", "pool"])
def test_a_sample_does_not_depend_on_its_batch(name):
    # Only the forward pass and dx: dw is a sum over the batch.
    problem = Problem.parse(PROBLEMS[name])
    data = inputs.make(problem)
    whole = checks.apply(problem, *data[:3])
    alone = checks.apply(problem.replace(n=1), data.x[1:2], *data[1:3])
    assert_same_bits([alone], [whole[1:2]], problem)


def test_python_threads_at_once(one_thread):
    # Each thread has its own workspace.
    problems = [Problem.parse(PROBLEMS[name]) for name in ("A", "E", "relu", "convolution")]
    expected = [results(problem) for problem in problems]

    def repeat(i):
        return [results(problems[i]) for _ in range(5)]

    with ThreadPoolExecutor(len(problems)) as pool:
        for i, runs in enumerate(pool.map(repeat, range(len(problems)))):
            for found in runs:
                assert_same_bits(found, expected[i], problems[i])


# This runs in a new process, since a fork of this one would inherit other tests' state. The child
# uses numpy, since torch's operators with threads would hang there.
FORK = """
import os, sys, torch
from fastconv.testing import Problem, checks, inputs

torch.set_num_threads(2)
problems = [Problem.parse(text) for text in sys.argv[1:]]
data = [inputs.make(problem) for problem in problems]

def results():
    found = []
    for problem, (x, w, bias, dy) in zip(problems, data):
        leaves = [t.detach().requires_grad_() for t in (x, w, bias) if t is not None]
        y = checks.apply(problem, *leaves, *[None] * (3 - len(leaves)))
        for t in (y.detach(), *torch.autograd.grad(y, leaves, dy)):
            ints = {2: torch.int16, 4: torch.int32, 8: torch.int64}[t.element_size()]
            found.append(t.view(ints).numpy().tobytes())
    return found

expected = results()
child = os.fork()
if child == 0:
    same = results() == expected and results() == expected
    os._exit(0 if same else 7)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
assert status == 0, f"the child ended with {status}" + " (other bits)" * (status == 7)
assert results() == expected, "the parent after its child"
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_forked_child_after_threads(run_python):
    # Without fastconv's care it hangs here.
    done = run_python(FORK, *PROBLEMS.values())
    assert done.returncode == 0, done.stderr
