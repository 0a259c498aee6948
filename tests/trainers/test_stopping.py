"""Reading the curves: stagnation, and training and validation that drift apart."""

from __future__ import annotations

from collections.abc import Sequence

from autoseg.history import EpochRow, read_rows
from autoseg.pipeline.train import train
from autoseg.progress import LoggingProgress
from autoseg.trainers.stopping import is_stagnant, overfit_warning
from autoseg.training_config import TrainingConfig
from autoseg.workspace import Workspace


def history(*, train: Sequence[float], val: Sequence[float], dice: Sequence[float] | None = None) -> list[EpochRow]:
    scores = [0.5] * len(train) if dice is None else dice
    return [
        EpochRow(
            epoch=epoch,
            iterations=epoch + 1,
            seconds=1.0,
            learning_rate=0.01,
            train_loss=train[epoch],
            val_loss=val[epoch],
            val_dice=scores[epoch],
            ema_dice=scores[epoch],
            waiting=0.0,
        )
        for epoch in range(len(train))
    ]


def test_stagnation_needs_patience() -> None:
    rows = history(train=[0.0] * 6, val=[0.0] * 6, dice=[0.1, 0.5, 0.4, 0.5, 0.5, 0.3])
    assert not is_stagnant(rows, patience=None)
    assert not is_stagnant(rows, patience=5)
    assert is_stagnant(rows, patience=4)
    assert not is_stagnant(rows[:5], patience=4)


def test_a_growing_gap_is_reported_once() -> None:
    train = [1.0 - 0.02 * epoch for epoch in range(60)]
    val = [max(0.5, 1.0 - 0.02 * epoch) + max(0.0, 0.01 * (epoch - 25)) for epoch in range(60)]
    rows = history(train=train, val=val)
    told = [n for n in range(1, 61) if overfit_warning(rows[:n]) is not None]
    assert len(told) == 1
    # The mean of ten rises 0.05 above its lowest, which is that of epochs 21 to 30, five epochs of 0.01 later.
    means = [sum(val[n - 10 : n]) / 10 for n in range(10, 61)]
    first = next(n for n in range(20, 61) if means[n - 10] > min(means[: n - 9]) + 0.05)
    assert told == [first]
    assert "checkpoint_best.pt" in str(overfit_warning(rows[:first]))


def test_losses_that_fall_or_rise_together_are_no_overfitting() -> None:
    falling = [1.0 - 0.01 * epoch for epoch in range(60)]
    assert not any(overfit_warning(history(train=falling[:n], val=falling[:n])) for n in range(1, 61))
    rising = falling[::-1]
    assert not any(overfit_warning(history(train=rising[:n], val=rising[:n])) for n in range(1, 61))


def test_a_run_stops_when_it_stagnates_and_is_finished(workspace: Workspace) -> None:
    told: list[str] = []

    class Listener(LoggingProgress):
        def message(self, text: str) -> None:
            told.append(text)

    # Nothing is learned at this rate: the first score is never beaten.
    settings = ["epochs=50", "iterations_per_epoch=1", "validation_iterations=1", "learning_rate=1e-30", "patience=3"]
    config = TrainingConfig().with_settings(settings)
    train(workspace, "2d", "all", config=config, device="cpu", workers=0, progress=Listener())
    run = workspace.run("2d", "all")
    assert len(read_rows(run.log)) == 4
    assert run.final.is_file()
    assert any("has not improved for 3 epochs" in text for text in told)
    before = run.final.stat().st_mtime_ns
    train(workspace, "2d", "all", config=config, device="cpu", workers=0)
    assert run.final.stat().st_mtime_ns == before
