"""Tests wgrad by pooling windows (conv2d_wgrad_pool2x2.cuh), on dense and sparse tensor cores."""

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from fastconv.testing import Pool, Problem, checks, inputs, kernels
from fastconv.testing.strategies import MAX_WORK

pytestmark = pytest.mark.usefixtures("one_thread")

IMPLEMENTATIONS = ["windows", "sparse_windows"]
POOL = "_pool2x2s2x2p0x0d1x1c0"
PROBLEMS = {
    "narrow": f"mb2ic16ih9iw11oc24kh3kw3ph1pw1{POOL}_f32_nhwc",
    "middle": f"mb1ic24ih8iw10oc40kh2kw3pw1{POOL}_nobias_f32_nhwc",
    "wide": f"mb1ic8ih10iw9oc136kh3kw3sh2sw1ph1pw1{POOL}_f32_nhwc",
    "groups": f"mb2ic32ih7iw8oc48kh3kw3ph2pw1dw2g2{POOL}_f32_nhwc",
    "splits": f"mb8ic8ih20iw20oc16kh1kw1{POOL}_f32_nhwc",
    "no window": f"mb1ic8ih3iw1oc16kh3kw1{POOL}_f32_nhwc",
}
DEAD = [0.0, 0.4, 0.95, 1.0]
on_every_type = pytest.mark.parametrize(
    "device, dtype", kernels.TENSOR_CORE_TYPES, indirect=["device"]
)
DEVICES, TYPES = (
    list(dict.fromkeys(names)) for names in zip(*kernels.TENSOR_CORE_TYPES, strict=True)
)
with_each = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)


def wgrad(problem, data, code, implementation, device, **options):
    return kernels.wgrad(problem, data.x, data.dy, code, implementation, device=device, **options)


@pytest.mark.parametrize("kind", ["normal", "integers"])
@pytest.mark.parametrize("dead", DEAD)
@with_each
@on_every_type
@pytest.mark.parametrize("name", PROBLEMS)
def test_named_problem(name, device, dtype, implementation, dead, kind):
    problem = Problem.parse(PROBLEMS[name]).with_type(dtype)
    checks.check_backward(problem, "wgrad", [implementation], kind, dead, device=device)


