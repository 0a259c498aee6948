"""Training small networks for real: it learns, it resumes exactly, it stops on nonsense."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from autoseg.errors import TrainingError
from autoseg.history import read_rows
from autoseg.inference.model import read_checkpoint, write_checkpoint
from autoseg.pipeline.train import train
from autoseg.progress import LoggingProgress
from autoseg.training_config import TrainingConfig
from autoseg.workspace import Workspace

SHORT = TrainingConfig(epochs=3, iterations_per_epoch=4, validation_iterations=2, seed=5)


class InterruptAfter(LoggingProgress):
    """Ctrl-C in the middle of a run: right after the message of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def message(self, text: str) -> None:
        super().message(text)
        if text.startswith(f"epoch {self.epoch},"):
            raise KeyboardInterrupt


class Listener(LoggingProgress):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def message(self, text: str) -> None:
        self.texts.append(text)


def weights(workspace: Workspace, configuration: str) -> dict[str, torch.Tensor]:
    return read_checkpoint(workspace.run(configuration, 0).final).weights


def test_an_interrupted_run_ends_bit_identical_to_an_uninterrupted_one(workspace: Workspace, tmp_path: Path) -> None:
    other = Workspace(Path(shutil.copytree(workspace.root, tmp_path / "other")))
    train(workspace, "3d_fullres", 0, config=SHORT, device="cpu", workers=0)
    with pytest.raises(KeyboardInterrupt):
        train(other, "3d_fullres", 0, config=SHORT, device="cpu", workers=0, progress=InterruptAfter(1))
    assert not other.run("3d_fullres", 0).final.exists()
    report = train(other, "3d_fullres", 0, config=SHORT, device="cpu", workers=1)
    assert report.iterations == 12
    straight, resumed = weights(workspace, "3d_fullres"), weights(other, "3d_fullres")
    assert straight.keys() == resumed.keys()
    for name, tensor in straight.items():
        assert torch.equal(tensor, resumed[name]), name
    rows = [read_rows(w.run("3d_fullres", 0).log) for w in (workspace, other)]
    assert [r.train_loss for r in rows[0]] == [r.train_loss for r in rows[1]]


def test_another_seed_gives_another_network(workspace: Workspace, tmp_path: Path) -> None:
    other = Workspace(Path(shutil.copytree(workspace.root, tmp_path / "other")))
    one_epoch = replace(SHORT, epochs=1)
    train(workspace, "2d", 0, config=one_epoch, device="cpu", workers=0)
    train(other, "2d", 0, config=replace(one_epoch, seed=6), device="cpu", workers=0)
    first, second = weights(workspace, "2d"), weights(other, "2d")
    assert any(not torch.equal(first[name], second[name]) for name in first)


def test_it_learns_and_leaves_everything_the_workspace_promises(workspace: Workspace) -> None:
    config = TrainingConfig(
        iterations=60, optimizer="adamw", learning_rate=0.01, validation_iterations=2, precision="float32"
    )
    report = train(workspace, "3d_fullres", "fold0", config=config, device="cpu", workers=0)
    assert report.mean_dice is not None
    assert report.mean_dice > 0.7
    run = workspace.run("3d_fullres", 0)
    for path in (run.last, run.best, run.final, run.log, run.progress_picture, run.scores):
        assert path.stat().st_size > 0, path
    rows = read_rows(run.log)
    assert rows[-1].iterations == 60
    assert rows[-1].train_loss < rows[0].train_loss
    held_out = json.loads(workspace.splits_path.read_text())[0]["val"]
    for case in held_out:
        assert (run.validation / f"{case}.nii.gz").is_file()
        assert (run.validation / f"{case}.probabilities.b2nd").is_file()


def test_a_time_budget_ends_in_time_and_annealed(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: 0.02 * next(ticks))  # a clock that no other program slows down
    report = train(workspace, "2d", 0, config=TrainingConfig(time_budget=8.0), device="cpu", workers=0)
    assert 6.5 < report.seconds < 9.0
    rows = read_rows(workspace.run("2d", 0).log)
    assert len(rows) > 4
    assert rows[-1].learning_rate < 0.1 * max(row.learning_rate for row in rows)
    assert report.record.optimizer == "adamw"


def test_a_loss_that_is_not_a_number_names_the_cases_and_keeps_the_checkpoint(workspace: Workspace) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(workspace, "3d_fullres", 0, config=SHORT, device="cpu", workers=0, progress=InterruptAfter(0))
    last = workspace.run("3d_fullres", 0).last
    checkpoint = read_checkpoint(last)
    next(iter(checkpoint.weights.values())).fill_(np.nan)
    write_checkpoint(last, record=checkpoint.record, weights=checkpoint.weights, training=checkpoint.training)
    before = last.read_bytes()
    with pytest.raises(TrainingError, match=r"loss became nan in iteration 4 on a batch of case\d\d"):
        train(workspace, "3d_fullres", 0, config=SHORT, device="cpu", workers=0)
    assert last.read_bytes() == before


