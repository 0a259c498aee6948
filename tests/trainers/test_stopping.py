"""Reading the curves: stagnation, and training and validation that drift apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from autoseg.history import EpochRow, read_rows
from autoseg.pipeline.train import train
from autoseg.progress import LoggingProgress
from autoseg.trainers.stopping import StoppingRule, best_epochs, is_best, overfit_warning
from autoseg.training_config import TrainingConfig
from autoseg.workspace import Workspace


def history(
    *,
    train: Sequence[float],
    val: Sequence[float],
    dice: Sequence[float] | None = None,
    volumes: Mapping[int, float] | None = None,
) -> list[EpochRow]:
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
            volume_dice=(volumes or {}).get(epoch),
        )
        for epoch in range(len(train))
    ]


def test_stagnation_needs_patience() -> None:
    rows = history(train=[0.0] * 6, val=[0.0] * 6, dice=[0.1, 0.5, 0.4, 0.5, 0.5, 0.3])
    assert not StoppingRule().is_over(rows)
    assert not StoppingRule(patience=5).is_over(rows)
    assert StoppingRule(patience=4).is_over(rows)
    assert not StoppingRule(patience=4).is_over(rows[:5])


def scripted(scores: Mapping[int, float], num_epochs: int) -> list[EpochRow]:
    """Dice over patches that always improves, and over volumes as written."""
    improving = [0.01 * epoch for epoch in range(num_epochs)]
    return history(train=[0.0] * num_epochs, val=[0.0] * num_epochs, dice=improving, volumes=scores)


@pytest.mark.parametrize(
    ("scores", "stops_after"),
    [
        ([0.1, 0.5, 0.4, 0.5], 20),  # two validations that are no better: ten idle epochs
        ([0.5, 0.4, 0.6, 0.5, 0.6], 25),  # a better one begins the count anew
        ([0.1, 0.2, 0.3, 0.4, 0.5], None),
    ],
)
def test_a_scripted_score_of_volumes_stops_in_the_expected_epoch(scores: list[float], stops_after: int | None) -> None:
    rows = scripted({5 * (n + 1) - 1: score for n, score in enumerate(scores)}, 5 * len(scores))
    rule = StoppingRule(volume_patience=2)
    over = [n for n in range(1, len(rows) + 1) if rule.is_over(rows[:n])]
    assert over[:1] == ([] if stops_after is None else [stops_after])
    told = [n for n in range(1, len(rows) + 1) if rule.news(rows[:n])]
    assert told == over[:1]


def test_a_cooldown_anneals_from_where_the_rate_was_to_zero() -> None:
    rows = history(train=[0.0] * 12, val=[0.0] * 12, dice=[0.5] * 12)  # converged after four epochs
    rule = StoppingRule(patience=3, cooldown=5)
    assert rule.converged_after(rows) == 4
    assert next(n for n in range(1, 13) if rule.is_over(rows[:n])) == 9
    assert rule.cooled_rate(rows[:3]) is None
    rates = [rule.cooled_rate(rows[:n]) for n in range(4, 9)]
    assert rates == pytest.approx([0.01 * (1 - k / 5) ** 0.9 for k in range(5)])
    assert "over the next 5 epochs" in str(rule.news(rows[:4]))
    assert StoppingRule(patience=3).cooled_rate(rows) is None


def test_the_best_epochs_are_those_with_the_highest_scores() -> None:
    rows = history(train=[0.0] * 5, val=[0.0] * 5, dice=[0.2, 0.5, 0.3, 0.5, 0.4], volumes={1: 0.6, 3: 0.7, 4: 0.7})
    assert best_epochs(rows, 3, by_volume=False) == (1, 3, 4)
    assert best_epochs(rows, 2, by_volume=True) == (3, 4)
    best = [[is_best(rows[:n], rows[n], by_volume=v) for n in range(5)] for v in (False, True)]
    assert best == [[True, True, False, False, False], [False, True, False, True, False]]


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
