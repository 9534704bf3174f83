"""Shows a run's progress: bars on a terminal, and one line per epoch everywhere."""

from __future__ import annotations

import sys
from typing import Any

NOTABLE_WAITING = 0.05  # share of an epoch; its line names a larger one


class Progress:
    """Progress bars on a terminal, nothing elsewhere.

    Args:
        shown: whether this process shows them.
    """

    def __init__(self, shown: bool = True) -> None:
        self._shown = shown and sys.stderr.isatty()
        self._bar: Any = None

    def reading(self, done: int, total: int) -> None:
        """Shows how many image files are read."""
        if self._bar is None:
            self._open("reading images", total)
        self._bar.update(done - self._bar.n)

    def epoch(self, number: int, epochs: int, images: int, seen: int) -> None:
        """Starts an epoch, or resumes it after `seen` images."""
        self.close()
        self._open(f"epoch {number}/{epochs}", images, seen)

    def update(self, count: int, loss: float) -> None:
        """Adds a step's images; `loss` is the epoch's mean so far."""
        self._bar.set_postfix_str(f"loss {loss:.4f}", refresh=False)
        self._bar.update(count)

    def close(self) -> None:
        """Removes the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def line(self, metrics: dict[str, Any], epochs: int, epoch: dict[str, Any]) -> str:
        """The line about a finished epoch."""
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
