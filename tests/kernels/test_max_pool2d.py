"""Tests max_pool2d's exact values and winners, with ties, NaN and windows without input."""

import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from fastconv import functional
from fastconv.testing import Pool, Problem, checks, inputs, kernels, reference
from fastconv.testing.strategies import pool_problems

pytestmark = pytest.mark.usefixtures("one_thread")

PROBLEMS = {
    "one value": "mb1ic1ih1iw1_pool1x1s1x1p0x0d1x1c0",
    "2x2": "mb2ic19ih10iw12_pool2x2s2x2p0x0d1x1c0_f32_nhwc",
    "2x2 planes": "mb2ic5ih10iw12_pool2x2s2x2p0x0d1x1c0_f32_nchw",
    "rest cut off": "mb2ic8ih11iw13_pool2x2s2x2p0x0d1x1c0_f32_nhwc",
    "ceil_mode": "mb2ic8ih11iw13_pool2x2s2x2p0x0d1x1c1_f32_nhwc",
    "ceil_mode, last window left out": "mb1ic3ih5iw4_pool2x2s3x3p1x1d1x1c1_f32_nchw",
    "overlap": "mb2ic64ih9iw9_pool3x3s2x2p1x1d1x1c0_f64_nhwc",
    "overlap planes": "mb2ic4ih9iw9_pool3x3s1x2p1x1d1x1c1_f64_nchw",
    "gaps": "mb1ic33ih15iw14_pool2x3s4x5p0x0d1x1c0_f32_nhwc",
    "dilation": "mb1ic16ih15iw14_pool3x2s2x1p1x1d2x3c0_f32_nhwc",
    "one row": "mb1ic16ih1iw30_pool1x3s1x2p0x1d1x1c0_f32_nhwc",
    "empty windows": "mb2ic17ih4iw5_pool2x2s3x3p1x1d5x1c0_f32_nhwc",
    "empty windows, planes": "mb2ic3ih4iw5_pool2x2s3x3p1x1d1x6c1_f64_nchw",
    "254 positions": "mb1ic18ih3iw130_pool2x127s1x1p1x2d1x1c0_f32_nhwc",
    "255 positions": "mb1ic18ih20iw20_pool15x17s1x1p7x8d1x1c0_f32_nhwc",
    "400 positions": "mb1ic3ih25iw25_pool20x20s3x2p10x10d1x1c1_f64_nchw",
    "planes narrower than a vector": "mb2ic3ih14iw14_pool2x2s2x2p0x0d1x1c0_f32_nchw",
    "overlap, narrow planes": "mb2ic3ih7iw9_pool3x3s2x2p1x1d1x1c0_f32_nchw",
    "overlap, planes of one vector and more": "mb1ic2ih8iw35_pool3x3s2x2p0x0d1x1c1_f32_nchw",
    "2x2, padded": "mb2ic19ih6iw5_pool2x2s2x2p1x1d1x1c0_f32_nhwc",
    "2x2 planes, padded": "mb2ic3ih6iw37_pool2x2s2x2p1x1d1x1c0_f32_nchw",
    "2x2 planes, odd height": "mb1ic3ih9iw16_pool2x2s2x2p0x0d1x1c0_f32_nchw",
    "2x2 planes, ceil_mode": "mb2ic3ih9iw16_pool2x2s2x2p0x0d1x1c1_f32_nchw",
    "planes wider than a stretch": "mb1ic2ih5iw1030_pool3x3s2x2p1x1d1x1c0_f32_nchw",
    "dilated planes wider than a stretch": "mb1ic2ih7iw600_pool2x3s1x1p1x1d3x7c0_f32_nchw",
    "more channels than at a time": "mb1ic301ih5iw6_pool3x2s2x1p1x1d1x2c0_f32_nhwc",
    "large": "mb2ic40ih30iw34_pool3x3s2x2p1x1d1x1c0_f32_nchw",
}


