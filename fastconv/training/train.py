"""Trains a network in a whole run: data, network, epochs, checkpoints, metrics and test."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch.nn import Module

from .. import data, models
from .._shown import shown
from ..data import PACKAGED, DataError
from .atomic import write_text
from .checkpoint import (
    Description,
    load_weights,
    move_checkpoint,
    read_description,
    save_checkpoint,
)
from .distributed import Ranks, clear_frames, joined, losses_told
from .environment import environment
from .epoch import Position, train_epoch
from .errors import DivergedError, TrainingError, UsageError
from .evaluate import evaluate
from .log_writer import LogWriter, check_tensorboard
from .progress import Progress
from .recipe import resolved
from .report import write_report
from .run_folder import (
    CHECKPOINT,
    METRICS,
    SETTINGS,
    STATE,
    anew_command,
    check_can_go_on,
    check_is_outside,
    held,
    is_finished,
    new_run_folder,
    resume_command,
)
from .schedule import rate_factor
from .scores import Scores
from .settings import Settings, find_device
from .state import load_state, save_state
from .stopping import stop_request
from .trainer import Trainer
from .verdict import advice, doubt
from .weights import load_pretrained, read_weights

SAVE_SECONDS = 60.0  # between two states within an epoch
SAVE_SHARE = 0.05  # of the time that saving may take; slow saves become rarer


def train(settings: Settings, log: Callable[[str], object] = print) -> dict[str, Any]:
    """Trains a network and writes its run folder.

    The folder gets `settings.json`, `model.safetensors` with the weights of the epoch that did best
    in validation, `state.safetensors` for resuming, and `metrics.json`. At the end it gets
    `report.html` and its pictures. The same settings give the same numbers on the same machine.
    With torchrun, each process calls this function, and they train together.

    Args:
        settings: the run's settings.
        log: gets a line for every epoch and for the result, in the first process alone.

    Returns:
        The contents of metrics.json: `epochs`, `test`, `settings`, `environment`, `run`.

    Raises:
        UsageError, fastconv.data.DataError: before the training, for wrong settings or data, or if
            another process trains into the folder.
        TrainingError: the folder cannot be written, or another process was lost.
        DivergedError: the loss became NaN or infinite.
        KeyboardInterrupt: after Ctrl-C or SIGTERM, with a message, when the state is saved.
    """
    out = settings.out
    if settings.data != PACKAGED:
        check_is_outside(out, Path(settings.data))
    with (
        joined() as ranks,
        new_run_folder(out, settings.model) if ranks.first else nullcontext(out) as folder,
    ):
        run = _Run(settings, ranks, log)
        run.start(folder)
        return run.finish()


def resume(
    folder: str | PathLike[str],
    log: Callable[[str], object] = print,
    data: str | PathLike[str] | None = None,
    epochs: int | None = None,
) -> dict[str, Any]:
    """Resumes a stopped run and reaches the same bits as without the stop.

    Args:
        folder: its run folder, which also has its settings.
        log: as for `train`, which has the same result and errors.
        data: the new place of the run's images, if they were moved.
        epochs: another number of epochs for the whole run. A finished run needs more.
    """
    folder = Path(folder)
    check_can_go_on(folder, epochs)
    finished = is_finished(folder)
    changes = {"data": data, "epochs": epochs}
    changes = {name: value for name, value in changes.items() if value is not None}
    with joined() as ranks, held(folder) if ranks.first else nullcontext():
        settings = Settings.from_json(folder / SETTINGS, out=folder, **changes)
        if settings.data != PACKAGED and not Path(settings.data).exists():
            raise UsageError(
                f"{settings.data}: no such folder; where the images were moved, "
                f"`{resume_command(folder)} --data DIR` says where they are"
            )
        run = _Run(settings, ranks, log)
        run.go_on(finished)
        return run.finish()


class _Run:
    """A run in progress, with its network, data and folder."""

    def __init__(self, settings: Settings, ranks: Ranks, log: Callable[[str], object]) -> None:
        self.ranks = ranks
        self.log = (lambda line: log(shown(line))) if ranks.first else lambda line: None
        self.progress = Progress(ranks.first)
        self.device = _own_device(find_device(settings.device), ranks)
        if settings.tensorboard:
            check_tensorboard()
        self.dataset = data.load(
            settings.data,
            settings.image_size,
            settings.seed,
            strict=settings.strict,
            progress=self.progress.reading,
        )
        self.progress.close()
        for line in self.dataset.notes:
            self.log(line)
        for part, images in self.dataset.parts.items():
            if len(images) < ranks.size:
                raise UsageError(
                    f"{len(images)} {part} images are too few for {ranks.size} processes"
                )
        weights = settings.weights and settings.weights.resolve()
        self.settings = dataclasses.replace(settings, data=self.dataset.source, weights=weights)
        torch.manual_seed(settings.seed)
        self.network = _create(settings, len(self.dataset.classes)).to(self.device)
        if settings.channels_last:
            self.network.to(memory_format=torch.channels_last)
        self.head = models.head_names(settings.model, settings.image_size)
        self.position = Position()
        self.fingerprint = self.dataset.fingerprint
        self.folder: Path | None = None
        self._saved = self._save_cost = 0.0
        self.metrics: dict[str, Any] = {
            "classes": self.dataset.classes,
            "images": {part: len(images) for part, images in self.dataset.parts.items()},
            "images_per_class": {
                part: images.labels.bincount(minlength=len(self.dataset.classes)).tolist()
                for part, images in self.dataset.parts.items()
            },
            "skipped": self.dataset.skipped,
            "environment": environment() | {"processes": ranks.size},
            "epochs": [],
            "best_epoch": 0,
            "continued": [],
            "seconds": 0.0,
            "test": None,
        }

    def start(self, folder: Path | None) -> None:
        """Writes the first state into the folder, which only the first process has."""
        images = len(self.dataset.parts["train"])
        batch_norm = any(isinstance(m, torch.nn.BatchNorm2d) for m in self.network.modules())
        settings = resolved(self.settings, images, self.ranks.size, batch_norm)
        self.settings = settings
        if settings.weights is not None:
            weights = read_weights(settings.weights)
            same = load_pretrained(self.network, weights, self.head, self.dataset.classes)
            self.log(f"{settings.weights}: with {'its own' if same else 'a new'} last layer")
        self._make_trainer()
        self._use(folder)

    def go_on(self, finished: bool) -> None:
        """Restores the folder's state; `finished` says that it is of a finished run."""
        folder = self.settings.out
        self._make_trainer()
        self.position, metrics, notes = load_state(folder / STATE, self.trainer, self.fingerprint)
        self.metrics |= metrics  # an older version's metrics may lack some
        done = len(self.metrics["epochs"])
        if self.settings.epochs < done + finished:
            raise UsageError(
                f"{folder}: {done} epochs are done, epochs must be "
                f"{'above' if finished else 'at least'} that, got {self.settings.epochs}"
            )
        if finished:
            self.metrics["continued"].append(done)
        if self.ranks.first and (folder / CHECKPOINT).exists():
            move_checkpoint(folder / CHECKPOINT, self.dataset.source)
        self._use(folder)
        where = f"epoch {self.position.epoch}, step {self.position.step}"
        self.log("; ".join([f"{folder}: goes on in {where}", *notes]))

    def _make_trainer(self) -> None:
        self.trainer = Trainer(self.network, self.settings, self.head, self.device, self.ranks)

    def _use(self, folder: Path | None) -> None:
        """Writes all files that a run resumes from."""
        self.folder = folder
        self.metrics["run"] = str(folder)
        self.metrics["settings"] = self.settings.to_json() | {
            "out": str(folder),
            "device": str(self.device),
        }
        counts = ", ".join(f"{n} {part}" for part, n in self.metrics["images"].items())
        settings = self.settings
        epochs = "1 epoch" if settings.epochs == 1 else f"{settings.epochs} epochs"
        self.log(
            f"{settings.model} with {settings.layers} layers on {self.device}, "
            f"{self.dataset.source}: {counts} images; {epochs}, batches of "
            f"{settings.batch_size}, learning rate {settings.lr} -> {folder}"
        )
        if self.ranks.first:
            text = json.dumps(self.settings.to_json() | {"out": None}, indent=2) + "\n"
            write_text(folder / SETTINGS, text)
        self.save()
        self._write_metrics()  # the file may be of later epochs

    def finish(self) -> dict[str, Any]:
        """Trains the remaining epochs and runs the test."""
        try:
            try:
                with losses_told(), stop_request() as self.stop:
                    self._train()
            except BaseException as error:
                clear_frames(error)
                raise
            finally:
                self.trainer.close()
            if self.ranks.first:
                self._test()
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"stopped; {self._kept()}") from None
        except DivergedError as error:
            raise DivergedError(
                f"{error} in epoch {self.position.epoch}; {self._lower_rate()}{self._best()}"
            ) from None
        except UsageError:
            self._give_up()
            raise
        except BrokenPipeError:
            raise  # from the log, whose reader is gone
        except (TrainingError, DataError, OSError) as error:
            raise TrainingError(f"{error}; {self._kept()}") from None
        finally:
            self.progress.close()
        return self.metrics

    def _give_up(self) -> None:
        """Frees the folder if nothing was trained, since resuming would fail again."""
        if self.ranks.first and not (self.metrics["epochs"] or self.position.images):
            for name in (STATE, METRICS, SETTINGS):
                (self.folder / name).unlink(missing_ok=True)

    def _train(self) -> None:
        logged = self.settings.tensorboard and self.ranks.first
        with LogWriter(self.folder, self.position.epoch, logged) as writer:
            while self.position.epoch <= self.settings.epochs and not self._is_enough():
                self._epoch()
                writer.write(self.metrics["epochs"][-1])
        self.save()

    def _is_enough(self) -> bool:
        """Whether validation has stopped improving. Epochs added later start the count anew."""
        patience = self.settings.patience
        done = len(self.metrics["epochs"])
        since = max(self.metrics["best_epoch"], *self.metrics["continued"], 0)
        return patience is not None and done - since >= patience

    def _epoch(self) -> None:
        position, settings = self.position, self.settings
        images = self.dataset.parts["train"]
        self.progress.epoch(position.epoch, settings.epochs, len(images), position.images)
        train_epoch(self.trainer, images, position, self._after_step)
        self.progress.close()
        with self.trainer.autocast():
            scores = evaluate(
                self.network,
                self.dataset.parts["val"],
                settings.batch_size,
                self.device,
                self.ranks,
                self._after_batch,
            )
        if not math.isfinite(scores.loss):
            raise DivergedError(f"the validation loss became {scores.loss}")
        self._note(scores)
        epoch = self.metrics["epochs"][-1]
        is_best = self.metrics["best_epoch"] == position.epoch
        if is_best:
            self._save_best()
        self.position = Position(position.epoch + 1)
        if is_best:  # before the state, which names the weights in the folder
            self.save()
        else:
            self._save_if_due(0.0)
        self._write_metrics()
        self.log(self.progress.line(self.metrics, settings.epochs, epoch))

    def _note(self, scores: Scores) -> None:
        """Adds an epoch to the metrics."""
        position, epochs = self.position, self.metrics["epochs"]
        epochs.append(
            {
                "epoch": position.epoch,
                "lr": self.settings.lr * rate_factor(self.settings, position.epoch, 1),
                "train_loss": position.loss / position.images,
                "train_accuracy": position.correct / position.images,
                "val_loss": scores.loss,
                "val_accuracy": scores.accuracy,
                "val_top5": scores.top5,
                "images_per_second": position.images / position.seconds,
                "waiting": position.waited / position.seconds,
            }
        )
        self.metrics["seconds"] += position.seconds
        best = max(epochs, key=lambda epoch: (epoch["val_accuracy"], -epoch["val_loss"]))
        self.metrics["best_epoch"] = best["epoch"]

    def _after_step(self, count: int) -> None:
        self.progress.update(count, self.position.loss / self.position.images)
        if self.ranks.any(self.stop.made):
            self._stop()
        self._save_if_due(SAVE_SECONDS)

    def _after_batch(self, count: int) -> None:
        if self.stop.made and self.ranks.size == 1:
            self._stop()

    def _stop(self) -> None:
        self.save()
        raise KeyboardInterrupt

    def save(self) -> None:
        """Writes the state, from which the run can resume."""
        if not self.ranks.first:
            return
        start = time.monotonic()
        path = self.folder / STATE
        save_state(path, self.trainer, self.position, self.metrics, self.fingerprint)
        self._saved = time.monotonic()
        self._save_cost = self._saved - start

    def _save_if_due(self, interval: float) -> None:
        """Writes the state if the last one is `interval` seconds old and took little of them."""
        if time.monotonic() - self._saved > max(interval, self._save_cost / SAVE_SHARE):
            self.save()

    def _save_best(self) -> None:
        if not self.ranks.first:
            return
        settings, dataset = self.settings, self.dataset
        description = Description(
            model=settings.model,
            layers=settings.layers,
            classes=dataset.classes,
            image_size=dataset.preprocessing.image_size,
            resize=dataset.preprocessing.resize,
            epoch=self.position.epoch,
            data=dataset.source,
            seed=settings.seed,
        )
        save_checkpoint(self.folder / CHECKPOINT, self.network, description)

    def _test(self) -> None:
        """Tests the best weights and writes the report."""
        load_weights(self.folder / CHECKPOINT, self.network)
        images = self.dataset.parts["test"]
        with self.trainer.autocast():
            scores = evaluate(self.network, images, self.settings.batch_size, self.device)
        problem = doubt(scores.confusion, self.dataset.classes)
        if problem is not None:
            trained = self.metrics["images"]["train"]
            problem += f"; {advice(self.settings, trained, self.ranks.size)}"
        self.metrics["test"] = scores.summary() | {"doubt": problem}
        result = f"test accuracy {scores.accuracy:.1%}"
        if problem is not None:
            self._add_doubt(f"{result}, {problem}")
        write_report(self.folder, self.metrics, self.network, scores, images)
        self._write_metrics()  # the run is finished with this file
        if scores.warning():
            self.log(scores.warning())
        result += f" with the weights of epoch {self.metrics['best_epoch']}"
        if problem is not None:
            result += f", {problem}"
        self.log(f"{result}  ({self.folder / 'report.html'})")

    def _add_doubt(self, text: str) -> None:
        """Writes a warning into the checkpoint, for predictions to repeat."""
        path = self.folder / CHECKPOINT
        description = dataclasses.replace(read_description(path), doubt=text)
        save_checkpoint(path, self.network, description)

    def _kept(self) -> str:
        """A text that says what the folder holds to resume from."""
        if self.folder is None or not (self.folder / STATE).exists():
            return "there is nothing to go on from yet"
        return f"`{resume_command(self.folder)}` goes on{self._best()}"

    def _best(self) -> str:
        if self.folder is None or not (self.folder / CHECKPOINT).exists():
            return ""
        epoch = read_description(self.folder / CHECKPOINT).epoch
        return f", {CHECKPOINT} there has the best weights so far, of epoch {epoch}"

    def _lower_rate(self) -> str:
        """A text on training with a tenth of the learning rate, since resuming would not help."""
        rates = {"lr": self.settings.lr, "backbone_lr": self.settings.backbone_lr}
        lower = {name: rate / 10 for name, rate in rates.items() if rate is not None}
        if self.folder is None:
            return f"a lower lr may help, it was {self.settings.lr}"
        return f"`{anew_command(self.folder, **lower)}` begins anew at a tenth of the learning rate"

    def _write_metrics(self) -> None:
        if self.ranks.first:
            write_text(self.folder / METRICS, json.dumps(self.metrics, indent=2) + "\n")


def _own_device(device: torch.device, ranks: Ranks) -> torch.device:
    """The process's own GPU."""
    if ranks.size > 1 and device.type == "cuda":
        device = torch.device("cuda", ranks.local_rank)
        torch.cuda.set_device(device)
    return device


def _create(settings: Settings, classes: int) -> Module:
    try:
        network = models.create(settings.model, classes, settings.image_size, settings.layers)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if settings.dropout is not None:
        layers = [m for m in network.modules() if isinstance(m, torch.nn.Dropout)]
        if not layers:
            raise UsageError(f"{settings.model} has no dropout layer, leave dropout out")
        for layer in layers:
            layer.p = settings.dropout
    return network
