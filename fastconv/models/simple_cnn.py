"""Three strided convolutions with overlapping pools, and three fully connected layers."""

from __future__ import annotations

from torch import Tensor, nn

from ._layers import use_layers
from ._sizes import after, check_size


class SimpleCNN(nn.Module):
    """Three blocks of conv stride 2, ReLU, max-pool 3 stride 2; dropout, FC, ReLU, FC, ReLU, FC.

    The convolutions are 3->64 7x7, 64->128 3x3 and 128->256 3x3, the FC layers end in 1280, 640 and
    `num_classes`. The first FC's input follows from `image_size`: 256*3*3 at 224, 256*6*6 at 448.

    Shape: float [N, 3, image_size, image_size] to logits [N, num_classes].

    Args:
        num_classes: the number of classes.
        image_size: height and width of the images.
        layers: "fastconv" or "torch", which runs the same network on torch.nn's layers.
        dropout: the probability of a feature to be dropped in training.

    Raises:
        ValueError: unknown `layers`, or `image_size` below 85.
    """

    def __init__(
        self,
        num_classes: int = 10,
        image_size: int = 224,
        layers: str = "fastconv",
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        check_size("SimpleCNN", image_size, smallest=85)
        size = image_size
        for kernel_size, padding in ((7, 3), (3, 1), (3, 1)):
            size = after(after(size, kernel_size, stride=2, padding=padding), 3, stride=2)
        self.features = nn.Sequential(
            *_block(3, 64, 7, padding=3),
            *_block(64, 128, 3, padding=1),
            *_block(128, 256, 3, padding=1),
        )
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(256 * size * size, 1280),
            nn.ReLU(),
            nn.Linear(1280, 640),
            nn.ReLU(),
            nn.Linear(640, num_classes),
        )
        use_layers(self, layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))


def _block(inputs: int, outputs: int, kernel_size: int, padding: int) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(inputs, outputs, kernel_size, stride=2, padding=padding)
    return conv, nn.ReLU(), nn.MaxPool2d(3, stride=2)
