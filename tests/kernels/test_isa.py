"""Tests every instruction set of the build that runs here, each in its own process."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from fastconv import _C

BUILD = _C.build_info()

# Every kernel, with channel counts around all vectors' lanes, and rows that no vector divides.
GOLDEN = """
mb1ic3ih20iw23oc32kh5kw5ph2pw2_pool2x2s2x2p0x0d1x1c0_f32_nchw
mb1ic3ih22iw23oc64kh7kw7sh2sw2ph3pw3_pool3x3s2x2p0x0d1x1c0_f32_nchw
mb1ic3ih15iw14oc32kh3kw3ph1pw1_pool2x2s2x2p0x0d1x1c0_f32_nhwc
mb1ic32ih11iw12oc64kh5kw5ph2pw2_pool2x2s2x2p0x0d1x1c0_f32_nhwc
mb1ic64ih13iw12oc40kh3kw3sh2sw2ph1pw1_pool3x3s2x2p1x1d1x1c1_f32_nhwc
mb2ic17ih9iw10oc19kh3kw3ph1pw1_pool2x2s2x2p0x0d1x1c0_f32_nhwc
mb2ic16ih9iw10oc24kh3kw3ph1pw1_relu_f32_nhwc
mb2ic9ih9iw17oc15kh3kw3ph1pw1_relu_nobias_f32_nchw
mb2ic16ih9iw10oc33kh1kw1_f32_nhwc
mb1ic8ih9iw10oc16kh3kw3ph1pw1_pool2x2s2x2p0x0d1x1c0_f64_nhwc
mb1ic12ih9iw10oc18kh3kw2ph1pw1dh2g3_f64_nchw
mb1ic32ih9iw10oc32kh3kw3ph1pw1g32_pool2x2s2x2p0x0d1x1c0_f32_nhwc
mb2ic37ih9iw11_pool3x3s2x2p1x1d1x1c1_f32_nhwc
mb2ic37ih9iw11_pool2x2s2x2p0x0d1x1c0_f64_nhwc
mb1ic5ih9iw33_pool3x3s1x2p1x1d1x1c0_f32_nchw
mb1ic18ih20iw20_pool15x17s1x1p7x8d1x1c0_f32_nhwc
mb1ic3ih20iw23oc32kh5kw5ph2pw2_pool2x2s2x2p0x0d1x1c0_bf16_nchw
mb1ic32ih11iw12oc64kh5kw5ph2pw2_pool2x2s2x2p0x0d1x1c0_f16_nhwc
mb2ic17ih9iw10oc19kh3kw3sh2sw1ph1pw1_pool3x3s2x2p1x1d1x1c0_f16_nchw
mb2ic9ih9iw17oc15kh3kw3ph1pw1_relu_nobias_bf16_nhwc
mb1ic32ih9iw9oc32kh3kw3ph1pw1g32_f16_nhwc
mb1ic3ih20iw23oc40kh7kw7sh2sw2ph3pw3_bf16_nchw
mb2ic17ih9iw11oc40kh3kw3ph1pw1_bf16_nhwc
mb3ic35ih7iw7oc17kh1kw1_bf16_nhwc
mb2ic48ih9iw9oc48kh3kw3ph1pw1g48_bf16_nhwc
mb2ic37ih9iw11_pool3x3s2x2p1x1d1x1c1_f16_nhwc
mb1ic5ih9iw33_pool3x3s1x2p1x1d1x1c0_bf16_nchw
"""

CHILD = """
import sys
import torch
from fastconv import _C, functional
from fastconv.testing import DTYPES, Problem, checks, inputs, reference

torch.set_num_threads(1)
assert _C.build_info()["isa"] == sys.argv[1], _C.build_info()["isa"]
for problem in map(Problem.parse, sys.argv[2:]):
    for kind in ("normal", "integers"):
        if problem.k:
            checks.check_fprop(problem, kind=kind)
            for dead in (0.0, 0.6):
                checks.check_backward(problem, "dgrad", kind=kind, dead=dead)
                checks.check_backward(problem, "wgrad", kind=kind, dead=dead)
            continue
        data = inputs.make(problem, kind=kind)
        x = data.x.requires_grad_()
        y = checks.apply(problem, x, None, None)
        expected, winner = reference.max_pool2d(x.detach(), problem.pool)
        assert torch.equal(y, expected), problem
        dy = inputs.make(problem, kind="integers").dy
        dx = torch.autograd.grad(y, x, dy)[0]
        assert torch.equal(dx, reference.scatter(problem, dy, winner)), problem
for dtype in DTYPES.values():
    for count in (1, 3, 8, 16, 17, 100, 1003):
        x = torch.randn(count, dtype=dtype).index_fill(0, torch.tensor([count // 2]), torch.nan)
        leaf = x.clone().requires_grad_()
        y = functional.relu(leaf)
        assert torch.equal(y.nan_to_num(), x.relu().nan_to_num())
        y.backward(torch.ones_like(x))
        assert torch.equal(leaf.grad, (~(x <= 0)).to(dtype)), count
"""


@pytest.mark.slow
@pytest.mark.parametrize("isa", BUILD["isas_supported"])
def test_golden_problems(isa, run_python):
    done = run_python(CHILD, isa, *GOLDEN.split(), FASTCONV_ISA=isa)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["nonsense", ""])
def test_unknown_name_is_one_clear_line(name, run_python):
    done = run_python("import fastconv", FASTCONV_ISA=name)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert f"FASTCONV_ISA must be one of {', '.join(BUILD['isas'])}, got {name}".strip() in last


def test_name_of_a_set_that_does_not_run_here(run_python):
    missing = [isa for isa in BUILD["isas"] if isa not in BUILD["isas_supported"]]
    if not missing:
        pytest.skip("needs a CPU without one of the sets of the build")
    done = run_python("import fastconv", FASTCONV_ISA=missing[0])
    assert "this CPU does not run" in done.stderr.strip().splitlines()[-1]


def test_best_is_used():
    assert os.environ.get("FASTCONV_ISA") or BUILD["isa"] == BUILD["isas_supported"][0]


def object_files():
    """The build's objects of each set."""
    folder = os.environ.get("FASTCONV_BUILD_DIR")
    if not folder or shutil.which("nm") is None:
        pytest.skip("needs nm and FASTCONV_BUILD_DIR, the folder that fastconv was built in")
    found = {isa: sorted(Path(folder).glob(f"**/cpu_{isa}.dir/**/*.o")) for isa in BUILD["isas"]}
    assert all(found.values()), f"no objects of {BUILD['isas']} in {folder}"
    return found


def test_sets_share_no_inline_code():
    # Of several weak copies the linker keeps one, perhaps the one that this CPU does not run.
    for isa, files in object_files().items():
        for file in files:
            lines = subprocess.check_output(["nm", "-C", file], text=True).splitlines()
            # "V DW.ref.__gxx_personality_v0" is data.
            weak = [line for line in lines if line[16:19] in (" W ", " V ", " u ")]
            weak = [line for line in weak if "DW.ref." not in line]
            assert not weak, f"{isa}, {file.name}: {weak}"
