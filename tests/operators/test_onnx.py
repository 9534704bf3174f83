"""Tests torch.onnx.export of fastconv's layers, run in onnxruntime, against torch's values."""

import pytest
import torch
from torch import nn

import fastconv

WHY = "needs onnx, onnxscript and onnxruntime: pip install fastconv[ecosystem]"
onnxruntime = pytest.importorskip("onnxruntime", reason=WHY)
pytest.importorskip("onnx", reason=WHY)
pytest.importorskip("onnxscript", reason=WHY)

# The exporters warn about their own internals and about sizes that our checks read.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


class Layers(nn.Module):
    """Many layers side by side, so that one export shows them all."""

    def __init__(self, layers):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x):
        outputs = []
        for layer in self.layers:
            y = layer(x)
            outputs += y if isinstance(y, tuple) else [y]
        return tuple(outputs)


CONVS = {
    "plain": ((4, 6, 3), {}),
    "strides, no bias": ((4, 6, (3, 2)), {"stride": (2, 3), "padding": (1, 0), "bias": False}),
    "even same": ((4, 5, (2, 4)), {"padding": "same"}),
    "dilated groups": ((4, 6, 3), {"dilation": (2, 1), "groups": 2, "padding": 2}),
    "depthwise": ((4, 8, 3), {"groups": 4, "padding": "same"}),
    "reflected": ((4, 4, 3), {"padding": 1, "padding_mode": "reflect"}),
}
POOLS = {
    "plain": (2,),
    "overlapping": ((3, 2), (1, 2), (1, 0)),
    "ceil": (3, 2, 1, 1, True),
    "dilated": (2, 1, 0, (2, 3)),
    "dilated, padded": (3, 2, 1, 2),
}


def pool(arguments, **more):
    names = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
    return dict(zip(names, arguments, strict=False)) | more


def layers():
    """Each kind of layer in each of these ways."""
    torch.manual_seed(0)
    made = [fastconv.ReLU()]
    for arguments, options in CONVS.values():
        made += [
            fastconv.Conv2d(*arguments, **options),
            fastconv.ConvReLU2d(*arguments, **options),
            fastconv.ConvReLUMaxPool2d(*arguments, **options, pool_kernel_size=2),
        ]
    for arguments in POOLS.values():
        block = {
            name if name == "ceil_mode" else f"pool_{name}": value
            for name, value in pool(arguments).items()
        }
        made += [
            fastconv.MaxPool2d(**pool(arguments)),
            fastconv.ConvReLUMaxPool2d(4, 3, 3, padding=1, **block),
        ]
    return Layers(made).eval()


def run(program, *inputs):
    """What onnxruntime gives for an exported program."""
    model = program if isinstance(program, bytes) else program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]
    outputs = session.run(None, {n: x.numpy() for n, x in zip(names, inputs, strict=True)})
    return [torch.from_numpy(output) for output in outputs]


def assert_same(program, model, *inputs):
    with torch.no_grad():
        expected = model(*inputs)
    expected = [expected] if torch.is_tensor(expected) else list(expected)
    torch.testing.assert_close(run(program, *inputs), expected, rtol=1e-4, atol=1e-5)


def X(n, size=(13, 11)):
    return torch.randn(n, 4, *size, generator=torch.Generator().manual_seed(n))


def test_every_layer_and_any_batch():
    model = layers()
    batch = ({0: torch.export.Dim("batch")},)
    program = torch.onnx.export(model, (X(2),), dynamo=True, dynamic_shapes=batch, verbose=False)
    for n in (1, 2, 5):
        assert_same(program, model, X(n))


def test_nodes_are_torchs():
    # As from torch.nn's layers: nothing but what ONNX has one node for.
    model = nn.Sequential(
        nn.Conv2d(4, 6, (2, 4), padding="same", bias=False),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1, ceil_mode=True),
    )

    def nodes(model):
        program = torch.onnx.export(model.eval(), (X(2),), dynamo=True, verbose=False)
        return [node.op_type for node in program.model.graph]

    block = fastconv.ConvReLUMaxPool2d(
        4, 6, (2, 4), padding="same", bias=False, pool_kernel_size=3, pool_stride=2,
        pool_padding=1, ceil_mode=True,
    )  # fmt: skip
    assert nodes(fastconv.convert(model)) == nodes(block) == nodes(model)


def test_indices():
    model = Layers([fastconv.MaxPool2d(**pool(a, return_indices=True)) for a in POOLS.values()])
    program = torch.onnx.export(model, (X(2),), dynamo=True, verbose=False)
    assert_same(program, model, X(2))


def test_height_and_width_of_any_size():
    model = nn.Sequential(
        fastconv.ConvReLUMaxPool2d(4, 6, 3, padding="same", pool_kernel_size=2), fastconv.ReLU()
    ).eval()
    shapes = ({d: torch.export.Dim.DYNAMIC for d in (0, 2, 3)},)
    program = torch.onnx.export(model, (X(2),), dynamo=True, dynamic_shapes=shapes, verbose=False)
    for size in ((13, 11), (8, 30)):
        assert_same(program, model, X(3, size))


def test_a_program_that_was_exported_before():
    model = layers()
    program = torch.export.export(model, (X(2),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    program = program.run_decompositions(fastconv.decompositions())
    assert_same(torch.onnx.export(program, dynamo=True, verbose=False), model, X(3))


def test_the_older_exporter(tmp_path):
    model, path = layers(), tmp_path / "model.onnx"
    options = {"input_names": ["x"], "dynamic_axes": {"x": {0: "batch"}}}
    torch.onnx.export(model, (X(2),), path, dynamo=False, **options)
    assert_same(path.read_bytes(), model, X(3))


def test_kernels_run_again_afterwards():
    # The exporter's answers are not kept for other calls.
    model = fastconv.ConvReLU2d(4, 6, 3).eval()
    torch.onnx.export(model, (X(2),), dynamo=True, verbose=False)
    with torch.profiler.profile() as profile, torch.no_grad():
        model(X(2))
    assert "fastconv::conv2d_relu" in {event.name for event in profile.events()}
