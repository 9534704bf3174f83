"""Tests CUDA kernels on tensors of 2^31 elements and more: right, or refused in one clear line.

No test has that much memory. A refusal comes before anything is read, so a buffer may only claim
its size. Unwritten pages take no memory, so an input may be that large if a kernel reads little of
it.
"""

import mmap
import re

import pytest
import torch
import torch.nn.functional as F

from fastconv.kernels import limits
from fastconv.testing import Pool, Problem, codes, inputs, kernels

NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)
COUNTED, REACHED = 2**31 - 1024, 2**30 - 1


def specs(problem):
    return problem.conv_spec, problem.pool and problem.pool.spec


class Claims:
    """Buffers of an operation's tensors, none of which exists."""

    def __init__(self, module, problem):
        self.module, self.problem = module, problem
        self.byte = torch.zeros(1 << 12, dtype=torch.uint8)
        self.address = (self.byte.data_ptr() + 1023) // 1024 * 1024

    def __call__(self, size, layout="nchw", dtype=None):
        dtype, count = dtype or self.problem.dtype, 1
        for n in size:
            count *= n
        size = tuple(size)
        nbytes = count * dtype.itemsize
        return self.address, nbytes, kernels.CODES[dtype], size, inputs.strides(size, layout)

    def code(self):
        if not self.problem.relu:
            return None
        layout = "nhwc" if self.problem.pool else "nchw"
        return self(codes.size(self.problem, "emulated"), layout, torch.uint8)

    def workspace(self, direction):
        p = self.problem
        spec = p.conv_spec, p.pool and p.pool.spec, p.relu
        sizes = kernels.CODES[p.dtype], p.x_size, p.w_size, p.y_size
        return self(
            (self.module.cuda_conv2d_workspace(direction, *sizes, *spec, False, ""),),
            "nchw",
            torch.uint8,
        )

    def call(self, direction):
        p = self.problem
        x, w, y, bias = self(p.x_size), self(p.w_size), self(p.y_size), self((p.k,))
        code, spec, space = (
            self.code(),
            (p.conv_spec, p.pool and p.pool.spec),
            self.workspace(direction),
        )
        if direction == "fprop":
            self.module.cuda_conv2d_fprop(
                x, w, bias, y, code, *spec, p.relu, space, 0, 0, False, ""
            )
        elif direction == "dgrad":
            self.module.cuda_conv2d_dgrad(y, code, w, x, *spec, space, 0, 0, False, "")
        else:
            self.module.cuda_conv2d_wgrad(
                x, y, code, w, bias, p.w_size, *spec, space, 0, 0, False, ""
            )


def expect_refusal(module, direction, text, what, value, most):
    message = (
        f"cuda_conv2d_{direction}: conv2d on CUDA: {what} = {value} is not supported: "
        f"at most {most}"
    )
    with pytest.raises(RuntimeError, match=f"^{re.escape(message)}$"):
        Claims(module, Problem.parse(text)).call(direction)


# Problems that no direction takes.
REFUSED = [
    ("mb1ic1ih1iw1oc1sh536870912ph536870912", "the height with padding", 2**31 + 2, REACHED),
    ("mb1ic1ih1iw1oc1sw536870912pw536870912", "the width with padding", 2**31 + 2, REACHED),
    (
        "mb1ic1ih1iw1oc1_pool1x1s1x1p0x0d1073741823x1c0",
        "the height that pooling windows cover",
        2**30,
        REACHED,
    ),
    (
        "mb1ic1ih1iw1oc1_pool1x1s1x1p0x0d1x1073741823c0",
        "the width that pooling windows cover",
        2**30,
        REACHED,
    ),
    ("mb1ic1ih32768iw65536oc1", "H * W", 2**31, COUNTED),
    ("mb1ic1ih32768iw65536oc1_relu", "H * W", 2**31, COUNTED),
    ("mb1ic1ih32768iw65536oc1_pool2x2s2x2p0x0d1x1c0", "H * W", 2**31, COUNTED),
    ("mb1ic1ih1iw1oc1ph32767pw16384", "P * Q", 65535 * (32769 + 7), COUNTED),
    ("mb1ic1ih1iw1oc1kh65536kw32768ph32768pw16384", "R * S", 2**31, COUNTED),
    ("mb2ic1ih32768iw32768oc1sh4sw4", "N * H * W", 2**31, COUNTED),
    ("mb32768ic1ih1iw1oc1ph128pw128", "N * P * Q", 32768 * 257 * 264, COUNTED),
    ("mb1ic1048576ih1iw1oc1kh64kw64ph32pw32", "R * S * C", 64 * 64 * (2**20 + 1), COUNTED),
    ("mb1ic1ih1iw1oc1048576kh64kw64ph32pw32", "R * S * K", 64 * 64 * (2**20 + 1), COUNTED),
]


