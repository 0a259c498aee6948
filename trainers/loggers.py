"""Curves of a run in the tools that teams look at; each is an optional package and works without a network."""

from __future__ import annotations

import importlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

from autoseg.errors import SettingsError
from autoseg.history import EpochRow
from autoseg.training import LOGGERS, RunLogger, TrainingJob

_NOT_CURVES = ("epoch", "iterations")


class TensorBoardLogger:
    """Event files in ``tensorboard/`` of the run's folder.

    Args:
        folder: Folder of the run.
        name: Name of the run.
    """

    def __init__(self, folder: Path, name: str) -> None:  # noqa: ARG002 - the folder tells TensorBoard the name
        _require("tensorboard")
        self._writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter(str(folder / "tensorboard"))

    def log(self, row: EpochRow) -> None:
        """Add a point to every curve."""
        for key, value in _curves(row).items():
            self._writer.add_scalar(key, value, row.iterations)
        self._writer.flush()

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()


class WandbLogger:
    """Weights & Biases, offline: ``wandb sync`` uploads what lies in ``wandb/``.

    Args:
        folder: Folder of the run.
        name: Name of the run.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._run = _require("wandb").init(project="autoseg", name=name, dir=str(folder), mode="offline")

    def log(self, row: EpochRow) -> None:
        """Add a point to every curve."""
        self._run.log(_curves(row), step=row.iterations)

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


class MlflowLogger:
    """MLflow, in a local database ``mlflow.db`` of the run's folder.

    Args:
        folder: Folder of the run.
        name: Name of the run.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._client: Any = _require("mlflow").MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}")
        known = self._client.get_experiment_by_name("autoseg")
        experiment = known.experiment_id if known else self._client.create_experiment("autoseg")
        self._run_id = self._client.create_run(experiment, run_name=name).info.run_id

    def log(self, row: EpochRow) -> None:
        """Add a point to every curve."""
        for key, value in _curves(row).items():
            self._client.log_metric(self._run_id, key, value, step=row.iterations)

    def close(self) -> None:
        """Mark the run as finished."""
        self._client.set_terminated(self._run_id)


def open_loggers(job: TrainingJob) -> list[RunLogger]:
    """Open every logger that the settings name.

    Raises:
        SettingsError: When a name is unknown or its package is not installed.
    """
    names = [name.strip() for name in job.config.loggers.split(",") if name.strip()]
    builders = [LOGGERS.get(name) for name in names]
    if builders:
        job.run.root.mkdir(parents=True, exist_ok=True)
    return [build(job.run.root, f"{job.configuration.name} {job.fold_name}") for build in builders]


def _curves(row: EpochRow) -> dict[str, float]:
    return {key: value for key, value in asdict(row).items() if key not in _NOT_CURVES and value is not None}


def _require(package: str) -> Any:  # noqa: ANN401 - an optional package
    try:
        return importlib.import_module(package)
    except ImportError:
        raise SettingsError(f"loggers={package}: install it first: pip install {package}") from None
