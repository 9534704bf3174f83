"""The processes of a run, as torchrun starts them; one alone without it."""

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
        """Whether this is the one that writes files and speaks."""
        return self.rank == 0

    def share(self, chunk: Tensor) -> Tensor:
        """This process's part of a batch; the parts of all differ by one image at most."""
        return chunk.tensor_split(self.size)[self.rank]

    def sum(self, value: Tensor) -> Tensor:
        """The sum over all processes of a tensor on the CPU."""
        if self.size > 1:
            value = value.clone()
            torch.distributed.all_reduce(value)
        return value

    def any(self, flag: bool) -> bool:
        """Whether it holds in one of the processes."""
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
    """Makes a TrainingError of an exchange that failed since another process has ended."""
    try:
        yield
    except RuntimeError as error:
        marks = ("gloo", "NCCL", "Connection closed", "Connection reset")
        of_exchange = isinstance(error, torch.distributed.DistError)
        if not of_exchange and not any(mark in str(error) for mark in marks):
            raise
        if threading.current_thread() is threading.main_thread():
            # torchrun tells the others to end, too: they do, but shall say why.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise TrainingError(f"another process of this run was lost ({reason(error)})") from None


def clear_frames(error: BaseException | None) -> None:
    """Lets go of what the functions that an error came through hold, see `Trainer.close`."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__