@pytest.mark.parametrize("direction", ["fprop", "dgrad", "wgrad"])
@pytest.mark.parametrize("text, what, value, most", REFUSED)
def test_convolutions_refused(direction, text, what, value, most, emulated_kernels):
    expect_refusal(emulated_kernels, direction, text, what, value, most)


GROUPS = "mb1ic536870912ih{}iw{}oc536870912g536870912"  # 2^29
BLOCKS = [
    ("fprop", GROUPS.format(32, 16), "the number of blocks", 2**31, COUNTED),
    ("fprop", GROUPS.format(32, 16) + "_relu", "the number of blocks", 2**31, COUNTED),
    ("dgrad", GROUPS.format(32, 16), "the number of blocks", 2**31, COUNTED),
    (
        "fprop",
        "mb32768ic32768ih2iw2oc32768g32768_pool2x2s2x2p0x0d1x1c0",
        "N * groups",
        2**30,
        REACHED,
    ),
    (
        "fprop",
        "mb1ic1ih32800iw32800oc1_pool12x12s1x1p0x0d1x1c0",
        "the number of a pool's tiles",
        32789**2,
        REACHED,
    ),
    ("wgrad", "mb1ic65536ih1iw1oc32768", "the number of weights", 65537 * 32768, COUNTED),
]


@pytest.mark.parametrize("direction, text, what, value, most", BLOCKS)
def test_launches_refused(direction, text, what, value, most, emulated_kernels):
    expect_refusal(emulated_kernels, direction, text, what, value, most)


def counted(problem):
    """Whether the operators give the problem to these kernels."""
    sizes = problem.x_size, problem.w_size
    return limits.gpu_counts(*sizes, problem.conv_spec, problem.pool_spec)


@pytest.mark.parametrize("text", [text for text, *_ in REFUSED] + [text for _, text, *_ in BLOCKS])
def test_what_is_refused_is_not_given_to_the_kernels(text):
    assert not counted(Problem.parse(text))


@pytest.mark.parametrize("place", range(4))
def test_pools_refused(place, emulated_kernels):
    # Its kernels count in 64 bits. They refuse only a size that no index fits.
    size = [1, 1, 1, 1]
    size[place] = 2**30
    x = Claims(emulated_kernels, Problem.parse("mb1ic1ih1iw1"))(size)
    message = f"sizes of x must be between 0 and {2**30 - 1}, got {2**30}"
    pool = (1, 1, 1, 1, 0, 0, 1, 1)
    for name in ("cuda_max_pool2d_fprop", "cuda_max_pool2d_bprop"):
        with pytest.raises(ValueError, match=f"^{message}$"):
            getattr(emulated_kernels, name)(x, x, x, pool, 0, 0)


# Inputs beyond 2^31 elements


def sparse(size, layout, dtype):
    """Zeros that take memory only where they are written to."""
    count = torch.Size(size).numel()
    assert count > 2**31
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE
    memory = mmap.mmap(-1, count * dtype.itemsize, flags=flags)
    return torch.frombuffer(memory, dtype=dtype).as_strided(size, inputs.strides(size, layout))


def fill_at(tensor, rows, columns, seed):
    """Random values in these rows and columns; returns them as a small tensor."""
    generator = torch.Generator().manual_seed(seed)
    size = (*tensor.shape[:2], len(rows), len(columns))
    values = torch.randn(size, generator=generator).to(tensor.dtype)
    tensor[:, :, rows[:, None], columns] = values
    return values


def windows(count, step, window):
    """The places that `count` windows, `step` apart, cover."""
    return (torch.arange(count)[:, None] * step + torch.arange(window)).flatten()


LAYOUTS = pytest.mark.parametrize("layout", ["nchw", "nhwc"])
# Four windows of 3 each way, as far apart as the input allows.
STEP, WINDOWS = 10900, windows(4, 10900, 3)
SIDE = 3 * STEP + 3
NEAR = Problem.parse("mb1ic8ih12iw12oc3kh3kw3sh3sw3_f16_nchw")
FAR = Problem.parse(f"mb1ic8ih{SIDE}iw{SIDE}oc3kh3kw3sh{STEP}sw{STEP}_f16_nchw")
POOLED = [problem.replace(pool=Pool((2, 2), (2, 2))) for problem in (NEAR, FAR)]
BLOCKS_NEAR_AND_FAR = pytest.mark.parametrize(
    "near, far",
    [
        (NEAR, FAR),
        (NEAR.replace(relu=True), FAR.replace(relu=True)),
        POOLED,
    ],
    ids=["conv2d", "conv2d_relu", "conv2d_relu_max_pool2d"],
)


