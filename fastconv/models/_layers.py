"""What every network here does with its `layers` argument."""

from __future__ import annotations

from torch.nn import Module

from ..convert import convert

LAYERS = ("fastconv", "torch")


def check_layers(layers: str) -> None:
    """Raises ValueError unless `layers` names a kind of layers."""
    if layers not in LAYERS:
        raise ValueError(f"layers must be 'fastconv' or 'torch', got {layers!r}")


def use_layers(model: Module, layers: str) -> None:
    """Makes a network that was built of torch.nn layers run on the kind of layers asked for.

    Both kinds are built the same way, so a seed gives the same weights under the same names.
    """
    check_layers(layers)
    if layers == "fastconv":
        convert(model, inplace=True)
