"""Tests that an edited converted model computes the same as the original with the same edits."""

import copy
import os
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fastconv
from random_models import EDITS, STATEMENTS, UNRELATED, build

pytestmark = pytest.mark.slow

X = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
WHOLE = ("__dict__", "vars(", "_modules", "children()")


def outcome(model):
    """Output and gradients, or the kind of error."""
    torch.manual_seed(0)
    x = X.clone().requires_grad_()
    try:
        y = model(x)
    except Exception as error:
        return [type(error).__name__]
    if not isinstance(y, torch.Tensor):
        return [type(y).__name__]
    wanted = [x, *(p for p in model.parameters() if p.requires_grad)]
    try:
        gradients = torch.autograd.grad(y.square().sum(), wanted, allow_unused=True)
    except RuntimeError as error:
        # Torch's ReLU keeps its output, which must not change; fastconv's keeps bits.
        assert "modified by an inplace operation" in str(error)
        return [y]
    return [y, *(torch.zeros(()) if g is None else g for g in gradients)]


def edited(model, edit):
    """The model after an edit, and the edit's error."""
    try:
        other = edit(model)
    except Exception as error:
        return model, type(error).__name__
    return (other if isinstance(other, torch.nn.Module) else model), ""


def assert_alike(model, original, what):
    expected, found = outcome(original), outcome(model)
    if len(expected) == 1:
        del found[1:]
    kinds = [
        [type(v).__name__ if isinstance(v, torch.Tensor) else v for v in r]
        for r in (expected, found)
    ]
    assert kinds[0] == kinds[1], what
    if isinstance(expected[0], torch.Tensor):
        torch.testing.assert_close(found, expected, msg=lambda text: f"{text}\n{what}")


def text_of(source, *edits):
    return source[source.index("class Net") :] + ", ".join(edit.__name__ for edit in edits)


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_every_edit(edit, one_thread):
    """Uses a quarter of the statements, each alone; all with HYPOTHESIS_PROFILE=thorough."""
    thorough = os.environ.get("HYPOTHESIS_PROFILE") == "thorough"
    for statement in STATEMENTS[0 if thorough else EDITS.index(edit) % 4 :: 1 if thorough else 4]:
        original, _, source = build([statement])
        converted = fastconv.convert(copy.deepcopy(original))
        original, error = edited(original, edit)
        converted, same = edited(converted, edit)
        assert error == same
        assert_alike(converted, original, text_of(source, edit))


def test_random_models_and_edits(fused, one_thread):
    tally = Counter()

    @settings(max_examples=1000)
    @given(
        st.lists(st.sampled_from(STATEMENTS), min_size=1, max_size=6),
        st.lists(st.sampled_from(EDITS), min_size=1, max_size=3),
        st.sampled_from(UNRELATED),
    )
    def check(statements, edits, unrelated):
        original, _, source = build(statements)
        converted = fastconv.convert(copy.deepcopy(original))
        assert_alike(converted, original, text_of(source))
        fused()
        converted(X)
        count = fused()
        tally["models"] += 1
        tally["fused"] += count != (0, 0)
        original, _ = edited(original, unrelated)
        converted, _ = edited(converted, unrelated)
        assert_alike(converted, original, text_of(source, unrelated))
        fused()
        converted(X)
        # A new attribute matters to code that reads all of them.
        if not any(part in source[source.index("class Net") :] for part in WHOLE):
            assert fused() == count, text_of(source, unrelated)
        for edit in edits:
            original, error = edited(original, edit)
            converted, same = edited(converted, edit)
            assert error == same, text_of(source, *edits)
        assert_alike(converted, original, text_of(source, unrelated, *edits))

    check()
    assert tally["models"] >= 1000 and 2 * tally["fused"] >= tally["models"], tally
