"""Tools of the tests and benchmarks: problems by name, inputs, the truth and the error rule.

from fastconv.testing import Problem, checks
checks.check_fprop(Problem.parse("mb2ic16ih7iw7oc16kh5kw5ph2pw2_pool2x2s2x2p0x0d1x1c0_f32_nhwc"))
"""

from ..problem import DTYPES, LAYOUTS, Pool, Problem
from . import checks, codes, errors, inputs, kernels, reference
from .errors import check_close

__all__ = [
    "DTYPES",
    "LAYOUTS",
    "Pool",
    "Problem",
    "check_close",
    "checks",
    "codes",
    "errors",
    "inputs",
    "kernels",
    "reference",
]
