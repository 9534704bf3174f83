"""Formats results as Markdown tables."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # gpu_check.py reads results before fastconv is built
    from fastconv.testing import Problem


def fastest(times: dict[str, dict[str, float]], side: str) -> float | None:
    """Median of the fastest variant of "torch" or "fastconv"; None if none was right."""
    return min((t["median"] for name, t in times.items() if name.startswith(side)), default=None)


def number(value: float) -> str:
    """About three digits, no exponent."""
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2 if value >= 0.1 else 3}f}"


def row(cells: list[str]) -> str:
    """A line of a table."""
    return f"| {' | '.join(cells)} |"


def head(titles: list[str], numbers_from: int) -> list[str]:
    """A table's first lines. Columns from `numbers_from` on hold numbers."""
    return [row(titles), row(["---" if i < numbers_from else "---:" for i in range(len(titles))])]


def _scale(result: dict) -> tuple[str, float]:
    """The results' unit, and its number per millisecond."""
    return ("us", 1e3) if result.get("unit") == "us" else ("ms", 1.0)


def details(result: dict) -> str:
    """Every variant: median, quartiles, ratio of torch's fastest to it; on GPUs also wall time."""
    unit, scale = _scale(result)
    wall = any("wall" in block for block in result["blocks"])
    titles = ["block", "mode", "variant", unit, "quartiles", "torch's fastest / it"]
    lines = head(titles + [f"wall {unit}"] * wall, 3)
    for block in result["blocks"]:
        for mode, times in block["milliseconds"].items():
            quickest = fastest(times, "torch")
            for name, t in times.items():
                cells = [
                    f"{block['letter']} {block['name']}",
                    mode,
                    name,
                    number(scale * t["median"]),
                    f"{number(scale * t['q1'])}-{number(scale * t['q3'])}",
                    f"{quickest / t['median']:.2f}x" if quickest else "",
                ]
                if wall:
                    cells.append(number(scale * block["wall"][mode][name]["median"]))
                lines.append(row(cells))
    return "\n".join(lines)


def shape(problem: Problem | str) -> str:
    """A block's or a layer's shape in words."""
    from fastconv.testing import Problem

    p = Problem.parse(problem) if isinstance(problem, str) else problem
    parts = [f"{p.h}x{p.w}"]
    if p.pool is not None:
        moves = f" s{p.pool.stride[0]}" if p.pool.stride != p.pool.window else ""
        parts.append(f"pool {p.pool.window[0]}{moves}")
    elif p.relu and p.k:
        parts.append("ReLU")
    if not p.k:
        return ", ".join([f"{p.c} channels", *parts])
    stride = f" s{p.stride[0]}" if p.stride != (1, 1) else ""
    groups = f" in {p.groups} groups" if p.groups > 1 else ""
    return ", ".join([f"{p.c}->{p.k} {p.r}x{p.s}{stride}{groups}", *parts])


def best(times: dict[str, dict[str, float]], side: str, scale: float = 1.0) -> str:
    """A side's fastest variant, with its quartiles."""
    t = min((t for n, t in times.items() if n.startswith(side)), key=lambda t: t["median"])
    low, middle, high = (number(scale * t[key]) for key in ("q1", "median", "q3"))
    return f"{middle} ({low}-{high})"


def ratio(times: dict[str, dict[str, float]]) -> float:
    """The ratio of the fastest variants' medians, torch's by fastconv's."""
    theirs, ours = fastest(times, "torch"), fastest(times, "fastconv")
    assert theirs and ours
    return theirs / ours


def dtype(result: dict) -> str:
    """The dtype of the measured layers."""
    return result.get("dtype", "float32")


def multiple(ratio: float) -> str:
    """fastconv's speedup, with two decimals below 2, since 0.96 is not 1.0."""
    return f"**{ratio:.{1 if ratio >= 2 else 2}f}x**"


def _ratio(torch_ms: float | None, our_ms: float | None) -> str:
    """The same; "" if either has no time."""
    return multiple(torch_ms / our_ms) if torch_ms and our_ms else ""


def summary(result: dict) -> str:
    """One line per block: the fastest of torch, the faster of fastconv, and their ratio."""
    unit, scale = _scale(result)
    modes = list(dict.fromkeys(m for block in result["blocks"] for m in block["milliseconds"]))
    lines = head(["block", *modes], 1)
    for block in result["blocks"]:
        cells = [f"{block['name']}: {shape(block['problem'])}"]
        for mode in modes:
            times = block["milliseconds"].get(mode, {})
            torch_ms, our_ms = fastest(times, "torch"), fastest(times, "fastconv")
            shown = [number(scale * ms) if ms else "none" for ms in (torch_ms, our_ms)]
            cells.append(" -> ".join(shown))
            if ratio := _ratio(torch_ms, our_ms):
                cells[-1] += f" ({ratio})"
        lines.append(row(cells))
    what = "device time, L2 cache flushed, " if unit == "us" else ""
    lines += [
        "",
        f"{unit}, {what}batch {result['batch']}, {dtype(result)}, "
        f"medians of {result['repeat']}: the "
        f"fastest of torch ({_competitors(result)}, NCHW and channels_last) -> fastconv (the "
        f"faster of NCHW and channels_last). {machine(result['environment'])}.",
    ]
    return "\n".join(lines)


