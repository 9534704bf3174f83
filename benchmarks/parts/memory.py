"""Measures a training step's peak memory beyond weights, momentum and images.

Each network and variant has its own process. The Linux kernel counts resident memory
(/proc/self/status; the peak is reset before the step). This includes all allocations, while
torch's own counters miss oneDNN's. Freed memory returns to the system at once (two settings of
malloc in `_ENVIRONMENT`), so all counted memory is in use.

One of these processes, started in benchmarks/, prints bytes as JSON:

    python -m parts.memory NETWORK VARIANT BATCH IMAGE_SIZE STEPS THREADS
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from measure import fresh, progress, timing
from measure.calls import memory_format
from measure.environment import environment
from parts import networks
from show import table

# ResNet-50 is left out: its batch norms keep their inputs on both sides.
NETWORKS = [name for name in networks.NETWORKS if name != "ResNet-50"]
_ENVIRONMENT = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def run(
    names: Sequence[str], repeat: int, compiled: bool, batch: int | None = None
) -> dict[str, object]:
    """Measures networks. The result can be written as JSON.

    Args:
        batch: images per step, each network's own by default.
    """
    if not _CLEAR.exists():
        raise RuntimeError("memory: needs Linux's /proc/self/clear_refs")
    jobs = [(name, variant) for name in names for variant in networks.variants(compiled)]
    found: dict[str, dict] = {}

    def measure_one(job: tuple[str, networks.Variant]) -> None:
        name, variant = job
        _, size, usual = networks.NETWORKS[name]
        count = batch or usual
        arguments = name, variant, count, size, repeat, torch.get_num_threads()
        samples = fresh.run("parts.memory", *arguments, **_ENVIRONMENT)
        entry = {"network": name, "image_size": size, "batch": count, "bytes": {}}
        found.setdefault(name, entry)["bytes"][str(variant)] = timing.spread(samples)

    progress.collect(jobs, lambda job: f"{job[0]}, {job[1]}", measure_one)
    return {"environment": environment(), "repeat": repeat, "networks": list(found.values())}


def _resident(line: str) -> int:
    """VmRSS, the resident bytes, or VmHWM, their peak."""
    for text in _STATUS.read_text().splitlines():
        if text.startswith(f"{line}:"):
            return int(text.split()[1]) * 1024
    raise RuntimeError(f"no {line} in {_STATUS}")


def measure(name: str, variant: str, batch: int, image_size: int, steps: int) -> list[int]:
    """Peak bytes of each step, in this process."""
    torch.manual_seed(0)
    model = networks.NETWORKS[name].build(image_size)
    chosen = next(v for v in networks.variants(True) if str(v) == variant)
    x, labels = networks.batch_of(batch, image_size)
    x = x.contiguous(memory_format=memory_format(chosen.channels_last))
    step = networks.Training(chosen.made(model), x, labels)
    del model
    for _ in range(2):  # compiles, allocates the momentum, fills caches
        step()
    peaks = []
    for _ in range(steps):
        gc.collect()
        before = _resident("VmRSS")
        _CLEAR.write_text("5")  # VmHWM becomes VmRSS
        step()
        peaks.append(_resident("VmHWM") - before)
    return peaks


def summary(result: dict) -> str:
    """A line per network: MB of each way, and the ratio of each side's least."""
    lines = table.head(["training step", *networks.WAYS, "torch's least / fastconv's"], 1)
    for found in result["networks"]:
        size = found["image_size"]
        cells = [f"{found['network']}, {size}x{size}, batch {found['batch']}"]
        for least in networks.least_of_ways(found["bytes"]):
            cells.append("" if least is None else f"{table.number(least / 1e6)} MB")
        lines.append(table.row([*cells, table.multiple(table.ratio(found["bytes"]))]))
    lines += [
        "",
        "Peak of a step beyond weights, momentum and images (activations, gradients, workspaces), "
        "by the kernel's count of resident memory. Eager in the better of NCHW and channels_last, "
        f"compiled channels_last. {table.machine(result['environment'])}.",
    ]
    return "\n".join(lines)


text = summary


if __name__ == "__main__":
    _network, _variant, *_sizes, _threads = sys.argv[1:]
    torch.set_num_threads(int(_threads))
    print(json.dumps(measure(_network, _variant, *map(int, _sizes))))
