"""Presets train, and their learning rates, batches and lengths are those that were published."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import pytest
import torch

from autoseg.codec import read_json
from autoseg.errors import SettingsError
from autoseg.history import EpochRow, read_rows
from autoseg.pipeline.train import train
from autoseg.presets import PRESETS, preset_settings
from autoseg.training import RunRecord
from autoseg.training_config import TrainingConfig
from autoseg.workspace import Workspace

SHORT = ["iterations_per_epoch=1", "validation_iterations=1", "augmentation=none"]


def run(
    workspace: Workspace, name: str, *asked: str, fold: Literal["all", 0] = "all"
) -> tuple[RunRecord, Sequence[EpochRow]]:
    config = TrainingConfig().with_settings([*preset_settings(name, asked), *SHORT, *asked])
    train(workspace, "2d", fold, config=config, variant=name, device="cpu", workers=0)
    record = read_json(RunRecord, workspace.run_record_path(f"2d@{name}"))
    return record, read_rows(workspace.run(f"2d@{name}", fold).log)


@pytest.mark.parametrize("name", list(PRESETS))
def test_every_preset_is_made_of_settings(name: str) -> None:
    TrainingConfig().with_settings(preset_settings(name))


def test_an_unknown_preset_names_a_close_one() -> None:
    with pytest.raises(SettingsError, match="did you mean aicup"):
        preset_settings("aicap")


def cosine(epoch: int, total: int) -> float:
    share, warmup = epoch / total, 0.05
    if share < warmup:
        return 5e-4 * (0.05 + 0.95 * share / warmup)
    return 5e-4 * 0.5 * (1 + math.cos(math.pi * (share - warmup) / (1 - warmup)))


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("aicup", cosine),
        ("mnms2", lambda epoch, total: 0.01 * (1 - epoch / total) ** 0.9),
        ("spine", lambda epoch, _: 1e-3 * 0.9 ** (epoch // 2)),
    ],
)
def test_the_logged_rate_is_that_of_the_formula(
    name: str, formula: Callable[[int, int], float], workspace: Workspace
) -> None:
    asked = ["epochs=5", "volume_patience=none", "volume_every=none", "windows_per_case=2"]
    record, rows = run(workspace, name, *asked, *(["decay_every=2"] if name == "spine" else []))
    assert [row.learning_rate for row in rows] == pytest.approx([formula(epoch, 5) for epoch in range(5)])
    assert record.optimizer == {"aicup": "adamw", "mnms2": "sgd", "spine": "adam"}[name]
    if name == "spine":  # 40 % of six cases are three, two windows each, batches of eight: one per epoch
        assert record.configuration.batch_size == 8
        assert [row.iterations for row in rows] == [math.ceil(math.ceil(0.4 * 6) * 2 / 8) * (n + 1) for n in range(5)]


def test_one_cycle_is_that_of_torch(workspace: Workspace) -> None:
    record, rows = run(workspace, "sennet", "iterations=10", "case_weights=equal", "batch_size=2")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=6e-5, total_steps=10_001)
    rates = []
    for _ in range(10_000):
        rates.append(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()
    assert (record.optimizer, record.settings.loss) == ("adamw", "dice")
    # Ten steps of ours are every thousandth of theirs.
    assert [row.learning_rate for row in rows] == pytest.approx(rates[::1000], abs=0.001 * 6e-5)
    assert max(row.learning_rate for row in rows) == pytest.approx(6e-5)


def test_a_budget_of_iterations_is_kept_exactly(workspace: Workspace) -> None:
    assert "iterations=40000" in preset_settings("cm_trancaf")
    record, rows = run(workspace, "cm_trancaf", "iterations=7")
    assert rows[-1].iterations == 7
    assert {row.learning_rate for row in rows} == {1e-5}
    assert record.configuration.batch_size == 8
    assert "batches of 8 as asked for" in record.reasons["batch_size"]


def test_aicup_stops_after_two_validations_without_a_better_dice(workspace: Workspace) -> None:
    # Nothing is learned at this rate: of those after epochs 5, 10 and 15 the first is the best.
    _, rows = run(workspace, "aicup", "learning_rate=1e-30", "weight_decay=0", fold=0)
    assert [row.epoch for row in rows if row.volume_dice is not None] == [4, 9, 14]
    assert len(rows) == 15  # of 1200
