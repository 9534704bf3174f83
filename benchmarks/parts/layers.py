"""Times lone layers of known networks: fastconv's Conv2d, MaxPool2d and ReLU against torch.nn's.

Each side runs in both memory formats, and a ratio compares each side's faster one. (torch.compile
cannot make a lone layer faster.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

import fastconv
from fastconv.testing import Problem, inputs
from measure import batch_truth, convolutions, norms, progress, timing
from measure.calls import FLOAT32, FORMATS, TYPES, call, once
from measure.environment import environment
from show import table

BATCHES = (1, 16)
SECONDS = 4.0  # of samples per mode; then the least number of them is enough


class Layer(NamedTuple):
    """A layer at batch 1, and the network or the set it belongs to."""

    network: str
    problem: Problem


def _lone(text: str) -> Problem:
    """A network's convolution without its fused layers."""
    return Problem.parse(text).replace(pool=None, relu=False, layout="nchw")


# As in ResNet-50, VGG-16 (its first and its last) and SqueezeNet 1.1.
_POOLS = ("ic64ih112iw112_pool3x3s2x2p1x1d1x1c0", "ic64ih224iw224_pool2x2s2x2p0x0d1x1c0",
          "ic512ih14iw14_pool2x2s2x2p0x0d1x1c0", "ic128ih55iw55_pool3x3s2x2p0x0d1x1c1")  # fmt: skip
_RELUS = ("ic64ih224iw224_relu", "ic256ih56iw56_relu", "ic512ih14iw14_relu")

# Each distinct layer of a network once.
NETWORKS = {
    **{name: dict.fromkeys(map(_lone, texts())) for name, texts in convolutions.NETWORKS.items()},
    "MaxPool2d": [Problem.parse(f"mb1{text}_f32_nchw") for text in _POOLS],
    "ReLU": [Problem.parse(f"mb1{text}_f32_nchw") for text in _RELUS],
}
LAYERS = [Layer(name, problem) for name, problems in NETWORKS.items() for problem in problems]


def choose(wanted: Sequence[str] | None) -> list[Layer]:
    """The layers of networks whose names contain one of these texts, all by default.

    Raises:
        NoSuchName: a text is in no network's name.
    """
    networks = progress.matching(NETWORKS, wanted)
    return [layer for layer in LAYERS if layer.network in networks]


def run(
    layers: Sequence[Layer], batches: Sequence[int], repeat: int, dtype: str = "float32"
) -> dict[str, object]:
    """Checks and times the layers. The result can be written as JSON."""
    jobs = [(layer, batch) for layer in layers for batch in batches]
    results = progress.collect(
        jobs,
        lambda job: f"{job[0].network} {table.shape(job[0].problem)}, batch {job[1]}",
        lambda job: run_layer(*job, repeat, dtype),
    )
    return {"environment": environment(), "dtype": dtype, "repeat": repeat, "layers": results}


def run_layer(layer: Layer, batch: int, repeat: int, dtype: str = "float32") -> dict[str, object]:
    """Milliseconds of a layer in both modes. In 16 bits torch's float32 layer is timed, too.

    Raises:
        AssertionError: a side's results are wrong.
    """
    problem = layer.problem.replace(n=batch)
    data = batch_truth.draw(problem)
    truth = batch_truth.of(problem, data)
    modes = {}
    # The images need no gradient.
    for mode, want_dx in {"forward": None, "forward+backward": problem.c != 3}.items():
        functions = {}
        for side, module in sides(problem, data).items():
            for name, channels_last in FORMATS.items():
                function = call(module, data.x, data.dy, want_dx, channels_last)
                truth.check(f"{side} {name}", *(t.detach() for t in function()))
                functions[f"{side} {name}"] = function
        if dtype != "float32":
            functions = _in_16_bits(problem, data, getattr(torch, dtype), want_dx, functions)
        times = timing.alternate(functions, repeat, seconds=SECONDS, once=once(dtype))
        modes[mode] = timing.milliseconds(times)
    problem = problem.with_type(TYPES[dtype])
    return {"network": layer.network, "problem": str(problem), "milliseconds": modes}


