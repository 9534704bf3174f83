"""Tests that converted real models have torch's outputs and gradients."""

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fastconv
from fastconv import models, training
from fastconv.testing import errors

pytestmark = pytest.mark.slow

DATA = Path(__file__).parents[3] / "shared" / "data"
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def u_net():
    """A U-Net: down, up, and the features of the way down concatenated."""

    def twice(inputs, outputs):
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, padding=1),
            nn.ReLU(inplace=True),
        )

    class UNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.down = nn.ModuleList([twice(3, 8), twice(8, 16)])
            self.bottom = twice(16, 32)
            self.grow = nn.ModuleList(
                [nn.ConvTranspose2d(32, 16, 2, 2), nn.ConvTranspose2d(16, 8, 2, 2)]
            )
            self.up = nn.ModuleList([twice(32, 16), twice(16, 8)])
            self.last = nn.Conv2d(8, 2, 1)

        def forward(self, x):
            seen = []
            for block in self.down:
                x = block(x)
                seen.append(x)
                x = F.max_pool2d(x, 2)
            x = self.bottom(x)
            for grow, block in zip(self.grow, self.up, strict=True):
                x = block(torch.cat([seen.pop(), grow(x)], 1))
            return self.last(x)

    return UNet()


def transformers_model(name, **options):
    def make():
        transformers = pytest.importorskip("transformers", reason="needs the package transformers")
        config = getattr(transformers, f"{name}Config")(num_labels=5, **options)
        return getattr(transformers, f"{name}ForImageClassification")(config)

    return make


SMALL = dict(embedding_size=8, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1])
MODELS = {
    "squeezenet": lambda: fastconv.squeezenet1_1(layers="torch"),
    "u-net": u_net,
    "transformers ResNet": transformers_model("ResNet", **SMALL),
    "transformers ResNet, basic": transformers_model("ResNet", layer_type="basic", **SMALL),
    "transformers RegNet": transformers_model("RegNet", groups_width=8, **SMALL),
    "transformers MobileNetV2": transformers_model("MobileNetV2", depth_multiplier=0.35),
}


def made(name, training):
    torch.manual_seed(0)
    model = MODELS[name]().train(training)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def step(model, x):
    """The output and all gradients, in float64."""
    y = model(x)
    y = y if isinstance(y, torch.Tensor) else y.logits
    gradients = torch.autograd.grad(y.square().mean(), list(model.parameters()))
    return [t.detach().double() for t in (y, *gradients)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_same_outputs_and_gradients(name, dtype):
    # In eval mode: the statistics of a batch of two would amplify any difference.
    theirs = made(name, training=False).to(dtype)
    ours = fastconv.convert(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)).to(dtype)
    exact = step(copy.deepcopy(theirs).double(), x.double())
    for i, parts in enumerate(zip(step(ours, x), exact, step(theirs, x), strict=True)):
        found, truth, own = parts
        allowed = errors.GRADIENT * (own - truth).abs().max()
        allowed += 16 * torch.finfo(dtype).eps * truth.abs().max()  # if torch's are exact
        assert (found - truth).abs().max() <= allowed, f"{name}: result {i}"


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_same_in_float64(name, training):
    theirs = made(name, training).double()
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)).double()
    torch.testing.assert_close(step(fastconv.convert(theirs), x), step(theirs, x))


@pytest.mark.skipif(not DATA.exists(), reason=f"needs {DATA}")
@pytest.mark.parametrize("image, labels", [("chelsea", {281, 282, 285}), ("coffee", {967})])
def test_squeezenet_knows_what_it_sees(image, labels):
    from safetensors.torch import load_file

    from fastconv.data.preprocessing import Preprocessing, to_input

    path = DATA / "squeezenet1_1_imagenet.safetensors"
    theirs = fastconv.squeezenet1_1(layers="torch").eval()
    theirs.load_state_dict(load_file(path))
    ours = fastconv.squeezenet1_1().eval()
    head = models.head_names("squeezenet1_1", 224)
    assert training.load_pretrained(ours, training.read_weights(path), head, ["any"] * 1000)
    pixels = Preprocessing.for_photos(224).read(DATA / f"{image}.png")
    x = to_input(pixels.unsqueeze(0), 224)
    with torch.no_grad():
        expected, found = theirs(x), ours(x)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert found.argmax().item() in labels


def test_lightning_trains():
    lightning = pytest.importorskip("lightning", reason="needs the package lightning")

    class Task(lightning.LightningModule):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def training_step(self, batch, index):
            x, labels = batch
            return F.cross_entropy(self.model(x).mean((2, 3)), labels)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    x = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(1)).double()
    data = DataLoader(TensorDataset(x, torch.tensor([0, 1] * 4)), batch_size=4)
    trained = []
    for change in (lambda model: model, fastconv.convert):
        torch.manual_seed(0)
        task = Task(change(u_net().double()))
        quiet = dict(logger=False, enable_checkpointing=False, enable_model_summary=False)
        trainer = lightning.Trainer(
            max_epochs=2, accelerator="cpu", enable_progress_bar=False, **quiet
        )
        trainer.fit(task, data)
        trained.append(task.state_dict())
    torch.testing.assert_close(*trained)
