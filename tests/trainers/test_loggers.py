"""Curves for other tools; the tools themselves are optional."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from autoseg.errors import SettingsError
from autoseg.history import EpochRow, read_rows
from autoseg.pipeline.train import train
from autoseg.trainers.loggers import MlflowLogger, TensorBoardLogger, WandbLogger
from autoseg.training import LOGGERS, RunLogger
from autoseg.training_config import TrainingConfig
from autoseg.workspace import Workspace

SHORT = ["epochs=2", "iterations_per_epoch=1", "validation_iterations=1"]
CURVES = {"seconds", "learning_rate", "train_loss", "val_loss", "val_dice", "ema_dice", "waiting"}
TOOLS = {"tensorboard": TensorBoardLogger, "wandb": WandbLogger, "mlflow": MlflowLogger}


class Notebook:
    """A logger that writes the seconds of each epoch into a file."""

    def __init__(self, folder: Path, name: str) -> None:
        self.path = folder / "notebook.txt"
        self.path.write_text(f"{name}\n")

    def log(self, row: EpochRow) -> None:
        self.path.write_text(f"{self.path.read_text()}{row.iterations} {row.train_loss}\n")

    def close(self) -> None:
        self.path.write_text(f"{self.path.read_text()}closed\n")


def test_a_logger_gets_every_epoch_and_is_closed(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOGGERS._built_in, "notebook", f"{__name__}:Notebook")
    monkeypatch.setitem(sys.modules, __name__, SimpleNamespace(Notebook=Notebook))
    config = TrainingConfig().with_settings([*SHORT, "loggers=notebook"])
    train(workspace, "2d", "all", config=config, device="cpu", workers=0)
    run = workspace.run("2d", "all")
    lines = (run.root / "notebook.txt").read_text().splitlines()
    assert lines == ["2d fold_all", *(f"{r.iterations} {r.train_loss}" for r in read_rows(run.log)), "closed"]


def test_other_loggers_are_no_other_settings(workspace: Workspace) -> None:
    train(workspace, "2d", "all", config=TrainingConfig().with_settings(SHORT), device="cpu", workers=0)
    config = TrainingConfig().with_settings([*SHORT, "loggers=tensorboard"])
    train(workspace, "2d", "all", config=config, device="cpu", workers=0)  # finished: nothing is opened


def test_an_unknown_logger_names_a_close_one(workspace: Workspace) -> None:
    config = TrainingConfig().with_settings([*SHORT, "loggers=tensorbord"])
    with pytest.raises(SettingsError, match="did you mean tensorboard"):
        train(workspace, "2d", "all", config=config, device="cpu", workers=0)


@pytest.mark.parametrize("name", TOOLS)
def test_an_absent_package_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SettingsError, match=f"pip install {name}"):
        TOOLS[name](tmp_path, "run")


def write_two_epochs(logger: RunLogger) -> None:
    for epoch in range(2):
        values = {"seconds": 1.0, "learning_rate": 0.1, "train_loss": 0.5 - epoch, "val_loss": 0.4, "val_dice": 0.8}
        logger.log(EpochRow(epoch=epoch, iterations=10 * epoch, ema_dice=0.7, waiting=0.0, **values))
    logger.close()


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    accumulator = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    write_two_epochs(TensorBoardLogger(tmp_path, "2d fold0"))
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) == CURVES
    points = [(event.step, event.value) for event in events.Scalars("train_loss")]
    assert points == [(0, 0.5), (10, -0.5)]


def test_wandb_writes_offline(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    write_two_epochs(WandbLogger(tmp_path, "2d fold0"))
    (written,) = (tmp_path / "wandb").glob("offline-run-*/*.wandb")
    assert written.stat().st_size > 0


def test_mlflow_reads_what_was_written(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    logger = MlflowLogger(tmp_path, "2d fold0")
    write_two_epochs(logger)
    client = importlib.import_module("mlflow").MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("autoseg").experiment_id])
    assert set(run.data.metrics) == CURVES
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "train_loss")] == [
        (0, 0.5),
        (10, -0.5),
    ]
