"""Results as Markdown."""

from __future__ import annotations

from statistics import median


def _best(times: dict[str, dict[str, float]], side: str) -> float | None:
    """Median of the fastest variant of "torch" or "fastconv", None where none was right."""
    return min((t["median"] for name, t in times.items() if name.startswith(side)), default=None)


def _number(value: float) -> str:
    """Three digits, no exponent."""
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _head(titles: list[str], numbers_from: int) -> list[str]:
    return [_row(titles), _row(["---" if i < numbers_from else "---:" for i in range(len(titles))])]


def _scale(result: dict) -> tuple[str, float]:
    """The unit that results are shown in, and how many of it are a millisecond."""
    return ("us", 1e3) if result.get("unit") == "us" else ("ms", 1.0)


def details(result: dict) -> str:
    """Every variant: median, quartiles, ratio of torch's fastest to it; on GPUs also wall time."""
    unit, scale = _scale(result)
    wall = any("wall" in block for block in result["blocks"])
    titles = ["block", "mode", "variant", unit, "quartiles", "torch's fastest / it"]
    lines = _head(titles + [f"wall {unit}"] * wall, 3)
    for block in result["blocks"]:
        for mode, times in block["milliseconds"].items():
            fastest = _best(times, "torch")
            for name, t in times.items():
                cells = [
                    f"{block['letter']} {block['name']}",
                    mode,
                    name,
                    _number(scale * t["median"]),
                    f"{_number(scale * t['q1'])}-{_number(scale * t['q3'])}",
                    f"{fastest / t['median']:.2f}x" if fastest else "",
                ]
                if wall:
                    cells.append(_number(scale * block["wall"][mode][name]["median"]))
                lines.append(_row(cells))
    return "\n".join(lines)


def _shape(problem: str) -> str:
    """A block's or a layer's shape as people say it, from its problem string."""
    from fastconv.testing import Problem

    p = Problem.parse(problem)
    stride = f" s{p.stride[0]}" if p.stride != (1, 1) else ""
    rest = ", ReLU" if p.relu else ""
    if p.pool is not None:
        moves = f" s{p.pool.stride[0]}" if p.pool.stride != p.pool.window else ""
        rest = f", pool {p.pool.window[0]}{moves}"
    return f"{p.c}->{p.k} {p.r}x{p.s}{stride}, {p.h}x{p.w}{rest}"


def _ratio(torch_ms: float | None, our_ms: float | None) -> str:
    """How many times as fast fastconv is, "" where either has no time."""
    if not torch_ms or not our_ms:
        return ""
    ratio = torch_ms / our_ms
    return f"**{ratio:.{1 if ratio >= 2 else 2}f}x**"  # 0.96 is not 1.0


def summary(result: dict) -> str:
    """One line a block: the fastest of torch, the faster of fastconv, and their ratio."""
    unit, scale = _scale(result)
    modes = list(dict.fromkeys(m for block in result["blocks"] for m in block["milliseconds"]))
    lines = _head(["block", *modes], 1)
    for block in result["blocks"]:
        cells = [f"{block['name']}: {_shape(block['problem'])}"]
        for mode in modes:
            times = block["milliseconds"].get(mode, {})
            torch_ms, our_ms = _best(times, "torch"), _best(times, "fastconv")
            shown = [_number(scale * ms) if ms else "none" for ms in (torch_ms, our_ms)]
            cells.append(" -> ".join(shown))
            if ratio := _ratio(torch_ms, our_ms):
                cells[-1] += f" ({ratio})"
        lines.append(_row(cells))
    what = "device time, L2 cache flushed, " if unit == "us" else ""
    lines += [
        "",
        f"{unit}, {what}batch {result['batch']}, float32, medians of {result['repeat']}: the "
        f"fastest of torch ({_competitors(result)}, NCHW and channels_last) -> fastconv (the "
        f"faster of NCHW and channels_last). {_machine(result['environment'])}.",
    ]
    return "\n".join(lines)


