"""The same seed gives the same numbers: everything that a run says of itself, but for the time it took."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from autoseg.evaluation.report import read_evaluation
from autoseg.history import read_rows
from autoseg.pipeline.train import train
from autoseg.training_config import TrainingConfig
from autoseg.workspace import Workspace


def test_two_runs_of_one_seed_have_identical_metrics(workspace: Workspace, tmp_path: Path) -> None:
    config = TrainingConfig(epochs=2, iterations_per_epoch=6, validation_iterations=2, seed=11, optimizer="adamw")
    spaces = [workspace, Workspace(Path(shutil.copytree(workspace.root, tmp_path / "again")))]
    for number, space in enumerate(spaces):
        train(space, "2d", 0, config=config, device="cpu", workers=number)
    runs = [space.run("2d", 0) for space in spaces]
    first, again = ([replace(row, seconds=0.0, waiting=0.0) for row in read_rows(run.log)] for run in runs)
    assert first == again
    scores = [read_evaluation(run.scores) for run in runs]
    assert scores[0] == scores[1]
    assert any(row.dice is not None and row.dice > 0 for row in scores[0].cases)
