"""Times conv + bias + ReLU + max-pool: fastconv's fused layer against torch's three layers.

It times torch's four variants (eager and compiled, NCHW and channels_last) and fastconv's two (its
input NCHW or channels_last). A ratio compares each side's fastest variant, so each side has its
best memory format.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

import fastconv
from fastconv.testing import Problem, inputs
from measure import gpu_timing, timing
from measure.calls import FLOAT32, FORMATS, TYPES, call, once
from measure.environment import environment
from measure.progress import NoSuchName, collect, say
from measure.truth import Truth


class Block(NamedTuple):
    """A block of one of the networks, at batch 1."""

    letter: str
    name: str
    problem: Problem


def _block(letter: str, name: str, conv: str, pool: str) -> Block:
    return Block(letter, name, Problem.parse(f"mb1{conv}_pool{pool}p0x0d1x1c0_f32_nchw"))


BLOCKS = [
    _block("A", "CaseStudy-1", "ic3ih224iw224oc32kh5kw5ph2pw2", "2x2s2x2"),
    _block("B", "CaseStudy-2", "ic32ih112iw112oc64kh5kw5ph2pw2", "2x2s2x2"),
    _block("C", "CaseStudy-3", "ic64ih56iw56oc128kh5kw5ph2pw2", "2x2s2x2"),
    _block("D", "Simple-1", "ic3ih224iw224oc64kh7kw7sh2sw2ph3pw3", "3x3s2x2"),
    _block("E", "Simple-2", "ic64ih55iw55oc128kh3kw3sh2sw2ph1pw1", "3x3s2x2"),
    _block("F", "CNN", "ic3ih112iw112oc32kh3kw3ph1pw1", "2x2s2x2"),
    _block("G", "Simple-3", "ic128ih13iw13oc256kh3kw3sh2sw2ph1pw1", "3x3s2x2"),
]

BATCH = 8

# The modes: with gradients or not, and whether the input's is among them.
MODES = {"forward": None, "forward+backward": True, "forward+backward, no dX": False}


def choose(wanted: Sequence[str] | None) -> list[Block]:
    """Blocks by letter or name, all by default.

    Raises:
        NoSuchName: there is no such block.
    """
    if not wanted:
        return BLOCKS
    found = {key.lower(): b for b in BLOCKS for key in (b.letter, b.name)}
    for name in wanted:
        if name.lower() not in found:
            raise NoSuchName(f"no block {name!r}; there are {', '.join(found)}")
    return [b for b in BLOCKS if any(found[name.lower()] is b for name in wanted)]


def run(
    blocks: Sequence[Block], batch: int, repeat: int, compiled: bool, dtype: str = "float32"
) -> dict[str, object]:
    """Checks and times the blocks. The result can be written as JSON."""
    results = collect(
        blocks,
        lambda block: f"{block.letter} {block.name}",
        lambda block: run_block(block, batch, repeat, compiled, dtype=dtype),
    )
    how = {"dtype": dtype, "batch": batch, "repeat": repeat}
    return {"environment": environment(), **how, "blocks": results}


def run_block(
    block: Block,
    batch: int,
    repeat: int,
    compiled: bool,
    device: str = "cpu",
    dtype: str = "float32",
) -> dict[str, object]:
    """Milliseconds of one block in all modes; on a GPU device times, with `wall` beside them.

    On CPUs torch's float32 block is timed beside those of 16 bits.

    A wrong variant is an error on a CPU. On a GPU, where measurements are rare, it is left out and
    named in `wrong`.
    """
    problem = block.problem.replace(n=batch).with_type(TYPES[dtype])
    data = _plain(inputs.make(problem), device)
    say(f"{block.letter} {block.name}: float64 reference")
    truth = Truth(problem, data, device)
    modes: dict[str, dict] = {}
    wall: dict[str, dict] = {}
    wrong: list[str] = []
    for mode, want_dx in MODES.items():
        say(f"{block.letter} {block.name}, {mode}: compiling and checking")
        torch.compiler.reset()
        functions = {}
        for name, (layer, channels_last) in _variants(problem, data, compiled).items():
            function = call(layer, data.x, data.dy, want_dx, channels_last)
            try:
                truth.check(name, *(t.detach() for t in function()))
            except AssertionError as error:
                if device == "cpu":
                    raise
                wrong.append(f"{mode}, {name}: {error}")
            else:
                functions[name] = function
        if dtype != "float32" and device == "cpu":
            functions |= _float32(problem, data, want_dx)
        say(f"{block.letter} {block.name}, {mode}: timing")
        if device == "cpu":
            modes[mode] = timing.milliseconds(timing.alternate(functions, repeat, once=once(dtype)))
        elif functions:
            samples, launched = gpu_timing.device_times(functions, repeat)
            modes[mode] = timing.milliseconds(samples)
            wrong += [f"{mode}, {line}" for line in launched]
            finish = torch.cuda.synchronize
            wall[mode] = timing.milliseconds(timing.alternate(functions, min(repeat, 5), finish))
    result = {
        "letter": block.letter,
        "name": block.name,
        "problem": str(problem),
        "milliseconds": modes,
    }
    return result if device == "cpu" else {**result, "wall": wall, "wrong": wrong}


def _plain(data: inputs.Inputs, device: str) -> inputs.Inputs:
    """The same values on the device, in memory that torch allocates."""
    return inputs.Inputs(*(None if t is None else t.clone().to(device) for t in data))


def _variants(
    problem: Problem, data: inputs.Inputs, compiled: bool
) -> dict[str, tuple[nn.Module, bool]]:
    """The competing layers, and whether each gets its input as channels_last."""
    found: dict[str, tuple[nn.Module, bool]] = {}
    for name, channels_last in FORMATS.items():
        found[f"torch eager {name}"] = _torch_layer(problem, data, channels_last), channels_last
    for name, channels_last in FORMATS.items() if compiled else ():
        layer = torch.compile(_torch_layer(problem, data, channels_last), dynamic=False)
        found[f"torch.compile {name}"] = layer, channels_last
    for name, channels_last in FORMATS.items():
        found[f"fastconv {name}"] = _fastconv_layer(problem, data), channels_last
    return found


def _float32(
    problem: Problem, data: inputs.Inputs, want_dx: bool | None
) -> dict[str, timing.Function]:
    """The calls of torch's eager layers in float32."""
    problem = problem.with_type(TYPES["float32"])
    data = inputs.Inputs(*(None if t is None else t.float() for t in data))
    assert data.dy is not None
    return {
        f"{FLOAT32} {name}": call(
            _torch_layer(problem, data, channels_last), data.x, data.dy, want_dx, channels_last
        )
        for name, channels_last in FORMATS.items()
    }


