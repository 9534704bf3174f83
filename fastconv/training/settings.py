"""The settings of a training run, which are also the options of `fastconv train`."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import torch

from .. import models
from .._reason import reason
from .._suggest import did_you_mean, near
from ..data import PACKAGED, Augmentation
from .errors import UsageError

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
_DEVICES = ("cpu", "cuda", "mps", "xpu")  # commonly used for training
# The settings that --augment sets if they are not given.
AUGMENT = {"rotation": 15.0, "crop": 0.5, "flip": True, "colour": 0.2}


@dataclass
class Settings:
    """The settings of a run; the defaults train the document's CNN.

    Each setting is an option of `fastconv train`, and its annotation is the help text. Paths may be
    str or PathLike: `out` and `weights` become Path, `data` becomes str. None in `epochs`,
    `batch_size`, `lr`, `backbone_lr`, `clip` and `warmup` leaves the value to `recipe`.

    Raises:
        UsageError: a value is of the wrong type or out of range.
    """

    model: Annotated[str, f"the network: {', '.join(models.NAMES)}"] = "CNN"
    data: Annotated[
        str | Path,
        "a folder with a sub-folder of images for each class; fashion-mnist comes with fastconv",
    ] = PACKAGED
    recipe: Annotated[
        Literal["automatic", "document"],
        "the source of settings that are not given: the number of images, or the document "
        "(10 epochs, batches of 64, rate 0.001)",
    ] = "automatic"
    epochs: Annotated[int | None, "passes over the images (recipe)"] = None
    batch_size: Annotated[int | None, "images per step, over all processes (recipe)"] = None
    image_size: Annotated[
        int | None, "height and width of the network's input, in pixels (CNN: 112, others: 224)"
    ] = None
    seed: Annotated[int, "seed of all random numbers: the same seed gives the same results"] = 0
    out: Annotated[
        Path | str | None, "the run folder (the first free one of runs/MODEL-NUMBER)"
    ] = None
    strict: Annotated[bool, "stop at an image that cannot be read, instead of leaving it out"] = (
        False
    )

    lr: Annotated[float | None, "SGD's initial learning rate (recipe)"] = None
    momentum: Annotated[float, "SGD's momentum"] = 0.9
    weight_decay: Annotated[float, "SGD's L2 penalty"] = 0.0
    schedule: Annotated[
        Literal["cosine", "step", "constant"],
        "schedule by which the rate falls from epoch to epoch",
    ] = "cosine"
    decay_every: Annotated[int, 'epochs between two falls of the schedule "step"'] = 10
    decay_factor: Annotated[float, 'factor of the rate at each fall of the schedule "step"'] = 0.1
    warmup: Annotated[float | None, "epochs in which the rate rises from 0 (recipe)"] = None
    clip: Annotated[
        float | None, "largest norm of the gradients; larger ones are scaled down (recipe)"
    ] = None
    dropout: Annotated[
        float | None, "share of features that dropout sets to 0 (the network's own)"
    ] = None
    label_smoothing: Annotated[float, "share of each label spread over all classes"] = 0.0
    patience: Annotated[
        int | None, "epochs without better validation accuracy after which to stop (never)"
    ] = None

    augment: Annotated[
        bool,
        "change the training images at random in every epoch, which helps with few images: sets "
        "--rotation 15 --crop 0.5 --flip --colour 0.2 unless they are given",
    ] = False
    rotation: Annotated[
        float | None, "rotate by up to this many degrees, either way (0; with --augment 15)"
    ] = None
    crop: Annotated[
        float | None,
        "crop to a random part of at least this share of the picture (1; with --augment 0.5)",
    ] = None
    flip: Annotated[
        bool | None, "mirror half of the images, left to right (no; with --augment yes)"
    ] = None
    colour: Annotated[
        float | None,
        "change brightness, contrast and saturation by up to this share (0; with --augment 0.2)",
    ] = None

    weights: Annotated[
        Path | str | None,
        "pretrained weights: safetensors, or a torch file with a state_dict, such as "
        "download.pytorch.org/models/resnet50-0676ba61.pth",
    ] = None
    freeze: Annotated[bool, "train only the last layer"] = False
    backbone_lr: Annotated[
        float | None, "initial learning rate of all but the last layer (recipe)"
    ] = None

    precision: Annotated[
        Literal["float32", "bfloat16", "float16"], "precision of the layers (autocast)"
    ] = "float32"
    channels_last: Annotated[bool, "keep images and weights in NHWC order (channels_last)"] = False
    accumulate: Annotated[int, "parts of a batch, computed one after another to save memory"] = 1
    compile: Annotated[bool, "use torch.compile"] = False
    layers: Annotated[
        Literal["fastconv", "torch"], "library of the layers: fastconv or torch.nn"
    ] = "fastconv"
    device: Annotated[str | None, "cpu, cuda, ... (a GPU if torch has one)"] = None
    tensorboard: Annotated[bool, "also write TensorBoard logs into the run folder"] = False

    def __post_init__(self) -> None:
        for name, wanted in setting_types().items():
            setattr(self, name, _converted(name, getattr(self, name), wanted))
        names = {name.lower(): name for name in models.MODELS}
        self.model = names.get(self.model.lower(), self.model)
        try:
            usual_size = models.default_image_size(self.model)
        except ValueError as error:
            raise UsageError(str(error)) from None
        if self.image_size is None:
            self.image_size = usual_size
        for name, usual in AUGMENT.items():
            if self.augment and getattr(self, name) is None:
                setattr(self, name, usual)
        for name, kind in setting_types().items():
            value = getattr(self, name)
            if kind.choices and value not in kind.choices:
                hint = did_you_mean(near(value, kind.choices)) or ","
                raise UsageError(
                    f"unknown {name} {value!r}{hint} choose one of {', '.join(kind.choices)}"
                )
        for name in ("epochs", "batch_size", "image_size", "decay_every", "accumulate", "patience"):
            self._check(name, lambda value: value >= 1, "at least 1")
        for name in ("lr", "backbone_lr", "decay_factor"):
            self._check(name, lambda value: 0 < value < float("inf"), "above 0")
        self._check("clip", lambda value: value > 0, "above 0")  # infinite: none
        for name in ("weight_decay", "warmup", "rotation"):
            self._check(name, lambda value: 0 <= value < float("inf"), "at least 0")
        for name in ("momentum", "dropout", "label_smoothing", "colour"):
            self._check(name, lambda value: 0 <= value < 1, "at least 0 and below 1")
        self._check("crop", lambda value: 0 < value <= 1, "above 0 and at most 1")
        self._check("seed", lambda value: 0 <= value < 2**63, "between 0 and 2**63 - 1")
        if self.freeze and self.backbone_lr is not None:
            raise UsageError("freeze and backbone_lr exclude each other")
        if self.weights is None and (self.freeze or self.backbone_lr is not None):
            raise UsageError("freeze and backbone_lr need weights to start from")

    def _check(self, name: str, holds: Any, what: str) -> None:
        value = getattr(self, name)
        if value is not None and not holds(value):
            raise UsageError(f"{name} must be {what}, got {value}")

    @property
    def augmentation(self) -> Augmentation:
        return Augmentation(
            self.rotation or 0.0, self.crop or 1.0, bool(self.flip), self.colour or 0.0
        )

    def to_json(self) -> dict[str, Any]:
        """The settings in the form that `from_json` reads."""
        return {
            name: str(value) if isinstance(value, Path) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_json(cls, path: str | os.PathLike[str], **changes: Any) -> Settings:
        """Reads settings from a JSON file; settings that it lacks get their defaults.

        Args:
            path: a JSON object with names and values.
            changes: settings that replace the file's.

        Raises:
            UsageError: the file cannot be used. The message names it.
        """
        try:
            values = json.loads(Path(path).read_text())
        except (OSError, ValueError) as error:
            raise UsageError(f"{path}: not a readable JSON file ({error})") from None
        if not isinstance(values, dict):
            raise UsageError(f"{path}: must hold an object of settings")
        types = setting_types()
        for name, value in values.items():
            if name not in types:
                hint = did_you_mean(near(name, types))
                raise UsageError(f"{path}: unknown setting {name!r}{hint}")
            try:
                values[name] = _converted(name, value, types[name])
            except UsageError as error:
                raise UsageError(f"{path}: {error}") from None
        return cls(**(values | changes))


class SettingType(NamedTuple):
    """The type and choices of a setting, and its help."""

    kind: type
    optional: bool
    choices: tuple[str, ...]
    help: str


def setting_types() -> dict[str, SettingType]:
    """Every setting's type, read from the annotations."""
    found = {}
    for name, annotated in get_type_hints(Settings, include_extras=True).items():
        hint, text = get_args(annotated)
        choices = get_args(hint) if get_origin(hint) is Literal else ()
        kinds = [] if choices else [k for k in get_args(hint) or (hint,) if k is not type(None)]
        optional = type(None) in get_args(hint)
        found[name] = SettingType(kinds[0] if kinds else str, optional, choices, text)
    return found


def _converted(name: str, value: Any, wanted: SettingType) -> Any:
    """Converts a value to the setting's type."""
    kind = wanted.kind
    if value is None and wanted.optional:
        return None
    if kind in (str, Path) and isinstance(value, (str, os.PathLike)):
        return kind(os.fspath(value))
    if kind is bool and isinstance(value, bool):
        return value
    number = {int: Integral, float: Real}.get(kind)
    if number is not None and isinstance(value, number) and not isinstance(value, bool):
        return kind(value)
    raise UsageError(f"{name} must be {kind.__name__}, got {value!r}")


def find_device(name: str | None) -> torch.device:
    """The device of that name. None stands for a GPU if torch has one, else the CPU.

    Raises:
        UsageError: torch does not know it or cannot use it here.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        kind = name.partition(":")[0]
        why = reason(error) if kind in _DEVICES else _near_device(kind)
        raise UsageError(f"device {name!r} cannot be used here: {why}") from None
    return device


def _near_device(kind: str) -> str:
    meant = ["cuda"] if kind.lower() == "gpu" else near(kind, _DEVICES)
    return f"no such device{did_you_mean(meant) or ', use one of ' + ', '.join(_DEVICES)}"
