"""The options of `fastconv train`, one per setting, in groups."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

EXAMPLES = """\
examples:
  fastconv train --data photos --model squeezenet1_1 --weights squeezenet1_1-b8a52dc0.pth --freeze
      trains a new last layer on pretrained weights, which is better with few pictures; yours are
      photos/cat/*.jpg, photos/dog/*.jpg, ...
  fastconv train --data photos --model SimpleCNN --augment --out run
      trains a whole network
"""

GROUPS = {
    "images": ("data", "image_size", "strict"),
    "network": ("model", "weights", "freeze", "dropout", "layers"),
    "recipe": (
        *("recipe", "epochs", "batch_size", "lr", "backbone_lr", "schedule", "decay_every"),
        *("decay_factor", "warmup", "momentum", "weight_decay", "clip", "label_smoothing"),
        "patience",
    ),
    "random changes of the training images": ("augment", "rotation", "crop", "flip", "colour"),
    "run": ("out", "seed", "tensorboard"),
    "speed and memory": ("device", "precision", "channels_last", "accumulate", "compile"),
}

_METAVARS = {"data": "DIR", "out": "DIR", "weights": "FILE"}
_KINDS = {int: "N", float: "X", str: "NAME"}


def add_train_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options. A setting that is not given is absent from the parser's result."""
    from .training.settings import Settings, setting_types

    parser.usage = "%(prog)s [options]"
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EXAMPLES
    defaults, types = Settings(), setting_types()
    for title, names in GROUPS.items():
        group = parser.add_argument_group(title)
        for name in names:
            setting = types[name]
            text, default = setting.help, getattr(defaults, name)
            options: dict[str, Any] = {"default": argparse.SUPPRESS}
            if setting.kind is bool:
                options["action"] = argparse.BooleanOptionalAction
            else:
                options["type"] = setting.kind
                if setting.choices:
                    options["choices"] = setting.choices
                else:
                    options["metavar"] = _METAVARS.get(name) or _KINDS[setting.kind]
                if not setting.optional:
                    text += f" ({default})"
            group.add_argument(f"--{name.replace('_', '-')}", help=text, **options)
        if title == "run":
            _add_files(group)


def _add_files(group: argparse._ArgumentGroup) -> None:
    only = group.add_mutually_exclusive_group()
    only.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="read settings from this JSON file, such as a run's settings.json; options that are "
        "given too win over the file",
    )
    only.add_argument(
        "--resume",
        type=Path,
        metavar="RUN",
        help="resume the run in this folder; --epochs sets a new total, --data a new place of its "
        "images",
    )
