"""Models that were not written for convert, with chains in the code of forward, for tests."""

import torch
import torch.nn.functional as F
from torch import nn

from fastconv import functional
from fastconv.models.squeezenet1_1 import Fire as FireOfAnySize


def X(size=16, channels=3):
    return torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(0)).double()


class Tutorial(nn.Module):
    """PyTorch's CIFAR10 tutorial: one pool for both chains."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(6, 8, 3)
        self.fc1 = nn.Linear(32, 5)

    def forward(self, x):
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        return self.fc1(torch.flatten(x, 1))


class Mnist(nn.Module):
    """PyTorch's MNIST example."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, 1)
        self.conv2 = nn.Conv2d(8, 8, 3, 1)
        self.dropout1 = nn.Dropout(0.25)
        self.fc1 = nn.Linear(288, 5)

    def forward(self, x):
        x = self.conv1(x)
        x = F.relu(x)
        x = self.conv2(x)
        x = F.relu(x)
        x = F.max_pool2d(x, 2)
        x = self.dropout1(x)
        x = torch.flatten(x, 1)
        x = F.dropout(x, training=self.training)
        return F.log_softmax(self.fc1(x), dim=1)


class OldMnist(nn.Module):
    """An older MNIST example, with the pool before the ReLU."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 10, kernel_size=5)
        self.conv2 = nn.Conv2d(10, 20, kernel_size=3)
        self.conv2_drop = nn.Dropout2d()
        self.fc1 = nn.Linear(80, 5)

    def forward(self, x):
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(F.max_pool2d(self.conv2_drop(self.conv2(x)), 2))
        return self.fc1(x.view(-1, 80))


class Fire(FireOfAnySize):
    """SqueezeNet's."""

    def __init__(self):
        super().__init__(3, 4, 6)


class Residual(nn.Module):
    """One ReLU, in place, in a chain and behind a sum."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 3, 3, padding=1)
        self.conv2 = nn.Conv2d(3, 3, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        identity = x
        out = self.relu(self.conv1(x))
        out = self.conv2(out)
        out += identity
        return self.relu(out)


class DoubleConv(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.double_conv = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, padding=1),
            nn.ReLU(inplace=True),
        )

    def forward(self, x):
        return self.double_conv(x)


class UNet(nn.Module):
    """Skip connections; the last convolution's value has two users."""

    def __init__(self):
        super().__init__()
        self.down1, self.down2 = DoubleConv(3, 4), DoubleConv(4, 8)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.conv = DoubleConv(8, 4)
        self.out = nn.Conv2d(4, 2, 1)

    def forward(self, x):
        skip = self.down1(x)
        x = self.down2(F.max_pool2d(skip, 2))
        x = self.out(self.conv(torch.cat([self.up(x), skip], dim=1)))
        return F.relu(x) + torch.sigmoid(x)


class BasicConv(nn.Module):
    def __init__(self, *arguments, **keywords):
        super().__init__()
        self.conv = nn.Conv2d(*arguments, **keywords)

    def forward(self, x):
        return F.relu(self.conv(x), inplace=True)


class Inception(nn.Module):
    def __init__(self):
        super().__init__()
        self.branch1 = BasicConv(3, 4, kernel_size=1)
        self.branch3_1 = BasicConv(3, 4, kernel_size=1)
        self.branch3_2a = BasicConv(4, 4, kernel_size=(1, 3), padding=(0, 1))
        self.branch3_2b = BasicConv(4, 4, kernel_size=(3, 1), padding=(1, 0))

    def _forward(self, x):
        branch3 = self.branch3_1(x)
        branch3 = [self.branch3_2a(branch3), self.branch3_2b(branch3)]
        return [self.branch1(x), torch.cat(branch3, 1)]

    def forward(self, x):
        return torch.cat(self._forward(x), 1)


class Loops(nn.Module):
    """Layers in lists. The code checks the class of some; their classes are known."""

    def __init__(self):
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(3, 3, 3, padding=1) for _ in range(3)])
        self.layers = nn.ModuleDict(
            {"conv": nn.Conv2d(3, 4, 3), "relu": nn.ReLU(), "pool": nn.MaxPool2d(2)}
        )
        self.features = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 1))

    def forward(self, x):
        for conv in self.convs:
            x = torch.relu(conv(x)).contiguous()
        for layer in self.layers.values():
            x = layer(x)
        kept = []
        for layer in self.features:
            x = layer(x)
            if isinstance(layer, nn.Conv2d):
                kept.append(x.mean())
        return x + sum(kept)


class Tied(nn.Module):
    """One convolution at three places, and a weight that is used without its layer."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.relu = nn.ReLU()

    def forward(self, x):
        x = self.relu(self.conv(x))
        x = F.max_pool2d(self.conv(x).relu(), kernel_size=3, stride=1)
        return self.conv(x) + F.conv2d(x, self.conv.weight, padding=1)


class Several(nn.Module):
    """Values with more users than the next layer."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.conv3 = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.pool = nn.MaxPool2d(2, return_indices=True)

    def forward(self, x):
        a = self.conv1(x)
        b = F.relu(a)
        c = self.conv2(b)
        torch.relu_(c)
        d, indices = self.pool(F.relu(self.conv3(c)))
        return a, d.sum() + F.max_pool2d(c, 2).sum(), indices


class Attention(nn.Module):
    """Optional arguments: only calls without them run fused."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x, mask=None, raw=False):
        y = self.conv(x)
        if raw:
            return y
        y = F.relu(y)
        return y if mask is None else y * mask


class OwnFunctions(nn.Module):
    """fastconv's functions are known as well."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3)

    def forward(self, x):
        x = functional.max_pool2d(functional.relu(self.conv1(x)), [2, 2])
        return functional.max_pool2d(F.relu(self.conv2(x)), 2, return_indices=True)


# The numbers of fused chains, with a pool and without.
MODELS = {
    Tutorial: (2, 0), Mnist: (1, 1), OldMnist: (1, 0), Fire: (0, 3), Residual: (0, 1), UNet: (0, 6),
    Inception: (0, 4), Loops: (1, 3), Tied: (1, 1), Several: (0, 1), Attention: (0, 1),
    OwnFunctions: (1, 1),
}  # fmt: skip


def build(kind):
    torch.manual_seed(0)
    return kind().double()


def run(model, *arguments, parameters=None, **keywords):
    """Outputs and gradients."""
    torch.manual_seed(0)
    x, *others = arguments
    x = x.clone().requires_grad_()
    y = model(x * 1, *others, **keywords)
    y = [value for value in (y if isinstance(y, tuple) else (y,)) if value.is_floating_point()]
    inputs = [x, *(model.parameters() if parameters is None else parameters)]
    loss = sum(value.square().sum() for value in y)
    gradients = torch.autograd.grad(loss, inputs, allow_unused=True) if loss.requires_grad else ()
    return [*y, *gradients]


class Chain(nn.Module):
    """conv and ReLU, with something that prevents fusing."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.register_buffer("calls", torch.zeros(()))
        self.count, self.log, self.last, self.probability = 0, [], None, 0.5
        self.constant = torch.ones(())

    def chain(self, x):
        return F.relu(self.conv(x))
