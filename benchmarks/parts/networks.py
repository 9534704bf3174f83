"""Times whole networks: a training step, and the latency of one image.

A step is forward, loss, backward and SGD with momentum. fastconv's networks are torch.nn's after
`fastconv.convert`. Each side runs eager and compiled by torch.compile, NCHW and channels_last.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastconv
from fastconv import models
from measure import progress, timing
from measure.calls import FLOAT32, FORMATS, memory_format, once
from measure.environment import environment
from show import table

SECONDS = 20.0  # of samples per mode; then the least number of them is enough
CLASSES = 10
TRAINING, INFERENCE = "training step", "inference"


class Network(NamedTuple):
    """A network of torch.nn's layers, its images' size, and its images per training step."""

    build: Callable[[int], nn.Module]  # of the image size
    image_size: int
    batch: int


def _registered(name: str, batch: int) -> Network:
    entry = models.MODELS[name]
    return Network(lambda size: entry.build(CLASSES, size, "torch"), entry.image_size, batch)


NETWORKS = {
    "CNN": _registered("CNN", 64),
    "CaseStudyCNN": _registered("CaseStudyCNN", 64),
    "SimpleCNN": _registered("SimpleCNN", 64),
    "SqueezeNet 1.1": _registered("squeezenet1_1", 64),
    "ResNet-50": _registered("resnet50", 4),
}


class Variant(NamedTuple):
    """A way to run a network, such as "torch.compile channels_last"."""

    side: str
    compiled: bool
    channels_last: bool

    def __str__(self) -> str:
        how = {
            "torch": ("torch eager", "torch.compile"),
            "fastconv": ("fastconv",) * 2,
            FLOAT32: (FLOAT32,) * 2,
        }
        name = how[self.side][self.compiled]
        if self.side == "fastconv" and self.compiled:
            name += " compiled"
        return f"{name} {'channels_last' if self.channels_last else 'NCHW'}"

    def made(self, network: nn.Module) -> nn.Module:
        """A copy of a network of torch.nn's layers that runs this way."""
        model = copy.deepcopy(network)
        if self.side == "fastconv":
            model = fastconv.convert(model, inplace=True)
        elif self.channels_last:
            model = model.to(memory_format=torch.channels_last)
        return torch.compile(model, dynamic=False) if self.compiled else model


def variants(compiled: bool, dtype: torch.dtype = torch.float32) -> list[Variant]:
    """All variants, or only the eager ones. In 16 bits also torch's eager ones in float32.

    Compiled networks are channels_last. Compiling takes long, and `blocks`, which has both formats,
    finds NCHW no faster.
    """
    formats = {False: FORMATS.values(), True: (True,)}
    half = dtype != torch.float32
    return [
        Variant(FLOAT32, False, channels_last) for channels_last in FORMATS.values() if half
    ] + [
        Variant(side, compile, channels_last)
        for side in ("torch", "fastconv")
        for compile in ((False, True) if compiled else (False,))
        for channels_last in formats[compile]
    ]


def without_chance(network: nn.Module) -> nn.Module:
    """The network with dropout that drops nothing but takes the same time."""
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return network


def batch_of(count: int, image_size: int) -> tuple[Tensor, Tensor]:
    """Images and labels."""
    generator = torch.Generator().manual_seed(0)
    size = count, 3, image_size, image_size
    return torch.randn(size, generator=generator), torch.arange(count) % CLASSES


def _autocast(dtype: torch.dtype) -> torch.autocast:
    return torch.autocast("cpu", dtype, enabled=dtype != torch.float32)


class Training:
    """A network's training step, always on the same images, under autocast for 16 bits."""

    def __init__(
        self, model: nn.Module, x: Tensor, labels: Tensor, dtype: torch.dtype = torch.float32
    ) -> None:
        self._model, self._x, self._labels = model.train(), x, labels
        self._dtype = dtype
        # A rate so low that the network does not change, however often it is timed.
        self._optimizer = torch.optim.SGD(model.parameters(), lr=1e-9, momentum=0.9)

    def results(self) -> list[Tensor]:
        """The loss and the gradients of a step that is not taken."""
        loss = self._backward()
        found = [p.grad.clone() for p in self._model.parameters() if p.grad is not None]
        self._optimizer.zero_grad()
        return [loss, *found]

    def __call__(self) -> None:
        self._backward()
        self._optimizer.step()
        self._optimizer.zero_grad()

    def _backward(self) -> Tensor:
        with _autocast(self._dtype):
            loss = F.cross_entropy(self._model(self._x), self._labels)
        loss.backward()
        return loss.detach()


class Inference:
    """A network's output for images, without gradients, under autocast for 16 bits."""

    def __init__(
        self, model: nn.Module, x: Tensor, labels: Tensor, dtype: torch.dtype = torch.float32
    ) -> None:
        self._model, self._x, self._dtype = model.eval(), x, dtype

    @torch.no_grad()
    def __call__(self) -> Tensor:
        with _autocast(self._dtype):
            return self._model(self._x)

    def results(self) -> list[Tensor]:
        """The output, to compare."""
        return [self()]


MODES = {TRAINING: Training, INFERENCE: Inference}


# The variants whose results the others are compared with: in 16 bits, and in float32.
REFERENCES = (
    (f"{FLOAT32} NCHW", "torch eager NCHW"),
    ("torch eager NCHW", "torch eager channels_last"),
)


