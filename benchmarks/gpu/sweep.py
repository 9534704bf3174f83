"""Measures every implementation on the layers of ResNet-50 and VGG-16 and finds the fastest.

Besides the report it writes DIR/implementations.json, a table for `fastconv.load_implementations`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import gpu.layers
from fastconv import implementations, precision
from fastconv.problem import TF32
from fastconv.testing import Problem, kernels
from gpu import layer_times, steps
from gpu.budget import Budget
from measure.truth import Truth

REPEAT = 9
WORTH = 0.97  # of the default's time; faster implementations go into the table


def measure(problem: Problem, repeat: int, device: str = "cuda") -> dict[str, object]:
    """Milliseconds by direction and implementation, the default first. Wrong ones are not timed."""
    data = layer_times.draw(problem, device)
    truth = Truth(problem, data, device)
    functions = layer_times.our_directions(problem, data, truth.code)
    found: dict[str, dict] = {}
    wrong: list[str] = []
    for direction, function in functions.items():
        named: dict[str, Callable[[], object]] = {}
        names = [""] if device == "cpu" else kernels.implementations(direction, problem, device)
        for name in names:
            call = with_variant(direction, problem, name, function)
            label = f"fastconv {direction} {name}"
            try:
                result = call()
                if direction == "fprop":
                    truth.check_output(label, *result)
                elif direction == "dgrad":
                    truth.check_gradients(label, None, None, *result)
                else:
                    truth.check_gradients(label, *result)
            except (AssertionError, RuntimeError) as error:
                wrong.append(f"{label}: {error}")
            else:
                named[name] = call
        if not named:
            continue
        found[direction], launched = layer_times.times(named, repeat, device)
        wrong += [f"{direction}, {line}" for line in launched]
    return {"milliseconds": found, "wrong": wrong}


def with_variant(
    direction: str, problem: Problem, name: str, function: Callable[[], tuple]
) -> Callable[[], tuple]:
    """The function, run by the implementation of that name."""
    table = {implementations.key(direction, str(problem)): name}

    def call() -> tuple:
        before, implementations.table = implementations.table, table
        try:
            return function()
        finally:
            implementations.table = before

    return call


def faster(layers: list[dict]) -> list[dict[str, str]]:
    """A table's entries: the fastest implementation wherever it beats the default clearly."""
    entries = []
    for layer in layers:
        for direction, times in layer["milliseconds"].items():
            medians = {name: found["median"] for name, found in times.items()}
            best = min(medians, key=medians.__getitem__)
            if medians[best] < WORTH * next(iter(medians.values())):
                problem = layer["problem"]
                entry = {"direction": direction, "problem": problem, "implementation": best}
                entries.append(entry)
    return entries


def run(
    write: Callable[..., None],
    folder: Path,
    budget: Budget,
    where: dict[str, object],
    measure: Callable[[Problem, int], dict] = measure,
) -> None:
    """Writes the results after each layer.

    Args:
        where: the machine, as `environment` describes it.
    """

    def tell(found: list[dict]) -> dict[str, object]:
        entries = faster(found)
        table = json.dumps({"environment": where, "implementations": entries}, indent=1)
        (folder / "implementations.json").write_text(table + "\n")
        result = {"environment": where, "batch": gpu.layers.BATCH, "repeat": REPEAT, "unit": "us"}
        count = sum(len(layer["milliseconds"]) for layer in found)
        return {
            "summary": f"{len(entries)} of {count} defaults are not the fastest",
            "result": {**result, "layers": found},
        }

    dtypes = ["bf16", TF32 if precision.tf32() else "f32"]  # f16 is as fast as bf16
    measured = gpu.layers.in_turn(dtypes, lambda problem: measure(problem, REPEAT))
    steps.run([measured], write, budget, tell)
