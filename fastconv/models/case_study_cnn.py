"""The network of the case study: three blocks of 5x5 convolutions."""

from __future__ import annotations

from torch import Tensor, nn

from ._layers import use_layers
from ._sizes import check_size


class CaseStudyCNN(nn.Module):
    """Three blocks of conv 5x5 'same' (3->32->64->128), ReLU, max-pool 2; FC -> 1024, ReLU, FC.

    Shape: float [N, 3, image_size, image_size] to logits [N, num_classes]; `probabilities` gives
    their softmax.

    Args:
        num_classes: the number of classes.
        image_size: height and width of the images.
        layers: "fastconv" or "torch", which runs the same network on torch.nn's layers.

    Raises:
        ValueError: unknown `layers`, or `image_size` below 8.
    """

    def __init__(
        self, num_classes: int = 1000, image_size: int = 224, layers: str = "fastconv"
    ) -> None:
        super().__init__()
        check_size("CaseStudyCNN", image_size, smallest=8)
        size = image_size // 2 // 2 // 2
        # One flat chain: a block may hand its output on in the layout that the next one likes.
        self.features = nn.Sequential(
            *_block(3, 32),
            *_block(32, 64),
            *_block(64, 128),
        )
        self.classifier = nn.Sequential(
            nn.Linear(128 * size * size, 1024), nn.ReLU(), nn.Linear(1024, num_classes)
        )
        use_layers(self, layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))

    def probabilities(self, x: Tensor) -> Tensor:
        """The class probabilities [N, num_classes] of images [N, 3, image_size, image_size]."""
        return self(x).softmax(dim=1)


def _block(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 5, padding="same"), nn.ReLU(), nn.MaxPool2d(2)
