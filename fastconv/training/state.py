"""A run's state is a safetensors file from which the run resumes as if it had never stopped."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from .._reason import reason
from .distributed import Ranks
from .epoch import Position
from .errors import UsageError
from .run_folder import anew_command
from .tensor_file import read_tensors, write_tensors
from .trainer import Trainer

_KEY = "fastconv-state"  # of the file's metadata
_FORMAT = 2  # version of the metadata and the data's fingerprint


def save_state(
    path: Path, trainer: Trainer, position: Position, metrics: dict[str, Any], data: str
) -> None:
    """Writes the state between two steps, replacing an older one atomically.

    Args:
        path: the file.
        trainer, position: the state to save.
        metrics: as in metrics.json.
        data: the data set's fingerprint.

    Raises:
        TrainingError: the file cannot be written.
    """
    about = {
        "format": _FORMAT,
        "position": asdict(position),
        "metrics": metrics,
        "data": data,
        "scaler": trainer.scaler.state_dict(),
        "machine": _machine(trainer.ranks),
    }
    write_tensors(path, trainer.tensors(), {_KEY: json.dumps(about)})


def load_state(
    path: Path, trainer: Trainer, data: str
) -> tuple[Position, dict[str, Any], list[str]]:
    """Restores a state.

    Args:
        path: the file.
        trainer: is made as for the run; gets the state's weights and momentum.
        data: the data set's fingerprint.

    Returns:
        The position, the metrics, and notes on differences that change the numbers.

    Raises:
        UsageError: there is no state, or it does not fit the trainer or the data.
    """
    from safetensors import SafetensorError

    try:
        tensors, metadata = read_tensors(path)
        about = json.loads(metadata[_KEY])
    except FileNotFoundError:
        raise UsageError(f"{path.parent}: there is nothing to go on from, no {path.name}") from None
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise UsageError(f"{path}: not the state of a run ({error})") from None
    if about.get("format") != _FORMAT:
        raise UsageError(
            f"{path}: another version of fastconv wrote it, and this one cannot go on from it; "
            f"`{anew_command(path.parent)}` begins anew"
        )
    if about["data"] != data:
        raise UsageError(
            f"{path.parent}: the images are no longer those that it was begun with; "
            f"`{anew_command(path.parent, data=str(trainer.settings.data))}` begins anew"
        )
    try:
        trainer.load_tensors(tensors)
        if trainer.scaler.is_enabled():
            trainer.scaler.load_state_dict(about["scaler"])
    except (RuntimeError, KeyError) as error:
        raise UsageError(
            f"{path}: does not fit the settings of its run ({reason(error)})"
        ) from None
    return Position(**about["position"]), about["metrics"], _changes(about, trainer.ranks)


def _machine(ranks: Ranks) -> dict[str, int]:
    """The parts of the machine that the numbers depend on, bit for bit."""
    return {"threads": torch.get_num_threads(), "processes": ranks.size}


def _changes(about: dict[str, Any], ranks: Ranks) -> list[str]:
    now = _machine(ranks)
    return [
        f"{now[name]} {name} instead of {count}: the numbers will differ by roundings"
        for name, count in about["machine"].items()
        if now[name] != count
    ]
