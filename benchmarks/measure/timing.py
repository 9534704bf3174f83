"""Measures the times of equivalent functions, alternating between them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

Function = Callable[[], object]

# A sample has enough calls to take this long, so clock ticks and interrupts do not matter.
SAMPLE_SECONDS = 0.03
LEAST = 5  # samples, if time is short
SLOW = 0.5  # seconds; one warm-up call is enough for a call this long


def _seconds(function: Function, calls: int, finish: Function | None = None) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        function()
    if finish is not None:
        finish()
    return (time.perf_counter() - start) / calls


def alternate(
    functions: dict[str, Function],
    repeat: int,
    finish: Function | None = None,
    seconds: float = float("inf"),
    once: float = float("inf"),
) -> dict[str, list[float]]:
    """`repeat` samples of each function, in seconds per call. `finish` waits for asynchronous work.

    Each round runs all functions once, and the first function changes from round to round. So a
    change of the machine's speed affects all of them.

    Args:
        seconds: the time after which LEAST samples are enough.
        once: the seconds from which on a function's first call is its only sample.
    """
    calls = {}
    samples: dict[str, list[float]] = {name: [] for name in functions}
    for name, function in functions.items():
        taken = _seconds(function, 1, finish)
        if taken >= once:
            samples[name].append(taken)
            continue
        if taken < SLOW:
            _seconds(function, 1, finish)
            taken = _seconds(function, 1, finish)
        calls[name] = max(1, round(SAMPLE_SECONDS / max(taken, 1e-9)))
    names = list(calls)
    end = time.perf_counter() + seconds
    for turn in range(repeat):
        if turn >= LEAST and time.perf_counter() > end:
            break
        start = turn % max(1, len(names))
        for name in names[start:] + names[:start]:
            samples[name].append(_seconds(functions[name], calls[name], finish))
    return samples


def quartiles(samples: Sequence[float]) -> tuple[float, float, float]:
    """First quartile, median and third quartile."""
    if len(samples) == 1:
        return samples[0], samples[0], samples[0]
    low, middle, high = statistics.quantiles(samples, n=4, method="inclusive")
    return low, middle, high


def spread(samples: Sequence[float], scale: float = 1.0) -> dict[str, float]:
    """Quartiles in the form of results."""
    return dict(zip(("q1", "median", "q3"), (scale * q for q in quartiles(samples)), strict=True))


def milliseconds(samples: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Quartiles, in milliseconds, of samples in seconds."""
    return {name: spread(taken, 1e3) for name, taken in samples.items()}
