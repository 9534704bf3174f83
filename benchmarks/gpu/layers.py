"""Measures the convolution layers of ResNet-50 and VGG-16 on a GPU, within the time budget."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from fastconv.testing import Problem
from gpu import layer_times, steps
from gpu.budget import Budget
from measure import convolutions

BATCH, REPEAT = 32, 15
DTYPES = ("bf16", "f16", "f32")  # the most important first
SECONDS = 8.0  # that a layer may take


class Layer(NamedTuple):
    """A layer at batch 1 in float32, and the number of its uses in the network."""

    network: str
    problem: Problem
    uses: int

    @property
    def macs(self) -> int:
        """Multiply-adds of all uses, for one image."""
        return self.uses * self.problem.macs


NETWORKS = ("ResNet-50", "VGG-16")

# Each distinct layer once, in the networks' order.
LAYERS = [
    Layer(network, Problem.parse(text), uses)
    for network in NETWORKS
    for text, uses in Counter(convolutions.NETWORKS[network]()).items()
]


def in_turn(dtypes: Sequence[str], measure: Callable[[Problem], dict]) -> steps.Pass:
    """A step for each layer and dtype. In each dtype the layers with the most work come first."""

    def step(layer: Layer, dtype: str) -> steps.Step:
        problem = layer.problem.replace(n=BATCH).with_type(dtype)

        def job() -> dict:
            names = {"network": layer.network, "uses": layer.uses, "dtype": dtype}
            return {**names, "problem": str(problem), **measure(problem)}

        label = f"{layer.network} {problem}"
        return steps.Step(label, label, job)

    ordered = sorted(LAYERS, key=lambda layer: -layer.macs)
    return steps.Pass(SECONDS, [step(layer, dtype) for dtype in dtypes for layer in ordered])


def run(
    write: Callable[..., None],
    budget: Budget,
    where: dict[str, object],
    measure: Callable[[Problem, int], dict] = layer_times.measure,
) -> None:
    """Writes the results after each layer.

    Args:
        where: the machine, as `environment` describes it.
    """

    def tell(found: list[dict]) -> dict[str, object]:
        result = {"environment": where, "batch": BATCH, "repeat": REPEAT, "unit": "us"}
        summary = f"{len(found)} of {len(LAYERS) * len(DTYPES)} layers measured"
        return {"summary": summary, "result": {**result, "layers": found}}

    measured = in_turn(DTYPES, lambda problem: measure(problem, REPEAT))
    steps.run([measured], write, budget, tell)
