"""Tests convert on models that were not written for it: chains in the code of forward."""

import copy
import inspect
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastconv
from code_models import MODELS, Attention, Fire, Mnist, OldMnist, Residual, Tutorial, X, build, run


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", MODELS, ids=lambda kind: kind.__name__)
def test_models(kind, training, fused):
    model = build(kind).train(training)
    attributes = [{k: id(v) for k, v in vars(m).items()} for m in model.modules()]
    names = [set(vars(m)) for m in model.modules()]
    expected = run(model, X())
    converted = fastconv.convert(model)
    torch.testing.assert_close(run(converted, X()), expected)
    assert fused() == MODELS[kind]
    # what does not change
    assert type(converted) is kind and list(converted.state_dict()) == list(model.state_dict())
    assert attributes == [{k: id(v) for k, v in vars(m).items()} for m in model.modules()]
    for a, b in zip(model.parameters(), converted.parameters(), strict=True):
        assert a is b
    assert inspect.signature(converted.forward) == inspect.signature(model.forward)
    # copies
    for other in (
        copy.deepcopy(converted),
        pickle.loads(pickle.dumps(converted)),
        fastconv.convert(converted),
    ):
        torch.testing.assert_close(run(other, X()), expected)
        assert fused() == MODELS[kind]
        with torch.no_grad():
            next(other.parameters()).add_(1)
        assert not torch.equal(run(other, X())[0], expected[0])
        with torch.no_grad():
            next(other.parameters()).sub_(1)
        fused()
    # and back
    back = fastconv.revert(converted)
    assert repr(back) == repr(model) and names == [set(vars(m)) for m in back.modules()]
    torch.testing.assert_close(run(back, X()), expected)
    assert fused() == (0, 0)
    # one by one
    single = fastconv.convert(model, fuse=False)
    torch.testing.assert_close(run(single, X()), expected)
    assert fused() == (0, 0)


def test_the_mode_may_change_later(fused):
    model = build(Mnist)
    converted = fastconv.convert(model)
    for training in (False, True, False):
        model.train(training), converted.train(training)
        torch.testing.assert_close(run(converted, X()), run(model, X()))
        assert fused() == (1, 1)


def test_other_calls_run_the_own_forward(fused):
    model = build(Attention)
    converted = fastconv.convert(model)
    mask = torch.rand(16, 16).double()
    for arguments, keywords, count in (
        ((), {}, 1),
        ((mask,), {}, 0),
        ((), {"mask": mask}, 0),
        ((), {"raw": True}, 0),
        ((None, True), {}, 0),
    ):
        expected = run(model, X(), *arguments, **keywords)
        torch.testing.assert_close(run(converted, X(), *arguments, **keywords), expected)
        assert fused() == (0, count)
    assert torch.equal(converted(x=X()), converted(X()))
    assert fused() == (0, 2)
    with pytest.raises(TypeError, match="forward"):
        converted()
    with pytest.raises(TypeError, match="forward"):
        converted(y=X())


def test_layers_stay_single(fused):
    """Other methods, users of a layer and hooks work as before."""
    model = build(Tutorial)
    converted = fastconv.convert(model)
    torch.testing.assert_close(converted.conv1(X()), model.conv1(X()))
    assert fused() == (0, 0)
    seen = []
    converted.conv1.register_forward_hook(lambda module, args, y: seen.append(y))
    torch.testing.assert_close(run(converted, X()), run(model, X()))
    assert fused() == (1, 0)  # the other chain
    torch.testing.assert_close(seen[0], model.conv1(X()))
    converted.conv2 = nn.utils.parametrizations.weight_norm(converted.conv2)
    torch.testing.assert_close(converted(X()), model(X()))
    assert fused() == (0, 0)


def test_global_hooks_see_every_layer(fused):
    converted = fastconv.convert(build(Tutorial))
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda m, args, y: seen.append(m))
    try:
        converted(X())
    finally:
        handle.remove()
    assert converted.conv1 in seen and converted.pool in seen and fused() == (0, 0)
    converted(X())
    assert fused() == (2, 0)


