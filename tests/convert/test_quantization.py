"""Tests that pt2e quantization gives the same for fastconv's layers as for torch.nn's."""

import copy

import pytest
import torch
from torch import nn

import fastconv

pytest.importorskip("torchao", reason="needs torchao: pip install fastconv[ecosystem]")
# torchao and torch.export warn about their own internals.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 8, (3, 2), stride=(1, 2), groups=2, bias=False),
            nn.ReLU(),
            nn.Conv2d(8, 6, (2, 4), padding=1),
            nn.MaxPool2d(3, 2, 1, ceil_mode=True),
        )
        self.last = nn.LazyLinear(5)

    def forward(self, x):
        return self.last(self.features(x).flatten(1))


def batches():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(4, 3, 16, 16, generator=generator) for _ in range(3)]


def pair():
    """The same model with torch.nn's layers and converted."""
    torch.manual_seed(0)
    model = Net()
    model(batches()[0])
    return model, fastconv.convert(copy.deepcopy(model))


def exported(model):
    """The model as a graph of aten operators."""
    shapes = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(model, (batches()[0],), dynamic_shapes=shapes)
    has_kernels = any("fastconv" in str(node.target) for node in program.graph.nodes)
    program = program.run_decompositions(fastconv.decompositions())
    return program.module(), has_kernels


def xnnpack(**options):
    from torchao.testing.pt2e import _xnnpack_quantizer as module

    config = module.get_symmetric_quantization_config(is_per_channel=True, **options)
    return module.XNNPACKQuantizer().set_global(config)


def x86():
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as module

    config = module.get_default_x86_inductor_quantization_config()
    return module.X86InductorQuantizer().set_global(config)


def targets(graph):
    return [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]


def assert_same(ours, theirs):
    assert any("quantize_per_tensor" in name for name in targets(ours))
    assert targets(ours) == targets(theirs)
    for x in batches():
        torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("make", [xnnpack, x86])
def test_after_training(make):
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    done = []
    for model, ours in zip(pair(), (False, True), strict=True):
        graph, has_kernels = exported(model.eval())
        assert has_kernels == ours
        graph = prepare_pt2e(graph, make())
        for x in batches():
            graph(x)
        done.append(convert_pt2e(graph))
    assert_same(done[1], done[0])


def test_while_training():
    from torchao.quantization import pt2e
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_qat_pt2e

    done = []
    for model, ours in zip(pair(), (False, True), strict=True):
        graph, has_kernels = exported(model.train())
        assert has_kernels == ours
        graph = prepare_qat_pt2e(graph, xnnpack(is_qat=True))
        optimizer = torch.optim.SGD(graph.parameters(), lr=0.01)
        for x in batches():
            optimizer.zero_grad()
            graph(x).square().mean().backward()
            optimizer.step()
        pt2e.move_exported_model_to_eval(graph)
        done.append(convert_pt2e(graph))
    assert_same(done[1], done[0])
