"""Two processes take the steps that one would take, resume, and never wait for one that failed."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from autoseg.cli.train import started_ranks
from autoseg.errors import SettingsError
from autoseg.history import read_rows
from autoseg.inference.model import read_checkpoint
from autoseg.labels import LabelScheme
from autoseg.losses.factory import build_loss
from autoseg.pipeline.train import train
from autoseg.ranks import Ranks
from autoseg.trainers.distributed import require_enough_patches
from autoseg.training_config import TrainingConfig
from autoseg.workspace import Workspace

BATCH = 5  # shares of two processes: three patches and two
SETTINGS = ["--epochs", "3", "--set", "iterations_per_epoch=4", "--set", "validation_iterations=3", "--seed", "5"]
SETTINGS += ["--device", "cpu", "--workers", "0"]
CONFIG = TrainingConfig(epochs=3, iterations_per_epoch=4, validation_iterations=3, seed=5)

LABELS = {"background": 0, "a": 1, "b": 2}
SCHEMES = {
    "labels": LABELS,
    "ignore": {**LABELS, "ignore": 3},
    "regions": {"background": 0, "whole": [1, 2], "core": 2},
}
LOSSES = [
    ("dice_ce", "labels"),
    ("dice_ce", "ignore"),
    ("dice_ce", "regions"),
    ("dice+0.5*topk", "labels"),
    ("tversky+0.1*focal", "ignore"),
    ("generalized_dice+0.01*boundary", "labels"),
]

LOSS_SCRIPT = """
import sys
import torch
from autoseg.communication import joined
from autoseg.ranks import Ranks
from autoseg.trainers.distributed import loss_over_ranks
sys.path.insert(0, {tests!r})
from test_distributed import BATCH, make_losses
ranks = Ranks(rank=int(sys.argv[1]), size=2)
share = slice(ranks.share(BATCH).start, ranks.share(BATCH).stop)
answers = []
with joined(ranks, "cpu"):
    for loss, outputs, targets in make_losses():
        own = [output[share].clone().requires_grad_() for output in outputs]
        value = loss_over_ranks(loss, ranks, batch_size=BATCH)(own, [target[share] for target in targets])
        value.backward()
        answers.append((value.detach(), [None if o.grad is None else o.grad / 2 for o in own]))
torch.save(answers, sys.argv[2])
"""

FAILING_SCRIPT = """
import sys
from autoseg.cli.main import app
from autoseg.errors import TrainingError
from autoseg.trainers import supervised
if sys.argv.pop(1) == "1":
    def validate(*_, **__):
        raise TrainingError("the disk is on fire")
    supervised.validate = validate
app()
"""


def make_losses():  # noqa: ANN201 - also called by the processes
    generator = torch.Generator().manual_seed(3)
    for name, scheme in LOSSES:
        labels = LabelScheme.from_table(SCHEMES[scheme], (1, 2) if scheme == "regions" else (), where="test")
        outputs, targets = [], []
        for size in (8, 4):
            outputs.append(torch.randn(BATCH, labels.num_outputs, size, size, generator=generator, dtype=torch.float64))
            if labels.has_regions:
                targets.append(torch.randint(0, 2, (BATCH, 2, size, size), generator=generator).double())
            else:
                top = labels.num_outputs + (labels.ignore_value is not None)
                targets.append(torch.randint(0, top, (BATCH, 1, size, size), generator=generator, dtype=torch.int16))
        yield build_loss(name, labels=labels, batch_dice=True, num_scales=2), outputs, targets


def start(script: str, words: Sequence[Sequence[str]]) -> list[subprocess.Popen[str]]:
    """Connected processes without torchrun, which would end the others as soon as one fails."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank, arguments in enumerate(words):
        environment = {
            "PATH": "/usr/bin:/bin",
            "OMP_NUM_THREADS": "1",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "RANK": str(rank),
            "WORLD_SIZE": str(len(words)),
            "LOCAL_RANK": str(rank),
        }
        command = [sys.executable, "-c", script, str(rank), *arguments]
        processes.append(
            subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        )
    return processes


def torchrun(workspace: Workspace, *more: str) -> list[str]:
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0"]
    return [
        *words,
        "--standalone",
        "-m",
        "autoseg",
        "train",
        "2d",
        "fold0",
        "-w",
        str(workspace.root),
        *SETTINGS,
        *more,
    ]


