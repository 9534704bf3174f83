"""Scores a network on labelled images."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Module

from ..data import Images
from .distributed import ALONE, Ranks
from .scores import Mistake, Scores

MISTAKES = 24  # kept at most, the most confident ones


@torch.inference_mode()
def evaluate(
    model: Module,
    images: Images,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    ranks: Ranks = ALONE,
    after_batch: Callable[[int], object] = lambda count: None,
) -> Scores:
    """Scores a network on labelled images, in evaluation mode.

    Args:
        model: returns logits [N, classes]; its mode is restored afterwards.
        images: one part of a data set, at least one image for each process.
        batch_size: images per batch.
        device: the model's device.
        ranks: the processes that share the work. Each gets the scores of all images, but only its
            own mistakes.
        after_batch: called after every batch with its number of images.
    """
    was_training = model.training
    model.eval()
    confusion, loss, among_five = None, 0.0, 0
    mistakes: list[Mistake] = []
    own = torch.arange(ranks.rank, len(images), ranks.size)
    chunks = own.split(min(batch_size, len(images)))
    for chunk, (inputs, labels) in zip(chunks, images.batches(chunks, device), strict=True):
        logits = model(inputs).float()
        classes = logits.shape[1]
        loss += float(F.cross_entropy(logits, labels, reduction="sum"))
        cells = (labels * classes + logits.argmax(dim=1)).bincount(minlength=classes**2)
        confusion = cells if confusion is None else confusion + cells
        if classes > 5:
            among_five += int((logits.topk(5).indices == labels.unsqueeze(1)).sum())
        mistakes += _mistakes(chunk, logits.cpu(), labels.cpu())
        mistakes = sorted(mistakes, key=lambda mistake: -mistake.probability)[:MISTAKES]
        after_batch(len(chunk))
    model.train(was_training)
    assert confusion is not None, "an image for each process"
    loss, among_five = ranks.sum(torch.tensor([loss, among_five], dtype=torch.float64)).tolist()
    confusion = ranks.sum(confusion.view(classes, classes).cpu())
    top5 = among_five / len(images) if classes > 5 else None
    return Scores(loss / len(images), confusion, top5, mistakes)


def _mistakes(indices: Tensor, logits: Tensor, labels: Tensor) -> list[Mistake]:
    """The misclassified images of a batch."""
    probabilities, predicted = logits.softmax(dim=1).max(dim=1)
    wrong = (predicted != labels).nonzero().flatten()
    columns = (values[wrong].tolist() for values in (indices, labels, predicted, probabilities))
    return [Mistake(*row) for row in zip(*columns, strict=True)]
