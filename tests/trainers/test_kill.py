"""A process that is killed in the middle of an epoch loses nothing but time."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from autoseg.history import read_rows
from autoseg.inference.model import read_checkpoint
from autoseg.pipeline.train import train
from autoseg.training_config import TrainingConfig
from autoseg.workspace import Workspace

SCRIPT = """
import sys
from pathlib import Path
import torch
from autoseg.pipeline.train import train
from autoseg.training_config import TrainingConfig
from autoseg.workspace import Workspace
torch.set_num_threads(1)
config = TrainingConfig().with_settings(sys.argv[2:])
train(Workspace(Path(sys.argv[1])), "2d", 0, config=config, device="cpu", workers=0)
"""
LENGTHS = [
    ["epochs=2", "iterations_per_epoch=8"],
    ["iterations=14"],
]


def kill_after_first_epoch(workspace: Workspace, settings: list[str]) -> None:
    """Train in a process of its own, and end it without warning a moment after the first checkpoint is there."""
    run = workspace.run("2d", 0)
    with subprocess.Popen([sys.executable, "-c", SCRIPT, str(workspace.root), *settings]) as process:
        deadline = time.monotonic() + 100
        while not run.last.is_file() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)  # a few steps into the second epoch
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL


@pytest.mark.parametrize("length", LENGTHS, ids=["epochs", "iterations"])
def test_a_killed_run_ends_bit_identical_to_an_uninterrupted_one(
    length: list[str], workspace: Workspace, tmp_path: Path
) -> None:
    settings = [*length, "validation_iterations=1", "seed=5"]
    config, threads = TrainingConfig().with_settings(settings), torch.get_num_threads()
    killed = Workspace(Path(shutil.copytree(workspace.root, tmp_path / "killed")))
    kill_after_first_epoch(killed, settings)
    assert killed.run("2d", 0).last.is_file()
    assert not killed.run("2d", 0).final.exists()
    torch.set_num_threads(1)  # sums over threads are rounded differently
    try:
        for one in (workspace, killed):
            train(one, "2d", 0, config=config, device="cpu", workers=0)
    finally:
        torch.set_num_threads(threads)
    straight, resumed = (read_checkpoint(w.run("2d", 0).final).weights for w in (workspace, killed))
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    losses = [[row.train_loss for row in read_rows(w.run("2d", 0).log)] for w in (workspace, killed)]
    assert losses[0] == losses[1]
