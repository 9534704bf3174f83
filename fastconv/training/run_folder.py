"""Creates, locks and finds run folders."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path

from .._shown import shell_word
from .errors import UsageError

RUNS = Path("runs")
CHECKPOINT = "model.safetensors"
SETTINGS = "settings.json"
STATE = "state.safetensors"
METRICS = "metrics.json"
_LOCK = ".lock"


def check_is_outside(out: Path | None, data: Path) -> None:
    """Raises UsageError if the next run would take the run folder for a class of images."""
    folder = out or RUNS
    if folder.resolve().is_relative_to(data.resolve()):
        raise UsageError(f"{folder}: lies in the folder of images, choose an --out outside {data}")


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Locks a run folder, so that no other process trains into it meanwhile.

    The system releases the lock of a process that dies, so its run can resume at once.

    Raises:
        UsageError: another process trains into the folder, or it cannot be written.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / _LOCK)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise UsageError(
            f"{folder}: another `fastconv train` is writing into it; wait for its end, or stop it"
        ) from None
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written ({error.strerror})") from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def new_run_folder(out: Path | None, model: str) -> Iterator[Path]:
    """Creates and locks the folder of a run: `out`, or the first free runs/<model>-<number>.

    A new folder is removed again if the run fails before its settings are written.

    Raises:
        UsageError: the folder cannot be created, or holds a run, which is never overwritten.
    """
    try:
        folder, is_new = _next_folder(model.lower()) if out is None else _made(out)
    except OSError as error:
        raise UsageError(f"{out or RUNS}: cannot make the folder ({error.strerror})") from None
    with held(folder):
        _check_is_free(folder)
        try:
            yield folder
        finally:
            if is_new and not (folder / SETTINGS).exists():
                with suppress(OSError):
                    (folder / _LOCK).unlink()
                    folder.rmdir()


def _next_folder(model: str) -> tuple[Path, bool]:
    made = (_made(RUNS / f"{model}-{number}") for number in itertools.count(1))
    return next((folder, is_new) for folder, is_new in made if is_new)


def _made(folder: Path) -> tuple[Path, bool]:
    """The folder, and whether it is new."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        folder.mkdir()
    except FileExistsError:
        if not folder.is_dir():
            raise
        return folder, False
    return folder, True


def _check_is_free(folder: Path) -> None:
    if is_finished(folder):
        raise UsageError(
            f"{folder}: holds a finished run; "
            f"`{resume_command(folder)} --epochs N` goes on with it, another --out begins anew"
        )
    if (folder / STATE).exists():
        raise UsageError(
            f"{folder}: holds a run that can go on; `{resume_command(folder)}` does so, "
            "another --out begins anew"
        )


def check_can_go_on(folder: Path, epochs: int | None) -> None:
    """Raises UsageError if a folder has no state, or if a finished run gets no more epochs."""
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such run folder")
    if not (folder / STATE).exists():
        raise UsageError(f"{folder}: there is nothing to go on with, it has no {STATE}")
    if is_finished(folder) and epochs is None:
        raise UsageError(
            f"{folder}: the run is finished; `{resume_command(folder)} --epochs N` goes on to "
            "N epochs"
        )


def is_finished(folder: Path) -> bool:
    """Whether a folder holds a finished run."""
    try:
        return bool(json.loads((folder / METRICS).read_text())["test"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def resume_command(folder: Path) -> str:
    """The command that resumes a run."""
    return f"fastconv train --resume {shell_word(folder)}"


def anew_command(folder: Path, **changes: float | str) -> str:
    """The command that starts a run again in a new folder, with some settings changed."""
    folders = (Path(f"{folder}-{number}") for number in itertools.count(2))
    out = next(other for other in folders if not other.exists())
    options = (
        f"--{name.replace('_', '-')} "
        f"{shell_word(value) if isinstance(value, str) else format(value, 'g')}"
        for name, value in changes.items()
    )
    words = ("--config", shell_word(folder / SETTINGS), *options, "--out", shell_word(out))
    return " ".join(["fastconv train", *words])


def find_checkpoint(path: str | PathLike[str] | None) -> Path:
    """The checkpoint file of a path or run folder; None stands for the latest run in runs/.

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
