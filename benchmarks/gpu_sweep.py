"""Every variant of every kernel on the layers of ResNet-50 and VGG-16: which is the fastest, where.

Besides the report it writes DIR/variants.json, a table for `fastconv.load_variants`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import gpu_layers
import gpu_timing
import layer_times
import steps
import timing
import torch
from budget import Budget
from truth import Truth

from fastconv import precision, variants
from fastconv.testing import Problem, kernels
from fastconv.testing.problem import TF32

DTYPES = ("bf16", "f32")  # the most important first; f16 is as fast as bf16
REPEAT = 9
SECONDS = 8.0  # that a layer may take
WORTH = 0.97  # of the default's time: what takes less goes into the table


def measure(problem: Problem, repeat: int, device: str = "cuda") -> dict[str, object]:
    """Milliseconds by direction and variant, the default first; one that is wrong is not timed."""
    data = layer_times.draw(problem, device)
    truth = Truth(problem, data, device)
    functions = layer_times.our_directions(problem, data, truth.code)
    times: dict[str, dict] = {}
    wrong: list[str] = []
    for direction, function in functions.items():
        named: dict[str, Callable[[], object]] = {}
        names = [""] if device == "cpu" else kernels.variants(direction, problem, device)
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
        if device == "cpu":
            samples = timing.alternate(named, repeat)
        else:
            samples, launched = gpu_timing.device_times(named, repeat)
            wrong += [f"{direction}, {line}" for line in launched]
        times[direction] = timing.milliseconds(samples)
    return {"milliseconds": times, "wrong": wrong}


def with_variant(
    direction: str, problem: Problem, name: str, function: Callable[[], tuple]
) -> Callable[[], tuple]:
    """The function, whose kernel is the variant of that name."""
    table = {variants.key(direction, str(problem)): name}

    def call() -> tuple:
        before, variants.table = variants.table, table
        try:
            return function()
        finally:
            variants.table = before

    return call


def faster(layers: list[dict]) -> list[dict[str, str]]:
    """A table's entries: the fastest variant where the default is slower by more than noise."""
    entries = []
    for layer in layers:
        for direction, times in layer["milliseconds"].items():
            medians = {name: found["median"] for name, found in times.items()}
            best = min(medians, key=medians.__getitem__)
            if medians[best] < WORTH * next(iter(medians.values())):
                entry = {"direction": direction, "problem": layer["problem"], "variant": best}
                entries.append(entry)
    return entries


def run(
    write: Callable[..., None],
    folder: Path,
    budget: Budget,
    where: dict[str, object],
    measure: Callable[[Problem, int], dict] = measure,
) -> None:
    """Writes the results after each layer, by dtype; those with the most work come first.

    Args:
        where: the machine, as `environment` describes it.
    """

    def step(layer: gpu_layers.Layer, dtype: str) -> steps.Step:
        name = TF32 if dtype == "f32" and precision.tf32() else dtype
        problem = layer.problem.replace(n=gpu_layers.BATCH).with_type(name)

        def job() -> dict:
            names = {"network": layer.network, "uses": layer.uses, "dtype": dtype}
            return {**names, "problem": str(problem), **measure(problem, REPEAT)}

        label = f"{layer.network} {problem}"
        return steps.Step(label, label, job)

    def tell(found: list[dict]) -> dict[str, object]:
        entries = faster(found)
        table = json.dumps({"environment": where, "variants": entries}, indent=1)
        (folder / "variants.json").write_text(table + "\n")
        result = {"environment": where, "batch": gpu_layers.BATCH, "repeat": REPEAT, "unit": "us"}
        count = sum(len(layer["milliseconds"]) for layer in found)
        return {
            "summary": f"{len(entries)} of {count} defaults are not the fastest",
            "result": {**result, "layers": found},
        }

    ordered = sorted(gpu_layers.LAYERS, key=lambda layer: -layer.macs)
    in_turn = steps.Pass(SECONDS, [step(layer, dtype) for dtype in DTYPES for layer in ordered])
    torch.backends.cudnn.benchmark = False  # nothing of torch's is timed
    steps.run([in_turn], write, budget, tell)
