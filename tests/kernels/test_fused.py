"""Tests every implementation of conv + bias + ReLU (+ max-pool), forward and backward."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses import FakeTensorMode

from fastconv import functional
from fastconv.operators.codes import from_nibbles
from fastconv.testing import Pool, Problem, checks, codes, inputs, kernels, reference
from fastconv.testing.strategies import conv_problems
from named_problems import BLOCKS

pytestmark = pytest.mark.usefixtures("one_thread")

# Shares of the gradient that are dead: none, as usual behind a pool and a ReLU, rare, all.
DEAD = [0.0, 0.4, 0.95, 1.0]


@pytest.mark.parametrize("kind", ["normal", "positive", "integers"])
@pytest.mark.parametrize("name", BLOCKS)
def test_named_problem_forward(name, kind, device):
    checks.check("fprop", Problem.parse(BLOCKS[name]), device, kind)


@pytest.mark.parametrize(
    "device, name_of_type", kernels.SHORT_TYPES + kernels.TENSOR_CORE_TYPES, indirect=["device"]
)
@pytest.mark.parametrize("direction", ["fprop", "dgrad", "wgrad"])
@pytest.mark.parametrize("name", BLOCKS)
def test_named_problem_of_narrow_types(name, direction, device, name_of_type):
    checks.check(direction, Problem.parse(BLOCKS[name]).with_type(name_of_type), device)


@pytest.mark.parametrize("device, name_of_type", kernels.TENSOR_CORE_TYPES, indirect=["device"])
@given(data=st.data(), kind=st.sampled_from(["normal", "integers"]))
def test_any_2x2_pool_on_tensor_cores(data, kind, device, name_of_type):
    pad, stride, dilation = (st.tuples(n, n) for n in map(st.integers, (0, 2, 1), (1, 4, 3)))
    pools = st.builds(Pool, st.just((2, 2)), stride, pad, dilation, st.booleans())
    problem = data.draw(conv_problems("pool", some_pools=pools)).with_type(name_of_type)
    checks.check("fprop", problem, device, kind)


@pytest.mark.parametrize("dead", DEAD)
@pytest.mark.parametrize("direction", ["dgrad", "wgrad"])
@pytest.mark.parametrize("name", BLOCKS)
def test_named_problem_backward(name, direction, dead, device):
    for kind in ("normal", "integers"):
        checks.check(direction, Problem.parse(BLOCKS[name]), device, kind, dead)


@pytest.mark.parametrize("after", ["relu", "pool"])
@given(data=st.data())
def test_any_problem_forward(after, data, device):
    problem = data.draw(conv_problems(after))
    for kind in ("normal", "integers"):
        checks.check("fprop", problem, device, kind)


@pytest.mark.parametrize("direction", ["dgrad", "wgrad"])
@pytest.mark.parametrize("after", ["relu", "pool"])
@given(data=st.data(), dead=st.sampled_from(DEAD))
def test_any_problem_backward(after, direction, data, dead, device):
    problem = data.draw(conv_problems(after))
    for kind in ("normal", "integers"):
        checks.check(direction, problem, device, kind, dead)


@pytest.mark.parametrize("after", ["relu", "pool"])
@given(data=st.data())
def test_function(after, data):
    checks.check_functional(data.draw(conv_problems(after, for_functional=True)))


@pytest.mark.parametrize("name", BLOCKS)
def test_function_on_named_problem(name):
    checks.check_functional(Problem.parse(BLOCKS[name]))
    checks.check_functional(Problem.parse(BLOCKS[name]), kind="integers")


@pytest.mark.parametrize("name", ["A", "B", "relu", "relu 1x1", "depthwise", "float64", "bfloat16"])
@pytest.mark.parametrize("want", [(True, False), (False, True)])
def test_one_of_weight_and_bias_gradient(name, want):
    problem = Problem.parse(BLOCKS[name])
    x, _, _, dy = inputs.make(problem)
    code = kernels.make_code(problem, 0.4)
    for implementation in kernels.implementations("wgrad", problem):
        both = kernels.wgrad(problem, x, dy, code, implementation)
        found = kernels.wgrad(
            problem, x, dy, code, implementation, want_weight=want[0], want_bias=want[1]
        )
        for wanted, one, other in zip(want, found, both, strict=True):
            assert (one is not None) == wanted
            assert one is None or torch.equal(one, other), implementation


@pytest.mark.parametrize("name", ["A", "B", "E", "relu", "dilated pool", "overlap"])
def test_codes_that_no_forward_pass_gives_write_nowhere_else(name):
    # kernels.dgrad and wgrad look for writes outside of their buffers.
    problem = Problem.parse(BLOCKS[name])
    data = inputs.make(problem)
    stride = inputs.strides(codes.size(problem), "nhwc" if problem.pool else "nchw")
    code = inputs.guarded(codes.size(problem), stride, torch.uint8)
    code.copy_(torch.arange(code.numel()).reshape(code.shape) * 37 % 256)
    for implementation in kernels.implementations("dgrad", problem):
        kernels.dgrad(problem, data.dy, code, data.w, implementation)
    for implementation in kernels.implementations("wgrad", problem):
        kernels.wgrad(problem, data.x, data.dy, code, implementation)


@pytest.mark.parametrize("name", ["A", "odd groups", "odd channels", "overlap", "225 positions"])
def test_codes_of_gpus(name):
    problem = Problem.parse(BLOCKS[name])
    code, spec = kernels.make_code(problem, 0.4), (problem.conv_spec, problem.pool_spec)
    kept = codes.keep(problem, code, "cuda")
    assert torch.equal(codes.read(problem, kept, "cuda"), code)
    if codes.has_nibbles(problem, "cuda"):
        assert torch.equal(from_nibbles(kept, problem.k, problem.groups), code)
    with FakeTensorMode():
        x, w = (torch.empty(size, device="cuda") for size in (problem.x_size, problem.w_size))
        fake = torch.ops.fastconv.conv2d_relu_max_pool2d(x, w, None, *spec, True)[1]
    assert fake.shape == kept.shape and fake.stride() == kept.stride()


def test_window_without_input():
    problem = Problem.parse(BLOCKS["empty windows"])
    data = inputs.make(problem, kind="positive")
    x = data.x.detach().requires_grad_()
    y = checks.apply(problem, x, data.w, data.bias)
    assert (y == -torch.inf).all()
    assert not torch.autograd.grad(y.sum(), x)[0].any()


def test_more_than_254_positions():
    problem = Problem.parse("mb1ic3ih20iw20oc8kh3kw3ph1pw1_f32_nchw")
    data = inputs.make(problem)
    x, w, b = (t.detach().double().requires_grad_() for t in data[:3])
    y = functional.conv2d_relu_max_pool2d(x, w, b, padding=1, pool_kernel_size=16, pool_stride=2)
    conv = torch.nn.functional.conv2d(x, w, b, padding=1)
    expected = torch.nn.functional.max_pool2d(conv.relu(), 16, 2)
    torch.testing.assert_close(y, expected)
    found, wanted = (torch.autograd.grad(t.sum(), (x, w, b)) for t in (y, expected))
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("name", ["relu", "A", "B", "dilation", "depthwise"])
def test_nan_goes_through_as_in_torch(name):
    problem = Problem.parse(BLOCKS[name])
    data = inputs.make(problem)
    data.x[0, 0, problem.h // 2, problem.w // 3] = torch.nan
    expected = reference.forward(problem, *data[:3])
    for implementation in kernels.implementations("fprop", problem):
        if "winograd" in implementation:
            continue  # spreads it over a tile
        y, code = kernels.fprop(problem, *data[:3], implementation)
        assert expected.isnan().any()
        assert (y.isnan() == expected.isnan()).all(), implementation
        alive = code != 255 if problem.pool else kernels.unpack_bits(code, y.shape[3])
        assert alive[y.isnan()].all(), f"{implementation}: the gradient passes at NaN"


@pytest.mark.parametrize("pool", [None, Pool((2, 2), (2, 2))])
def test_zero_is_dead(pool):
    problem = Problem(1, 3, 6, 6, 16, 3, 3, pads=(1, 1, 1, 1), pool=pool, relu=True)
    data = inputs.make(problem)
    data.w.zero_()
    data.bias.copy_(torch.linspace(-1, 0, 16))
    for implementation in kernels.implementations("fprop", problem):
        y, code = kernels.fprop(problem, *data[:3], implementation)
        assert not y.any()
        alive = code != 255 if pool else kernels.unpack_bits(code, y.shape[3])
        assert not alive.any(), implementation


@pytest.mark.parametrize("name", ["A", "relu"])
def test_kept_for_backward_are_input_weight_and_code(name):
    problem = Problem.parse(BLOCKS[name])
    data = inputs.make(problem)
    x, w, bias = (t.detach().clone().requires_grad_() for t in data[:3])
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda t: t):
        y = checks.apply(problem, x, w, bias)
    assert y.requires_grad
    code = torch.Size(codes.size(problem)).numel()
    assert sum(t.nbytes for t in kept) == x.nbytes + w.nbytes + code


GRADCHECK = [
    "mb1ic2ih4iw5oc3kh3kw3ph1pw1_relu_f64_nchw",
    "mb2ic2ih5iw4oc2kh2kw3sh2sw1ph1pw1g2_relu_nobias_f64_nhwc",
    "mb1ic2ih4iw6oc3kh3kw3ph1pw1_pool2x2s2x2p0x0d1x1c0_f64_nchw",
    "mb2ic2ih5iw4oc4kh3kw2ph1pw1dh2dw1g2_pool3x2s2x1p1x1d1x1c1_f64_nhwc",
]


@pytest.mark.parametrize("text", GRADCHECK)
def test_gradcheck(text):
    problem = Problem.parse(text)
    data = inputs.make(problem, kind="tie_free")
    leaves = [t.requires_grad_() for t in data[:3] if t is not None]

    def function(x, w, bias=None):
        return checks.apply(problem, x, w, bias)

    assert torch.autograd.gradcheck(function, leaves, eps=1e-6)
    assert torch.autograd.gradgradcheck(function, leaves, eps=1e-6)


@pytest.mark.parametrize("direction", ["fprop", "dgrad", "wgrad"])
@pytest.mark.parametrize("name", "ABCDEF")
def test_common_blocks_have_a_fast_kernel(name, direction):
    assert kernels.implementations(direction, Problem.parse(BLOCKS[name]))[0] != "plain"


@pytest.mark.parametrize(
    "text", [*BLOCKS.values(), *GRADCHECK, "mb1ic2ih9iw9_pool3x3s2x2p1x1d1x1c1"]
)
def test_problem_strings_come_back(text):
    problem = Problem.parse(text)
    assert problem.valid()
    assert Problem.parse(str(problem)) == problem


@pytest.mark.parametrize(
    "text", ["", "mb1", "mb1ic1ih1iw1zz1", "mb1ic1ih1iw1_pool2", "mb1ic1ih1iw1_f8"]
)
def test_wrong_problem_strings(text):
    with pytest.raises(ValueError, match=r"not a (problem|pool|part)"):
        Problem.parse(text)
