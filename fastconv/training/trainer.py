"""A trainer is a network with its optimizer. It takes the steps and holds the state's tensors."""

from __future__ import annotations

import contextlib
import gc
import math
from collections.abc import Collection
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Module
from torch.optim import SGD

from .distributed import Ranks
from .errors import DivergedError, UsageError
from .settings import PRECISIONS, Settings


class StepResult(NamedTuple):
    """A whole batch's sum of losses and number of right answers, before its step."""

    loss: float
    correct: int


class Trainer:
    """Takes the steps of SGD.

    Args:
        network: is on `device`.
        settings: of the optimizer and of a step's computation.
        head: names of the parameters of the last layer, which has the classes.
        device: the device that computes the steps.
        ranks: the processes that take each step together.
    """

    def __init__(
        self,
        network: Module,
        settings: Settings,
        head: Collection[str],
        device: torch.device,
        ranks: Ranks,
    ) -> None:
        self.network = network
        self.settings = settings
        self.device = device
        self.ranks = ranks
        named = dict(network.named_parameters())
        if settings.freeze:
            for name, parameter in named.items():
                parameter.requires_grad_(name in head)
        self.parameters = {name: p for name, p in named.items() if p.requires_grad}
        slow = settings.backbone_lr or settings.lr
        groups = [
            {
                "params": [p for name, p in self.parameters.items() if (name in head) == of_head],
                "start": settings.lr if of_head else slow,
            }
            for of_head in (False, True)
        ]
        # One kernel for all parameters takes half the default's time on a CPU.
        self.optimizer = SGD(
            [group for group in groups if group["params"]],
            settings.lr,
            settings.momentum,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        self.dtype = PRECISIONS[settings.precision]
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype == torch.float16)
        self._model = torch.compile(network) if settings.compile else network
        if ranks.size > 1:
            self._model = torch.nn.parallel.DistributedDataParallel(self._model)

    def begin(self) -> None:
        """Sets training mode. Frozen layers keep their statistics too."""
        self.network.train()
        for module in self.network.modules():
            own = list(module.parameters(recurse=False))
            held = [*own, *module.buffers(recurse=False)]
            if self.settings.freeze and held and not any(p.requires_grad for p in own):
                module.eval()

    def step(self, inputs: Tensor, labels: Tensor, count: int, factor: float) -> StepResult:
        """Takes one step.

        Args:
            inputs, labels: this process's part of the batch.
            count: images in the whole batch.
            factor: the factor of the learning rates, see `rate_factor`.

        Raises:
            DivergedError: the loss is not a finite number. The weights are unchanged.
        """
        if self.settings.channels_last:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        self.optimizer.zero_grad(set_to_none=True)
        total, correct = 0.0, 0
        # Each part has two images or more, since batch norm cannot be trained on one.
        n = max(1, min(self.settings.accumulate, len(labels) // 2))
        parts = list(zip(inputs.tensor_split(n), labels.tensor_split(n), strict=True))
        for number, (x, y) in enumerate(parts, 1):
            with self._exchange(number == len(parts)):
                with self.autocast():
                    logits = self._forward(x)
                smoothing = self.settings.label_smoothing
                loss = F.cross_entropy(
                    logits.float(), y, reduction="sum", label_smoothing=smoothing
                )
                # The number of processes is a factor, since their gradients are averaged.
                self.scaler.scale(loss * (self.ranks.size / count)).backward()
            total += loss.item()
            correct += int((logits.argmax(dim=1) == y).sum())
        sums = self.ranks.sum(torch.tensor([total, correct], dtype=torch.float64))
        total, correct = sums.tolist()
        if not math.isfinite(total):
            raise DivergedError(f"the training loss became {total}")
        for group in self.optimizer.param_groups:
            group["lr"] = group["start"] * factor
        if self.settings.clip is not None:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.settings.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return StepResult(total, int(correct))

    def _forward(self, x: Tensor) -> Tensor:
        try:
            return self._model(x)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise UsageError(
                "batch norm cannot be trained on one image: choose a batch_size of at least two "
                f"images for each process, got {self.settings.batch_size} for {self.ranks.size}"
            ) from None

    def autocast(self) -> torch.autocast:
        """The context with the settings' precision."""
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype is not None)

    def _exchange(self, last: bool) -> Any:
        """The context that exchanges gradients only for the last part of a batch."""
        if self.ranks.size == 1 or last:
            return contextlib.nullcontext()
        return self._model.no_sync()

    def close(self) -> None:
        """Ends the exchange with the other processes. No step can follow.

        DistributedDataParallel is part of a reference cycle. If it still exists when Python ends,
        its threads sometimes abort the process.
        """
        self._model = self.network
        gc.collect()

    def tensors(self) -> dict[str, Tensor]:
        """The weights and the optimizer's memory, for `load_tensors`."""
        found = {f"weight.{name}": value for name, value in self.network.state_dict().items()}
        for name, parameter in self.parameters.items():
            momentum = self.optimizer.state.get(parameter, {}).get("momentum_buffer")
            if momentum is not None:
                found[f"momentum.{name}"] = momentum
        return found

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Restores the state that `tensors` returned.

        Raises:
            RuntimeError, KeyError: the state is of another network.
        """
        weights: dict[str, Tensor] = {}
        momenta: dict[str, Tensor] = {}
        for name, value in tensors.items():
            kind, _, key = name.partition(".")
            (weights if kind == "weight" else momenta)[key] = value
        self.network.load_state_dict(weights)
        for name, value in momenta.items():
            parameter = self.parameters[name]
            buffer = torch.empty_like(parameter).copy_(value)
            self.optimizer.state[parameter]["momentum_buffer"] = buffer.detach()
