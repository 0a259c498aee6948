"""Variants are values: each trains, and leaves its mark where it should."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoseg.errors import SettingsError
from autoseg.history import read_rows
from autoseg.inference.model import read_checkpoint
from autoseg.pipeline.train import train
from autoseg.training_config import TrainingConfig
from autoseg.workspace import Workspace

SHORT = ["epochs=2", "iterations_per_epoch=1", "validation_iterations=1"]


@pytest.mark.parametrize(
    "settings",
    [
        ["loss=tversky+0.5*topk", "optimizer=adam", "schedule=one_cycle"],
        ["loss=focal", "schedule=step", "mirroring=1", "augmentation=light"],
        ["schedule=cosine", "warmup=0.1", "augmentation=none"],
    ],
    ids=lambda s: s[0],
)
def test_variants_train(settings: list[str], workspace: Workspace) -> None:
    config = TrainingConfig().with_settings([*SHORT, *settings])
    train(workspace, "2d", "all", config=config, variant="other", device="cpu", workers=0)
    run = workspace.run("2d@other", "all")
    assert len(read_rows(run.log)) == 2
    assert read_checkpoint(run.final).record.mirror_axes == config.mirror_axes(2)


def test_the_schedule_reaches_the_optimizer(workspace: Workspace) -> None:
    config = TrainingConfig().with_settings([*SHORT, "schedule=step", "learning_rate=0.02"])
    train(workspace, "2d", "all", config=config, device="cpu", workers=0)
    rates = [row.learning_rate for row in read_rows(workspace.run("2d", "all").log)]
    assert rates == pytest.approx([0.02, 0.002])


@pytest.mark.parametrize("wrong", ["loss=focall", "mirroring=2"])
def test_what_cannot_be_trained_leaves_no_record(wrong: str, workspace: Workspace) -> None:
    config = TrainingConfig().with_settings([*SHORT, wrong])
    with pytest.raises(SettingsError):
        train(workspace, "2d", "all", config=config, device="cpu", workers=0)
    assert not Path(workspace.run_record_path("2d")).exists()
