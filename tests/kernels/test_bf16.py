"""Tests that inf and NaN reach no other result in kernels that take several bfloat16 at once."""

import pytest

from fastconv import _C

PAIRS = [
    isa for isa in _C.build_info()["isas_supported"] if isa in ("amx", "avx2x16_amx", "avx512_bf16")
]

# Odd channels, odd rows of a kernel, odd columns; in place, with edges, by groups.
PROBLEMS = """
mb2ic3ih9iw9oc20kh3kw3ph1pw1_bf16_nhwc
mb2ic3ih11iw11oc20kh3kw3_bf16_nchw
mb2ic5ih9iw9oc40kh1kw1_bf16_nhwc
mb1ic33ih7iw9oc17kh3kw3ph1pw1_bf16_nhwc
mb1ic15ih9iw9oc30kh3kw3ph1pw1g3_bf16_nhwc
mb1ic27ih9iw9oc30kh3kw3sh2sw2g3_bf16_nchw
mb2ic16ih8iw8oc20kh3kw3ph1pw1_bf16_nhwc
"""

CHILD = """
import sys
import torch
from fastconv import _C
from fastconv.testing import Problem, checks, inputs, kernels

assert _C.build_info()["isa"] == sys.argv[1], _C.build_info()["isa"]


def same(found, expected, name):
    assert torch.equal(found.isfinite(), expected.isfinite()), name
    assert expected.isfinite().any() and not expected.isfinite().all(), name


def of_bfloat16(direction, problem):
    found = [name for name in kernels.implementations(direction, problem) if "bf16" in name]
    assert found, (direction, problem)
    return found


for text in sys.argv[2:]:
    problem = Problem.parse(text)
    for value in (float("nan"), float("inf")):
        for operand in ("x", "dy"):
            data = inputs.make(problem)
            tensor = getattr(data, operand)
            for part in (0, 0.5, 1):
                place = tuple(int(part * (size - 1)) for size in tensor.shape)
                one = data._replace(**{operand: tensor.clone()})
                getattr(one, operand)[place] = value
                name = f"{text}: {value} at {place} of {operand}"
                gradients = checks.expected_gradients(problem, one, None)
                if operand == "x":
                    output = checks.expected_conv(problem, one).exact
                    for kernel in of_bfloat16("fprop", problem):
                        y, _ = kernels.fprop(problem, one.x, one.w, one.bias, kernel)
                        same(y, output, f"{kernel} {name}")
                for kernel in of_bfloat16("wgrad", problem):
                    dw, _ = kernels.wgrad(problem, one.x, one.dy, None, kernel)
                    if problem.c > 3:
                        same(dw, gradients["dw"].exact, f"{kernel} {name}")
                for kernel in of_bfloat16("dgrad", problem) if operand == "dy" else ():
                    dx = kernels.dgrad(problem, one.dy, None, one.w, kernel)
                    same(dx, gradients["dx"].exact, f"{kernel} {name}")
"""


@pytest.mark.skipif(
    not PAIRS, reason="needs AMX, AVX512-BF16, or a build with FASTCONV_TEST_ISA=ON"
)
@pytest.mark.parametrize("isa", PAIRS)
def test_inf_and_nan_stay_where_they_are(isa, run_python):
    done = run_python(CHILD, isa, *PROBLEMS.split(), FASTCONV_ISA=isa)
    assert done.returncode == 0, done.stderr
