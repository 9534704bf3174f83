"""Networks of other packages, with fresh weights: "torchvision:resnet18", "timm:resnet18", ..."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch.nn import Module

from .._reason import reason
from .._suggest import did_you_mean, near
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
    _check_known("torchvision", network, _LISTS["torchvision"](torchvision))
    return torchvision.models.get_model(network, weights=None, num_classes=num_classes)


def _timm(timm: ModuleType, network: str, num_classes: int) -> Module:
    architecture = network.partition(".")[0]  # resnet50.a1_in1k: what follows names weights
    _check_known("timm", architecture, _LISTS["timm"](timm))
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

_LISTS: dict[str, Callable[[Any], list[str]]] = {
    "torchvision": lambda torchvision: torchvision.models.list_models(module=torchvision.models),
    "timm": lambda timm: timm.list_models(),
}

# Networks that people ask for by name alone, for suggestions where torchvision is not installed.
_TORCHVISIONS = (
    *("alexnet", "googlenet", "inception_v3", "squeezenet1_0", "mobilenet_v2", "mnasnet1_0"),
    *("mobilenet_v3_large", "mobilenet_v3_small", "shufflenet_v2_x1_0", "wide_resnet50_2"),
    *(f"vgg{layers}{norm}" for layers in (11, 13, 16, 19) for norm in ("", "_bn")),
    *(f"resnet{layers}" for layers in (18, 34, 101, 152)),
    *(f"densenet{layers}" for layers in (121, 161, 169, 201)),
    *(f"efficientnet_b{size}" for size in range(8)),
    *(f"convnext_{size}" for size in ("tiny", "small", "base", "large")),
    *("resnext50_32x4d", "resnext101_32x8d", "vit_b_16", "vit_b_32", "vit_l_16", "swin_t"),
)


def suggest(name: str, own: Iterable[str]) -> list[str]:
    """The networks that were probably meant by the name of none of fastconv's `own`."""
    package, _, network = name.partition(":")
    if network:
        return [f"{other}:{network}" for other in near(package, PACKAGES)]
    known = {package: _names(package) for package in _LISTS}
    same = [f"{package}:{name.lower()}" for package in known if name.lower() in known[package]]
    others = (f"{package}:{other}" for package in known for other in near(name, known[package]))
    return same or near(name, own) or list(others)


def _names(package: str) -> Sequence[str]:
    try:
        return _LISTS[package](import_module(package))
    except (ImportError, RuntimeError):
        return _TORCHVISIONS if package == "torchvision" else ()


def _check_known(package: str, network: str, known: Sequence[str]) -> None:
    if network in known:
        return
    close = did_you_mean(f"{package}:{other}" for other in near(network, known, 3))
    raise ValueError(
        f"{package} has no network {network!r}{close or f', it has {len(known)} others'}"
    )


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
