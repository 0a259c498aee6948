"""What the history of a run tells: that it no longer learns, or that it learns by heart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autoseg.history import EpochRow
from autoseg.training_config import TrainingConfig

from .optimization import polynomial_learning_rate
from .schedules import plateaus

_WINDOW = 10  # epochs that are averaged: single validation passes are noisy
_RISE = 0.05  # of the validation loss above its lowest level; nnU-Net's loss spans about 2


@dataclass(frozen=True, slots=True, kw_only=True)
class StoppingRule:
    """When a run ends before its length is reached; decided by its history alone, so that a resumed run agrees.

    Args:
        patience: Epochs in a row without a better smoothed Dice over patches; None waits for ever.
        volume_patience: Validations over whole volumes in a row without a better Dice; None waits for ever.
        cooldown: Epochs in which the learning rate then falls to zero before the run ends; 0 ends it at once.
    """

    patience: int | None = None
    volume_patience: int | None = None
    cooldown: int = 0

    @classmethod
    def of(cls, config: TrainingConfig) -> StoppingRule:
        """The rule that settings ask for."""
        return cls(patience=config.patience, volume_patience=config.volume_patience, cooldown=config.cooldown)

    def converged_after(self, rows: Sequence[EpochRow]) -> int | None:
        """Epochs after which a score had stopped to improve for as long as the rule waits; None while none has."""
        found = []
        if self.patience is not None:
            found += [number + 1 for number in plateaus([r.ema_dice for r in rows], patience=self.patience)[:1]]
        if self.volume_patience is not None:
            validated = [(n, r.volume_dice) for n, r in enumerate(rows, start=1) if r.volume_dice is not None]
            stagnant = plateaus([score for _, score in validated], patience=self.volume_patience)[:1]
            found += [validated[number][0] for number in stagnant]
        return min(found, default=None)

    def is_over(self, rows: Sequence[EpochRow]) -> bool:
        """Whether no further epoch is to be trained."""
        converged = self.converged_after(rows)
        return converged is not None and len(rows) >= converged + self.cooldown

    def cooled_rate(self, rows: Sequence[EpochRow]) -> float | None:
        """Learning rate of the next epoch once the run has converged: from where it was down to zero; else None."""
        converged = self.converged_after(rows)
        if converged is None or not self.cooldown:
            return None
        passed = (len(rows) - converged) / self.cooldown
        return polynomial_learning_rate(rows[converged - 1].learning_rate, min(passed, 1.0))

    def news(self, rows: Sequence[EpochRow]) -> str | None:
        """A sentence in the epoch in which the run has converged."""
        if self.converged_after(rows) != len(rows):
            return None
        if self.patience is not None and plateaus([r.ema_dice for r in rows], patience=self.patience):
            what = f"the smoothed validation Dice has not improved for {self.patience} epochs"
        else:
            what = f"the Dice over whole volumes has not improved in {self.volume_patience} validations"
        if not self.cooldown:
            return f"{what}: training ends"
        return f"{what}: over the next {self.cooldown} epochs the learning rate falls to zero, then training ends"


def is_best(rows: Sequence[EpochRow], row: EpochRow, *, by_volume: bool) -> bool:
    """Whether an epoch is better than all before it.

    Args:
        rows: Those before it.
        row: The epoch.
        by_volume: Whether Dice over whole volumes decides, where it was measured; else smoothed Dice over patches.
    """
    score = _score(row, by_volume=by_volume)
    earlier = [s for r in rows if (s := _score(r, by_volume=by_volume)) is not None]
    return score is not None and (not earlier or score > max(earlier))


def best_epochs(rows: Sequence[EpochRow], number: int, *, by_volume: bool) -> tuple[int, ...]:
    """The best epochs, best first; of equal ones the earlier."""
    scored = [(score, row.epoch) for row in rows if (score := _score(row, by_volume=by_volume)) is not None]
    return tuple(epoch for _, epoch in sorted(scored, key=lambda pair: (-pair[0], pair[1]))[:number])


def _score(row: EpochRow, *, by_volume: bool) -> float | None:
    return row.volume_dice if by_volume else row.ema_dice


def overfit_warning(rows: Sequence[EpochRow]) -> str | None:
    """A sentence in the first epoch in which the run turns out to overfit.

    It does when the validation loss, averaged over ten epochs, has risen clearly above its lowest average while the
    training loss is at its lowest: training and validation drift apart.
    """
    if not _overfits(rows) or _overfits(rows[:-1]):
        return None
    train, val = _averages([r.train_loss for r in rows]), _averages([r.val_loss for r in rows])
    return (
        f"overfitting: over the last {_WINDOW} epochs the validation loss is {val[-1]:.3f}, {val[-1] - min(val):.3f} "
        f"above its lowest, while the training loss fell to {train[-1]:.3f}. More cases, stronger augmentation or "
        "fewer epochs help; checkpoint_best.pt keeps the best weights"
    )


def _overfits(rows: Sequence[EpochRow]) -> bool:
    if len(rows) < 2 * _WINDOW:
        return False
    train, val = _averages([r.train_loss for r in rows]), _averages([r.val_loss for r in rows])
    return val[-1] > min(val) + _RISE and train[-1] <= min(train)


def _averages(values: Sequence[float]) -> list[float]:
    """Mean of every ten neighbours."""
    return [sum(values[end - _WINDOW : end]) / _WINDOW for end in range(_WINDOW, len(values) + 1)]
