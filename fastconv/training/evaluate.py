"""Runs a network over images whose classes are known."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.nn import Module

from ..data import Images
from .scores import Scores


@torch.inference_mode()
def evaluate(
    model: Module, images: Images, batch_size: int = 64, device: torch.device | str = "cpu"
) -> Scores:
    """The network's scores on labelled images, in evaluation mode.

    Args:
        model: gives logits [N, classes]; its mode is restored afterwards.
        images: one part of a data set.
        batch_size: images at a time.
        device: where the model is.
    """
    was_training = model.training
    model.eval()
    confusion, loss = None, 0.0
    for inputs, labels in images.batches(batch_size, device=device):
        logits = model(inputs)
        classes = logits.shape[1]
        loss += float(F.cross_entropy(logits, labels, reduction="sum"))
        cells = (labels * classes + logits.argmax(dim=1)).bincount(minlength=classes**2)
        confusion = cells if confusion is None else confusion + cells
    model.train(was_training)
    assert confusion is not None, "no images"
    return Scores(loss / len(images), confusion.view(classes, classes).cpu())
