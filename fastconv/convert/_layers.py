"""Which layers `convert` replaces, and why it leaves others alone."""

from __future__ import annotations

import torch
from torch.nn import Module
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize

from .. import nn

# Only these very types: a subclass may do anything.
PLAIN = {
    torch.nn.Conv2d: nn.Conv2d,
    torch.nn.ReLU: nn.ReLU,
    torch.nn.MaxPool2d: nn.MaxPool2d,
}
TORCH = {ours: theirs for theirs, ours in PLAIN.items()}
CONVS = (torch.nn.Conv2d, nn.Conv2d)
RELUS = (torch.nn.ReLU, nn.ReLU)
POOLS = (torch.nn.MaxPool2d, nn.MaxPool2d)
BLOCKS = (nn.ConvReLU2d, nn.ConvReLUMaxPool2d)
# They return what they are given.
NOTHING = (torch.nn.Identity, nn.FoldedBatchNorm2d)

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)


def has_hooks(layer: Module) -> bool:
    """Somebody watches the layer, so that it has to be called as itself."""
    return any(getattr(layer, hooks) for hooks in _HOOKS)


def is_free(layer: Module | None, types: tuple[type, ...]) -> bool:
    """A plain layer that nobody watches."""
    return type(layer) in types and "forward" not in layer.__dict__ and not has_hooks(layer)


def is_plain_sequential(module: Module) -> bool:
    """An nn.Sequential that calls its children one after another."""
    return (
        isinstance(module, torch.nn.Sequential)
        and type(module).forward is torch.nn.Sequential.forward
        and "forward" not in module.__dict__
    )


def replacement(layer: Module) -> type[Module] | None:
    """fastconv's class for the layer, where `convert` replaces it."""
    return None if "forward" in layer.__dict__ else PLAIN.get(type(layer))


def why_left(layer: Module) -> str:
    """Why `convert` leaves a Conv2d, ReLU or MaxPool2d alone."""
    kind = type(layer)
    if "forward" in layer.__dict__:
        return "a forward of its own was set on it"
    if parametrize.is_parametrized(layer):
        return "parametrised"
    if isinstance(layer, LazyModuleMixin):
        return "not initialised yet; run the model once, then convert"
    return f"a subclass, {kind.__module__}.{kind.__qualname__}"