def _in_16_bits(
    problem: Problem,
    data: inputs.Inputs,
    dtype: torch.dtype,
    want_dx: bool | None,
    float32: dict[str, timing.Function],
) -> dict[str, timing.Function]:
    """The checked calls of both sides in 16 bits, and those of torch in float32."""
    found = {}
    x, dy = data.x.to(dtype), data.dy.to(dtype)
    for side, module in sides(problem, data).items():
        for name, channels_last in FORMATS.items():
            function = call(module.to(dtype), x, dy, want_dx, channels_last)
            if side == "fastconv":
                expected = float32[f"torch {name}"]()
                label = f"{side} {name} {problem} {dtype}"
                norms.check(problem, function(), expected, data.dy, label)
            found[f"{side} {name}"] = function
    return found | {f"{FLOAT32} {name}": float32[f"torch {name}"] for name in FORMATS}


def sides(problem: Problem, data: inputs.Inputs) -> dict[str, nn.Module]:
    """Torch's layer and fastconv's, with the same parameters."""
    if problem.k:
        sizes = problem.c, problem.k, (problem.r, problem.s)
        theirs: nn.Module = nn.Conv2d(*sizes, *problem.conv_arguments, bias=problem.bias)
        parameters = {"weight": data.w, "bias": data.bias}
        theirs.load_state_dict({k: v for k, v in parameters.items() if v is not None})
    elif problem.pool is not None:
        window, stride, pad, dilation, ceil = problem.pool.arguments
        theirs = nn.MaxPool2d(window, stride, pad, dilation, ceil_mode=ceil)
    else:
        theirs = nn.ReLU()
    return {"torch": theirs, "fastconv": fastconv.convert(theirs)}


def rows(result: dict) -> list[tuple[str, Problem, dict[str, float]]]:
    """Each layer's network, problem at its batch, and ratios by mode."""
    return [
        (
            layer["network"],
            Problem.parse(layer["problem"]),
            {mode: table.ratio(times) for mode, times in layer["milliseconds"].items()},
        )
        for layer in result["layers"]
    ]


def text(result: dict) -> str:
    """A line for each layer, then the summary."""
    modes = list(result["layers"][0]["milliseconds"])
    columns = ("torch ms", "fastconv ms", "ratio")
    in_16_bits = table.dtype(result) != "float32"
    columns += (f"{FLOAT32} ms",) * in_16_bits
    lines = table.head(["layer", "batch", *(f"{m}, {c}" for m in modes for c in columns)], 1)
    for layer in result["layers"]:
        problem = Problem.parse(layer["problem"])
        cells = [f"{layer['network']}: {table.shape(problem)}", str(problem.n)]
        for times in layer["milliseconds"].values():
            cells += [table.best(times, "torch"), table.best(times, "fastconv")]
            cells.append(table.multiple(table.ratio(times)))
            if in_16_bits:
                cells.append(table.best(times, FLOAT32))
        lines.append(table.row(cells))
    return "\n".join([*lines, "", "(In brackets the quartiles.)", "", summary(result)])


def summary(result: dict) -> str:
    """A line per network and batch: the ratios' geometric mean, the least, and how many lose."""
    found: dict[tuple[str, int], list[dict[str, float]]] = {}
    for network, problem, ratios in rows(result):
        found.setdefault((network, problem.n), []).append(ratios)
    modes = list(result["layers"][0]["milliseconds"])
    lines = table.head(["layers", "number", "batch", *modes], 1)
    for (network, batch), group in found.items():
        cells = [network, str(len(group)), str(batch)]
        for mode in modes:
            ratios = [layer[mode] for layer in group]
            mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
            below = sum(ratio < 1 for ratio in ratios)
            cells.append(f"**{mean:.2f}x** ({min(ratios):.2f}x; {below})")
        lines.append(table.row(cells))
    lines += [
        "",
        "Time of torch eager / time of fastconv, each the faster of NCHW and channels_last: "
        "geometric mean (the least; how many are below 1). "
        f"{table.dtype(result)}, medians of up to "
        f"{result['repeat']}. Backward: the gradients of weight, bias and, unless the input has 3 "
        f"channels, input. {table.machine(result['environment'])}.",
    ]
    return "\n".join(lines)