def check(
    name: str, found: Sequence[Tensor], expected: Sequence[Tensor], again: Sequence[Tensor]
) -> None:
    """Raises AssertionError if a network's results differ from torch's eager one's.

    The other parts check each layer alone against float64. Here a near-tie that rounding decides
    otherwise moves a gradient by a thousandth, and a wrong kernel moves all of it. Behind batch
    norm of few values a near-tie moves some gradient by hundredths. torch's own are off by 0.03
    there, measured against float64, and elsewhere agree to 0.0001. So the limit is a hundredth
    plus three times the largest difference between torch's own results.

    Args:
        expected, again: torch's results in each memory format; in 16 bits those of float32, and
            those of 16 bits.
    """
    assert len(found) == len(expected), f"{name}: {len(found)} results, not {len(expected)}"
    pairs = zip(expected, again, strict=True)
    own = max(((b - a).norm() / a.norm()).nan_to_num().item() for a, b in pairs)
    for i, (actual, right) in enumerate(zip(found, expected, strict=True)):
        size, error = right.norm().item(), (actual - right).norm().item()
        assert error <= (0.01 + 3 * own) * size, (
            f"{name}: result {i} is off by {error:.2g} of {size:.2g}, torch's own by {own:.2g}"
        )


def run(
    names: Sequence[str],
    repeat: int,
    compiled: bool,
    batch: int | None = None,
    dtype: str = "float32",
) -> dict[str, object]:
    """Checks and times networks in both modes. The result can be written as JSON.

    Args:
        batch: images per training step, each network's own by default.
    """
    jobs = [
        (name, mode, 1 if mode == INFERENCE else batch or NETWORKS[name].batch)
        for name in names
        for mode in MODES
    ]
    results = progress.collect(
        jobs,
        lambda job: f"{job[0]}, {job[1]}",
        lambda job: run_network(job[0], NETWORKS[job[0]], *job[1:], repeat, compiled, dtype),
    )
    how = {"dtype": dtype, "repeat": repeat}
    return {"environment": environment(), **how, "networks": results}


def run_network(
    name: str,
    network: Network,
    mode: str,
    batch: int,
    repeat: int,
    compiled: bool,
    dtype: str = "float32",
) -> dict[str, object]:
    """Milliseconds of a network in one mode.

    Raises:
        AssertionError: a variant's results differ from torch's.
    """
    torch.compiler.reset()
    torch.manual_seed(0)
    model = without_chance(network.build(network.image_size))
    x, labels = batch_of(batch, network.image_size)
    functions: dict[str, Callable[[], object]] = {}
    torchs: list[list[Tensor]] = []  # results of torch that the others are compared with
    wanted = getattr(torch, dtype)
    for variant in variants(compiled, wanted):
        used = torch.float32 if variant.side == FLOAT32 else wanted
        images = x.contiguous(memory_format=memory_format(variant.channels_last))
        function = MODES[mode](variant.made(model), images, labels, used)
        found = function.results()
        if str(variant) in REFERENCES[dtype == "float32"]:
            torchs.append(found)
        elif variant.side != FLOAT32:
            check(f"{name}, {mode}, {variant}", found, *torchs)
        functions[str(variant)] = function
    samples = timing.alternate(functions, repeat, seconds=SECONDS, once=once(dtype))
    times = timing.milliseconds(samples)
    names = {"network": name, "mode": mode, "image_size": network.image_size, "batch": batch}
    return {**names, "milliseconds": times}


def text(result: dict) -> str:
    """A line for each variant, then the summary."""
    lines = table.head(["network", "mode", "variant", "ms", "quartiles", "images/s"], 3)
    for found in result["networks"]:
        for name, t in found["milliseconds"].items():
            cells = [found["network"], _what(found), name, table.number(t["median"])]
            cells.append(f"{table.number(t['q1'])}-{table.number(t['q3'])}")
            lines.append(table.row([*cells, table.number(1e3 * found["batch"] / t["median"])]))
    return "\n".join([*lines, "", summary(result)])


def _what(found: dict) -> str:
    return f"{found['mode']}, batch {found['batch']}"


WAYS = ("torch eager", "torch.compile", "fastconv", "fastconv compiled")


def least_of_ways(
    spreads: dict[str, dict[str, float]], ways: Sequence[str] = WAYS
) -> list[float | None]:
    """The least median of each way's variants; None if not measured."""
    least = []
    for way in ways:
        names = [f"{way} {name}" for name in FORMATS]
        least.append(min((spreads[n]["median"] for n in names if n in spreads), default=None))
    return least


def summary(result: dict) -> str:
    """A line per network and mode: images/s or ms of each way, and the ratio of the best ones."""
    ways = [*WAYS, *[FLOAT32] * (table.dtype(result) != "float32")]
    lines = table.head(["network", "what", *ways, "best / torch's best"], 2)
    for found in result["networks"]:
        cells = [f"{found['network']}, {found['image_size']}x{found['image_size']}", _what(found)]
        for least in least_of_ways(found["milliseconds"], ways):
            cells.append("" if least is None else _speed(found, least))
        lines.append(table.row([*cells, table.multiple(table.ratio(found["milliseconds"]))]))
    lines += [
        "",
        "Training: images/s of forward, loss, backward and SGD with momentum. Inference: ms. "
        "Eager in the faster of NCHW and channels_last, compiled channels_last; "
        f"{table.dtype(result)}, medians of up to {result['repeat']}. "
        f"{table.machine(result['environment'])}.",
    ]
    return "\n".join(lines)


def _speed(found: dict, milliseconds: float) -> str:
    if found["mode"] == INFERENCE:
        return f"{table.number(milliseconds)} ms"
    return f"{table.number(1e3 * found['batch'] / milliseconds)}/s"
