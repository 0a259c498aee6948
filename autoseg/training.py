"""What a trainer is, and the records of a training run; its settings are in :mod:`autoseg.training_config`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from autoseg.history import EpochRow
from autoseg.plan import Configuration, NetworkPlan, Plan
from autoseg.progress import Progress
from autoseg.ranks import ALONE, Ranks
from autoseg.registry import Registry
from autoseg.splits import Fold
from autoseg.training_config import TrainingConfig
from autoseg.workspace import RunPaths

if TYPE_CHECKING:
    from autoseg.networks.transfer import PretrainedWeights

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """results/<configuration>/run.json: what all folds of a configuration share.

    Args:
        configuration: The configuration as trained: its network, batch size and patch may be smaller than the
            plan's when a time budget asked for it.
        settings: As given by the user.
        optimizer: The optimizer that "auto" became.
        learning_rate: The initial learning rate that was used.
        weight_decay: The weight decay that was used.
        precision: The precision that "auto" became.
        reasons: Name of a choice -> why it was made, with the measured times.
    """

    schema_version: int = SCHEMA_VERSION
    configuration: Configuration
    settings: TrainingConfig
    optimizer: Literal["sgd", "adam", "adamw"]
    learning_rate: float
    weight_decay: float
    precision: Literal["float32", "bfloat16", "float16"]
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def network(self) -> NetworkPlan:
        """The network as trained."""
        return self.configuration.network


def num_input_channels(plan: Plan, configuration: Configuration) -> int:
    """Channels that the network sees: the image's in every slice, and one per foreground label of a previous stage."""
    previous = 0 if configuration.previous_stage is None else len(plan.labels.foreground_values)
    return len(plan.channels) * configuration.context + previous


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingJob:
    """One fold to train.

    Args:
        plan: The plan.
        configuration: The planned configuration.
        fold: Case ids to train on and held-out ones.
        fold_name: For messages, e.g. "fold0".
        preprocessed_dir: Where the preprocessed cases lie.
        run: Where results go.
        run_record_path: The record that all folds share; written by the first.
        config: Settings.
        device: torch device, e.g. "cpu" or "cuda:0".
        workers: Loader processes; 0 loads in this process.
        previous: In a cascade, case id -> file of the previous stage's segmentation of that case, made by a model
            that was not trained on it.
        pretrained: Weights to begin with; ``config.pretrained`` is their identity.
        completed: Case id -> file of a segmentation that an earlier model completed; trained on instead of the
            annotated one.
        case_weights: Case id -> how often it is drawn in proportion to the others; None draws all alike.
        ranks: The processes that train the fold together, which the caller has connected; see :mod:`autoseg.ranks`.
    """

    plan: Plan
    configuration: Configuration
    fold: Fold
    fold_name: str
    preprocessed_dir: Path
    run: RunPaths
    run_record_path: Path
    config: TrainingConfig
    device: str
    workers: int
    previous: dict[str, Path] = field(default_factory=dict)
    pretrained: PretrainedWeights | None = None
    completed: dict[str, Path] = field(default_factory=dict)
    case_weights: dict[str, float] | None = None
    ranks: Ranks = ALONE


@dataclass(frozen=True, slots=True, kw_only=True)
class FitReport:
    """What a finished fit tells.

    Args:
        iterations: Optimizer steps taken in all, resumed ones included.
        seconds: Wall time spent on training and validation passes, resumed ones included.
        best_score: Best smoothed validation Dice over patches; None where the history of a finished run is lost.
        record: What was trained.
    """

    iterations: int
    seconds: float
    best_score: float | None
    record: RunRecord


class Trainer(Protocol):
    """Trains one fold and leaves its checkpoints in ``job.run``."""

    def fit(self, job: TrainingJob, progress: Progress) -> FitReport:
        """Train, or go on where an interrupted run stopped.

        Raises:
            SettingsError: When the folder holds a run with other settings.
            TrainingError: When training cannot go on.
        """


TRAINERS: Registry[type[Trainer]] = Registry(
    "trainer",
    group="autoseg.trainers",
    built_in={"supervised": "autoseg.trainers.supervised:SupervisedTrainer"},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMemory:
    """Peak memory of a training step.

    Args:
        gigabytes: In GiB; infinite where the device had not enough.
        is_measured: Whether steps were really taken; otherwise it is an estimate.
    """

    gigabytes: float
    is_measured: bool


class StepMeter(Protocol):
    """Finds what a training step takes in memory."""

    def __call__(self, plan: Plan, configuration: Configuration, device: str) -> StepMemory:
        """Measure, or estimate where the device cannot be measured."""


STEP_METERS: Registry[StepMeter] = Registry(
    "step meter",
    group="autoseg.step_meters",
    built_in={"supervised": "autoseg.trainers.metering:step_memory"},
)
"""Step meters by the name of the trainer whose steps they take."""


class RunLogger(Protocol):
    """Receives the history of a run while it grows."""

    def log(self, row: EpochRow) -> None:
        """Take a finished epoch."""

    def close(self) -> None:
        """Write what is left."""


class LoggerBuilder(Protocol):
    """Opens a logger; usually its class."""

    def __call__(self, folder: Path, name: str) -> RunLogger:
        """Open a logger for the run in ``folder``, called ``name``."""


LOGGERS: Registry[LoggerBuilder] = Registry(
    "logger",
    group="autoseg.loggers",
    built_in={
        "tensorboard": "autoseg.trainers.loggers:TensorBoardLogger",
        "wandb": "autoseg.trainers.loggers:WandbLogger",
        "mlflow": "autoseg.trainers.loggers:MlflowLogger",
    },
)
"""Loggers: curves of a run, for other tools."""
