"""Computes accuracy, precision, recall and F1 from a confusion matrix."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

FEW = 100  # test images; with fewer, a single one is more than a percent


class Mistake(NamedTuple):
    """A misclassified image, by its index in its part, and the class that the network gave it."""

    index: int  # type: ignore[assignment]  # hides tuple.index
    label: int
    predicted: int
    probability: float


@dataclass(frozen=True)
class Scores:
    """The scores of a classifier.

    Attributes:
        loss: mean cross-entropy.
        confusion: int64 [classes, classes]; rows are the true classes, columns the predicted ones.
        top5: the share of images whose class is among the five most likely; None for five classes
            or fewer.
        mistakes: the most confident ones, worst first.
    """

    loss: float
    confusion: Tensor
    top5: float | None = None
    mistakes: list[Mistake] = field(default_factory=list)

    @property
    def accuracy(self) -> float:
        return (self.confusion.trace() / self.confusion.sum()).item()

    @property
    def precision(self) -> Tensor:
        """Per class, the fraction of its predictions that are right; 0 without predictions."""
        return _ratio(self.confusion.diagonal(), self.confusion.sum(dim=0))

    @property
    def recall(self) -> Tensor:
        """Per class, the fraction of its images that were found."""
        return _ratio(self.confusion.diagonal(), self.confusion.sum(dim=1))

    @property
    def f1(self) -> Tensor:
        """Per class, the harmonic mean of precision and recall."""
        return _ratio(2 * self.precision * self.recall, self.precision + self.recall)

    def means(self) -> dict[str, float]:
        """Precision, recall and F1, each averaged over the classes that have images."""
        columns = {"precision": self.precision, "recall": self.recall, "f1": self.f1}
        seen = self.confusion.sum(dim=1) > 0
        return {name: values[seen].mean().item() for name, values in columns.items()}

    def summary(self) -> dict[str, Any]:
        """The scores as metrics.json holds them."""
        columns = {"precision": self.precision, "recall": self.recall, "f1": self.f1}
        per_class = {name: values.tolist() for name, values in columns.items()}
        return {
            "accuracy": self.accuracy,
            "top5": self.top5,
            "loss": self.loss,
            **self.means(),
            "per_class": per_class | {"images": self.confusion.sum(dim=1).tolist()},
            "confusion": self.confusion.tolist(),
        }

    def warning(self) -> str | None:
        """A warning if there are too few images to tell a good network from a lucky one."""
        count = int(self.confusion.sum())
        if count >= FEW:
            return None
        return f"only {count} test images: each of them is {1 / count:.1%} of the accuracy"

    def table(self, classes: list[str]) -> str:
        """A table with a line per class and one for their mean."""
        width = max(len("class"), *map(len, classes))
        columns = torch.stack([self.precision, self.recall, self.f1], dim=1)
        counts = self.confusion.sum(dim=1)
        lines = [f"{'class':{width}}  precision  recall     F1  images"]
        for name, row, count in zip(classes, columns.tolist(), counts.tolist(), strict=True):
            lines.append(_line(name, width, row, count))
        lines.append(_line("mean", width, [*self.means().values()], int(counts.sum())))
        return "\n".join(lines)


def _ratio(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > 0, part / whole, 0.0)


def _line(name: str, width: int, values: list[float], count: int) -> str:
    precision, recall, f1 = values
    return f"{name:{width}}  {precision:9.3f}  {recall:6.3f}  {f1:5.3f}  {count:6}"
