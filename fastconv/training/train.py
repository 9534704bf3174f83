"""A whole run: data, network, epochs, checkpoints, metrics, test."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch.nn import Module
from torch.optim import SGD, Optimizer

from .. import data, models
from .atomic import replace_file
from .checkpoint import Description, read_description, save_checkpoint
from .curves import draw_curves
from .environment import environment
from .epoch import train_epoch
from .errors import DivergedError, UsageError
from .evaluate import evaluate
from .run_folder import CHECKPOINT, CURVES, METRICS, check_run_folder, new_run_folder
from .settings import Settings, find_device


def train(settings: Settings, log: Callable[[str], object] = print) -> dict[str, Any]:
    """Trains a network and writes its run folder.

    The folder gets `model.safetensors` and `metrics.json`, replaced after every epoch, and in the
    end `curves.png`. The same settings give the same numbers on the same machine.

    Args:
        settings: what to train, and how.
        log: gets a line for every epoch and for the result.

    Returns:
        What metrics.json holds: `epochs`, `test`, `settings`, `environment`, `run`.

    Raises:
        UsageError, fastconv.data.DataError: before the training, settings or data are wrong.
        TrainingError: the folder cannot be written.
        DivergedError: the loss became NaN or infinite.
        KeyboardInterrupt: on Ctrl-C, with a message, when the folder has a complete checkpoint.
    """
    device = find_device(settings.device)
    check_run_folder(settings.out)
    dataset = data.load(settings.data, settings.image_size, settings.seed)
    torch.manual_seed(settings.seed)
    model = _create(settings, len(dataset.classes)).to(device)
    folder = new_run_folder(settings.out, settings.model)
    run = _Run(settings, dataset, model, device, folder, log)
    try:
        run.train()
        run.test()
    except KeyboardInterrupt:
        run.save_if_first()
        raise KeyboardInterrupt(f"stopped; {run.kept()}") from None
    return run.metrics


def _create(settings: Settings, classes: int) -> Module:
    try:
        return models.create(settings.model, classes, settings.image_size, settings.layers)
    except ValueError as error:
        raise UsageError(str(error)) from None


def decayed(lr: float, epoch: int, epochs: int) -> float:
    """The learning rate of an epoch (the first is 1): it falls along a cosine, to 0 after the last.

    At a constant rate the accuracy still jumps by several points from epoch to epoch in the end.
    """
    return lr * (1 + math.cos(math.pi * (epoch - 1) / epochs)) / 2


class _Run:
    """A run under way: what it trains, and the folder that its results go to."""

    def __init__(
        self,
        settings: Settings,
        dataset: data.Dataset,
        model: Module,
        device: torch.device,
        folder: Path,
        log: Callable[[str], object],
    ) -> None:
        self.settings = settings
        self.dataset = dataset
        self.model = model
        self.device = device
        self.folder = folder
        self.log = log
        self.metrics: dict[str, Any] = {
            "run": str(folder),
            "settings": asdict(settings) | {"out": str(folder), "device": str(device)},
            "classes": dataset.classes,
            "images": {part: len(images) for part, images in dataset.parts.items()},
            "environment": environment(),
            "epochs": [],
            "test": None,
        }

    def train(self) -> None:
        """All epochs, each followed by validation, checkpoint and metrics."""
        settings = self.settings
        counts = ", ".join(f"{n} {part}" for part, n in self.metrics["images"].items())
        self.log(
            f"{settings.model} with {settings.layers} layers on {self.device}, "
            f"{self.dataset.source}: {counts} images -> {self.folder}"
        )
        # One kernel for all parameters: half the time of the default on a CPU.
        optimizer = SGD(self.model.parameters(), settings.lr, settings.momentum, fused=True)
        shuffle = torch.Generator().manual_seed(settings.seed)
        for number in range(1, settings.epochs + 1):
            rate = decayed(settings.lr, number, settings.epochs)
            for group in optimizer.param_groups:
                group["lr"] = rate
            try:
                self._epoch(number, optimizer, shuffle)
            except DivergedError as error:
                raise DivergedError(
                    f"{error} in epoch {number}: try a lower --lr, it was {settings.lr}; "
                    f"{self.kept()}"
                ) from None

    def _epoch(self, number: int, optimizer: Optimizer, shuffle: torch.Generator) -> None:
        settings = self.settings
        images = self.dataset.parts["train"]
        with _progress_bar(len(images), f"epoch {number}/{settings.epochs}") as bar:
            result = train_epoch(
                self.model,
                optimizer,
                images,
                settings.batch_size,
                shuffle,
                self.device,
                bar.update,
            )
        scores = evaluate(self.model, self.dataset.parts["val"], settings.batch_size, self.device)
        if not math.isfinite(scores.loss):
            raise DivergedError(f"the validation loss became {scores.loss}")
        self.metrics["epochs"].append(
            {
                "epoch": number,
                "lr": optimizer.param_groups[0]["lr"],
                "train_loss": result.loss,
                "val_loss": scores.loss,
                "val_accuracy": scores.accuracy,
                "images_per_second": result.images_per_second,
            }
        )
        self._save(number)
        self.log(
            f"epoch {number:{len(str(settings.epochs))}}/{settings.epochs}  "
            f"loss {result.loss:.4f}  validation accuracy {scores.accuracy:.1%}  "
            f"{result.images_per_second:.0f} images/s"
        )

    def test(self) -> None:
        """The test accuracy, and the picture of the run."""
        scores = evaluate(
            self.model, self.dataset.parts["test"], self.settings.batch_size, self.device
        )
        self.metrics["test"] = {
            "accuracy": scores.accuracy,
            "loss": scores.loss,
            "precision": scores.precision.mean().item(),
            "recall": scores.recall.mean().item(),
            "f1": scores.f1.mean().item(),
        }
        self._write_metrics()
        draw_curves(self.folder / CURVES, self.metrics)
        self.log(f"test accuracy {scores.accuracy:.1%}  ({self.folder})")

    def save_if_first(self) -> None:
        """Saves the weights as they are, where there is no checkpoint yet."""
        if not (self.folder / CHECKPOINT).exists():
            self._save(0)

    def kept(self) -> str:
        """Says which checkpoint there is."""
        path = self.folder / CHECKPOINT
        if not path.exists():
            return "there is no checkpoint yet"
        return f"{path} holds the network after epoch {read_description(path).epoch}"

    def _save(self, epoch: int) -> None:
        settings, dataset = self.settings, self.dataset
        description = Description(
            model=settings.model,
            layers=settings.layers,
            classes=dataset.classes,
            image_size=dataset.preprocessing.image_size,
            resize=dataset.preprocessing.resize,
            epoch=epoch,
            data=dataset.source,
            seed=settings.seed,
        )
        save_checkpoint(self.folder / CHECKPOINT, self.model, description)
        self._write_metrics()

    def _write_metrics(self) -> None:
        text = json.dumps(self.metrics, indent=2) + "\n"
        replace_file(self.folder / METRICS, lambda path: path.write_text(text))


def _progress_bar(total: int, title: str) -> Any:
    """Counts images on a terminal and is silent elsewhere."""
    from tqdm import tqdm

    return tqdm(total=total, desc=title, unit="image", leave=False, disable=not sys.stderr.isatty())