def test_a_truncated_checkpoint_gives_way_to_the_one_before(workspace: Workspace, tmp_path: Path) -> None:
    other = Workspace(Path(shutil.copytree(workspace.root, tmp_path / "other")))
    train(workspace, "2d", 0, config=SHORT, device="cpu", workers=0)
    with pytest.raises(KeyboardInterrupt):
        train(other, "2d", 0, config=SHORT, device="cpu", workers=0, progress=InterruptAfter(1))
    run = other.run("2d", 0)
    run.last.write_bytes(run.last.read_bytes()[:1000])
    told = Listener()
    train(other, "2d", 0, config=SHORT, device="cpu", workers=0, progress=told)
    assert any("checkpoint_last.pt is not a complete checkpoint" in text for text in told.texts)
    assert any("going on after 4 iterations" in text for text in told.texts)
    assert run.damaged.stat().st_size == 1000
    assert not run.previous.exists()
    straight, resumed = weights(workspace, "2d"), weights(other, "2d")
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_a_run_killed_between_two_renames_goes_on_from_the_checkpoint_before(workspace: Workspace) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(workspace, "2d", 0, config=SHORT, device="cpu", workers=0, progress=InterruptAfter(1))
    run = workspace.run("2d", 0)
    run.last.replace(run.previous)  # what saving does first
    told = Listener()
    train(workspace, "2d", 0, config=SHORT, device="cpu", workers=0, progress=told)
    assert any("going on after 8 iterations" in text for text in told.texts)
    assert [row.iterations for row in read_rows(run.log)] == [4, 8, 12]


@pytest.mark.parametrize("damage", ["truncated", "foreign weights"])
def test_without_a_checkpoint_that_fits_a_run_begins_anew_and_says_why(
    damage: str, workspace: Workspace, tmp_path: Path
) -> None:
    other = Workspace(Path(shutil.copytree(workspace.root, tmp_path / "other")))
    train(workspace, "2d", 0, config=SHORT, device="cpu", workers=0)
    with pytest.raises(KeyboardInterrupt):
        train(other, "2d", 0, config=SHORT, device="cpu", workers=0, progress=InterruptAfter(0))
    run = other.run("2d", 0)
    if damage == "truncated":
        run.last.write_bytes(run.last.read_bytes()[:1000])
    else:
        checkpoint = torch.load(run.last, weights_only=True)
        name = next(n for n, tensor in reversed(checkpoint["weights"].items()) if tensor.ndim > 1)
        checkpoint["weights"][name] = checkpoint["weights"][name][:1]
        torch.save(checkpoint, run.last)
    before, told = run.last.read_bytes(), Listener()
    train(other, "2d", 0, config=SHORT, device="cpu", workers=0, progress=told)
    [reason] = [text for text in told.texts if "training begins anew" in text]
    assert "checkpoint_last.pt" in reason
    assert run.damaged.read_bytes() == before
    # It begins with the weights that the seed gives, not with what could be read of the others.
    straight, again = weights(workspace, "2d"), weights(other, "2d")
    assert all(torch.equal(straight[name], again[name]) for name in straight)


def test_deterministic_runs_say_so_and_leave_torch_as_it_was(workspace: Workspace) -> None:
    config = replace(SHORT, epochs=1, deterministic=True)
    report = train(workspace, "2d", 0, config=config, device="cpu", workers=0)
    assert report.record.settings.deterministic
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_fold_of_all_cases_trains_without_scores(workspace: Workspace) -> None:
    report = train(workspace, "2d", "all", config=replace(SHORT, epochs=1), device="cpu", workers=0)
    assert report.mean_dice is None
    assert workspace.run("2d", "all").final.is_file()


def test_a_slow_epoch_tells_how_long_the_run_will_take(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoseg.trainers.supervised._FIRST_HEARTBEAT_SECONDS", 0.0)
    told: list[str] = []
    progress = LoggingProgress()
    monkeypatch.setattr(progress, "message", told.append)
    train(workspace, "2d", 0, config=replace(SHORT, epochs=1), device="cpu", workers=0, progress=progress)
    assert any(re.match(r"iteration 1: loss -?\d+\.\d+, \d\d:\d\d:\d\d left", text) for text in told)


def test_a_finished_fold_needs_its_final_checkpoint_only(workspace: Workspace) -> None:
    config = replace(SHORT, epochs=2)
    first = train(workspace, "2d", 0, config=config, device="cpu", workers=0)
    workspace.run("2d", 0).last.write_bytes(b"damaged")
    again = train(workspace, "2d", 0, config=config, device="cpu", workers=0)
    assert (again.iterations, again.dice) == (first.iterations, first.dice)
    assert again.iterations == 8
