"""What the history of a run tells: that it no longer learns, or that it learns by heart."""

from __future__ import annotations

from collections.abc import Sequence

from autoseg.history import EpochRow

from .schedules import num_plateaus

_WINDOW = 10  # epochs that are averaged: single validation passes are noisy
_RISE = 0.05  # of the validation loss above its lowest level; nnU-Net's loss spans about 2


def is_stagnant(rows: Sequence[EpochRow], *, patience: int | None) -> bool:
    """Whether the smoothed validation Dice has not improved for ``patience`` epochs in a row; never without one."""
    return patience is not None and num_plateaus([row.ema_dice for row in rows], patience=patience) > 0


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