@pytest.mark.parametrize("problem", [FAR, FAR.replace(relu=True), *POOLED[1:]], ids=str)
def test_large_inputs_are_given_to_the_kernels(problem):
    assert counted(problem)


@LAYOUTS
def test_max_pool2d_of_a_large_input(layout, emulated_kernels):
    x = sparse(FAR.x_size, layout, torch.float16)
    near = fill_at(x, WINDOWS, WINDOWS, seed=1)
    expected, index = F.max_pool2d(near.float(), 3, return_indices=True)
    y = torch.empty_strided(expected.shape, inputs.strides(expected.shape, layout), dtype=x.dtype)
    code = torch.empty_strided(y.shape, y.stride(), dtype=torch.uint8)
    pool = (3, 3, STEP, STEP, 0, 0, 1, 1)
    buffers = [kernels.pack(tensor) for tensor in (x, y, code)]
    emulated_kernels.cuda_max_pool2d_fprop(*buffers, pool, 0, 0)
    assert torch.equal(y.float(), expected)
    assert torch.equal(code, (index // 12 % 3 * 3 + index % 12 % 3).to(torch.uint8))


@LAYOUTS
@BLOCKS_NEAR_AND_FAR
def test_fprop_of_a_large_input(near, far, layout, emulated_kernels):
    x = sparse(far.x_size, layout, far.dtype)
    data = inputs.make(near)._replace(x=fill_at(x, WINDOWS, WINDOWS, seed=2))
    expected, code = kernels.fprop(near, *data[:3], layout="nchw", device="emulated")
    code = codes.keep(near, code, "emulated")
    y, space = torch.empty(near.y_size, dtype=x.dtype), torch.empty(0, dtype=torch.uint8)
    found = None if code is None else torch.empty_like(code)
    tensors = (x, data.w, data.bias, y, found, space)
    *buffers, space = [kernels.pack(tensor) for tensor in tensors]
    emulated_kernels.cuda_conv2d_fprop(*buffers, *specs(far), far.relu, space, 0, 0, False, "")
    assert torch.equal(y, expected)
    assert code is None or torch.equal(found, code)


@LAYOUTS
@BLOCKS_NEAR_AND_FAR
def test_wgrad_of_a_large_input(near, far, layout, emulated_kernels):
    x = sparse(far.x_size, layout, far.dtype)
    data = inputs.make(near)._replace(x=fill_at(x, WINDOWS, WINDOWS, seed=3))
    code = kernels.make_code(near, 0.5)
    kept = codes.keep(near, code, "emulated")
    dw, dbias = torch.empty(near.w_size, dtype=x.dtype), torch.empty(near.k, dtype=x.dtype)
    nbytes = kernels.workspace_bytes("wgrad", far, "", device="emulated")
    memory = torch.empty(nbytes, dtype=torch.uint8)
    tensors = (x, data.dy, kept, dw, dbias, memory)
    *buffers, space = [kernels.pack(tensor) for tensor in tensors]
    emulated_kernels.cuda_conv2d_wgrad(*buffers, far.w_size, *specs(far), space, 0, 0, False, "")
    expected = kernels.wgrad(near, data.x, data.dy, code, device="emulated")
    assert torch.equal(dw, expected[0]) and torch.equal(dbias, expected[1])


@LAYOUTS
def test_dgrad_of_a_large_gradient(layout, emulated_kernels):
    # Most of it comes from padding, which has no gradient.
    pad, w = 17000, torch.randn(8, 3, 1, 1).half()
    problem = Problem.parse(f"mb1ic3ih4iw5oc8ph{pad}pw{pad}_f16_nchw")
    dy = sparse(problem.y_size, layout, problem.dtype)
    near = fill_at(dy, pad + torch.arange(4), pad + torch.arange(5), seed=4)
    dx = torch.empty(problem.x_size, dtype=dy.dtype)
    space = torch.empty(0, dtype=torch.uint8)
    *buffers, space = [kernels.pack(tensor) for tensor in (dy, None, w, dx, space)]
    emulated_kernels.cuda_conv2d_dgrad(*buffers, problem.conv_spec, None, space, 0, 0, False, "")
    small = problem.replace(pads=(0, 0, 0, 0))
    assert torch.equal(dx, kernels.dgrad(small, near, None, w, layout="nchw", device="emulated"))
