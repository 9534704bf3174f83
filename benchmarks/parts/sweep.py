"""Times random convolutions, forward and backward: fastconv's Conv2d against torch.nn's.

Known networks have few kinds of layers, so a suite of them hides the slow ones. This part draws
from lists of sizes and reports the worst cases by name. Both sides get the drawn memory format.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterator

import torch

from fastconv.testing import Problem, inputs
from measure import norms, timing
from measure.calls import FLOAT32, ONCE, TYPES, call
from measure.environment import environment
from measure.progress import collect
from measure.timing import Function
from parts import layers
from show import table

# Each size is drawn from its list, and a size that stands there twice is drawn twice as often.
CHANNELS = (1, 3, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768)
IMAGES = (1, 2, 4, 8, 16)
SIZES = (7, 10, 13, 14, 20, 27, 28, 40, 55, 56, 80, 112, 160, 224)
KERNELS = (1, 1, 2, 3, 3, 3, 4, 5, 5, 6, 7, 7)
STRIDES = (1, 1, 1, 2, 2, 3)
CHANNELS_PER_GROUP = (2, 4, 8, 16, 32)
FILTERS_PER_CHANNEL = (1, 1, 2)  # of depthwise convolutions
KINDS = ("dense", "dense", "dense", "grouped", "depthwise")
LAYOUTS = ("nchw", "nhwc")

LEAST, MOST = 10**7, 10**9  # multiply-adds of a pass; fewer measure a call, more take too long
SECONDS = 0.6  # of samples per mode; then the least number of them is enough
AGAIN = 3  # measurements of a ratio that was below 1

COUNT, SEED = 300, 1  # of the committed results
WORST = 10  # problems that the text names
LOSES = 0.9  # ratios below are counted


def draw(dtype: str, count: int, seed: int) -> list[Problem]:
    """`count` different problems. A larger count only adds to those of a smaller one."""
    generator = random.Random(seed)
    found: dict[Problem, None] = {}
    for problem in _stream(generator):
        if problem.valid() and LEAST <= problem.macs <= MOST:
            found[problem.with_type(TYPES[dtype])] = None
        if len(found) == count:
            break
    return list(found)


def _stream(generator: random.Random) -> Iterator[Problem]:
    """Endless random problems, some of them not valid."""
    pick = generator.choice
    while True:
        c, k, kernel, kind = pick(CHANNELS), pick(CHANNELS), pick(KERNELS), pick(KINDS)
        groups = 1
        if kind == "depthwise":
            groups, k = c, c * pick(FILTERS_PER_CHANNEL)
        elif kind == "grouped":
            groups = max(1, c // pick(CHANNELS_PER_GROUP))
        pad = pick((kernel // 2, kernel // 2, 0))
        size, stride = pick(SIZES), min(pick(STRIDES), kernel)
        yield Problem(
            pick(IMAGES),
            c,
            size,
            size,
            k=k,
            r=kernel,
            s=kernel,
            stride=(stride, stride),
            pads=(pad,) * 4,
            groups=groups,
            layout=pick(LAYOUTS),
        )


def _data(problem: Problem) -> inputs.Inputs:
    generator = torch.Generator().manual_seed(0)
    scale = (problem.c // problem.groups * problem.r * problem.s) ** -0.5
    sizes = (problem.x_size, problem.w_size, (problem.k,), problem.y_size)
    x, w, bias, dy = (torch.randn(size, generator=generator) for size in sizes)
    return inputs.Inputs(*(t.to(problem.dtype) for t in (x, w * scale, bias, dy)))


def run(dtype: str, count: int, seed: int, repeat: int) -> dict[str, object]:
    """Checks and times random problems. The result can be written as JSON."""
    results = collect(draw(dtype, count, seed), str, lambda problem: run_problem(problem, repeat))
    drawn = {"dtype": dtype, "seed": seed, "repeat": repeat}
    return {"environment": environment(), **drawn, "problems": results}


def run_problem(problem: Problem, repeat: int) -> dict[str, object]:
    """Milliseconds of a problem, by mode. In 16 bits torch's float32 layer is timed too.

    A ratio below 1 is measured three times more, and their median counts.

    Raises:
        AssertionError: fastconv's results are wrong.
    """
    data = _data(problem)
    modes = {}
    # Images need no gradient.
    for mode, want_dx in {"forward": None, "forward+backward": problem.c > 3}.items():
        functions = _functions(problem, data, want_dx)
        norms.check(problem, functions["fastconv"](), functions[FLOAT32](), data.dy, str(problem))
        if problem.dtype == torch.float32:
            del functions[FLOAT32]
        modes[mode] = _measure(functions, repeat)
        if _least(modes[mode]) < 1:
            again = sorted((_measure(functions, repeat) for _ in range(AGAIN)), key=_least)
            modes[mode] = again[AGAIN // 2]
    return {"problem": str(problem), "milliseconds": modes}


def _functions(problem: Problem, data: inputs.Inputs, want_dx: bool | None) -> dict[str, Function]:
    """The layers' calls by their names."""
    sides = {name: m.to(problem.dtype) for name, m in layers.sides(problem, data).items()}
    sides[FLOAT32] = layers.sides(problem, data)["torch"]
    return {
        name: call(
            module,
            data.x.to(module.weight.dtype),
            data.dy.to(module.weight.dtype),
            want_dx,
            problem.layout == "nhwc",
        )
        for name, module in sides.items()
    }