def winners(problem, x):
    """The reference's flat positions in the plane, like return_indices."""
    pool, (h, w) = problem.pool, x.shape[2:]
    positions = torch.arange(h * w, dtype=torch.float64).view(1, 1, h, w)
    flat, _ = reference.windows(positions, pool)
    winner = reference.max_pool2d(x, pool)[1]
    picked = flat.expand(*winner.shape, -1).gather(-1, winner.clamp(min=0).unsqueeze(-1))
    return picked.squeeze(-1).masked_fill(winner < 0, -1).long()


def assert_same(found, expected, name):
    """Equal; any NaN for a NaN."""
    torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True, msg=str(name))


def check(problem, x, dy, device="cpu"):
    """Compares values, winners and gradient with the reference, exactly."""
    y, winner = reference.max_pool2d(x, problem.pool)
    # Sums in float64: rounded once, as kernels do.
    expected_dx = reference.scatter(problem, dy.double(), winner).to(dy.dtype)
    check_kernels(problem, x, dy, y, winner, expected_dx, device)
    if device == "emulated":  # torch has no such device
        return
    leaf = x.detach().to(device).requires_grad_()
    found = functional.max_pool2d(leaf, *problem.pool.arguments)
    plain, indices = functional.max_pool2d(
        leaf.detach(), *problem.pool.arguments, return_indices=True
    )
    plain, indices = plain.cpu(), indices.cpu()
    for result in (found.detach().cpu(), plain):
        assert_same(result, y, problem)
    assert torch.equal(indices, winners(problem, x)), problem
    (dx,) = torch.autograd.grad(found, leaf, dy.to(device))
    assert torch.equal(dx.cpu(), expected_dx), problem
    if not (winner < 0).any():  # else torch must not see it
        expected, flat = F.max_pool2d(x.contiguous(), *problem.pool.arguments, return_indices=True)
        assert_same(plain, expected, problem)
        assert torch.equal(indices, flat), problem


def check_kernels(problem, x, dy, y, winner, dx, device):
    """The same for the kernels alone: in buffers of both kinds of alignment, and with y and its
    code in another memory format than x, which is the general way.
    """
    mixed = {"nchw": "nhwc", "nhwc": "nchw"}.get(problem.layout, "nhwc")
    for aligned, layout in ((True, problem.layout), (False, problem.layout), (True, mixed)):
        if layout not in ("nchw", "nhwc"):
            layout = "nchw"
        options = {"device": device, "aligned": aligned}
        found, code = kernels.max_pool2d_fprop(problem, x, layout=layout, **options)
        name = f"{problem} on {device}, {options}, {layout}"
        assert_same(found, y, name)
        codes = torch.where(code == 255, -1, code.long()) if code.dtype == torch.uint8 else code
        assert torch.equal(codes.long(), winner), name
        again, _ = kernels.max_pool2d_fprop(problem, x, save=False, layout=layout, **options)
        assert_same(again, y, name)
        back = kernels.max_pool2d_bprop(problem, dy, code, layout, **options)
        assert torch.equal(back, dx), name


def check_kinds(problem, device):
    # Gradients of integers: in float32 their sums are exact in any order, in 16 bits they are not.
    dy = inputs.make(problem).dy.mul(100).round()
    for kind in ("normal", "integers"):
        check(problem, inputs.make(problem, kind=kind).x, dy, device)


everywhere = pytest.mark.parametrize(
    "device, dtype", kernels.DEVICES_AND_DTYPES, indirect=["device"], ids=str
)


@everywhere
@pytest.mark.parametrize("name", PROBLEMS)
def test_named_problem(name, device, dtype):
    check_kinds(Problem.parse(PROBLEMS[name]).replace(dtype=dtype), device)


@given(pool_problems())
def test_any_problem(problem):
    check_kinds(problem, "cpu")


@pytest.mark.parametrize("device", kernels.DEVICES[1:], indirect=True)
@given(data=st.data())
@settings(max_examples=30)
def test_any_problem_on_gpus(device, data):
    check_kinds(data.draw(pool_problems(max_work=20_000)), device)