def _filled(conv: nn.Conv2d, data: inputs.Inputs) -> nn.Conv2d:
    assert data.w is not None and data.bias is not None and conv.bias is not None
    with torch.no_grad():
        conv.weight.copy_(data.w)
        conv.bias.copy_(data.bias)
    return conv


def _conv_arguments(problem: Problem) -> tuple:
    return problem.c, problem.k, (problem.r, problem.s), *problem.conv_arguments


def _torch_layer(problem: Problem, data: inputs.Inputs, channels_last: bool) -> nn.Module:
    assert problem.pool is not None
    conv = _filled(nn.Conv2d(*_conv_arguments(problem)), data)
    window, stride, *_ = problem.pool.arguments
    layer = nn.Sequential(conv, nn.ReLU(), nn.MaxPool2d(window, stride))
    layer = layer.to(data.x.device, problem.dtype)
    return layer.to(memory_format=torch.channels_last) if channels_last else layer


def _fastconv_layer(problem: Problem, data: inputs.Inputs) -> nn.Module:
    assert problem.pool is not None
    window, stride, *_ = problem.pool.arguments
    layer = fastconv.ConvReLUMaxPool2d(
        *_conv_arguments(problem), pool_kernel_size=window, pool_stride=stride
    )
    return _filled(layer, data).to(data.x.device, problem.dtype)