class Flag(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3)
        self.use_pool = True

    def forward(self, x):
        x = self.conv(x).relu()
        return F.max_pool2d(x, 2) if self.use_pool else x


def test_flags_may_change(fused):
    converted = fastconv.convert(build(Flag))
    assert converted(X()).shape[2] == 7 and fused() == (1, 0)
    converted.use_pool = False
    assert converted(X()).shape[2] == 14 and fused() == (0, 0)


def test_a_hooked_layer_is_not_fused(fused):
    model = build(Fire)
    seen = []
    model.squeeze.register_forward_hook(lambda module, args, y: seen.append(y.min()))
    converted = fastconv.convert(model)
    assert seen == []
    converted(X())
    assert fused() == (0, 2) and seen[0] < 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Tutorial, Mnist, OldMnist, Residual])
def test_compiler_export_and_tracing(kind):
    model = build(kind).eval()
    converted = fastconv.convert(model)
    expected = model(X())
    torch.testing.assert_close(
        torch.compile(converted, fullgraph=True, backend="aot_eager")(X()), expected
    )
    for strict in (False, True):
        program = torch.export.export(converted, (X(),), strict=strict)
        names = [str(node.target) for node in program.graph.nodes]
        assert any("fastconv.conv2d_relu" in name for name in names)
        torch.testing.assert_close(program.module()(X()), expected)
    torch.testing.assert_close(torch.fx.symbolic_trace(converted)(X()), expected)
    outer = nn.Sequential(converted)
    torch.testing.assert_close(torch.fx.symbolic_trace(outer)(X()), expected)


@pytest.mark.slow
def test_one_graph_for_all_batches():
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()
    compiled = torch.compile(fastconv.convert(build(Tutorial)), fullgraph=True, backend=counter)
    for n in (2, 3, 4, 5):
        compiled(X()[:1].expand(n, -1, -1, -1))
    assert counter.frame_count <= 2  # static, then dynamic


@pytest.mark.slow
def test_in_a_new_process(tmp_path, run_python):
    """torch.save and torch.load."""
    from fastconv import models

    torch.manual_seed(0)
    block = models.resnet50(3, layers="torch").layer1[1].double().eval()
    converted = fastconv.convert(block, fold_batchnorm=True)
    assert "forward" in vars(converted)
    y = converted(X(8, 256))
    torch.save((converted, X(8, 256), y), tmp_path / "model.pt")
    code = (
        f"import torch; m, x, y = torch.load({str(tmp_path / 'model.pt')!r}, weights_only=False);"
        "assert m.forward.module() is m; torch.testing.assert_close(m(x), y)"
    )
    done = run_python(code)
    assert done.returncode == 0, done.stderr


def test_graph_modules(fused):
    """Its code is its graph."""
    graph = torch.fx.symbolic_trace(build(Fire))
    model = nn.Sequential(graph, nn.ReLU())
    converted = fastconv.convert(model)
    torch.testing.assert_close(run(converted, X()), run(model, X()))
    assert fused() == (0, 3)
    torch.testing.assert_close(run(copy.deepcopy(converted), X()), run(model, X()))
    # of another graph, the class's forward runs
    for edited in (model[0], converted[0]):
        relu = next(node for node in edited.graph.nodes if node.target == "squeeze_activation")
        relu.replace_all_uses_with(relu.args[0])
        edited.recompile()
    fused()
    torch.testing.assert_close(run(converted, X()), run(model, X()))
    assert fused() == (0, 0)


def test_functional_call():
    model = build(Tutorial)
    converted = fastconv.convert(model)
    parameters = {name: p.detach() * 2 for name, p in model.named_parameters()}
    expected = torch.func.functional_call(model, parameters, X())
    torch.testing.assert_close(torch.func.functional_call(converted, parameters, X()), expected)


def test_weights_of_another_dtype_or_device_are_converted_too():
    model = build(Tutorial).half()
    converted = fastconv.convert(model)
    torch.testing.assert_close(converted(X().half()), model(X().half()))
    meta = fastconv.convert(build(Tutorial).to("meta"))
    assert meta(X().to("meta")).shape == (2, 5)
