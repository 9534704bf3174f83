"""Checks the results of a measured layer."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from fastconv.testing import Problem, checks, codes, errors, inputs, kernels


class Truth:
    """A problem's results in float64, for the winners that fastconv picks."""

    def __init__(self, problem: Problem, data: inputs.Inputs, device: str = "cpu") -> None:
        assert data.w is not None
        self.problem, self.data, self.device = problem, data, device
        self.code = checks.chosen_code(problem, data.x, data.w, data.bias)
        with self._here():
            self.winners = codes.read(problem, self.code, data.x.device.type)
            self.output = checks.expected_conv(problem, data)
            self.gradients = checks.expected_gradients(problem, data, self.winners)
        # The implementation in use, since Winograd's algorithm has its own error rule.
        directions = ("fprop", "dgrad", "wgrad")
        self.used = [kernels.implementations_to_check(d, problem, device)[0] for d in directions]

    def _here(self) -> AbstractContextManager:
        """The problem's device as default, since new tensors of the truth must be there too."""
        return nullcontext() if self.device == "cpu" else torch.device(self.device)

    def check(self, name: str, y: Tensor, *gradients: Tensor) -> None:
        """Raises AssertionError if a variant's results are wrong.

        Only the output of torch's is checked: near-ties may make other winners than fastconv's.
        """
        self.check_output(name, y)
        if name.startswith("fastconv"):
            self.check_gradients(name, *gradients)

    def check_output(self, name: str, y: Tensor) -> None:
        """Raises AssertionError if a variant's output is wrong."""
        ours = name.startswith("fastconv")
        label = f"{name} {self.used if ours else ''}"
        code = self.winners if ours else None
        with self._here():
            checks.check_output(self.problem, self.data, y, code, label, expected=self.output)
            if ours and y.itemsize == 2:
                exact, own = (checks.rest(self.problem, t) for t in self.output[:2])
                check_norm(y, exact, own, f"y: {label} {self.problem}")

    def check_gradients(self, name: str, *gradients: Tensor | None) -> None:
        """Raises AssertionError if dw, dbias or dx, as far as given, is wrong."""
        found = dict(zip(("dw", "dbias", "dx"), gradients, strict=False))
        label = f"{name} {self.used}"
        with self._here():
            checks.check_gradients(self.problem, self.gradients, found, label)
            for what, actual in found.items():
                if actual is not None and actual.itemsize == 2:
                    exact, own, _ = self.gradients[what]
                    check_norm(actual, exact, own, f"{what}: {label} {self.problem}")


def check_norm(actual: Tensor, exact: Tensor, own: Tensor, name: str) -> None:
    """Raises AssertionError if the error's norm is larger than rounding explains.

    The rule for single values grows with the number of products per value. For 16-bit numbers it
    can exceed the values themselves. fastconv adds up in float32 and rounds once. So its error's
    norm may be twice torch's error's norm plus eps(dtype) times the values' norm.
    """
    error, torch_error = ((t.double() - exact).norm().item() for t in (actual, own))
    size = exact.norm().item()
    allowed = errors.FORWARD * torch_error + torch.finfo(actual.dtype).eps * size
    assert error <= allowed, (
        f"{name}: the error's norm {error:.3g} is more than {allowed:.3g}, the values' {size:.3g}"
    )
