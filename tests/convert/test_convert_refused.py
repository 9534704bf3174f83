"""Tests code that torch.fx would silently get wrong: it is not fused, and explain says why."""

import collections
import copy
import random
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastconv
from code_models import Chain, X, build, run

KEPT = []


class Branch(Chain):
    def forward(self, x):
        return self.chain(x) if x.sum() > 0 else self.conv(x)


class Length(Chain):
    def forward(self, x):
        return self.chain(x) * len(x)


class Loop(Chain):
    def forward(self, x):
        return self.chain(torch.stack([image * 2 for image in x]))


class IsTensor(Chain):
    def forward(self, x):
        return self.chain(x) if isinstance(x, torch.Tensor) else self.conv(x[0])


class IsParameter(Chain):
    def forward(self, x):
        return self.conv(x) if isinstance(x, nn.Parameter) else self.chain(x)


class IsSequence(Chain):
    def forward(self, x):
        return self.conv(x[0]) if isinstance(x, collections.abc.Sequence) else self.chain(x)


class SizeIsTuple(Chain):
    def forward(self, x):
        return self.chain(x) if isinstance(x.shape, tuple) else self.conv(x)


class Swallowed(Chain):
    def forward(self, x):
        try:
            return self.chain(x) if x.sum() > 0 else self.conv(x)
        except ValueError:
            return self.chain(x)


class Type(Chain):
    def forward(self, x):
        return self.chain(x) if type(x) is torch.Tensor else self.conv(x)


class Has(Chain):
    def forward(self, x):
        return self.conv(x.tensors) if hasattr(x, "tensors") else self.chain(x)


class Text(Chain):
    def forward(self, x):
        return self.chain(x) * len(f"{x.dtype}")


class Count(Chain):
    def forward(self, x):
        self.count += 1
        return self.chain(x) * self.count


class Log(Chain):
    def forward(self, x):
        self.log.append(1)
        return self.chain(x) * len(self.log)


class ChildAttribute(Chain):
    def forward(self, x):
        self.norm.times = getattr(self.norm, "times", 0) + 1
        return self.chain(x) * self.norm.times


class Last(Chain):
    def forward(self, x):
        self.last = self.chain(x)
        return self.last


class Global(Chain):
    def forward(self, x):
        KEPT[:] = [self.chain(x)]
        return KEPT[0]


class Buffer(Chain):
    def forward(self, x):
        self.calls = self.calls + 1
        return self.chain(x) * self.calls


class Constant(Chain):
    def forward(self, x):
        self.constant += 1
        return self.chain(x) * self.constant


class Freeze(Chain):
    def forward(self, x):
        self.norm.eval()
        return self.chain(self.norm(x))


class NoGrad(Chain):
    def forward(self, x):
        with torch.no_grad():
            y = self.conv(x)
        return F.relu(y) + x


class NoGradLater(Chain):
    def forward(self, x):
        y = self.conv(x)
        torch.set_grad_enabled(False)
        y = F.relu(y)
        torch.set_grad_enabled(True)
        return y + x


class NoGradAround(Chain):
    @torch.no_grad()
    def forward(self, x):
        return self.chain(x)


class Autocast(Chain):
    def forward(self, x):
        with torch.autocast("cpu", torch.bfloat16):
            x = x * 1
        return self.chain(x)


class Profiled(Chain):
    def forward(self, x):
        with torch.profiler.record_function("chain"):
            return self.chain(x)


class Saved(Chain):
    def forward(self, x):
        with torch.autograd.graph.saved_tensors_hooks(lambda x: x.clone(), lambda x: x):
            return self.chain(x)


class Checkpointed(Chain):
    def forward(self, x):
        return F.relu(torch.utils.checkpoint.checkpoint(self.conv, x, use_reentrant=False))


class CheckpointedFunction(Chain):
    def forward(self, x):
        return torch.utils.checkpoint.checkpoint(F.relu, self.conv(x), use_reentrant=False)


class Disabled(Chain):
    @torch.compiler.disable
    def chain(self, x):
        return F.relu(self.conv(x))

    def forward(self, x):
        return self.chain(x)


class NoGradAtTheEnd(Chain):
    def forward(self, x):
        y = self.chain(x)
        torch.set_grad_enabled(not torch.is_grad_enabled())
        return y


class IsTensorFunction(Chain):
    def forward(self, x):
        return self.chain(x) if torch.is_tensor(x) else self.conv(x)


class Copy(Chain):
    def forward(self, x):
        return self.chain(copy.copy(x))


class GradMode(Chain):
    def forward(self, x):
        return self.chain(x) if torch.is_grad_enabled() else self.conv(x)