def layers(result: dict) -> str:
    """One line per layer and dtype: torch, fastconv and their ratio, forward and backward."""
    unit, scale = _scale(result)
    modes = ("forward", "backward")
    columns = (f"torch {unit}", f"fastconv {unit}", "ratio")
    titles = [f"{mode}, {column}" for mode in modes for column in columns]
    lines = head(["layer", "dtype", *titles], 2)
    for layer in result["layers"]:
        often = f", {layer['uses']} times" if layer["uses"] > 1 else ""
        cells = [f"{layer['network']}: {shape(layer['problem'])}{often}", layer["dtype"]]
        for mode in modes:
            times = layer["milliseconds"].get(mode, {})
            both = fastest(times, "torch"), fastest(times, "fastconv")
            cells += [number(scale * ms) if ms else "none" for ms in both] + [_ratio(*both)]
        lines.append(row(cells))
    lines += [
        "",
        f"{unit}, device time, L2 cache flushed, batch {result['batch']}, channels_last, medians "
        f"of {result['repeat']}. Backward: all gradients (input, weight, bias if there is one). "
        f"{machine(result['environment'])}.",
    ]
    return "\n".join(lines)


def sweep(result: dict) -> str:
    """One line per layer, dtype and direction: the default, the fastest, and their ratio."""
    unit, scale = _scale(result)
    titles = (f"default {unit}", f"fastest {unit}", "ratio", "default", "fastest")
    lines = head(["layer", "dtype", "direction", *titles], 3)
    for layer in result["layers"]:
        for direction, times in layer["milliseconds"].items():
            default = next(iter(times))
            best = min(times, key=lambda name: times[name]["median"])
            both = [times[name]["median"] for name in (default, best)]
            cells = [f"{layer['network']}: {shape(layer['problem'])}", layer["dtype"], direction]
            cells += [number(scale * ms) for ms in both]
            lines.append(row([*cells, _ratio(*both), default, best]))
    lines += [
        "",
        f"{unit}, device time, L2 cache flushed, batch {result['batch']}, channels_last, medians "
        f"of {result['repeat']}. {machine(result['environment'])}.",
    ]
    return "\n".join(lines)


def _competitors(result: dict) -> str:
    """The measured variants of torch: in all blocks, or in some."""
    compiled = [
        any(name.startswith("torch.compile") for name in times)
        for block in result["blocks"]
        for times in block["milliseconds"].values()
    ]
    if not any(compiled):
        return "eager"
    return "eager and torch.compile" if all(compiled) else "eager, some blocks torch.compile"


def machine(where: dict) -> str:
    """The machine in words, from the result of `environment`."""
    if "gpu" in where:
        tf32 = "with" if where["convolutions use tf32"] else "without"
        return (
            f"{where['gpu']}, driver {where['driver']}, torch {where['torch']} {tf32} TF32, "
            f"cuDNN {where['cudnn']}"
        )
    sizes = f"{where['threads']} threads, {instruction_set(where)}"
    return f"{where['processor']}, {sizes}, torch {where['torch']}"


def instruction_set(where: dict) -> str:
    """The set of kernels that were measured."""
    return where["fastconv"]["in use"].split()[0]


def training(runs: dict[str, dict]) -> str:
    """Metrics of `fastconv train` by the layers that were used."""
    lines = head(["layers", "test accuracy", "images/s", "training, all epochs"], 1)
    for layers, metrics in runs.items():
        speeds = [epoch["images_per_second"] for epoch in metrics["epochs"]]
        seconds = sum(metrics["images"]["train"] / speed for speed in speeds)
        lines.append(
            row(
                [
                    layers,
                    f"{metrics['test']['accuracy']:.1%}",
                    number(median(speeds)),
                    f"{seconds:.0f} s",
                ]
            )
        )
    first = next(iter(runs.values()))
    where = first["environment"]
    lines += [
        "",
        f"Epochs: {len(first['epochs'])}. {where['processor']}, {where['threads']} threads, "
        f"torch {where['torch']}.",
    ]
    return "\n".join(lines)


def overhead(result: dict) -> str:
    """Microseconds of a call on a tiny tensor, and the difference to torch's."""
    lines = head(["operation", "mode", "torch", "fastconv", "fastconv / torch"], 2)
    for call in result["calls"]:
        ours, theirs = (1e3 * call["milliseconds"][s]["median"] for s in ("fastconv", "torch"))
        cells = [number(theirs), number(ours), f"{ours / theirs:.2f}x"]
        lines.append(row([call["operation"], call["mode"], *cells]))
    where = f"Microseconds, medians of {result['repeat']}. {machine(result['environment'])}."
    return "\n".join([*lines, "", where])


def install(result: dict) -> str:
    """The compilers' time in an install."""
    lines = head(["kernels", "compilers' time on one core"], 1)
    for name, seconds in result["processor seconds"].items():
        lines.append(row([name, f"{seconds / 60:.1f} min"]))
    where = result["environment"]
    return "\n".join([*lines, "", f"{where['processor']}, {where['fastconv']['compiler']}."])
