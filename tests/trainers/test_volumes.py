"""Validation over whole volumes: the score is that of the final prediction's grid, and it decides what is kept."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from autoseg.errors import AutosegError
from autoseg.history import read_rows
from autoseg.inference.model import load_model, read_checkpoint
from autoseg.inference.predictor import InferenceOptions, logit_slabs
from autoseg.inference.volumes import score_volumes
from autoseg.pipeline.folds import load_folds
from autoseg.pipeline.train import train
from autoseg.preprocessing.store import CaseStore
from autoseg.progress import LoggingProgress
from autoseg.training_config import TrainingConfig
from autoseg.workspace import Workspace

SETTINGS = [
    *("epochs=6", "iterations_per_epoch=6", "validation_iterations=1", "volume_every=2", "keep_best=2"),
    *("optimizer=adamw", "learning_rate=0.02", "patches_per_case=2", "sampling=pos_neg", "foreground_share=0.7"),
]
CONFIG = TrainingConfig().with_settings(SETTINGS)


class InterruptAfter(LoggingProgress):
    """Ctrl-C right after the message of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def message(self, text: str) -> None:
        if text.startswith(f"epoch {self.epoch},"):
            raise KeyboardInterrupt


@pytest.fixture
def trained(workspace: Workspace, tmp_path: Path) -> tuple[Workspace, Workspace]:
    """A straight run, and one that was interrupted and resumed."""
    other = Workspace(Path(shutil.copytree(workspace.root, tmp_path / "other")))
    train(workspace, "2d", 0, config=CONFIG, device="cpu", workers=0)
    with pytest.raises(KeyboardInterrupt):
        train(other, "2d", 0, config=CONFIG, device="cpu", workers=0, progress=InterruptAfter(3))
    train(other, "2d", 0, config=CONFIG, device="cpu", workers=0)
    return workspace, other


def volume_dice(workspace: Workspace, path: Path) -> float:
    """Dice by hand: sliding window over every held-out case, argmax, counts."""
    store = CaseStore(workspace.preprocessed_dir(workspace.load_plan().configuration("2d").data))
    model, by_case = load_model(path), []
    for case_id in load_folds(workspace)[0].val:
        case = store.open(case_id).load()
        assert case.segmentation is not None
        slabs = logit_slabs([model], case.image, InferenceOptions(augmentation="none"))
        predicted = np.concatenate(list(slabs), axis=1).argmax(axis=0)
        pairs = [(predicted == k, case.segmentation == k) for k in (1, 2)]
        by_case.append([2 * (p & t).sum() / (p.sum() + t.sum()) for p, t in pairs])
    return float(np.mean(by_case))


def test_the_best_checkpoint_is_that_of_the_best_volumes_and_resuming_changes_nothing(
    trained: tuple[Workspace, Workspace],
) -> None:
    workspace, other = trained
    run = workspace.run("2d", 0)
    rows = read_rows(run.log)
    measured = {row.epoch: row.volume_dice for row in rows if row.volume_dice is not None}
    assert list(measured) == [1, 3, 5]
    best = max(measured, key=lambda epoch: (measured[epoch], -epoch))
    assert volume_dice(workspace, run.best) == pytest.approx(measured[best], abs=1e-6)
    assert volume_dice(workspace, run.final) == pytest.approx(measured[5], abs=1e-6)
    kept = sorted(measured, key=lambda epoch: -measured[epoch])[:2]
    assert sorted(p.name for p in run.root.glob("checkpoint_epoch*")) == sorted(f"checkpoint_epoch{e}.pt" for e in kept)
    assert volume_dice(workspace, run.epoch(kept[1])) == pytest.approx(measured[kept[1]], abs=1e-6)
    assert [r.volume_dice for r in rows] == [r.volume_dice for r in read_rows(other.run("2d", 0).log)]
    for path in (run.final, run.best, run.epoch(kept[0]), run.epoch(kept[1])):
        straight, resumed = (read_checkpoint(w.run("2d", 0).root / path.name).weights for w in trained)
        assert all(torch.equal(straight[name], resumed[name]) for name in straight), path.name


def test_volumes_that_do_not_improve_end_the_run_after_a_cooldown(workspace: Workspace) -> None:
    # Nothing is learned at this rate: the second validation is no better than the first.
    settings = ["epochs=50", "iterations_per_epoch=1", "validation_iterations=1", "learning_rate=1e-30"]
    config = TrainingConfig().with_settings([*settings, "volume_every=2", "volume_patience=1", "cooldown=3"])
    train(workspace, "2d", 0, config=config, device="cpu", workers=0)
    rows = read_rows(workspace.run("2d", 0).log)
    assert len(rows) == 4 + 3
    base = rows[3].learning_rate
    assert [r.learning_rate / base for r in rows[4:]] == pytest.approx([(1 - k / 3) ** 0.9 for k in range(3)])
    assert [r.epoch for r in rows if r.volume_dice is not None] == [1, 3, 5, 6]


def test_cases_without_a_defined_score_count_nowhere(workspace: Workspace) -> None:
    config = TrainingConfig().with_settings(["epochs=1", "iterations_per_epoch=1", "validation_iterations=1"])
    train(workspace, "2d", "all", config=config, device="cpu", workers=0)
    model = load_model(workspace.run("2d", "all").final)
    store = CaseStore(workspace.preprocessed_dir(workspace.load_plan().configuration("2d").data))
    scores = score_volumes(
        model, store, store.case_ids()[:2], previous={}, options=InferenceOptions(augmentation="none")
    )
    assert len(scores.cases) == 2
    by_target = np.asarray(list(scores.cases.values()), dtype=float)
    assert scores.mean == pytest.approx(by_target.mean())
    undefined = type(scores)(cases={"a": (0.5, None), "b": (0.7, None)})
    assert undefined.mean == pytest.approx(0.6)


def test_volume_patience_needs_volumes() -> None:
    with pytest.raises(AutosegError, match="set volume_every too"):
        TrainingConfig().with_settings(["volume_patience=2"])
