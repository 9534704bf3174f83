"""The processes of a run: those that torchrun started, or a single one."""

from __future__ import annotations

import os
import signal
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from .._reason import reason
from .errors import TrainingError


@dataclass(frozen=True)
class Ranks:
    """This process's number among the `size` processes of a run, and on its machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this process writes files and logs."""
        return self.rank == 0

    def share(self, chunk: Tensor) -> Tensor:
        """This process's part of a batch. The parts' sizes differ by at most one image."""
        return chunk.tensor_split(self.size)[self.rank]

    def sum(self, value: Tensor) -> Tensor:
        """The sum over all processes of a tensor on the CPU."""
        if self.size > 1:
            value = value.clone()
            torch.distributed.all_reduce(value)
        return value

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in at least one process."""
        return flag if self.size == 1 else bool(self.sum(torch.tensor(int(flag))))


ALONE = Ranks()


@contextmanager
def joined() -> Iterator[Ranks]:
    """Joins the processes that torchrun started with this one.

    Raises:
        TrainingError: one of them was lost.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    # Small numbers go over gloo, gradients on GPUs over NCCL.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    with losses_told():
        torch.distributed.init_process_group(backend)
        try:
            yield Ranks(
                torch.distributed.get_rank(),
                torch.distributed.get_world_size(),
                int(os.environ.get("LOCAL_RANK", "0")),
            )
        finally:
            torch.distributed.destroy_process_group()


@contextmanager
def losses_told() -> Iterator[None]:
    """Raises TrainingError if an exchange fails because another process has ended."""
    try:
        yield
    except RuntimeError as error:
        marks = ("gloo", "NCCL", "Connection closed", "Connection reset")
        of_exchange = isinstance(error, torch.distributed.DistError)
        if not of_exchange and not any(mark in str(error) for mark in marks):
            raise
        if threading.current_thread() is threading.main_thread():
            # torchrun ends the other processes too. They first say why.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise TrainingError(f"another process of this run was lost ({reason(error)})") from None


def clear_frames(error: BaseException | None) -> None:
    """Clears the local variables of an error's stack frames, see `Trainer.close`."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__
