"""The layers: torch.nn's own classes with fastconv's operations, and the fused blocks."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from . import functional
from .torch_internals import unscriptable

__all__ = ["Conv2d", "ConvReLU2d", "ConvReLUMaxPool2d", "MaxPool2d", "ReLU"]

Ints = int | tuple[int, int]


def conv2d_arguments(
    layer: torch.nn.Conv2d, input: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None, Any, Any, Any, int]:
    """A convolution layer's arguments for `functional.conv2d`.

    Padding with anything but zeros is applied here.
    """
    padding: Any
    if layer.padding_mode == "zeros":
        padding = layer.padding
    else:
        input = F.pad(input, layer._reversed_padding_repeated_twice, mode=layer.padding_mode)
        padding = 0
    return input, weight, bias, layer.stride, padding, layer.dilation, layer.groups


@unscriptable
class Conv2d(torch.nn.Conv2d):
    """torch.nn.Conv2d: same arguments, parameters and state_dict.

    Shape: [N, C, H, W] or [C, H, W] to [N, K, P, Q] or [K, P, Q].

    Raises:
        RuntimeError: the input does not fit the weight; see `fastconv.functional.conv2d`.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return functional.conv2d(*conv2d_arguments(self, input, weight, bias))


@unscriptable
class ReLU(torch.nn.ReLU):
    """torch.nn.ReLU, for tensors of any shape."""

    def forward(self, input: Tensor) -> Tensor:
        return functional.relu(input, self.inplace)


@unscriptable
class MaxPool2d(torch.nn.MaxPool2d):
    """torch.nn.MaxPool2d: same arguments.

    Shape: [N, C, H, W] or [C, H, W] to [N, C, P, Q] or [C, P, Q], with `return_indices` also the
    winners' int64 indices.
    """

    def forward(self, input: Tensor) -> Any:
        return functional.max_pool2d(  # type: ignore[call-overload]
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.ceil_mode,
            self.return_indices,
        )


class ConvReLU2d(Conv2d):
    """ReLU(Conv2d(x)) as one kernel, forward and backward.

    Arguments and state_dict (`weight`, `bias`) are Conv2d's. It keeps its input and one bit per
    output value for the backward pass.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return functional.conv2d_relu(*conv2d_arguments(self, input, weight, bias))


class ConvReLUMaxPool2d(Conv2d):
    """MaxPool2d(ReLU(Conv2d(x))) as one kernel, forward and backward.

    It keeps its input and a byte or 4 bits per pooled value for the backward pass. The
    convolution's output never reaches memory. The state_dict is Conv2d's (`weight`, `bias`).

    Args:
        in_channels .. dtype: as Conv2d.
        pool_kernel_size, pool_stride, pool_padding, pool_dilation, ceil_mode: as MaxPool2d.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Ints,
        stride: Ints = 1,
        padding: Ints | str = 0,
        dilation: Ints = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: Any = None,
        dtype: Any = None,
        pool_kernel_size: Ints | None = None,
        pool_stride: Ints | None = None,
        pool_padding: Ints = 0,
        pool_dilation: Ints = 1,
        ceil_mode: bool = False,
    ) -> None:
        if pool_kernel_size is None:
            raise TypeError(
                "ConvReLUMaxPool2d: pool_kernel_size must be given, an int or a tuple of two ints"
            )
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            padding_mode,  # type: ignore[arg-type]
            device,
            dtype,
        )
        self.pool_kernel_size = pool_kernel_size
        self.pool_stride = pool_kernel_size if pool_stride is None else pool_stride
        self.pool_padding = pool_padding
        self.pool_dilation = pool_dilation
        self.ceil_mode = ceil_mode

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return functional.conv2d_relu_max_pool2d(
            *conv2d_arguments(self, input, weight, bias),
            self.pool_kernel_size,
            self.pool_stride,
            self.pool_padding,
            self.pool_dilation,
            self.ceil_mode,
        )

    def extra_repr(self) -> str:
        text = f"{super().extra_repr()}, pool_kernel_size={self.pool_kernel_size}"
        text += f", pool_stride={self.pool_stride}"
        if self.pool_padding not in (0, (0, 0)):
            text += f", pool_padding={self.pool_padding}"
        if self.pool_dilation not in (1, (1, 1)):
            text += f", pool_dilation={self.pool_dilation}"
        return text + (", ceil_mode=True" if self.ceil_mode else "")


class FoldedBatchNorm2d(torch.nn.Module):
    """Replaces a BatchNorm2d that `convert` folded into the convolution in front.

    Returns its input, and is for inference only. It keeps the layer itself and the convolution's
    own parameters for `revert`, hidden from state_dict and modules().
    """

    original: torch.nn.Module
    conv: torch.nn.Module
    unfolded: torch.nn.ParameterDict

    def __init__(self, original: torch.nn.Module, conv: torch.nn.Module) -> None:
        super().__init__()
        self.training = original.training
        self.__dict__["original"] = original
        self.__dict__["conv"] = conv
        self.__dict__["unfolded"] = torch.nn.ParameterDict(
            {name: conv._parameters[name] for name in ("weight", "bias")}
        )

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() != 4:  # BatchNorm2d takes no single image
            raise ValueError(f"expected 4D input (got {input.dim()}D input)")
        return input

    def extra_repr(self) -> str:
        return f"{type(self.original).__name__}, part of the convolution before"

    def train(self, mode: bool = True) -> FoldedBatchNorm2d:
        if mode:
            raise RuntimeError(
                "train: BatchNorm layers of this model were folded into convolutions "
                "(fastconv.convert(fold_batchnorm=True)); to train it, fastconv.revert it first"
            )
        return super().train(mode)

    def _apply(self, fn: Any, recurse: bool = True) -> FoldedBatchNorm2d:
        self.original._apply(fn, recurse)
        self.unfolded._apply(fn, recurse)
        return super()._apply(fn, recurse)
