"""What fastconv costs apart from arithmetic: each operation on a tiny tensor, against torch's; the
imports and the first call; and the room on disk."""

from __future__ import annotations

from collections.abc import Callable

import progress
import startup
import table
import timing
import torch
import torch.nn.functional as F
from environment import environment
from torch import Tensor

from fastconv import functional

SIZES = {"x": (1, 3, 6, 6), "weight": (4, 3, 3, 3), "bias": (4,)}

Operation = Callable[[Tensor, Tensor, Tensor], Tensor]

BLOCK = "conv2d + relu + max_pool2d"

# Torch's way and fastconv's.
OPERATIONS: dict[str, tuple[Operation, Operation]] = {
    "conv2d": (F.conv2d, functional.conv2d),
    "relu": (lambda x, w, b: F.relu(x), lambda x, w, b: functional.relu(x)),
    "max_pool2d": (lambda x, w, b: F.max_pool2d(x, 2), lambda x, w, b: functional.max_pool2d(x, 2)),
    "conv2d + relu": (lambda x, w, b: F.relu(F.conv2d(x, w, b)), functional.conv2d_relu),
    BLOCK: (
        lambda x, w, b: F.max_pool2d(F.relu(F.conv2d(x, w, b)), 2),
        lambda x, w, b: functional.conv2d_relu_max_pool2d(x, w, b, pool_kernel_size=2),
    ),
}
MODES = ("no grad", "forward with a graph", "forward + backward")


def tensors() -> list[Tensor]:
    """What an operation is called with."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(size, generator=generator) for size in SIZES.values()]


def _call(operation: Operation, mode: str) -> Callable[[], object]:
    given = tensors()
    if mode == "no grad":
        return lambda: operation(*given)
    for tensor in given:
        tensor.requires_grad_()
    if mode == "forward with a graph":
        return lambda: operation(*given)
    dy = torch.ones_like(operation(*given))
    return lambda: torch.autograd.backward(operation(*given), dy)


def run(repeat: int, processes: int = 5) -> dict[str, object]:
    """Checks and times every operation in every mode, on one thread; can be written as JSON.

    Args:
        processes: how many new ones import and call for the first time.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    results = []
    for name, mode in progress.each([(n, m) for n in OPERATIONS for m in MODES], ", ".join):
        ways = OPERATIONS[name]
        torch.testing.assert_close(*(way(*tensors()) for way in ways))
        calls = {
            side: _call(way, mode) for side, way in zip(("torch", "fastconv"), ways, strict=True)
        }
        times = timing.milliseconds(timing.alternate(calls, repeat))
        results.append({"operation": name, "mode": mode, "milliseconds": times})
    progress.say("imports and first calls in new processes")
    result = {
        "environment": environment(),
        "repeat": repeat,
        "sizes": SIZES,
        "calls": results,
        "processes": processes,
        "startup": startup.run(processes),
        "installed bytes": startup.installed_bytes(),
    }
    torch.set_num_threads(threads)
    return result


def text(result: dict) -> str:
    """What calls cost, then what comes before them."""
    lines = table.head(["before the first result, ms", "torch", "fastconv"], 1)
    for entry in result["startup"]:
        times = entry["milliseconds"]
        cells = [table.best(times, s) if s in times else "" for s in ("torch", "fastconv")]
        lines.append(table.row([entry["what"], *cells]))
    sizes = {name: f"{n / 1e6:.1f} MB" for name, n in result["installed bytes"].items()}
    return "\n".join(
        [
            table.overhead(result),
            "",
            *lines,
            "",
            f"Medians (and quartiles) of {result['processes']} new processes. On disk fastconv "
            f"takes {sizes['all']}, of that kernels {sizes['kernels']}, pictures to train on "
            f"{sizes['pictures']}.",
        ]
    )