def test_losses_and_gradients_are_those_of_the_whole_batch(tmp_path: Path) -> None:
    paths = [tmp_path / f"rank{rank}.pt" for rank in range(2)]
    processes = start(LOSS_SCRIPT.format(tests=str(Path(__file__).parent)), [[str(path)] for path in paths])
    for process in processes:
        text, _ = process.communicate(timeout=100)
        assert process.returncode == 0, text
    answers = [torch.load(path, weights_only=True) for path in paths]
    for (loss, outputs, targets), *ranks in zip(make_losses(), *answers, strict=True):
        whole = [output.clone().requires_grad_() for output in outputs]
        value = loss(whole, targets)
        value.backward()
        for share, (other, gradients) in zip((slice(0, 3), slice(3, 5)), ranks, strict=True):
            torch.testing.assert_close(other, value.detach(), rtol=1e-12, atol=1e-12)
            for mine, reference in zip(gradients, whole, strict=True):
                assert (mine is None) == (reference.grad is None)
                if mine is not None:
                    assert reference.grad.abs().max() > 0
                    torch.testing.assert_close(mine, reference.grad[share], rtol=1e-10, atol=1e-13)


@pytest.mark.slow
def test_torchrun_trains_what_one_process_trains_and_resumes_exactly(workspace: Workspace, tmp_path: Path) -> None:
    shared, killed = (Workspace(Path(shutil.copytree(workspace.root, tmp_path / name))) for name in ("two", "killed"))
    with subprocess.Popen(torchrun(killed), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        saved, deadline = killed.run("2d", 0).last, time.monotonic() + 100
        while not saved.is_file() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)  # torchrun hands it on
    assert saved.is_file()
    assert not killed.run("2d", 0).final.exists()
    text = ""
    for one in (shared, killed):
        done = subprocess.run(torchrun(one), capture_output=True, text=True, check=False, timeout=200)
        text = done.stdout + done.stderr
        assert done.returncode == 0, text
    assert "going on after" in text
    assert text.count("epoch 2,") == 1  # one process tells
    alone = train(workspace, "2d", 0, config=CONFIG, device="cpu", workers=0)
    rows = [read_rows(w.run("2d", 0).log) for w in (workspace, shared, killed)]
    weights = [read_checkpoint(w.run("2d", 0).final).weights for w in (workspace, shared, killed)]
    assert [row.train_loss for row in rows[1]] == [row.train_loss for row in rows[2]]
    assert all(torch.equal(weights[1][name], weights[2][name]) for name in weights[1])
    assert rows[1][0].train_loss == pytest.approx(rows[0][0].train_loss, abs=1e-5)
    for mine, other in zip(rows[0], rows[1], strict=True):
        assert other.train_loss == pytest.approx(mine.train_loss, abs=1e-3)  # rounding grows from step to step
        assert other.val_dice == pytest.approx(mine.val_dice, abs=1e-3)
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=0.02, atol=2e-3)
    assert alone.mean_dice is not None
    held_out = (shared.run("2d", 0).validation / "scores.json").read_text()
    assert [case for case in ("case03", "case05") if case in held_out] == ["case03", "case05"]
    assert not list(shared.run("2d", 0).validation.glob("scores.rank*"))


def test_a_failure_in_one_process_ends_all_with_a_message(workspace: Workspace) -> None:
    words = ["train", "2d", "fold0", "-w", str(workspace.root), *SETTINGS]
    processes = start(FAILING_SCRIPT, [words, words])
    texts = [re.sub(r"\s+", " ", process.communicate(timeout=100)[0]) for process in processes]
    assert [process.returncode for process in processes] == [2, 2], texts
    assert "Error: the disk is on fire" in texts[1]
    assert "Error: process 0 lost the 1 others" in texts[0]
    assert not workspace.run("2d", 0).final.exists()


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_shares_divide_a_batch(size: int) -> None:
    for num in np.random.default_rng(1).integers(size, 40, 20):
        shares = [Ranks(rank=rank, size=size).share(int(num)) for rank in range(size)]
        assert [index for share in shares for index in share] == list(range(num))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_more_processes_than_patches_are_refused() -> None:
    require_enough_patches(2, Ranks(rank=1, size=2))
    with pytest.raises(SettingsError, match="3 processes cannot share batches of 2 patches"):
        require_enough_patches(2, Ranks(rank=1, size=3))


def test_the_environment_of_torchrun_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    assert started_ranks().is_alone
    for name, value in {"MASTER_ADDR": "host", "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert started_ranks() == Ranks(rank=5, size=8, local_rank=1)
    monkeypatch.setenv("RANK", "eight")
    with pytest.raises(SettingsError, match="as torchrun sets them"):
        started_ranks()
