"""Tests conv2d against float64: every implementation of every direction, and the function."""

import re

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given

import fastconv
from fastconv import functional
from fastconv.problem import HALF_DTYPES, TF32
from fastconv.testing import Problem, checks, inputs, kernels
from fastconv.testing.strategies import conv_problems
from named_problems import BLOCKS, CONVOLUTIONS, CPU_CONVOLUTIONS

pytestmark = pytest.mark.usefixtures("one_thread")


def all_implementations(direction, device):
    """The names in a direction's list, from the error for an unknown name."""
    with pytest.raises(ValueError, match="implementation must be one of") as error:
        kernels.workspace_bytes(direction, Problem.parse(CONVOLUTIONS["F"]), "?", device=device)
    return set(re.search(r"one of (.*), got", str(error.value))[1].split(", "))


@pytest.mark.parametrize("direction", ["fprop", "dgrad", "wgrad"])
def test_every_implementation_takes_a_named_problem(direction, device):
    named = [*CONVOLUTIONS.values(), *CPU_CONVOLUTIONS.values(), *BLOCKS.values()]
    problems = [Problem.parse(text) for text in named]
    if device != "cpu":
        problems += [p.with_type(t) for p in problems for t in (*HALF_DTYPES, TF32)]
    taken = {name for p in problems for name in kernels.implementations(direction, p, device)}
    assert taken == all_implementations(direction, device) - {"empty"}


@pytest.mark.parametrize("kind", ["normal", "positive", "integers"])
@pytest.mark.parametrize("direction", ["fprop", "dgrad", "wgrad"])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_named_problem(name, direction, kind, device):
    checks.check(direction, Problem.parse(CONVOLUTIONS[name]), device, kind)


@pytest.mark.parametrize("kind", ["normal", "integers"])
@pytest.mark.parametrize("direction", ["fprop", "dgrad", "wgrad"])
@pytest.mark.parametrize("name", CPU_CONVOLUTIONS)
def test_named_problem_on_cpus(name, direction, kind):
    checks.check(direction, Problem.parse(CPU_CONVOLUTIONS[name]), "cpu", kind)


@pytest.mark.parametrize(
    "device, name_of_type", kernels.SHORT_TYPES + kernels.TENSOR_CORE_TYPES, indirect=["device"]
)
@pytest.mark.parametrize("direction", ["fprop", "dgrad", "wgrad"])
@pytest.mark.parametrize("name", ["uneven same", "dilation", "groups", "depthwise", "B", "D", "F"])
def test_named_problem_of_narrow_types(name, direction, device, name_of_type):
    checks.check(direction, Problem.parse(CONVOLUTIONS[name]).with_type(name_of_type), device)


@given(problem=conv_problems())
def test_any_problem_forward(problem, device):
    checks.check("fprop", problem, device)


@pytest.mark.parametrize("direction", ["dgrad", "wgrad"])
@given(problem=conv_problems())
def test_any_problem_backward(problem, direction, device):
    checks.check(direction, problem, device)


@given(problem=conv_problems())
def test_small_integers_are_exact(problem, device):
    for direction in ("fprop", "dgrad", "wgrad"):
        checks.check(direction, problem, device, "integers")


@given(conv_problems(for_functional=True))
def test_function(problem):
    checks.check_functional(problem)


@pytest.mark.parametrize("name", ["1x1", "uneven same", "depthwise", "sliced", "D", "bfloat16"])
def test_function_on_named_problem(name):
    checks.check_functional(Problem.parse(CONVOLUTIONS[name]))


