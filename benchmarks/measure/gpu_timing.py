"""Measures the device times of equivalent functions, alternating between them."""

from __future__ import annotations

import torch

from .timing import Function


def replay(function: Function) -> tuple[Function, bool]:
    """The function as a captured graph, and True; itself and False if it cannot be captured.

    A replay costs the CPU one launch, so its time is the device's alone.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            function()
    except RuntimeError as error:
        print(f"timed without a graph: {error}", flush=True)
        torch.cuda.synchronize()
        return function, False
    return graph.replay, True


def alternate(functions: dict[str, Function], repeat: int) -> dict[str, list[float]]:
    """`repeat` samples of each function, in seconds, each from a cold L2 cache.

    Each round runs all functions once, and the first function changes from round to round. So a
    change of the GPU's clock affects all of them.
    """
    size = 4 * torch.cuda.get_device_properties().L2_cache_size
    flush = torch.empty(size, dtype=torch.uint8, device="cuda")
    for function in functions.values():
        function()
    samples: dict[str, list[float]] = {name: [] for name in functions}
    names = list(functions)
    for turn in range(repeat):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            flush.zero_()  # keeps the GPU busy while the CPU launches the timed function
            start.record()
            functions[name]()
            end.record()
            torch.cuda.synchronize()
            samples[name].append(start.elapsed_time(end) / 1e3)
    return samples


def device_times(
    functions: dict[str, Function], repeat: int
) -> tuple[dict[str, list[float]], list[str]]:
    """`alternate` for the functions' replays, and a line for each that could not be captured."""
    replayed = {name: replay(function) for name, function in functions.items()}
    launched = [
        f"{name}: timed without a graph, launches included"
        for name, (_, captured) in replayed.items()
        if not captured
    ]
    return alternate({name: f for name, (f, _) in replayed.items()}, repeat), launched
