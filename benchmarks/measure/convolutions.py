"""Lists the convolutions of known networks as problems at batch 1 for 224x224 images.

They are in the networks' order. Each has its fused layers: the ReLU and the max-pool behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator


def _conv(
    c: int,
    size: int,
    k: int,
    kernel: int,
    stride: int = 1,
    rest: str = "",
    pad: int | None = None,
    groups: int = 1,
) -> str:
    """The problem of a layer: [1, c, size, size] to k channels, padded to size/stride each way."""
    pad = kernel // 2 if pad is None else pad
    return (
        f"mb1ic{c}ih{size}iw{size}oc{k}kh{kernel}kw{kernel}sh{stride}sw{stride}"
        f"ph{pad}pw{pad}g{groups}{rest}_f32_nhwc"
    )


def resnet50() -> Iterator[str]:
    """Version 1.5, which strides in the 3x3 layers. Batch norm follows each: no bias, no ReLU."""
    rest = "_nobias"
    yield _conv(3, 224, 64, 7, 2, rest)
    c, size = 64, 56  # behind the max-pool
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width = 64 << stage
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            yield _conv(c, size, width, 1, 1, rest)
            yield _conv(width, size, width, 3, stride, rest)
            yield _conv(width, size // stride, 4 * width, 1, 1, rest)
            if not block:  # the shortcut has to change its shape
                yield _conv(c, size, 4 * width, 1, stride, rest)
            c, size = 4 * width, size // stride


def vgg16() -> Iterator[str]:
    """Five groups of conv + ReLU. A max-pool ends each, fused with the convolution before it."""
    c, size = 3, 224
    for k, layers in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
        for layer in range(layers):
            last = layer == layers - 1
            yield _conv(c, size, k, 3, 1, "_pool2x2s2x2p0x0d1x1c0" if last else "_relu")
            c = k
        size //= 2


def squeezenet() -> Iterator[str]:
    """Version 1.1. Max-pools after the first follow a concatenation, so they are not fused."""
    yield _conv(3, 224, 64, 3, 2, "_pool3x3s2x2p0x0d1x1c1", pad=0)
    c = 64
    for size, fires in (
        (55, ((16, 64), (16, 64))),
        (27, ((32, 128), (32, 128))),
        (13, ((48, 192), (48, 192), (64, 256), (64, 256))),
    ):
        for squeezed, expanded in fires:
            yield _conv(c, size, squeezed, 1, 1, "_relu")
            yield _conv(squeezed, size, expanded, 1, 1, "_relu")
            yield _conv(squeezed, size, expanded, 3, 1, "_relu")
            c = 2 * expanded
    yield _conv(c, 13, 1000, 1, 1, "_relu")


def mobilenet_v2_depthwise() -> Iterator[str]:
    """Only the 3x3 depthwise convolutions. Batch norm follows each: no bias, no ReLU."""
    c, size = 32, 112
    stages = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1))
    for expansion, k, blocks, first in (*stages, (6, 160, 3, 2), (6, 320, 1, 1)):
        for block in range(blocks):
            stride = 1 if block else first
            width = expansion * c
            yield _conv(width, size, width, 3, stride, "_nobias", groups=width)
            c, size = k, size // stride


NETWORKS: dict[str, Callable[[], Iterator[str]]] = {
    "ResNet-50": resnet50,
    "VGG-16": vgg16,
    "SqueezeNet 1.1": squeezenet,
    "MobileNetV2 depthwise": mobilenet_v2_depthwise,
}