def layers(result: dict) -> str:
    """One line a layer and dtype: torch, fastconv and their ratio, forward and backward."""
    unit, scale = _scale(result)
    modes = ("forward", "backward")
    columns = (f"torch {unit}", f"fastconv {unit}", "ratio")
    titles = [f"{mode}, {column}" for mode in modes for column in columns]
    lines = _head(["layer", "dtype", *titles], 2)
    for layer in result["layers"]:
        often = f", {layer['uses']} times" if layer["uses"] > 1 else ""
        cells = [f"{layer['network']}: {_shape(layer['problem'])}{often}", layer["dtype"]]
        for mode in modes:
            times = layer["milliseconds"].get(mode, {})
            both = _best(times, "torch"), _best(times, "fastconv")
            cells += [_number(scale * ms) if ms else "none" for ms in both] + [_ratio(*both)]
        lines.append(_row(cells))
    lines += [
        "",
        f"{unit}, device time, L2 cache flushed, batch {result['batch']}, channels_last, medians "
        f"of {result['repeat']}. Backward: all gradients (input, weight, bias if there is one). "
        f"{_machine(result['environment'])}.",
    ]
    return "\n".join(lines)


def sweep(result: dict) -> str:
    """One line a layer, dtype and direction: the default variant, the fastest, and their ratio."""
    unit, scale = _scale(result)
    titles = (f"default {unit}", f"fastest {unit}", "ratio", "default", "fastest")
    lines = _head(["layer", "dtype", "direction", *titles], 3)
    for layer in result["layers"]:
        for direction, times in layer["milliseconds"].items():
            default = next(iter(times))
            best = min(times, key=lambda name: times[name]["median"])
            both = [times[name]["median"] for name in (default, best)]
            cells = [f"{layer['network']}: {_shape(layer['problem'])}", layer["dtype"], direction]
            cells += [_number(scale * ms) for ms in both]
            lines.append(_row([*cells, _ratio(*both), default, best]))
    lines += [
        "",
        f"{unit}, device time, L2 cache flushed, batch {result['batch']}, channels_last, medians "
        f"of {result['repeat']}. {_machine(result['environment'])}.",
    ]
    return "\n".join(lines)


def _competitors(result: dict) -> str:
    """Whose layers of torch were measured: in all blocks, or in some."""
    compiled = [
        any(name.startswith("torch.compile") for name in times)
        for block in result["blocks"]
        for times in block["milliseconds"].values()
    ]
    if not any(compiled):
        return "eager"
    return "eager and torch.compile" if all(compiled) else "eager, some blocks torch.compile"


def _machine(where: dict) -> str:
    if "gpu" in where:
        tf32 = "with" if where["convolutions use tf32"] else "without"
        return (
            f"{where['gpu']}, driver {where['driver']}, torch {where['torch']} {tf32} TF32, "
            f"cuDNN {where['cudnn']}"
        )
    isa = where["fastconv"]["in use"].split()[0]
    return f"{where['processor']}, {where['threads']} threads, {isa}, torch {where['torch']}"


def training(runs: dict[str, dict]) -> str:
    """Metrics of `fastconv train` by the layers that were used."""
    lines = _head(["layers", "test accuracy", "images/s", "training, all epochs"], 1)
    for layers, metrics in runs.items():
        speeds = [epoch["images_per_second"] for epoch in metrics["epochs"]]
        seconds = sum(metrics["images"]["train"] / speed for speed in speeds)
        lines.append(
            _row(
                [
                    layers,
                    f"{metrics['test']['accuracy']:.1%}",
                    _number(median(speeds)),
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
    """Microseconds of a call on a tiny tensor, and how much more than torch's that is."""
    lines = _head(["operation", "mode", "torch", "fastconv", "fastconv / torch"], 2)
    for call in result["calls"]:
        ours, theirs = (1e3 * call["milliseconds"][s]["median"] for s in ("fastconv", "torch"))
        cells = [_number(theirs), _number(ours), f"{ours / theirs:.2f}x"]
        lines.append(_row([call["operation"], call["mode"], *cells]))
    where = f"Microseconds, medians of {result['repeat']}. {_machine(result['environment'])}."
    return "\n".join([*lines, "", where])
