"""Measures the time before the first result: imports and the first call, in new processes.

python -m parts.startup SIDE      one process, started in benchmarks/; prints seconds as JSON
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path


def measure(side: str) -> dict[str, float]:
    """Seconds of the imports, of the first training step of a small block, and of its second."""
    times = {}
    start = time.perf_counter()
    import torch

    times["import torch"] = time.perf_counter() - start
    start = time.perf_counter()
    if side == "fastconv":
        import fastconv  # noqa: F401

        times["import fastconv, after torch"] = time.perf_counter() - start
    from measure.tiny_calls import BLOCK, OPERATIONS, tensors

    way = OPERATIONS[BLOCK][side == "fastconv"]
    torch.set_num_threads(1)
    given = [tensor.requires_grad_() for tensor in tensors()]
    for call in ("first", "second"):
        start = time.perf_counter()
        way(*given).sum().backward()
        times[f"{call} {BLOCK}, forward + backward"] = time.perf_counter() - start
    return times


def run(repeat: int) -> list[dict[str, object]]:
    """Milliseconds of each by side, from `repeat` new processes per side, alternating."""
    from measure import fresh, timing

    taken: dict[str, dict[str, list[float]]] = {}
    for _ in range(repeat):
        for side in ("torch", "fastconv"):
            for what, seconds in fresh.run("parts.startup", side).items():
                taken.setdefault(what, {}).setdefault(side, []).append(seconds)
    return [{"what": what, "milliseconds": timing.milliseconds(t)} for what, t in taken.items()]


def installed_bytes() -> dict[str, int]:
    """fastconv's bytes on disk: in all, its kernels', and its pictures'."""
    import fastconv

    module = Path(fastconv._C.__file__)
    folder = Path(fastconv.__file__).parent
    files = {f for f in folder.rglob("*") if f.is_file() and f.suffix != ".pyc"} | {module}
    sizes = {f: f.stat().st_size for f in files}
    pictures = sum(n for f, n in sizes.items() if f.is_relative_to(folder / "data"))
    return {"all": sum(sizes.values()), "kernels": sizes[module], "pictures": pictures}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1])))