@st.composite
def problems(draw):
    """Problems that the kernels take: channels in vectors, pooling windows side by side."""
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    c = groups * 8 * draw(st.integers(1, 3))
    k = groups * 8 * draw(st.one_of(st.integers(2, 6), st.integers(7, 18)))
    r, s = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    problem = Problem(
        draw(st.integers(1, 3)),
        c,
        draw(st.integers(1, 20)),
        draw(st.integers(1, 20)),
        k,
        r,
        s,
        stride=draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        pads=draw(st.tuples(*[st.integers(0, 3)] * 4)),
        dilation=draw(st.tuples(st.integers(1, 2), st.integers(1, 2))),
        groups=groups,
        pool=Pool((2, 2), (2, 2), ceil=draw(st.booleans())),
        relu=True,
        bias=draw(st.booleans()),
        layout="nhwc",
    )
    assume(problem.valid())
    n, _, p, q = problem.conv_size
    _, _, windows_p, windows_q = problem.y_size
    assume(2 * windows_p <= p and 2 * windows_q <= q)  # none over the edge
    assume(n * k * p * q * c // groups * r * s <= MAX_WORK)
    return problem


@with_each
@pytest.mark.parametrize("device", DEVICES, indirect=True)
@given(problem=problems(), dtype=st.sampled_from(TYPES), dead=st.sampled_from(DEAD))
def test_any_problem(problem, device, dtype, implementation, dead):
    problem = problem.with_type(dtype)
    for kind in ("normal", "integers"):
        checks.check_backward(problem, "wgrad", [implementation], kind, dead, device=device)


TAKEN = {
    "f16": f"mb1ic8ih8iw8oc16kh3kw3{POOL}_f16_nhwc",
    "tf32": f"mb1ic8ih8iw8oc16kh3kw3{POOL}_tf32_nhwc",
    "odd output": f"mb1ic8ih9iw8oc16kh3kw3{POOL}_f16_nhwc",
    "ceil_mode with nothing over": f"mb1ic8ih8iw8oc16kh3kw3{POOL[:-1]}1_f16_nhwc",
}
NOT_TAKEN = {
    "exact": f"mb1ic8ih8iw8oc16kh3kw3{POOL}_f32_nhwc",
    "no pool": "mb1ic8ih8iw8oc16kh3kw3_relu_f16_nhwc",
    "overlap": "mb1ic8ih8iw8oc16kh3kw3_pool3x3s2x2p0x0d1x1c0_f16_nhwc",
    "gaps": "mb1ic8ih9iw9oc16kh3kw3_pool2x2s3x2p0x0d1x1c0_f16_nhwc",
    "padding": "mb1ic8ih8iw8oc16kh3kw3_pool2x2s2x2p1x1d1x1c0_f16_nhwc",
    "a window over the edge": f"mb1ic8ih9iw8oc16kh3kw3{POOL[:-1]}1_f16_nhwc",
    "codes of half a word": f"mb1ic8ih8iw8oc20kh3kw3{POOL}_tf32_nhwc",
    "few filters": f"mb1ic8ih8iw8oc8kh3kw3{POOL}_f16_nhwc",
}


def has_windows_kernel(problem, module, implementation=""):
    """Whether the implementation, or the default, is one."""
    data, code = inputs.make(problem), kernels.make_code(problem, 0.4)
    module.take_launches()  # of calls before
    wgrad(problem, data, code, implementation, "emulated")
    launched = module.take_launches()
    assert "wgrad" in launched
    return "wgrad_pool2x2_kernel" in launched


@pytest.mark.parametrize("name", [*TAKEN, *NOT_TAKEN])
def test_default_where_it_applies(name, counted_kernels):
    problem = Problem.parse({**TAKEN, **NOT_TAKEN}[name])
    names = kernels.implementations("wgrad", problem, "emulated")
    assert (names[0] == IMPLEMENTATIONS[0]) == (name in TAKEN)
    assert (IMPLEMENTATIONS[1] in names) == (name in TAKEN)
    assert has_windows_kernel(problem, counted_kernels) == (name in TAKEN)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_default_by_memory_format(layout, counted_kernels):
    problem = Problem.parse(TAKEN["f16"]).replace(layout=layout)
    assert has_windows_kernel(problem, counted_kernels) == (layout == "nhwc")


@with_each
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_named_for_another_memory_format(implementation, layout, counted_kernels):
    # A table names it for a geometry. Tensors with another layout go to another implementation.
    problem = Problem.parse(TAKEN["f16"]).replace(layout=layout)
    taken = has_windows_kernel(problem, counted_kernels, implementation)
    names = kernels.implementations("wgrad", problem, "emulated")
    assert taken == (implementation in names) == (layout == "nhwc")


@with_each
def test_emulated_named_where_it_does_not_apply_is_refused(implementation, emulated_kernels):
    problem = Problem.parse(NOT_TAKEN["padding"])
    data, code = inputs.make(problem), kernels.make_code(problem, 0.4)
    with pytest.raises(ValueError, match=f"{implementation} does not take this problem"):
        wgrad(problem, data, code, implementation, "emulated")


@with_each
@on_every_type
def test_what_no_window_covers_is_not_looked_at(device, dtype, implementation):
    # The last row and column of an odd output, and with them all of x that only they see.
    problem = Problem.parse(f"mb2ic8ih9iw7oc24kh2kw2{POOL}_f32_nhwc").replace(h=10, w=8)
    problem = problem.with_type(dtype)
    data, code = inputs.make(problem), kernels.make_code(problem, 0.4)
    expected = wgrad(problem, data, code, implementation, device)
    data.x[:, :, 9] = torch.nan
    data.x[:, :, :, 7] = torch.inf
    found = wgrad(problem, data, code, implementation, device)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@with_each
@on_every_type
def test_gradients_of_dead_windows_are_not_looked_at(device, dtype, implementation):
    problem = Problem.parse(PROBLEMS["narrow"]).with_type(dtype)
    data, code = inputs.make(problem), kernels.make_code(problem, 0.4)
    expected = wgrad(problem, data, code, implementation, device)
    data.dy[code == 255] = torch.nan
    found = wgrad(problem, data, code, implementation, device)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@with_each
@on_every_type
def test_all_dead_is_zero(device, dtype, implementation):
    problem = Problem.parse(PROBLEMS["splits"]).with_type(dtype)
    data, code = inputs.make(problem), kernels.make_code(problem, 1.0)
    assert not any(t.any() for t in wgrad(problem, data, code, implementation, device))


@with_each
@on_every_type
def test_one_of_both_gradients(device, dtype, implementation):
    problem = Problem.parse(PROBLEMS["groups"]).with_type(dtype)
    data, code = inputs.make(problem), kernels.make_code(problem, 0.4)
    both = wgrad(problem, data, code, implementation, device)
    for i, name in enumerate(("want_weight", "want_bias")):
        found = wgrad(problem, data, code, implementation, device, **{name: False})
        assert found[i] is None and torch.equal(found[1 - i], both[1 - i])
