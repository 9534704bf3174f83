"""What a measured layer has to compute."""

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
        # What fastconv uses: Winograd's algorithm has an error rule of its own.
        directions = ("fprop", "dgrad", "wgrad")
        self.used = [kernels.implementations_to_check(d, problem, device)[0] for d in directions]

    def _here(self) -> AbstractContextManager:
        """On a GPU the truth is computed there; what it makes by itself must be there as well."""
        return nullcontext() if self.device == "cpu" else torch.device(self.device)

    def check(self, name: str, y: Tensor, *gradients: Tensor) -> None:
        """Raises AssertionError where a variant computes something else.

        Of torch's only the output: near-ties may make other winners than fastconv's.
        """
        self.check_output(name, y)
        if name.startswith("fastconv"):
            self.check_gradients(name, *gradients)

    def check_output(self, name: str, y: Tensor) -> None:
        """Raises AssertionError where the output of a variant is something else."""
        ours = name.startswith("fastconv")
        label = f"{name} {self.used if ours else ''}"
        code = self.winners if ours else None
        with self._here():
            checks.check_output(self.problem, self.data, y, code, label, expected=self.output)
            if ours and y.itemsize == 2:
                exact, own = (checks.rest(self.problem, t) for t in self.output[:2])
                check_norm(y, exact, own, f"y: {label} {self.problem}")

    def check_gradients(self, name: str, *gradients: Tensor | None) -> None:
        """Raises AssertionError where dw, dbias or dx, as far as given, is something else."""
        found = dict(zip(("dw", "dbias", "dx"), gradients, strict=False))
        label = f"{name} {self.used}"
        with self._here():
            checks.check_gradients(self.problem, self.gradients, found, label)
            for what, actual in found.items():
                if actual is not None and actual.itemsize == 2:
                    exact, own, _ = self.gradients[what]
                    check_norm(actual, exact, own, f"{what}: {label} {self.problem}")


def check_norm(actual: Tensor, exact: Tensor, own: Tensor, name: str) -> None:
    """Raises AssertionError where the error as a whole is more than rounding makes it.

    The rule for single values grows with the number of products that a value is made of, and with
    16-bit numbers it then allows more than the values are. fastconv adds up in float32 and rounds
    once: its error's norm may be twice that of torch's and eps(dtype) of the values'.
    """
    error, torch_error = ((t.double() - exact).norm().item() for t in (actual, own))
    size = exact.norm().item()
    allowed = errors.FORWARD * torch_error + torch.finfo(actual.dtype).eps * size
    assert error <= allowed, (
        f"{name}: the error's norm {error:.3g} is more than {allowed:.3g}, the values' {size:.3g}"
    )
