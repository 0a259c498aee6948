"""Optimizers and the length of a run: how far training has come decides the learning rate and when it ends."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from torch import nn

from autoseg.training_config import TrainingConfig

POLYNOMIAL_EXPONENT = 0.9
"""Exponent of the decay in nnU-Net (and DeepLab before it)."""


class Length(Protocol):
    """How long a run lasts, told in steps or in seconds."""

    @property
    def total_steps(self) -> int | None:
        """Optimizer steps in all, where that is known."""

    def fraction(self, step: int, seconds: float) -> float:
        """Share of the run that lies behind before this step, from 0 to 1."""

    def is_over(self, step: int, seconds: float) -> bool:
        """Whether no further step may start."""

    def epoch_is_over(self, step: int, seconds: float, *, epoch_seconds: float) -> bool:
        """Whether a validation pass is due, ``epoch_seconds`` after the last one."""

    def seconds_left(self, step: int, seconds: float) -> float:
        """Forecast of the remaining wall time at the pace so far."""

    def with_reserve(self, seconds: float) -> Length:
        """The same length, keeping time for one more validation pass that takes this long."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLength:
    """A fixed number of optimizer steps.

    Args:
        total: Optimizer steps in all.
        per_epoch: Steps between two validation passes.
        anneal_within_epoch: Whether the learning rate changes every step, or once per epoch as in nnU-Net.
    """

    total: int
    per_epoch: int
    anneal_within_epoch: bool

    @property
    def total_steps(self) -> int | None:
        """All steps."""
        return self.total

    def fraction(self, step: int, seconds: float) -> float:  # noqa: ARG002 - time does not matter here
        """Share of the steps that lies behind."""
        if self.anneal_within_epoch:
            return step / self.total
        return (step // self.per_epoch) / math.ceil(self.total / self.per_epoch)

    def is_over(self, step: int, seconds: float) -> bool:  # noqa: ARG002
        """Whether all steps are done."""
        return step >= self.total

    def epoch_is_over(self, step: int, seconds: float, *, epoch_seconds: float) -> bool:  # noqa: ARG002
        """Whether the epoch's steps are done."""
        return step >= self.total or step % self.per_epoch == 0

    def seconds_left(self, step: int, seconds: float) -> float:
        """Remaining steps at the pace so far."""
        return (self.total - step) * seconds / max(step, 1)

    def with_reserve(self, seconds: float) -> StepLength:  # noqa: ARG002
        """Steps need no reserve."""
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeLength:
    """A fixed wall time, in which the learning rate falls to zero however fast the device is.

    Args:
        budget: Seconds for training with its validation passes.
        num_epochs: Validation passes wanted, evenly spread.
        reserve: Seconds at the end kept for the last validation pass and the checkpoints.
    """

    budget: float
    num_epochs: int = 10
    reserve: float = 0.0

    @property
    def total_steps(self) -> int | None:
        """Unknown until the time is up."""
        return None

    def fraction(self, step: int, seconds: float) -> float:  # noqa: ARG002 - steps do not matter here
        """Share of the time that lies behind."""
        return min(1.0, seconds / max(self.budget - self.reserve, 1e-9))

    def is_over(self, step: int, seconds: float) -> bool:
        """Whether the time is up; one step is always taken."""
        return step > 0 and seconds >= self.budget - self.reserve

    def epoch_is_over(self, step: int, seconds: float, *, epoch_seconds: float) -> bool:
        """Whether the epoch's share of the budget is spent; a stump of an epoch is not worth a validation pass."""
        if self.is_over(step, seconds):
            return True
        share = self.budget / self.num_epochs
        return epoch_seconds >= share and self.budget - self.reserve - seconds > 0.5 * share

    def seconds_left(self, step: int, seconds: float) -> float:  # noqa: ARG002
        """Rest of the budget."""
        return max(0.0, self.budget - seconds)

    def with_reserve(self, seconds: float) -> TimeLength:
        """Keep this much time at the end, and a little more."""
        return replace(self, reserve=min(1.2 * seconds + 0.5, 0.5 * self.budget))


def run_length(config: TrainingConfig, *, window_epoch: int | None = None) -> Length:
    """Length of a run as its settings ask for it.

    Args:
        config: Settings.
        window_epoch: Steps of an epoch where sampling decides them; None takes those of the settings.
    """
    if config.time_budget is not None:
        return TimeLength(budget=config.time_budget)
    if config.iterations is not None:
        # A short run in iterations still anneals, and is still validated about ten times.
        per_epoch = min(config.iterations_per_epoch, max(1, math.ceil(config.iterations / 10)))
        return StepLength(total=config.iterations, per_epoch=per_epoch, anneal_within_epoch=True)
    epochs = 1000 if config.epochs is None else config.epochs
    per_epoch = window_epoch or config.iterations_per_epoch
    return StepLength(total=epochs * per_epoch, per_epoch=per_epoch, anneal_within_epoch=False)


def polynomial_learning_rate(initial: float, fraction: float, *, warmup: float = 0.0) -> float:
    """Learning rate after a share of the run: linear warm-up, then (1 - fraction)^0.9.

    Args:
        initial: Learning rate at the end of the warm-up.
        fraction: Share of the run that lies behind, 0 to 1.
        warmup: Share of the run spent on the warm-up.

    Example:
        >>> polynomial_learning_rate(0.01, 0.0), polynomial_learning_rate(0.01, 1.0)
        (0.01, 0.0)
    """
    if fraction < warmup:
        return float(initial * (0.05 + 0.95 * fraction / warmup))
    remaining = (1.0 - fraction) / (1.0 - warmup)
    return float(initial * max(remaining, 0.0) ** POLYNOMIAL_EXPONENT)


def build_optimizer(
    network: nn.Module,
    name: Literal["sgd", "adam", "adamw"],
    *,
    learning_rate: float,
    momentum: float,
    weight_decay: float,
    amsgrad: bool = False,
) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum (nnU-Net), Adam or AdamW; the decay covers every parameter, as in nnU-Net."""
    if name == "sgd":
        return torch.optim.SGD(
            network.parameters(),
            lr=learning_rate,
            momentum=momentum,
            nesterov=momentum > 0,
            weight_decay=weight_decay,
        )
    if name == "adam":
        return torch.optim.Adam(network.parameters(), lr=learning_rate, weight_decay=weight_decay, amsgrad=amsgrad)
    return torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=weight_decay, amsgrad=amsgrad)


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Give every parameter group the same learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = value
