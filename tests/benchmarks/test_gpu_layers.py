"""Tests the layers of benchmarks/gpu_check.py and their measurement, on a CPU."""

from collections import Counter
from math import prod

import pytest
import torch

import gpu.layers
import gpu.sweep
from fastconv.testing import Problem, checks
from gpu import layer_times
from measure import truth

SMALL = [
    "mb2ic8ih9iw9oc12kh3kw3sh2sw2ph1pw1_nobias_f32_nhwc",
    "mb2ic8ih9iw9oc12kh1kw1_nobias_f32_nhwc",
    "mb2ic3ih10iw10oc8kh3kw3ph1pw1_relu_f32_nhwc",
    "mb2ic8ih10iw10oc8kh3kw3ph1pw1_pool2x2s2x2p0x0d1x1c0_f32_nhwc",
]
small = pytest.mark.parametrize("problem", [Problem.parse(t) for t in SMALL], ids=str)


def network(name):
    return [layer for layer in gpu.layers.LAYERS if layer.network == name]


def test_resnet50_is_the_one_that_is_known():
    layers = network("ResNet-50")
    assert sum(layer.uses for layer in layers) == 53 and len(layers) == 23
    assert f"{sum(layer.macs for layer in layers) / 1e9:.2f}" == "4.09"
    weights = sum(layer.uses * prod(layer.problem.w_size) for layer in layers)
    # 25557032 parameters, minus 26560 pairs of batch norm and the last layer.
    assert weights == 25_557_032 - 2 * 26_560 - (2048 + 1) * 1000
    kernels = Counter()
    for _, problem, count in layers:
        kernels[problem.r, problem.stride[0]] += count
        assert not problem.bias and not problem.relu
    assert kernels == {(7, 2): 1, (1, 1): 33, (3, 1): 13, (3, 2): 3, (1, 2): 3}
    # Version 1.5: the 3x3 layer and the shortcut of a stage's first block have the stride.
    strided = [p for _, p, _ in layers if p.stride == (2, 2) and p.r == 3]
    assert [(p.c, p.h, p.k, p.y_size[2]) for p in strided] == [
        (128, 56, 128, 28),
        (256, 28, 256, 14),
        (512, 14, 512, 7),
    ]
    counts = {p.x_size[1:3] + p.y_size[1:3]: n for _, p, n in layers if p.r == 1}
    assert counts[64, 56, 256, 56] == 4  # the shortcut has the shape of the last 1x1 layer
    assert counts[512, 28, 128, 28] == 3 and counts[256, 14, 1024, 14] == 6
    assert counts[1024, 14, 2048, 7] == 1 and counts[2048, 7, 512, 7] == 2


def test_vgg16_is_the_one_that_is_known():
    layers = network("VGG-16")
    assert sum(layer.uses for layer in layers) == 13 and len(layers) == 12
    assert f"{sum(layer.macs for layer in layers) / 1e9:.2f}" == "15.35"
    weights = sum(layer.uses * (prod(layer.problem.w_size) + layer.problem.k) for layer in layers)
    assert weights == 14_714_688  # all weights but the classifier's
    pools = [p for _, p, _ in layers if p.pool is not None]
    assert [(p.k, p.y_size[2]) for p in pools] == [
        (64, 112),
        (128, 56),
        (256, 28),
        (512, 14),
        (512, 7),
    ]
    assert all(p.relu and p.bias and (p.r, p.s) == (3, 3) for _, p, _ in layers)
    assert [n for _, _, n in layers] == [1] * 10 + [2, 1]  # the first two of the last group


def test_layers_are_distinct_problems():
    names = [str(layer.problem) for layer in gpu.layers.LAYERS]
    assert len(set(names)) == len(names) == 35
    assert all(layer.problem.valid() for layer in gpu.layers.LAYERS)


@small
def test_a_right_layer_is_timed(problem):
    found = layer_times.measure(problem, 1, "cpu")
    assert found["wrong"] == [] and list(found["milliseconds"]) == ["forward", "backward"]
    for mode in found["milliseconds"].values():
        assert list(mode) == ["torch", "fastconv"]
        assert all(times["median"] > 0 for times in mode.values())


