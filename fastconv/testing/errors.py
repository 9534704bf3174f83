"""The rule for the largest error that a result may have (design section 3)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..problem import Problem

FORWARD, GRADIENT = 2.0, 3.0  # times torch's own error

# The largest error relative to the largest value, in float32, for Winograd's algorithm and for
# products of two parts on matrix tiles. It also holds for the others on all-positive inputs: sums
# only grow there, and their order alone makes a larger difference than the other rule allows.
RELATIVE = {"y": 1e-5, "dx": 1e-5, "dw": 1e-4, "dbias": 1e-5}


TF32 = 1e-3  # the same for operands rounded to TF32; the tests' integers are exact in it


def relative(what: str, implementation: str, kind: str, problem: Problem) -> float:
    """The `relative` of `limit` for a result called `what`; 0 if it does not apply."""
    if problem.tf32:
        return 0.0 if kind == "integers" else TF32
    inexact = "winograd" in implementation or "tiles" in implementation
    if kind != "positive" and not inexact:
        return 0.0
    # 16-bit numbers are computed in float32. The rest of the rule covers their rounding.
    eps = torch.finfo(problem.dtype).eps / torch.finfo(torch.float32).eps
    return RELATIVE[what] * min(eps, 1.0)


def limit(
    reference: Tensor, torch_result: Tensor, scale: float, factor: float, relative: float = 0.0
) -> float:
    """The largest error allowed: `factor` times torch's plus 4 eps(dtype) of the scale.

    Args:
        reference: the truth, float64.
        torch_result: torch's own, in the dtype under test.
        scale: the largest sum of absolute values that one result is made of, max(|x| conv |w|).
        factor: FORWARD or GRADIENT.
        relative: this share of the largest value is allowed instead, if it is more (see RELATIVE).
    """
    finite = reference.isfinite() & torch_result.isfinite()
    own = (torch_result.double() - reference)[finite].abs()
    error = own.max().item() if own.numel() else 0.0
    largest = reference[finite].abs().max().item() if own.numel() else 0.0
    return max(factor * error + 4 * torch.finfo(torch_result.dtype).eps * scale, relative * largest)


def check_close(
    actual: Tensor,
    reference: Tensor,
    torch_result: Tensor,
    scale: float,
    *,
    factor: float = FORWARD,
    relative: float = 0.0,
    name: str = "",
) -> None:
    """Raises AssertionError if `actual` breaks the rule; see `limit` for the arguments.

    Values that are not finite must be equal. `name` identifies the result and how to reproduce it.
    """
    assert actual.shape == reference.shape, f"{name}: {actual.shape}, expected {reference.shape}"
    assert actual.dtype == torch_result.dtype, f"{name}: {actual.dtype}"
    if not actual.numel():
        return
    difference = (actual.double() - reference).abs()
    same = (actual.double() == reference) | (actual.isnan() & reference.isnan())
    difference = torch.where(same, 0.0, difference).nan_to_num(nan=torch.inf)
    worst = difference.max().item()
    allowed = limit(reference, torch_result, scale, factor, relative)
    if worst <= allowed:
        return
    place = tuple(int(i) for i in torch.unravel_index(difference.argmax(), difference.shape))
    raise AssertionError(
        f"{name}: error {worst:.3g} at {list(place)} is more than {allowed:.3g}: "
        f"{actual[place].item()!r}, expected {reference[place].item()!r}; "
        f"{int((difference > allowed).sum())} of {actual.numel()} values are wrong"
    )
