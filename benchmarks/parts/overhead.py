"""Measures fastconv's overhead: calls on tiny tensors, imports, the first call, and disk space.

Each operation and each kind of converted module is called against torch's.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastconv
from fastconv.models.resnet50 import Bottleneck
from measure import progress, timing
from measure.environment import environment
from measure.tiny_calls import OPERATIONS, SIZES, tensors
from parts import startup
from show import table


class InCode(nn.Module):
    """A chain in a forward."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool = nn.Conv2d(3, 4, 3), nn.MaxPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(F.relu(self.conv(x)))


# Modules of torch.nn, and their numbers of input channels.
MODULES: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "converted Conv2d": (lambda: nn.Conv2d(3, 4, 3), 3),
    "converted ReLU": (nn.ReLU, 3),
    "converted MaxPool2d": (lambda: nn.MaxPool2d(2), 3),
    "converted Sequential of conv, ReLU, pool": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2)),
        3,
    ),
    "converted conv, ReLU, pool in code": (InCode, 3),
    "converted ResNet block": (lambda: Bottleneck(16, 4, stride=1), 16),
}
MODES = ("no grad", "forward with a graph", "forward + backward")


def _module_ways(name: str) -> tuple[nn.Module, nn.Module, Tensor]:
    """A module, the same module converted, and their input."""
    build, channels = MODULES[name]
    torch.manual_seed(0)
    module = build()
    return module, fastconv.convert(module), torch.randn(1, channels, *SIZES["x"][2:])


def _call(
    operation: Callable[..., Tensor], given: list[Tensor], leaves: list[Tensor], mode: str
) -> Callable[[], object]:
    for tensor in leaves:
        tensor.requires_grad_(mode != "no grad")
    if mode != "forward + backward":
        return lambda: operation(*given)
    dy = torch.ones_like(operation(*given))
    return lambda: torch.autograd.backward(operation(*given), dy)


def _calls(name: str, mode: str) -> dict[str, Callable[[], object]]:
    """The timed calls, after a check that both sides give the same results."""
    if name in OPERATIONS:
        ways: tuple[Callable[..., Tensor], ...] = OPERATIONS[name]
        givens, parameters = [tensors(), tensors()], []
    else:
        *ways, x = _module_ways(name)
        givens, parameters = [[x], [x.clone()]], list(ways[0].parameters())
    torch.testing.assert_close(*(way(*given) for way, given in zip(ways, givens, strict=True)))
    return {
        side: _call(way, given, given + parameters, mode)
        for side, way, given in zip(("torch", "fastconv"), ways, givens, strict=True)
    }


def run(repeat: int, processes: int = 5) -> dict[str, object]:
    """Checks and times every operation and module in every mode, on one thread.

    The result can be written as JSON.

    Args:
        processes: the number of new processes that import and make the first call.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    results = []
    names = (*OPERATIONS, *MODULES)
    for name, mode in progress.each([(n, m) for n in names for m in MODES], ", ".join):
        times = timing.milliseconds(timing.alternate(_calls(name, mode), repeat))
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
    """The costs of calls, then of imports and first calls."""
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