@small
def test_a_right_layer_is_swept(problem):
    found = gpu.sweep.measure(problem, 1, "cpu")
    assert found["wrong"] == [] and list(found["milliseconds"]) == ["fprop", "dgrad", "wgrad"]
    assert all(list(times) == [""] for times in found["milliseconds"].values())


@small
def test_a_variant_that_is_wrong_is_named_and_not_timed(problem, monkeypatch):
    right = layer_times.our_directions

    def wrong(*arguments):
        functions = right(*arguments)
        dgrad = functions["dgrad"]
        return {**functions, "dgrad": lambda: (dgrad()[0] + 1,)}

    monkeypatch.setattr(layer_times, "our_directions", wrong)
    found = gpu.sweep.measure(problem, 1, "cpu")
    assert list(found["milliseconds"]) == ["fprop", "wgrad"]
    assert len(found["wrong"]) == 1 and found["wrong"][0].startswith("fastconv dgrad : dx: ")


@small
def test_on_a_gpu_what_could_not_be_captured_is_told(problem, monkeypatch):
    def device_times(functions, repeat):
        assert list(functions) == ["torch", "fastconv"]
        return {name: [1e-3] * repeat for name in functions}, ["torch: launches included"]

    monkeypatch.setattr(layer_times.gpu_timing, "device_times", device_times)
    found = layer_times.measure(problem, 3, "cpu:0")  # any device that is not "cpu"
    assert found["wrong"] == [f"{m}, torch: launches included" for m in ("forward", "backward")]
    assert found["milliseconds"]["backward"]["fastconv"] == {"q1": 1, "median": 1, "q3": 1}


@small
def test_a_wrong_result_is_named_and_not_timed(problem, monkeypatch):
    right = layer_times.our_modes

    def wrong_backward(*arguments):
        modes = right(*arguments)

        def backward():
            dw, dbias, dx = modes["backward"]()
            return dw, dbias, dx * 1.01

        return {**modes, "backward": backward}

    def wrong_output(*arguments):
        return {**right(*arguments), "forward": lambda: (right(*arguments)["forward"]()[0] + 1,)}

    for change, mode, what in (
        (wrong_backward, "backward", "dx"),
        (wrong_output, "forward", "y"),
    ):
        monkeypatch.setattr(layer_times, "our_modes", change)
        found = layer_times.measure(problem, 1, "cpu")
        assert len(found["wrong"]) == 1
        assert found["wrong"][0].startswith(f"{mode}, fastconv: {what}: fastconv")
        assert str(problem) in found["wrong"][0]
        timed = {mode: list(times) for mode, times in found["milliseconds"].items()}
        both = ["torch", "fastconv"]
        assert timed == {"forward": both, "backward": both, mode: ["torch"]}


@small
def test_torch_computes_what_its_autograd_does(problem):
    data = layer_times.draw(problem, "cpu")
    assert data.x.is_contiguous(memory_format=torch.channels_last)
    modes = layer_times.torch_modes(problem, data)
    y, *gradients = modes["forward"]() + modes["backward"]()
    leaves = [None if t is None else t.detach().requires_grad_() for t in (*data[1:3], data.x)]
    weight, bias, x = leaves
    again = torch.nn.functional.conv2d(x, weight, bias, *problem.conv_arguments)
    again = again.relu() if problem.relu else again
    if problem.pool is not None:
        again = torch.nn.functional.max_pool2d(again, *problem.pool.arguments)
    torch.testing.assert_close(y, again)
    wanted = [t for t in leaves if t is not None]
    expected = torch.autograd.grad(again, wanted, data.dy)
    found = [g for g in gradients if g is not None]
    assert len(found) == len(expected)
    for gradient, other in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient, other)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_results_are_held_to_their_rounding(dtype):
    problem = Problem.parse(SMALL[0]).replace(dtype=dtype)
    data = layer_times.draw(problem, "cpu")
    exact, own, _ = checks.expected_conv(problem, data)
    eps = torch.finfo(dtype).eps
    truth.check_norm(exact.to(dtype), exact, own, "y")
    truth.check_norm((exact * (1 + eps / 2)).to(dtype), exact, own, "y")
    for wrong in (exact * (1 + 4 * eps), exact * torch.nan, exact.roll(1)):
        with pytest.raises(AssertionError, match="y: the error's norm"):
            truth.check_norm(wrong.to(dtype), exact, own, "y")
