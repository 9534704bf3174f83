"""What a run shows while it goes on: bars on a terminal, a line an epoch everywhere."""

from __future__ import annotations

import sys
from typing import Any

NOTABLE_WAITING = 0.05  # of an epoch, from which on its line has it


class Progress:
    """Bars on a terminal, nothing elsewhere.

    Args:
        shown: whether this process is the one that speaks.
    """

    def __init__(self, shown: bool = True) -> None:
        self._shown = shown and sys.stderr.isatty()
        self._bar: Any = None

    def reading(self, done: int, total: int) -> None:
        """So many of the image files are read."""
        if self._bar is None:
            self._open("reading images", total)
        self._bar.update(done - self._bar.n)

    def epoch(self, number: int, epochs: int, images: int, seen: int) -> None:
        """An epoch begins, or goes on after `seen` images."""
        self.close()
        self._open(f"epoch {number}/{epochs}", images, seen)

    def update(self, count: int, loss: float) -> None:
        """A step is done; `loss` is the epoch's mean so far."""
        self._bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
        self._bar.update(count)

    def close(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def line(self, metrics: dict[str, Any], epochs: int, epoch: dict[str, Any]) -> str:
        """What is said of an epoch that is done."""
        number = epoch["epoch"]
        text = (
            f"epoch {number:{len(str(epochs))}}/{epochs}  loss {epoch['train_loss']:.4f}  "
            f"validation accuracy {epoch['val_accuracy']:.1%}  "
            f"{epoch['images_per_second']:.0f} images/s"
        )
        if epoch["waiting"] > NOTABLE_WAITING:
            text += f" ({epoch['waiting']:.0%} waiting for images)"
        if number < epochs:
            text += f"  {_clock(metrics['seconds'] / number * (epochs - number))} left"
        return text

    def _open(self, title: str, total: int, initial: int = 0) -> None:
        from tqdm import tqdm

        self._bar = tqdm(
            total=total,
            initial=initial,
            desc=title,
            unit="image",
            leave=False,
            disable=not self._shown,
        )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