@everywhere
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("name", ["2x2", "overlap", "dilation", "255 positions", "empty windows"])
def test_special_values(name, layout, device, dtype):
    problem = Problem.parse(PROBLEMS[name]).replace(layout=layout, dtype=dtype)
    data = inputs.make(problem, kind="integers")
    special = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.0, -0.0], dtype=dtype)
    chosen = torch.arange(data.x.numel()).view(data.x.shape) * 7 % 11
    data.x.copy_(torch.where(chosen < 5, special[chosen.clamp(max=4)], data.x))
    check(problem, data.x, data.dy, device)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, -0.0, 3.0])
def test_plane_of_one_value(value, device):
    # All equal: the first wins; all NaN: the last.
    problem = Problem.parse("mb1ic9ih6iw6_pool3x3s3x3p0x0d1x1c0_f32_nhwc")
    data = inputs.make(problem)
    x = data.x.fill_(value)
    _, indices = functional.max_pool2d(x, 3, return_indices=True)
    assert indices[0, 0, 0, 0] == (14 if value != value else 0)
    check(problem, x, torch.ones_like(data.dy), device)


# In a child process: an unreadable page follows the tensor, so a read behind it kills the process.
GUARDED = """
import ctypes, mmap, sys, torch
from fastconv import functional
page = mmap.PAGESIZE
def guarded(size):
    values = torch.randn(size)
    room = mmap.mmap(-1, (values.nbytes // page + 2) * page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(room))
    end = len(room) - page
    mprotect = ctypes.CDLL(None).mprotect
    mprotect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    assert mprotect(start + end, page, 0) == 0
    offset = end - values.nbytes
    memory = torch.frombuffer(room, dtype=values.dtype, count=values.numel(), offset=offset)
    return memory.view(size).copy_(values)
for pool in ((2, 2), (3, 2), (3, 2, 1), (3, 1, 1), (2, 2, 1)):
    for width in (3, 7, 14, 16, 17, 33):
        x = guarded((2, 3, 7, width)).requires_grad_()
        y = functional.max_pool2d(x, *pool)
        torch.autograd.grad(y, x, guarded(y.shape))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="pages are guarded by mprotect")
def test_reads_nothing_behind_tensors(run_python):
    done = run_python(GUARDED)
    assert done.returncode == 0, done.stderr


def test_window_without_input_has_no_gradient():
    problem = Problem.parse(PROBLEMS["empty windows"])
    x = inputs.make(problem).x.requires_grad_()
    y = functional.max_pool2d(x, *problem.pool.arguments)
    assert (y == -torch.inf).all()
    assert not torch.autograd.grad(y.sum(), x)[0].any()


def test_three_dimensions():
    x = torch.randn(3, 8, 9, requires_grad=True)
    y, indices = functional.max_pool2d(x, 3, 2, 1, return_indices=True)
    expected, flat = F.max_pool2d(x, 3, 2, 1, return_indices=True)
    assert torch.equal(y, expected) and torch.equal(indices, flat)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_memory_format_follows_torch(layout):
    x = inputs.place(torch.randn(2, 3, 8, 6), layout).requires_grad_()
    y, expected = functional.max_pool2d(x, 2), F.max_pool2d(x, 2)
    assert y.stride() == expected.stride()
    (dx,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    assert dx.stride() == x.stride()


GRADCHECK = [
    Problem(2, 3, 6, 5, pool=Pool((2, 2), (2, 2)), dtype=torch.float64),
    Problem(1, 2, 6, 7, pool=Pool((3, 3), (2, 1), (1, 1), (1, 2), True), dtype=torch.float64),
    Problem(1, 5, 4, 5, pool=Pool((2, 2), (1, 2), (1, 0)), dtype=torch.float64, layout="nhwc"),
]


@pytest.mark.parametrize("problem", GRADCHECK, ids=str)
def test_gradcheck(problem):
    x = inputs.make(problem, kind="tie_free").x.requires_grad_()

    def function(x):
        return checks.apply(problem, x, None, None)

    assert torch.autograd.gradcheck(function, x)
    assert torch.autograd.gradgradcheck(function, x)