def _measure(functions: dict[str, Function], repeat: int) -> dict[str, dict[str, float]]:
    return timing.milliseconds(timing.alternate(functions, repeat, seconds=SECONDS, once=ONCE))


def _ratios(times: dict[str, dict[str, float]]) -> dict[str, float]:
    """The time of each of torch's layers by fastconv's."""
    ours = times["fastconv"]["median"]
    return {name: t["median"] / ours for name, t in times.items() if name != "fastconv"}


def _least(times: dict[str, dict[str, float]]) -> float:
    return min(_ratios(times).values())


def ratios(result: dict) -> dict[str, dict[str, dict[str, float]]]:
    """Speedups by torch's layer, by mode and by problem."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for entry in result["problems"]:
        for mode, times in entry["milliseconds"].items():
            for name, ratio in _ratios(times).items():
                found.setdefault(name, {}).setdefault(mode, {})[entry["problem"]] = ratio
    return found


def text(result: dict) -> str:
    """The summary, then the slowest problems of each mode."""
    lines = [summary(result)]
    for name, modes in ratios(result).items():
        for mode, found in modes.items():
            lines += ["", *table.head([f"the slowest {mode}, compared with {name}", "ratio"], 1)]
            slowest = sorted(found.items(), key=lambda item: item[1])[:WORST]
            lines += [table.row([problem, f"{ratio:.2f}x"]) for problem, ratio in slowest]
    return "\n".join(lines)


def summary(result: dict) -> str:
    """A line per mode: the ratios' geometric mean, the low ones, and how many problems lose."""
    titles = ["random convolutions", "number", "mean", "5 % quantile", "least", "below 0.9x"]
    lines = table.head(titles, 1)
    for name, modes in ratios(result).items():
        for mode, found in modes.items():
            values = sorted(found.values())
            cells = [
                f"{result['dtype']} {mode}, compared with {name}",
                str(len(values)),
                table.multiple(statistics.geometric_mean(values)),
                f"{values[len(values) // 20]:.2f}x",
                f"{values[0]:.2f}x",
                f"{sum(value < LOSES for value in values) / len(values):.0%}",
            ]
            lines.append(table.row(cells))
    lines += [
        "",
        f"Time of torch eager / time of fastconv, both in the memory format of the problem. Seed "
        f"{result['seed']}. {table.machine(result['environment'])}.",
    ]
    return "\n".join(lines)
