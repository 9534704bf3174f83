"""Results as Markdown."""

from __future__ import annotations

from statistics import median


def _best(times: dict[str, dict[str, float]], side: str) -> tuple[str, dict[str, float]]:
    """The fastest variant of "torch" or "fastconv"."""
    return min(
        ((name, t) for name, t in times.items() if name.startswith(side)),
        key=lambda item: item[1]["median"],
    )


def _number(value: float) -> str:
    """Three digits, no exponent."""
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _head(titles: list[str], numbers_from: int) -> list[str]:
    return [_row(titles), _row(["---" if i < numbers_from else "---:" for i in range(len(titles))])]


def details(result: dict) -> str:
    """Every variant: median and quartiles in ms, ratio of torch's fastest to it."""
    lines = _head(["block", "mode", "variant", "ms", "quartiles", "torch's fastest / it"], 3)
    for block in result["blocks"]:
        for mode, times in block["milliseconds"].items():
            fastest = _best(times, "torch")[1]["median"]
            for name, t in times.items():
                lines.append(
                    _row(
                        [
                            f"{block['letter']} {block['name']}",
                            mode,
                            name,
                            _number(t["median"]),
                            f"{_number(t['q1'])}-{_number(t['q3'])}",
                            f"{fastest / t['median']:.2f}x",
                        ]
                    )
                )
    return "\n".join(lines)


def _shape(problem: str) -> str:
    """A block's shape as people say it, from its problem string."""
    from fastconv.testing import Problem

    p = Problem.parse(problem)
    assert p.pool is not None
    stride = f" s{p.stride[0]}" if p.stride != (1, 1) else ""
    pool = f"{p.pool.window[0]}" + (
        f" s{p.pool.stride[0]}" if p.pool.stride != p.pool.window else ""
    )
    return f"{p.c}->{p.k} {p.r}x{p.s}{stride}, {p.h}x{p.w}, pool {pool}"


def summary(result: dict) -> str:
    """One line a block: the fastest of torch, the faster of fastconv, and their ratio."""
    modes = list(result["blocks"][0]["milliseconds"])
    lines = _head(["block", *modes], 1)
    for block in result["blocks"]:
        cells = [f"{block['name']}: {_shape(block['problem'])}"]
        for mode in modes:
            times = block["milliseconds"][mode]
            torch_ms = _best(times, "torch")[1]["median"]
            our_ms = _best(times, "fastconv")[1]["median"]
            ratio = torch_ms / our_ms
            shown = f"{ratio:.1f}" if ratio >= 2 else f"{ratio:.2f}"  # 0.96 is not 1.0
            cells.append(f"{_number(torch_ms)} -> {_number(our_ms)} (**{shown}x**)")
        lines.append(_row(cells))
    where = result["environment"]
    isa = where["fastconv"]["in use"].split()[0]
    lines += [
        "",
        f"ms, batch {result['batch']}, float32, medians of {result['repeat']}: the fastest of "
        "torch (eager and torch.compile, NCHW and channels_last) -> fastconv (the faster of NCHW "
        f"and channels_last). {where['processor']}, {where['threads']} threads, {isa}, torch "
        f"{where['torch']}.",
    ]
    return "\n".join(lines)


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
