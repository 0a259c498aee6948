"""What survives an interruption: weights, optimizer and counters, written so that the newest file is always whole."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from autoseg.codec import from_plain, to_plain
from autoseg.communication import require_same, wait
from autoseg.errors import ArtifactError, MissingArtifactError
from autoseg.history import EpochRow, read_rows, write_rows
from autoseg.inference.model import ModelRecord, read_checkpoint, write_checkpoint
from autoseg.progress import Progress
from autoseg.ranks import ALONE, Ranks
from autoseg.workspace import RunPaths


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingState:
    """Where a run stands.

    Args:
        step: Optimizer steps taken.
        seconds: Wall time spent on them and on validation passes.
        best_score: Best smoothed validation Dice so far; below zero before the first.
        rows: One entry per finished epoch.
    """

    step: int = 0
    seconds: float = 0.0
    best_score: float = -1.0
    rows: tuple[EpochRow, ...] = field(default_factory=tuple)

    def after_epoch(self, row: EpochRow, *, seconds: float) -> Self:
        """The state when one more epoch is done."""
        best = max(self.best_score, row.ema_dice)
        return replace(self, step=row.iterations, seconds=seconds, best_score=best, rows=(*self.rows, row))


def save_training(
    run: RunPaths,
    *,
    record: ModelRecord,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    state: TrainingState,
    is_best: bool,
    is_final: bool,
) -> None:
    """Write checkpoint_last with all that a resume needs; the best and the final one hold weights only.

    The last but one is kept until the end, because a file system may lose what was written before a power failure.
    """
    weights = network.state_dict()
    training: dict[str, Any] = {
        "optimizer": optimizer.state_dict(),
        "scaler": scaler.state_dict(),
        "state": json.dumps(to_plain(state)),
    }
    if is_best:
        write_checkpoint(run.best, record=record, weights=weights, training=None)
    if run.last.is_file():
        run.last.replace(run.previous)
    write_checkpoint(run.last, record=record, weights=weights, training=training)
    if is_final:
        run.previous.unlink(missing_ok=True)  # first: a run with a final checkpoint is not tidied up any more
        write_checkpoint(run.final, record=record, weights=weights, training=None)


def keep_epochs(
    run: RunPaths, keep: Sequence[int], epoch: int, *, record: ModelRecord, weights: Mapping[str, torch.Tensor]
) -> None:
    """Keep the weights of the best epochs, and remove those that are not among them any more.

    Args:
        run: Where they lie.
        keep: The best epochs.
        epoch: The one that has just ended.
        record: What it trained.
        weights: Its weights.
    """
    if epoch in keep:
        write_checkpoint(run.epoch(epoch), record=record, weights=weights)
    kept = {run.epoch(number) for number in keep}
    for path in run.root.glob("checkpoint_epoch*.pt"):
        if path not in kept:
            path.unlink()


def finished_rows(run: RunPaths, progress: Progress, *, ranks: Ranks = ALONE) -> tuple[EpochRow, ...]:
    """The history of a finished run; where log.csv does not say what the checkpoint does, it is written again.

    Returns:
        One entry per epoch; empty where neither the last checkpoint nor the log can be read.
    """
    try:
        training = read_checkpoint(run.last).training or {}
        rows = from_plain(TrainingState, json.loads(training["state"])).rows
    except (ArtifactError, MissingArtifactError, KeyError, ValueError):
        rows = ()
    try:
        logged = read_rows(run.log)
    except ArtifactError as error:
        progress.message(f"{error}; {'it is written again' if rows else 'how the run went is not known any more'}")
        logged = ()
    if not rows:
        return logged
    if rows != logged and ranks.is_first:
        write_rows(rows, run.log)
    return rows


def resume_training(
    run: RunPaths,
    *,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    device: torch.device,
    progress: Progress,
    ranks: Ranks = ALONE,
) -> TrainingState:
    """Load checkpoint_last into network and optimizer; without one, the run begins anew.

    A file that cannot be read, or does not fit the run, is set aside with a message, and the one before it is taken;
    without such a one the run begins anew, with the weights that the network has. Of several processes the first one
    does that, before the others read.

    Raises:
        TrainingError: When the processes do not find the same checkpoint.
    """
    if not ranks.is_first:
        wait(ranks)
    state = _newest(run, network, optimizer, scaler, device, progress)
    if ranks.is_first:
        wait(ranks)
    require_same(
        ranks,
        state.step,
        f"the processes do not see the same checkpoints; {run.root} must be on storage that they share",
    )
    if state.step:
        progress.message(f"going on after {state.step} iterations and {state.seconds:.0f} s of training")
    return state


def _newest(
    run: RunPaths,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    device: torch.device,
    progress: Progress,
) -> TrainingState:
    """Restore the newest checkpoint that fits; others are set aside."""
    for path in (run.last, run.previous):
        if not path.is_file():
            continue  # stopped between two renames, or never begun
        try:
            return _restore(path, network, optimizer, scaler, device)
        except ArtifactError as error:
            path.replace(run.damaged)  # else it would take the place of a readable one at the next save
            is_last = path == run.last and run.previous.is_file()
            then = f"{run.previous.name} is taken instead" if is_last else "training begins anew"
            progress.message(f"{error}; it is kept as {run.damaged.name}, and {then}")
    return TrainingState()


def _restore(
    path: Path,
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    device: torch.device,
) -> TrainingState:
    """Put a checkpoint into network and optimizer; where it does not fit, both stay as they were.

    Raises:
        ArtifactError: When it cannot be read or does not fit.
    """
    checkpoint = read_checkpoint(path, device)
    if checkpoint.training is None:
        raise ArtifactError(f"{path} holds no training state")
    before = copy.deepcopy((network.state_dict(), optimizer.state_dict(), scaler.state_dict()))
    try:
        network.load_state_dict(checkpoint.weights)
        optimizer.load_state_dict(checkpoint.training["optimizer"])
        scaler.load_state_dict(checkpoint.training["scaler"])
        return from_plain(TrainingState, json.loads(checkpoint.training["state"]))
    except (RuntimeError, KeyError, ValueError, ArtifactError) as error:
        network.load_state_dict(before[0])
        optimizer.load_state_dict(before[1])
        scaler.load_state_dict(before[2])
        lines = [line.strip() for line in str(error).splitlines()]
        raise ArtifactError(f"{path} does not fit this run ({' '.join(lines[:2])})") from None
