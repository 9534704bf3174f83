"""Sets the precision of convolutions, which allows faster, less exact implementations."""

from __future__ import annotations

from typing import Any, Literal

import torch

_cudnn: Any = torch.backends.cudnn  # torch's stubs know no `conv` there

_precision = "high"

# `_C`'s name for each precision: "" takes the fastest implementation, "highest" the fastest exact
# one.
implementation = ""


def set_precision(precision: Literal["high", "highest"]) -> None:
    """Chooses between speed and exactness, for all later calls of this process.

    Args:
        precision: "high" (the default) allows Winograd's algorithm on CPUs, except for float64. In
            float32 its error stays below 1e-5 of the largest value (1e-4 for weight gradients)
            unless products cancel. float16 and bfloat16 are computed in float32 too, and their
            rounding costs far more. The instruction set `amx` multiplies float32 as two bfloat16
            parts, with errors up to 3e-5 of a product. "high" also allows TF32 for float32 on GPUs
            if torch's own flag does. "highest" allows none of them.

    Raises:
        ValueError: any other value.
    """
    global _precision, implementation
    if precision not in ("high", "highest"):
        raise ValueError(f"set_precision: expected 'high' or 'highest', got {precision!r}")
    _precision = precision
    implementation = "highest" if precision == "highest" else ""


def tf32() -> bool:
    """Whether float32 convolutions on GPUs may round to TF32: torch's own flag, at "high"."""
    return _precision == "high" and _cudnn.conv.fp32_precision == "tf32"


def get_precision() -> str:
    """The precision that `set_precision` last set; "high" by default."""
    return _precision
