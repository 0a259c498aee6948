"""Learning rates by how far training has come."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from autoseg.training_config import ScheduleName

from .optimization import polynomial_learning_rate

_WARMUP_START = 0.05  # of the initial rate
_STEPS = (0.5, 0.75)  # shares of the run after which "step" takes a tenth
_EXPONENTIAL_END = 0.01
_PLATEAU_PATIENCE = 30  # epochs, and factor: those of nnU-Net's first version
_PLATEAU_FACTOR = 0.2
_ONE_CYCLE_RISE = 0.3  # these three as in torch's OneCycleLR
_ONE_CYCLE_START = 1 / 25
_ONE_CYCLE_END = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Decay:
    """Steps of the schedule "decay": a factor every few epochs."""

    every: int = 10
    factor: float = 0.9


def learning_rate_at(
    schedule: ScheduleName,
    initial: float,
    fraction: float,
    *,
    warmup: float,
    history: Sequence[float] = (),
    decay: Decay = Decay(),
) -> float:
    """Learning rate after a share of the run.

    Args:
        schedule: Which curve.
        initial: The largest learning rate.
        fraction: Share of the run that lies behind, 0 to 1.
        warmup: Share of the run in which the rate first rises linearly; "one_cycle" has a rise of its own.
        history: Smoothed validation Dice after each epoch; "plateau" looks at it, and "decay" counts it.
        decay: Steps of "decay".

    Example:
        >>> [learning_rate_at("step", 1.0, f, warmup=0.0) for f in (0.0, 0.5, 0.75)]
        [1.0, 0.1, 0.010000000000000002]
    """
    if schedule == "one_cycle":
        return initial * _one_cycle(fraction)
    if schedule == "poly":
        return polynomial_learning_rate(initial, fraction, warmup=warmup)
    if fraction < warmup:
        return initial * (_WARMUP_START + (1 - _WARMUP_START) * fraction / warmup)
    if schedule == "decay":
        return float(initial * decay.factor ** (len(history) // decay.every))
    return initial * _factor(schedule, (fraction - warmup) / (1 - warmup), history)


def _factor(schedule: ScheduleName, passed: float, history: Sequence[float]) -> float:
    """Share of the initial rate after a share of what follows the warm-up."""
    match schedule:
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * passed))
        case "step":
            return 0.1 ** sum(passed >= border for border in _STEPS)
        case "exponential":
            return float(_EXPONENTIAL_END**passed)
        case "plateau":
            return float(_PLATEAU_FACTOR ** len(plateaus(history, patience=_PLATEAU_PATIENCE)))
        case _:
            return 1.0


def plateaus(history: Sequence[float], *, patience: int) -> list[int]:
    """Where the best score had not been beaten ``patience`` times in a row; the count begins anew each time.

    Example:
        >>> plateaus([0.5, 0.6, 0.6, 0.6, 0.6], patience=3)
        [4]
    """
    found, best, stagnant = list[int](), -math.inf, 0
    for number, score in enumerate(history):
        stagnant = 0 if score > best else stagnant + 1
        best = max(best, score)
        if stagnant == patience:
            found.append(number)
            stagnant = 0
    return found


def _one_cycle(fraction: float) -> float:
    """Half a cosine up in the first part of the run, half a cosine down to almost nothing in the rest."""
    if fraction < _ONE_CYCLE_RISE:
        return _between(_ONE_CYCLE_START, 1.0, fraction / _ONE_CYCLE_RISE)
    return _between(1.0, _ONE_CYCLE_START * _ONE_CYCLE_END, (fraction - _ONE_CYCLE_RISE) / (1 - _ONE_CYCLE_RISE))


def _between(start: float, end: float, share: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * share))
