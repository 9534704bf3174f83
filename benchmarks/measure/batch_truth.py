"""Checks a lone layer's results for a batch, at the cost of one image in float64.

A convolution is linear in its images. With a factor per image, the sum of factor * y is the
convolution of the sum of factor * x. If the images' dy differ only by these factors, dW is the
weight's gradient for that one image, and the images' dX differ only by the factors too. So the
weighted sums of a batch's results are compared with one image's, by the rule of the tests. Errors
add up as values do, so a wrong or misplaced value in one image shows.

x and dy are few-bit numbers, so their weighted sums are exact in float32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fastconv.testing import Problem, checks, inputs, kernels


def factors(images: int) -> Tensor:
    """A different factor for each image, of a few bits and either sign; (1) for one image."""
    i = torch.arange(images, dtype=torch.float64)
    return (1 + i / 16) * (-1) ** i


def draw(problem: Problem) -> inputs.Inputs:
    """Normal values, x and dy in steps of 1/64. The images' dy differ only by their factors."""
    generator = torch.Generator().manual_seed(0)

    def values(*size: int) -> Tensor:
        return torch.randn(size, generator=generator)

    def steps(*size: int) -> Tensor:
        return (values(*size) * 64).round() / 64

    dy = steps(1, *problem.y_size[1:]) * factors(problem.n).float().view(-1, 1, 1, 1)
    w = values(*problem.w_size) if problem.k else None
    return inputs.Inputs(
        steps(*problem.x_size), w, values(problem.k) if problem.k and problem.bias else None, dy
    )


class ConvTruth:
    """The truth of a convolution alone, for the inputs of `draw`."""

    def __init__(self, problem: Problem, data: inputs.Inputs) -> None:
        self._weights = factors(problem.n)
        self._one = problem.replace(n=1)
        x, w, bias, dy = data
        bias = None if bias is None else bias * self._weights.sum().float()
        self._image = inputs.Inputs(self._sum(x), w, bias, dy[:1])
        self._output = checks.expected_conv(self._one, self._image)
        self._gradients = checks.expected_gradients(self._one, self._image, None)
        exact, own, scale = (f(dy).sum((0, 2, 3)) for f in (Tensor.double, _same, Tensor.abs))
        self._gradients["dbias"] = checks.Expected(exact, own, scale.max().item())
        # Winograd's algorithm has an error rule of its own.
        self._used = {
            d: kernels.implementations(d, problem)[0] for d in ("fprop", "dgrad", "wgrad")
        }

    def _sum(self, images: Tensor) -> Tensor:
        """The images' weighted sum, as one image."""
        return torch.tensordot(self._weights, images.double(), 1).float().unsqueeze(0)

    def check(self, name: str, y: Tensor, *gradients: Tensor) -> None:
        """Raises AssertionError for a wrong result.

        Args:
            gradients: none, or the gradients of the weight, of the bias if any, and of x if wanted.
        """
        label = f"{name} {list(self._used.values()) if name.startswith('fastconv') else ''}"
        checks.check_output(self._one, self._image, self._sum(y), None, label, "", self._output)
        wanted = ("dw", "dbias", "dx") if self._image.bias is not None else ("dw", "dx")
        found: dict[str, Tensor | None] = dict(zip(wanted, gradients, strict=False))
        if (dx := found.get("dx")) is not None:
            found["dx"] = self._sum(dx) / self._weights.square().sum().float()
        checks.check_gradients(self._one, self._gradients, found, label, "")


class ExactTruth:
    """The truth of a lone ReLU or max-pool: torch's bits. Sums of few-bit gradients are exact."""

    def __init__(self, problem: Problem, data: inputs.Inputs) -> None:
        x = data.x.clone().requires_grad_()
        y = F.relu(x) if problem.pool is None else F.max_pool2d(x, *problem.pool.arguments)
        self._problem = problem
        self._expected = (y.detach(), *torch.autograd.grad(y, x, data.dy))

    def check(self, name: str, *found: Tensor) -> None:
        """Raises AssertionError if y or, if given, dx is wrong."""
        for what, actual, expected in zip(("y", "dx"), found, self._expected, strict=False):
            assert torch.equal(actual, expected), f"{what}: {name} {self._problem}: not torch's"


def _same(tensor: Tensor) -> Tensor:
    return tensor


def of(problem: Problem, data: inputs.Inputs) -> ConvTruth | ExactTruth:
    """The truth of a lone layer."""
    return (ConvTruth if problem.k else ExactTruth)(problem, data)
