"""The CUDA kernels' variants: each is right, the default is by geometry, a table overrules it."""

import json

import pytest
import torch

import fastconv
from fastconv import implementations
from fastconv.kernels import conv2d
from fastconv.testing import Problem, checks, inputs, kernels

DEVICES = [device for device in kernels.DEVICES if device != "cpu"]
PROBLEMS = [
    "mb2ic16ih9iw7oc40kh3kw3sh2sw1ph1pw1_relu",
    "mb1ic20ih9iw11oc72kh3kw3ph1pw1_pool2x2s2x2p0x0d1x1c0",
    "mb3ic6ih8iw9oc5kh2kw3ph1pw1dw2_nobias",
]
TYPES = ["f32", "f64", "f16", "bf16", "tf32"]


@pytest.mark.parametrize("device", DEVICES, indirect=True)
@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("text", PROBLEMS)
def test_every_variant_is_right(text, dtype, layout, device):
    problem = Problem.parse(f"{text}_f32_{layout}").with_type(dtype)
    data = inputs.make(problem)
    where = {"device": device}
    code = kernels.make_code(problem, dead=0.4)
    expected = checks.expected_gradients(problem, data, code)
    for name in kernels.implementations("fprop", problem, device):
        y, winners = kernels.fprop(problem, *data[:3], name, layout=layout, **where)
        checks.check_output(problem, data, y, winners)
    for name in kernels.implementations("dgrad", problem, device):
        dx = kernels.dgrad(problem, data.dy, code, data.w, name, layout=layout, **where)
        checks.check_gradients(problem, expected, {"dx": dx})
    for name in kernels.implementations("wgrad", problem, device):
        dw, dbias = kernels.wgrad(problem, data.x, data.dy, code, name, layout=layout, **where)
        checks.check_gradients(problem, expected, {"dw": dw, "dbias": dbias})


def test_emulated_one_that_is_not_there_is_refused(emulated_kernels):
    problem = Problem.parse(f"{PROBLEMS[0]}_f64_nhwc")
    data = inputs.make(problem)
    said = "implementation mma128x64 does not take this problem"
    with pytest.raises(ValueError, match=said):
        kernels.fprop(problem, *data[:3], "mma128x64", device="emulated")


# A layer and what its shape asks for.
DEFAULTS = {
    "enough pixels and filters for large tiles": (
        "mb64ic256ih28iw28oc256kh3kw3ph1pw1_bf16_nhwc",
        "mma128x128",
    ),
    "few filters": ("mb64ic64ih56iw56oc32kh3kw3ph1pw1_bf16_nhwc", "mma128x32"),
    "few pixels": ("mb8ic512ih7iw7oc512kh3kw3ph1pw1_bf16_nhwc", "mma64x64"),
    "few channels": ("mb64ic3ih56iw56oc64kh3kw3ph1pw1_bf16_nchw", "first"),
    "depthwise": ("mb64ic64ih56iw56oc64kh3kw3ph1pw1g64_f16_nhwc", "exact128x8"),
    "exact": ("mb64ic256ih28iw28oc256kh3kw3ph1pw1_f32_nhwc", "exact128x64"),
}


@pytest.mark.parametrize("name", DEFAULTS)
def test_emulated_default_fits_the_shape(name, emulated_kernels):
    text, tile = DEFAULTS[name]
    assert kernels.implementations("fprop", Problem.parse(text), "emulated")[0] == tile


@pytest.fixture
def no_table_afterwards():
    yield
    fastconv.load_implementations(None)


def written(path, *entries):
    path.write_text(json.dumps({"implementations": entries}))
    return path


def entry(direction, problem, word="implementation"):
    return {"direction": direction, "problem": problem, word: "mma128x64"}


def chosen(direction, problem, **changes):
    """The name that `_C` is told of a call on a GPU."""
    p = problem.replace(**changes)
    x = inputs.make(p).x.to("meta")  # only its dtype and device matter
    arguments = (x, torch.Size(p.w_size), p.relu, p.conv_spec, p.pool_spec)
    return conv2d._options(direction, x, lambda: conv2d._problem(*arguments))[1]


def test_a_table_names_the_kernel_of_its_problems_alone(tmp_path, no_table_afterwards):
    problem = Problem.parse(f"{PROBLEMS[1]}_f16_nhwc")
    assert chosen("fprop", problem) == ""
    fastconv.load_implementations(written(tmp_path / "table.json", entry("fprop", str(problem))))
    assert chosen("fprop", problem) == "mma128x64"
    assert chosen("wgrad", problem) == ""
    for changes in (
        {"n": 2},
        {"k": 71},
        {"pads": (1, 1, 0, 1)},
        {"pool": None},
        {"layout": "nchw"},
        {"dtype": torch.bfloat16},
    ):
        assert chosen("fprop", problem, **changes) == "", changes
    fastconv.load_implementations(None)
    assert chosen("fprop", problem) == ""


def test_tables_of_earlier_versions_are_read(tmp_path, no_table_afterwards):
    problem = Problem.parse(f"{PROBLEMS[1]}_f16_nhwc")
    path = tmp_path / "variants.json"
    path.write_text(json.dumps({"variants": [entry("dgrad", str(problem), "variant")]}))
    fastconv.load_implementations(path)
    assert chosen("dgrad", problem) == "mma128x64"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"implementations": [{}]}',
        '{"variants": [{}]}',
        json.dumps({"implementations": [entry("forward", f"{PROBLEMS[0]}_f16_nhwc")]}),
        json.dumps({"implementations": [entry("fprop", "a layer")]}),
    ],
)
def test_a_bad_table_is_refused_and_the_one_before_kept(text, tmp_path, no_table_afterwards):
    problem = Problem.parse(f"{PROBLEMS[0]}_f16_nhwc")
    fastconv.load_implementations(written(tmp_path / "good.json", entry("dgrad", str(problem))))
    before = implementations.table
    bad = tmp_path / "bad.json"
    bad.write_text(text)
    with pytest.raises(ValueError, match=r"bad\.json: not a table of implementations"):
        fastconv.load_implementations(bad)
    assert implementations.table is before and chosen("dgrad", problem) == "mma128x64"
