"""Networks of other packages, with fresh weights: "torchvision:resnet18", "timm:resnet18", ..."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

import torch
from torch.nn import Module

from .._reason import reason
from ._layers import check_layers, use_layers


def create_external(name: str, num_classes: int, image_size: int, layers: str) -> Module:
    """See `create`; `name` is "PACKAGE:NETWORK".

    The entries of the state_dict have the names that the package gives them, so that its weight
    files load; but those files of vision transformers that transformers gives new names while it
    reads them.
    """
    check_layers(layers)
    package, _, network = name.partition(":")
    try:
        module = import_module(package)
    except (ImportError, RuntimeError) as error:  # the latter: torchvision made for another torch
        raise ValueError(
            f"{name}: needs the package {package} ({reason(error)}): pip install {package}"
        ) from None
    model = PACKAGES[package](module, network, num_classes)
    use_layers(model, layers)
    # A hook rather than a module around it, which would change the names.
    model.register_forward_hook(_take_logits)
    _try_out(name, model, num_classes, image_size)
    return model.train()


def _torchvision(torchvision: ModuleType, network: str, num_classes: int) -> Module:
    classifiers = torchvision.models.list_models(module=torchvision.models)
    _check_known("torchvision", network, classifiers)
    return torchvision.models.get_model(network, weights=None, num_classes=num_classes)


def _timm(timm: ModuleType, network: str, num_classes: int) -> Module:
    architecture = network.partition(".")[0]  # resnet50.a1_in1k: what follows names weights
    _check_known("timm", architecture, timm.list_models())
    return timm.create_model(network, pretrained=False, num_classes=num_classes)


def _transformers(transformers: ModuleType, network: str, num_classes: int) -> Module:
    own_code = {"trust_remote_code": False}  # else it asks on the terminal whether to run it
    try:
        config = transformers.AutoConfig.from_pretrained(
            network, num_labels=num_classes, **own_code
        )
        model = transformers.AutoModelForImageClassification.from_config(config, **own_code)
    except Exception as error:  # of all kinds, depending on what the configuration says
        raise ValueError(f"transformers:{network}: {reason(error)}") from None
    return model.float()  # some configs ask for 16 bits


PACKAGES = {"torchvision": _torchvision, "timm": _timm, "transformers": _transformers}


def _check_known(package: str, network: str, known: Sequence[str]) -> None:
    if network in known:
        return
    close = [f"{package}:{other}" for other in difflib.get_close_matches(network, known)]
    hint = f"did you mean {' or '.join(close)}?" if close else f"it has {len(known)} others"
    raise ValueError(f"{package} has no network {network!r}, {hint}")


def _take_logits(model: Module, inputs: object, output: object) -> object:
    """The logits where they are one of several outputs."""
    return getattr(output, "logits", output)


@torch.no_grad()
def _try_out(name: str, model: Module, num_classes: int, image_size: int) -> None:
    """Raises ValueError where the network does not give logits for images of that size."""
    size = f"{image_size}x{image_size}"
    try:
        logits = model.eval()(torch.zeros(1, 3, image_size, image_size))
    except Exception as error:  # networks raise almost anything for sizes that they cannot take
        raise ValueError(f"{name}: fails on an image of {size} ({reason(error)})") from None
    shape = list(getattr(logits, "shape", ()))
    if shape != [1, num_classes]:
        raise ValueError(
            f"{name}: expected logits of shape {[1, num_classes]} for an image of {size}, "
            f"got {shape or type(logits).__name__}"
        )
