"""Tests when a traced forward runs, and when the class's own: modes, arguments, threads."""

import collections
import copy
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastconv
from code_models import Chain, X, build

Output = collections.namedtuple("Output", "y mean")


class Modes(Chain):
    """Takes another path in each mode."""

    def forward(self, x):
        if self.training:
            return self.chain(x), self.norm(x)
        return F.max_pool2d(self.chain(x), 2)


class OneMode(Chain):
    def forward(self, x):
        if self.training:
            return self.chain(x)
        return self.chain(x) if x.sum() > 0 else self.conv(x)


class InPlaceBuffer(Chain):
    """Is part of the graph."""

    def forward(self, x):
        self.calls.add_(1)
        return self.chain(x) * self.calls


class Returns(Chain):
    """Containers come back as they are."""

    def forward(self, x):
        y = self.chain(x)
        return {"y": [y], "pair": Output(y, y.mean()), "size": y.shape, "none": None, "x": (x, 3)}


def test_each_mode_has_its_graph(fused):
    model = build(Modes)
    converted = fastconv.convert(model)
    for training, count in ((True, (0, 1)), (False, (1, 0))):
        model.train(training), converted.train(training)
        torch.testing.assert_close(converted(X()), model(X()))
        assert fused() == count
    model = build(OneMode)
    report = fastconv.explain(model)
    assert report["conv"].note == "with relu() in training, in the forward of OneMode"
    assert "branches on data" in str(report)
    converted = fastconv.convert(model)
    for training, count in ((True, (0, 1)), (False, (0, 0))):
        model.train(training), converted.train(training)
        torch.testing.assert_close(converted(X()), model(X()))
        assert fused() == count


def test_buffers_in_place(fused):
    model = build(InPlaceBuffer)
    converted = fastconv.convert(copy.deepcopy(model))
    assert converted.calls == 0
    for _ in range(2):
        torch.testing.assert_close(converted(X()), model(X()))
    assert converted.calls == 2 and fused() == (0, 2)


def test_what_a_forward_returns(fused):
    model = build(Returns)
    y, expected = fastconv.convert(model)(X()), model(X())
    assert fused() == (0, 1)
    assert type(y) is type(expected) and list(y) == list(expected)
    assert [type(value) for value in y.values()] == [type(value) for value in expected.values()]
    torch.testing.assert_close([y["y"], *y["pair"]], [expected["y"], *expected["pair"]])
    assert y["size"] == expected["size"] and y["x"][1] == 3


def test_other_threads_go_on():
    """torch.fx patches Module's call for all of them."""
    running, done, errors = build(Modes).eval(), threading.Event(), []
    expected = running(X())

    def serve():
        while not done.is_set():
            try:
                torch.testing.assert_close(running(X()), expected)
            except Exception as error:
                errors.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        for _ in range(20):
            fastconv.explain(build(Modes))
    finally:
        done.set()
        thread.join()
    assert not errors


class WithSkip(Chain):
    """An argument without a default that is not always a tensor."""

    def forward(self, x, skip):
        y = self.chain(x)
        return y if skip is None else y + skip


def test_other_arguments_run_the_own_forward(fused):
    model = build(WithSkip)
    converted = fastconv.convert(model)
    for skip, count in ((X(), 1), (None, 0), (2.0, 0)):
        torch.testing.assert_close(converted(X(), skip), model(X(), skip))
        assert fused() == (0, count)


def test_without_the_source():
    """The callers of a layer are then unknown."""
    scope = {"Chain": Chain, "F": F}
    exec(
        "class Hidden(Chain):\n"
        "    def forward(self, x):\n"
        "        return self.chain(x) if x.sum() > 0 else self.body(x)",
        scope,
    )
    model = build(scope["Hidden"])
    model.body = nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU()).double()
    report = fastconv.explain(model)
    assert report["body.0"].note == "with body.1; Hidden's code may call it by itself"
    torch.testing.assert_close(fastconv.convert(model)(X()), model(X()))


class Features(nn.Module):
    """A Sequential below code. The code's use of it decides whether it gets a block."""

    def __init__(self, use):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2))
        self.use = use


class Whole(Features):
    def forward(self, x):
        return self.features(x) if x.shape[1] == 3 else x


class First(Features):
    def forward(self, x):
        return self.features[0](x) if x.shape[1] == 3 else self.features(x)


class Kept(Features):
    """Calls some layers, as perceptual losses do."""

    def forward(self, x):
        kept = []
        for layer in self.features:
            x = layer(x)
            kept.append(x)
        return kept


class InAMethod(Features):
    def first(self, x):
        features = self.features
        return features[0](x)

    def forward(self, x):
        return self.first(x) if x.shape[1] == 3 else x


class ByName(Features):
    def forward(self, x):
        return getattr(self, "features")[0](x) if x.shape[1] == 3 else x  # noqa: B009


def outside(model, x):
    return model.features[0](x)


class InAFunction(Features):
    def forward(self, x):
        return outside(self, x) if x.shape[1] == 3 else x


class Optional(Features):
    """Reads the Sequential's layers only if told to."""

    def forward(self, x, first=False):
        return self.features[0](x) if first is True else self.features(x)


class OptionalFlag(Features):
    def forward(self, x, mask=None):
        return self.features(x) if mask is None else self.features[0](x) * mask


# Fused operations in a call, and explain's note.
WITH = "with features.1 and features.2"
BELOW = {
    Whole: (1, WITH), First: (0, f"{WITH}; First's code may call it by itself"),
    Kept: (0, f"{WITH}; also called by itself"),
    InAMethod: (0, f"{WITH}; InAMethod's code may call it by itself"),
    ByName: (0, f"{WITH}; ByName's code may call it by itself"),
    InAFunction: (0, f"{WITH}; InAFunction's code may call it by itself"),
    Optional: (1, f"{WITH}; Optional's code may call it by itself"), OptionalFlag: (1, WITH),
}  # fmt: skip


@pytest.mark.parametrize("kind", BELOW, ids=lambda kind: kind.__name__)
def test_sequentials_below_code(kind, fused):
    torch.manual_seed(0)
    model = kind(None).double()
    converted = fastconv.convert(model)
    torch.testing.assert_close(converted(X()), model(X()))
    count, note = BELOW[kind]
    assert fused() == (count, 0)
    if kind is OptionalFlag:
        torch.testing.assert_close(converted(X(), 2), model(X(), 2))
    if kind is Optional:
        torch.testing.assert_close(converted(X(), True), model(X(), True))
    assert fused() == (0, 0)
    assert fastconv.explain(model)["features.0"].note == note
