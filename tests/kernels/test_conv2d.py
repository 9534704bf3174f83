"""conv2d: every implementation of every direction, and the function, against float64."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given

import fastconv
from fastconv import functional
from fastconv.testing import Problem, checks, inputs, kernels
from fastconv.testing.strategies import conv_problems

pytestmark = pytest.mark.usefixtures("one_thread")

PROBLEMS = {
    "one value": "mb1ic1ih1iw1oc1",
    "1x1": "mb2ic19ih5iw6oc17kh1kw1_f32_nhwc",
    "1x1 stride 2": "mb1ic8ih7iw7oc16kh1kw1sh2sw2_f32_nchw",
    "one row": "mb1ic3ih3iw40oc32kh3kw3pw1ph0",
    "one column": "mb2ic5ih31iw1oc7kh3kw1ph1",
    "one filter": "mb3ic4ih9iw9oc1kh3kw3ph1pw1",
    "kernel larger than input": "mb1ic3ih2iw3oc16kh5kw5ph2pw2",
    "output sees only padding": "mb1ic3ih2iw2oc8kh3kw3ph4pw4",
    "uneven same": "mb2ic6ih9iw11oc10kh4kw2ph1pw0pb2pr1",
    "edges": "mb2ic8ih7iw7oc24kh3kw3ph1pw1_f32_nhwc",
    "edges of stride 2": "mb2ic16ih13iw13oc40kh3kw3sh2sw2ph1pw1_f32_nhwc",
    "edges everywhere": "mb1ic8ih9iw8oc17kh7kw7ph3pw3_f32_nchw",
    "edges of more kinds than are told apart": "mb1ic3ih20iw20oc8kh15kw13ph7pw6",
    "edges, dilation, groups": "mb2ic8ih7iw6oc16kh3kw3ph2pw2dh2dw2g2_f32_nhwc",
    "dilation": "mb1ic7ih15iw13oc9kh3kw3ph2pw3dh2dw3",
    "groups": "mb2ic12ih9iw7oc18kh3kw3ph1pw1g3",
    "depthwise": "mb1ic16ih9iw9oc16kh5kw5ph2pw2g16_f32_nhwc",
    "depthwise in strides": "mb2ic19ih13iw12oc19kh3kw3sh2sw2ph1pw1g19_f32_nhwc",
    "depthwise, positions that no stride meets": "mb1ic9ih11iw14oc9kh2kw1sh3sw2g9",
    "depthwise, dilation and strides": "mb1ic40ih15iw16oc40kh3kw4sh2sw3ph2pw3dh3dw2g40",
    "depthwise, padding alone": "mb1ic9ih2iw3oc9kh3kw3ph4pw5g9_f32_nhwc",
    "depthwise, two filters a channel": "mb1ic9ih7iw8oc18kh3kw3ph1pw1g9_f32_nhwc",
    "depthwise in place, strides": "mb3ic48ih13iw12oc48kh3kw3sh2sw2ph1pw1g48_f32_nhwc",
    "depthwise in place, dilation": "mb2ic32ih15iw24oc32kh3kw2sw2ph2pw3dh3dw2g32_f32_nhwc",
    "depthwise in place, padding beyond the kernel": "mb1ic16ih14iw15oc16kh3kw3ph4pw4g16_f64_nhwc",
    "depthwise in place, but for some channels": "mb2ic404ih24iw23oc404kh3kw3ph1pw1g404_f32_nhwc",
    "stride larger than kernel": "mb1ic3ih20iw23oc16kh2kw2sh3sw5",
    "rows of the input unused": "mb1ic8ih12iw12oc8kh3kw3sh4sw4_f32_nhwc",
    "sliced": "mb2ic8ih9iw10oc16kh3kw3ph1pw1_f32_sliced",
    "transposed": "mb2ic8ih9iw10oc16kh3kw3ph1pw1_f32_transposed",
    "float64": "mb2ic8ih9iw10oc16kh3kw3ph1pw1_nobias_f64_nhwc",
    "bfloat16": "mb2ic19ih9iw11oc17kh3kw3ph1pw1_bf16_nhwc",
    "float16 planes": "mb2ic8ih9iw10oc16kh3kw3sh2sw2ph1pw1_f16_nchw",
    "one channel over whole blocks": "mb1ic161ih5iw6oc9kh3kw3ph1pw1_f32_nhwc",
    "A": "mb1ic3ih44iw44oc32kh5kw5ph2pw2_f32_nchw",
    "B": "mb1ic32ih22iw22oc64kh5kw5ph2pw2_f32_nhwc",
    "C": "mb1ic64ih12iw12oc128kh5kw5ph2pw2_f32_nhwc",
    "D": "mb1ic3ih48iw48oc64kh7kw7sh2sw2ph3pw3_f32_nchw",
    "E": "mb1ic64ih17iw17oc128kh3kw3sh2sw2ph1pw1_f32_nhwc",
    "F": "mb2ic3ih30iw30oc32kh3kw3ph1pw1_f32_nchw",
}
# Ways in which the CPU's kernels cut their work; large for the emulator.
CPU_PROBLEMS = {
    "depthwise, blocks of channels": "mb1ic300ih7iw5oc300kh7kw7ph3pw3g300_f32_nhwc",
    "depthwise, strides beyond the kernel": "mb1ic16ih40iw31oc16kh2kw3sh30sw5ph1pw2dh2g16_f32_nhwc",
    "depthwise, pieces of images": "mb3ic16ih70iw71oc16kh3kw3g16_f32_nchw",
    "images by chunks": "mb20ic512ih7iw7oc64kh1kw1_f32_nhwc",
    "rows by chunks": "mb2ic512ih24iw24oc40kh1kw1_f32_nchw",
    "phases, dilation 2 by strides 3 and 2": "mb2ic17ih19iw20oc12kh3kw3sh3sw2ph2pw1dh2dw2_f32_nchw",
    "phases, some beyond the kernel": "mb1ic16ih9iw11oc16kh2kw1sh3sw4ph1pw2_f32_nhwc",
    "phases, image smaller than stride": "mb2ic16ih2iw3oc16kh3kw3sh4sw4ph1pw1_f64_nchw",
    "few pixels, many weights, planes": "mb2ic65ih5iw6oc241kh3kw3sh2sw2ph1pw1_f32_nchw",
    "few pixels, NHWC": "mb1ic512ih7iw9oc260kh1kw1_f32_nhwc",
    "few pixels, doubles": "mb1ic130ih9iw7oc122kh3kw3ph2pw1dh2dw2_nobias_f64_nhwc",
    "few pixels, 16 bits": "mb3ic300ih3iw3oc440kh1kw1_bf16_nhwc",
    "few pixels, pooled": "mb2ic128ih6iw5oc129kh3kw3ph1pw1_pool2x2s2x2p0x0d1x1c0_f32_nhwc",
    "rows by chunks, stride 2": "mb2ic256ih33iw33oc48kh3kw3sh2sw2ph1pw1_f32_nchw",
    "stride 3, dilation 2": "mb2ic6ih40iw41oc16kh4kw3sh3sw3ph2pw1dh2dw2_f32_nhwc",
}


@pytest.mark.parametrize("kind", ["normal", "positive", "integers"])
@pytest.mark.parametrize("direction", ["fprop", "dgrad", "wgrad"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_named_problem(name, direction, kind, device):
    checks.check(direction, Problem.parse(PROBLEMS[name]), device, kind)


@pytest.mark.parametrize("kind", ["normal", "integers"])
@pytest.mark.parametrize("direction", ["fprop", "dgrad", "wgrad"])
@pytest.mark.parametrize("name", CPU_PROBLEMS)
def test_named_problem_on_cpus(name, direction, kind):
    checks.check(direction, Problem.parse(CPU_PROBLEMS[name]), "cpu", kind)


@pytest.mark.parametrize(
    "device, name_of_type", kernels.SHORT_TYPES + kernels.TENSOR_CORE_TYPES, indirect=["device"]
)
@pytest.mark.parametrize("direction", ["fprop", "dgrad", "wgrad"])
@pytest.mark.parametrize("name", ["uneven same", "dilation", "groups", "depthwise", "B", "D", "F"])
def test_named_problem_of_narrow_types(name, direction, device, name_of_type):
    checks.check(direction, Problem.parse(PROBLEMS[name]).with_type(name_of_type), device)


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
    checks.check_functional(Problem.parse(PROBLEMS[name]))


@pytest.mark.parametrize("x_layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("w_layout", ["nchw", "nhwc"])
def test_memory_format_follows_torch(x_layout, w_layout):
    x = inputs.place(torch.randn(2, 3, 6, 5), x_layout)
    w = inputs.place(torch.randn(4, 3, 3, 3), w_layout)
    assert functional.conv2d(x, w).stride() == F.conv2d(x, w).stride()


@pytest.mark.parametrize("want", [(True, False), (False, True)])
@pytest.mark.parametrize("name", ["A", "B", "dilation", "float64"])
def test_one_of_weight_and_bias_gradient(name, want):
    problem = Problem.parse(PROBLEMS[name])
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
    problem = Problem.parse(PROBLEMS[name])
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
    # Padding is made of zeros, and 0 * inf is NaN. torch's backends leave such products out or do
    # not, as the sizes fall; ours too: the plain kernel does, and the direct one for most pixels.
    problem = Problem.parse(PROBLEMS[name])
    data = inputs.make(problem, kind="integers")
    data.w[0, 0, 0, 0] = value
    top, bottom, left, right = problem.pads
    padded = data._replace(x=F.pad(data.x, (left, right, top, bottom)))
    expected = checks.expected_conv(problem.replace(pads=(0, 0, 0, 0)), padded)
    multiplied = expected.exact.isnan()
    left_out, _ = kernels.fprop(problem, *data[:3], "plain")
    for implementation in kernels.implementations_to_check("fprop", problem, device):
        if implementation == "winograd":
            continue  # spreads it over its tiles
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
    assert kernels.implementations(direction, Problem.parse(PROBLEMS[name]))[0] != "plain"


@pytest.mark.parametrize("direction", ["fprop", "dgrad", "wgrad"])
@pytest.mark.parametrize("name", [name for name in PROBLEMS if name.startswith("depthwise")])
def test_depthwise_has_a_kernel_of_its_own(name, direction):
    problem = Problem.parse(PROBLEMS[name])
    found = kernels.implementations(direction, problem)
    assert (found[0] == "depthwise") == (problem.k == problem.c), found


def test_plain_takes_everything():
    for text in PROBLEMS.values():
        for direction in ("fprop", "dgrad", "wgrad"):
            assert kernels.implementations(direction, Problem.parse(text))[-1] == "plain"


def test_unknown_implementation():
    problem = Problem.parse(PROBLEMS["1x1"])
    with pytest.raises(ValueError, match=r"must be one of .*plain.*, got nonsense"):
        kernels.workspace_bytes("fprop", problem, "nonsense")