class AutocastMode(Chain):
    def forward(self, x):
        return self.conv(x) if torch.is_autocast_enabled("cpu") else self.chain(x)


class ChildMode(Chain):
    def forward(self, x):
        return self.chain(x) if self.norm.training else self.conv(x)


class Noise(Chain):
    def forward(self, x):
        return self.chain(x) + torch.rand(())


class Skip(Chain):
    def forward(self, x):
        return self.chain(x) if random.random() < self.probability else self.conv(x)


class NumpySkip(Chain):
    def forward(self, x):
        return self.chain(x) if np.random.rand() < self.probability else self.conv(x)


class Seed(Chain):
    def forward(self, x):
        torch.manual_seed(3)
        return F.dropout(self.chain(x), training=self.training)


class Made(Chain):
    def forward(self, x):
        return nn.ReLU()(self.conv(x))


class OwnDict(Chain):
    def forward(self, x):
        return collections.OrderedDict(y=self.chain(x))


class Recursive(Chain):
    def forward(self, x, again=1):
        return self(self.chain(x), again=0) if again else x


class PositionalOnly(Chain):
    def forward(self, x, /):
        return self.chain(x)


REASONS = {
    Branch: r"branches on data \(test_convert_refused.py:\d+: return self.chain\(x\) if x.sum",
    Length: "takes the length of a value", Loop: "loops over data",
    IsTensor: "asks for the class", IsParameter: "asks for the class",
    IsSequence: "asks for the class", SizeIsTuple: "asks for the class",
    Swallowed: r"has a `try` statement in forward\(\)",
    Type: "asks for a type", Has: r"asks for .tensors, which", Text: "makes a text of a value",
    Count: "sets an attribute", Log: r"changes Log.log when it runs",
    ChildAttribute: "sets an attribute", Last: "sets an attribute",
    Global: "stores into a container", Buffer: "sets an attribute",
    Constant: "computes with other tensors", Freeze: "changes BatchNorm2d.training",
    NoGrad: "has a `with` statement", NoGradLater: "changes grad mode",
    NoGradAround: "changes grad mode",
    Autocast: "has a `with` statement", Profiled: "has a `with` statement",
    Checkpointed: r"torch's (_fn|checkpoint)\(\) call a layer",
    Disabled: r"has torch's \w+\(\) call a layer",
    CheckpointedFunction: r"torch's checkpoint\(\) call a layer",
    NoGradAtTheEnd: r"calls is_grad_enabled\(\)", IsTensorFunction: r"calls is_tensor\(\)",
    Copy: r"calls copy\(\)", Saved: "has a `with` statement",
    GradMode: r"calls is_grad_enabled\(\)", AutocastMode: r"calls is_autocast_enabled\(\)",
    ChildMode: "children's `training`",
    Noise: "computes with other tensors", Skip: r"calls random\(\)",
    NumpySkip: "random numbers", Seed: "random numbers",
    Made: "calls a ReLU that is not among its modules",
    OwnDict: "makes a OrderedDict", Recursive: "calls a Recursive that is not among",
    PositionalOnly: "positional-only",
}  # fmt: skip


def seeds():
    torch.manual_seed(1), random.seed(1), np.random.seed(1)


def calls(model):
    """The results of four calls in order, in both modes, with and without gradients."""
    seeds()
    results = []
    for training in (True, False):
        model.train(training)
        results += run(lambda x: as_tuple(model(x)), X(), parameters=model.parameters())
        with torch.no_grad():
            results += as_tuple(model(X()))
    return results


def as_tuple(y):
    return tuple(y.values()) if isinstance(y, dict) else (y,)


@pytest.mark.parametrize("kind", REASONS, ids=lambda kind: kind.__name__)
def test_not_fused(kind, fused):
    model = build(kind)
    before = copy.deepcopy(vars(model))
    seeds()
    state = torch.get_rng_state(), random.getstate(), np.random.get_state()[2]
    report = fastconv.explain(model)
    converted = fastconv.convert(model)
    # the model and the random numbers are unchanged
    assert repr(vars(model)) == repr(before) and not hasattr(model.norm, "times")
    assert torch.equal(torch.get_rng_state(), state[0])
    assert (random.getstate(), np.random.get_state()[2]) == state[1:]
    assert torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
    # layer by layer, the same numbers
    assert "forward" in vars(converted.conv) and "forward" not in vars(converted)
    expected = calls(copy.deepcopy(model))
    torch.set_grad_enabled(True)
    torch.testing.assert_close(calls(converted), expected)
    torch.set_grad_enabled(True)
    assert fused() == (0, 0)
    assert report["conv"].becomes == "converted"
    assert list(report.untraced) == [f"(model) ({kind.__name__})"]
    assert re.search(REASONS[kind], str(report)), str(report)
