"""The convolution layers of ResNet-50 and VGG-16 on a GPU, as far as the time reaches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import layer_times
import steps
from budget import Budget

from fastconv.testing import Problem

BATCH, REPEAT = 32, 15
DTYPES = ("bf16", "f16", "f32")  # the most important first
SECONDS = 8.0  # that a layer may take


class Layer(NamedTuple):
    """A layer, at batch 1 and in float32, and how often its network uses one like it."""

    network: str
    problem: Problem
    uses: int

    @property
    def macs(self) -> int:
        """Multiply-adds of all of them, for one image."""
        return self.uses * self.problem.macs


def _conv(c: int, size: int, k: int, kernel: int, stride: int = 1, rest: str = "") -> str:
    """The problem of a layer: [1, c, size, size] to k channels of size/stride each way."""
    return (
        f"mb1ic{c}ih{size}iw{size}oc{k}kh{kernel}kw{kernel}sh{stride}sw{stride}"
        f"ph{kernel // 2}pw{kernel // 2}{rest}_f32_nhwc"
    )


def _resnet50() -> Iterator[str]:
    """Version 1.5, which strides in the 3x3 layers. Batch norm behind each: no bias, no ReLU."""
    rest = "_nobias"
    yield _conv(3, 224, 64, 7, 2, rest)
    c, size = 64, 56  # behind the max-pool
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width = 64 << stage
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            yield _conv(c, size, width, 1, 1, rest)
            yield _conv(width, size, width, 3, stride, rest)
            yield _conv(width, size // stride, 4 * width, 1, 1, rest)
            if not block:  # the shortcut has to change its shape
                yield _conv(c, size, 4 * width, 1, stride, rest)
            c, size = 4 * width, size // stride


def _vgg16() -> Iterator[str]:
    """Five groups of conv + ReLU, a max-pool at the end of each, fused with what is before it."""
    c, size = 3, 224
    for k, layers in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for layer in range(layers):
            last = layer == layers - 1
            yield _conv(c, size, k, 3, 1, "_pool2x2s2x2p0x0d1x1c0" if last else "_relu")
            c = k
        size //= 2


NETWORKS = {"ResNet-50": _resnet50, "VGG-16": _vgg16}

# Each distinct layer once, in the networks' order.
LAYERS = [
    Layer(network, Problem.parse(text), uses)
    for network, layers in NETWORKS.items()
    for text, uses in Counter(layers()).items()
]


def in_turn(dtypes: Sequence[str], measure: Callable[[Problem], dict]) -> steps.Pass:
    """A step for each layer and dtype; of a dtype, the layers with the most work come first."""

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
