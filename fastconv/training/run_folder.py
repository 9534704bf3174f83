"""The folders that runs are written to and found in."""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path

from .errors import UsageError

RUNS = Path("runs")
CHECKPOINT = "model.safetensors"
SETTINGS = "settings.json"
STATE = "state.safetensors"  # of a run that is not finished
METRICS = "metrics.json"
CURVES = "curves.png"


def check_is_free(out: Path | None) -> None:
    """Raises UsageError where `out` holds a run, which must not be overwritten."""
    if out is None:
        return
    if (out / STATE).exists():
        raise UsageError(
            f"{out}: holds a run that can go on; use --resume, remove it or choose another --out"
        )
    if _is_finished(out):
        raise UsageError(f"{out}: holds a finished run; remove it or choose another --out")


def check_can_go_on(folder: Path) -> None:
    """Raises UsageError where a folder holds no run that was stopped."""
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such run folder")
    if not (folder / STATE).exists():
        what = "the run is finished" if _is_finished(folder) else f"it has no {STATE}"
        raise UsageError(f"{folder}: there is nothing to go on with, {what}")


def new_run_folder(out: Path | None, model: str) -> Path:
    """Makes the folder for a run: `out`, or the first free runs/<model>-<number>.

    Raises:
        UsageError: the folder cannot be made.
    """
    try:
        if out is None:
            return _next_folder(model.lower())
        out.mkdir(parents=True, exist_ok=True)
        return out
    except OSError as error:
        raise UsageError(f"{out or RUNS}: cannot make the folder ({error.strerror})") from None


def _next_folder(model: str) -> Path:
    number = 1
    while True:
        folder = RUNS / f"{model}-{number}"
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            number += 1


def _is_finished(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / METRICS).read_text())["test"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def find_checkpoint(path: str | PathLike[str] | None) -> Path:
    """The checkpoint file meant by a file, a run folder, or None: the latest run in runs/.

    Raises:
        UsageError: there is none.
    """
    if path is None:
        found = sorted(RUNS.glob(f"*/{CHECKPOINT}"), key=lambda file: file.stat().st_mtime)
        if not found:
            raise UsageError(
                f"no checkpoint under {RUNS}/: run `fastconv train` first or give --checkpoint"
            )
        return found[-1]
    path = Path(path)
    if path.is_dir():
        if not (path / CHECKPOINT).is_file():
            raise UsageError(f"{path}: this folder has no {CHECKPOINT}")
        return path / CHECKPOINT
    if not path.is_file():
        raise UsageError(f"{path}: no such checkpoint")
    return path
