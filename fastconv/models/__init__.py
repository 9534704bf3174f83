"""The networks that fastconv trains, each also with torch.nn's layers (`layers="torch"`)."""

from __future__ import annotations

from ._layers import LAYERS
from .case_study_cnn import CaseStudyCNN
from .cnn import CNN
from .head import head_names
from .registry import MODELS, NAMES, create, default_image_size
from .resnet50 import resnet50
from .simple_cnn import SimpleCNN
from .squeezenet1_1 import squeezenet1_1

__all__ = [
    "CNN",
    "LAYERS",
    "MODELS",
    "NAMES",
    "CaseStudyCNN",
    "SimpleCNN",
    "create",
    "default_image_size",
    "head_names",
    "resnet50",
    "squeezenet1_1",
]