@pytest.mark.parametrize("x_layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("w_layout", ["nchw", "nhwc"])
def test_memory_format_follows_torch(x_layout, w_layout):
    x = inputs.place(torch.randn(2, 3, 6, 5), x_layout)
    w = inputs.place(torch.randn(4, 3, 3, 3), w_layout)
    assert functional.conv2d(x, w).stride() == F.conv2d(x, w).stride()


@pytest.mark.parametrize("want", [(True, False), (False, True)])
@pytest.mark.parametrize("name", ["A", "B", "dilation", "float64"])
def test_one_of_weight_and_bias_gradient(name, want):
    problem = Problem.parse(CONVOLUTIONS[name])
    x, _, _, dy = inputs.make(problem)
    for implementation in kernels.implementations("wgrad", problem):
        both = kernels.wgrad(problem, x, dy, None, implementation)
        found = kernels.wgrad(
            problem, x, dy, None, implementation, want_weight=want[0], want_bias=want[1]
        )
        for wanted, one, other in zip(want, found, both, strict=True):
            assert (one is not None) == wanted
            assert one is None or torch.equal(one, other), implementation


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("name", ["A", "B", "E", "dilation", "depthwise", "uneven same"])
def test_not_finite_forward_at_highest(name, value, device):
    problem = Problem.parse(CONVOLUTIONS[name])
    data = inputs.make(problem)
    data.x[0, 0, problem.h // 2, problem.w // 3] = value
    before = fastconv.get_precision()
    fastconv.set_precision("highest")
    try:
        highest = fastconv.precision.implementation if device == "cpu" else ""
        y, _ = kernels.fprop(problem, *data[:3], highest, device=device)
    finally:
        fastconv.set_precision(before)
    checks.check_output(problem, data, y, None)


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
@pytest.mark.parametrize("name", ["B", "D", "E", "dilation", "depthwise", "uneven same"])
def test_not_finite_weight(name, value, device):
    # Padding is zeros, and 0 * inf is NaN. Depending on sizes, torch's backends leave such products
    # out or not. So do ours: the plain kernel leaves them out, the direct one for most pixels.
    problem = Problem.parse(CONVOLUTIONS[name])
    data = inputs.make(problem, kind="integers")
    data.w[0, 0, 0, 0] = value
    top, bottom, left, right = problem.pads
    padded = data._replace(x=F.pad(data.x, (left, right, top, bottom)))
    expected = checks.expected_conv(problem.replace(pads=(0, 0, 0, 0)), padded)
    multiplied = expected.exact.isnan()
    left_out, _ = kernels.fprop(problem, *data[:3], "plain")
    for implementation in kernels.implementations_to_check("fprop", problem, device):
        if implementation in ("winograd", "tiles"):
            continue  # spread over Winograd's tiles; of two parts inf makes NaN
        y, _ = kernels.fprop(problem, *data[:3], implementation, device=device)
        y = y.to(left_out.device)
        same = multiplied & (y == left_out)
        y[same] = torch.nan
        checks.check_output(problem, data, y, None, implementation, expected=expected)


GRADCHECK = [
    "mb2ic4ih5iw6oc6kh3kw2sh2sw1ph1pw1g2_f64_nchw",
    "mb1ic3ih6iw5oc2kh3kw3ph2pw2dh2dw1_nobias_f64_nhwc",
    "mb2ic2ih5iw4oc3kh2kw2ph0pw0pb1pr1_f64_nchw",
]


@pytest.mark.parametrize("text", GRADCHECK)
def test_gradcheck(text):
    problem = Problem.parse(text)
    leaves = [t.requires_grad_() for t in inputs.make(problem)[:3] if t is not None]

    def function(x, w, bias=None):
        return checks.apply(problem, x, w, bias)

    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves)


@pytest.mark.parametrize("direction", ["fprop", "dgrad", "wgrad"])
@pytest.mark.parametrize("name", "ABCDEF")
def test_common_layers_have_a_fast_kernel(name, direction):
    assert kernels.implementations(direction, Problem.parse(CONVOLUTIONS[name]))[0] != "plain"


@pytest.mark.parametrize("direction", ["fprop", "dgrad", "wgrad"])
@pytest.mark.parametrize("name", [name for name in CONVOLUTIONS if name.startswith("depthwise")])
def test_depthwise_has_a_kernel_of_its_own(name, direction):
    assert kernels.implementations(direction, Problem.parse(CONVOLUTIONS[name]))[0] == "depthwise"


@pytest.mark.parametrize("dtype", ["f32", "f64", "f16", "bf16"])
@pytest.mark.parametrize("direction", ["fprop", "dgrad", "wgrad"])
@pytest.mark.parametrize("groups", [2, 3, 16])
@pytest.mark.parametrize(
    "c, k", [(1, 1), (1, 2), (2, 1), (3, 5), (4, 4), (8, 8), (16, 1), (64, 1), (1, 64), (32, 32)]
)
def test_no_groups_are_left_to_the_plain_kernel(c, k, groups, direction, dtype):
    sizes = f"mb2ic{c * groups}ih9iw9oc{k * groups}kh3kw3ph1pw1g{groups}"
    for rest in ("", "_relu", "_pool2x2s2x2p0x0d1x1c0"):
        problem = Problem.parse(f"{sizes}{rest}_{dtype}_nhwc")
        assert kernels.implementations(direction, problem)[0] != "plain", problem


def test_plain_takes_everything():
    for text in CONVOLUTIONS.values():
        for direction in ("fprop", "dgrad", "wgrad"):
            assert kernels.implementations(direction, Problem.parse(text))[-1] == "plain"


def test_unknown_implementation():
    problem = Problem.parse(CONVOLUTIONS["1x1"])
    with pytest.raises(ValueError, match=r"must be one of .*plain.*, got nonsense"):
        kernels.workspace_bytes("fprop", problem, "nonsense")
