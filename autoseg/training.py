"""What a trainer is, and the settings and records of a training run."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args, get_type_hints

from autoseg.codec import from_plain
from autoseg.errors import ArtifactError, SettingsError
from autoseg.history import EpochRow
from autoseg.plan import Configuration, NetworkPlan, Plan
from autoseg.progress import Progress
from autoseg.registry import Registry
from autoseg.splits import Fold
from autoseg.workspace import RunPaths

if TYPE_CHECKING:
    from autoseg.networks.transfer import PretrainedWeights

SCHEMA_VERSION = 1

Precision = Literal["auto", "float32", "bfloat16", "float16"]
OptimizerName = Literal["auto", "sgd", "adam", "adamw"]
ScheduleName = Literal["poly", "cosine", "step", "exponential", "plateau", "one_cycle", "constant"]
Sampling = Literal["case", "class"]
Augmentation = Literal["nnunet", "light", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """Settings of a training run; the defaults are nnU-Net's.

    At most one of ``epochs``, ``iterations`` and ``time_budget`` is set; with none of them, 1000 epochs are trained.

    Args:
        trainer: A name of the trainer registry.
        epochs: Passes of ``iterations_per_epoch`` optimizer steps.
        iterations: Optimizer steps in all.
        time_budget: Seconds of wall time for training with its validation passes.
        iterations_per_epoch: Optimizer steps between two validation passes.
        validation_iterations: Batches of a validation pass.
        optimizer: "sgd" (Nesterov), "adam", "adamw", or "auto": SGD, except under a time budget too short for it.
        learning_rate: Initial learning rate; None takes the optimizer's own (0.01 for SGD).
        momentum: Momentum of SGD.
        weight_decay: L2 penalty on all parameters; None takes the optimizer's own (3e-5 for SGD).
        gradient_clip: Largest global gradient norm.
        schedule: Curve of the learning rate. "poly" is nnU-Net's; "step" takes a tenth after 1/2 and 3/4 of the run;
            "exponential" falls to a hundredth; "plateau" takes a fifth when the smoothed validation Dice has not
            improved for 30 epochs.
        warmup: Share of the run in which the learning rate first rises; None takes the optimizer's own (0 for SGD,
            0.05 for Adam and AdamW).
        patience: Stop when the smoothed validation Dice has not improved for so many epochs; None trains to the end.
        loss: A name of the loss registry, or a weighted sum such as "dice+0.1*focal".
        foreground_share: Share of patches that are forced to hold foreground.
        sampling: What forced patches draw first: "case", then one of its classes (nnU-Net's), or "class" among all of
            the dataset, then a case that has it, so that rare classes are seen as often as common ones.
        augmentation: Random variation of patches: all of nnU-Net's, "light" (rotation, zoom, brightness, contrast,
            mirroring), or "none", which does not mirror either.
        mirroring: Axes of the patch that are mirrored in training and prediction: "all" that the plan allows, "none",
            or numbers such as "0,1".
        seed: Seed of weights, patch choice and augmentation.
        precision: Arithmetic of forward and backward passes; "auto" is float16 on CUDA, float32 on a CPU, except
            under a time budget where bfloat16 is taken when it was measured to be faster.
        deterministic: Whether operations must repeat bit for bit on a GPU too, which is slower; where torch has no
            such operation it warns. A CPU repeats anyway.
        loggers: Where else curves go: "tensorboard", "wandb", "mlflow", several with commas; empty for nowhere.
        pretrained: Which weights the run begins with, as their identity; set by ``--pretrained``.
    """

    trainer: str = "supervised"
    epochs: int | None = None
    iterations: int | None = None
    time_budget: float | None = None
    iterations_per_epoch: int = 250
    validation_iterations: int = 50
    optimizer: OptimizerName = "auto"
    learning_rate: float | None = None
    momentum: float = 0.99
    weight_decay: float | None = None
    gradient_clip: float = 12.0
    schedule: ScheduleName = "poly"
    warmup: float | None = None
    patience: int | None = None
    loss: str = "dice_ce"
    foreground_share: float = 0.33
    sampling: Sampling = "case"
    augmentation: Augmentation = "nnunet"
    mirroring: str = "all"
    seed: int = 0
    precision: Precision = "auto"
    deterministic: bool = False
    loggers: str = ""
    pretrained: str | None = None

    def __post_init__(self) -> None:
        lengths = [name for name in ("epochs", "iterations", "time_budget") if getattr(self, name) is not None]
        if len(lengths) > 1:
            raise ValueError(f"{' and '.join(lengths)} exclude each other; give one")
        positive = ("iterations_per_epoch", "gradient_clip", "learning_rate", "patience", *lengths)
        for name in positive:
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if self.validation_iterations < 1:
            raise ValueError(f"validation_iterations must be positive, got {self.validation_iterations}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")
        if not 0 <= self.foreground_share <= 1:
            raise ValueError(f"foreground_share must lie between 0 and 1, got {self.foreground_share}")
        if self.warmup is not None and not 0 <= self.warmup < 1:
            raise ValueError(f"warmup must lie between 0 and 1, got {self.warmup}")
        if re.fullmatch(r"all|none|[012](,[012])*", self.mirroring) is None:
            raise ValueError(f"mirroring must be all, none or axes such as 0,1, got {self.mirroring!r}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must lie between 0 and 1, got {self.momentum}")

    def mirror_axes(self, ndim: int, *, allowed: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """Axes of a patch that are mirrored.

        Args:
            ndim: Axes of the patch.
            allowed: What the plan allows, which "all" stands for; None allows every axis.

        Raises:
            SettingsError: When the patch has no such axis.
        """
        if self.mirroring == "none" or self.augmentation == "none":
            return ()
        if self.mirroring == "all":
            return tuple(range(ndim)) if allowed is None else allowed
        axes = tuple(sorted({int(axis) for axis in self.mirroring.split(",")}))
        if axes[-1] >= ndim:
            raise SettingsError(f"mirroring={self.mirroring}: a patch of {ndim} axes has no axis {axes[-1]}")
        return axes

    def with_settings(self, assignments: Sequence[str]) -> TrainingConfig:
        """Apply ``key=value`` assignments.

        Args:
            assignments: E.g. ``["learning_rate=0.003", "epochs=250"]``.

        Raises:
            SettingsError: When a name is unknown (close matches are offered) or a value has the wrong type.

        Example:
            >>> TrainingConfig().with_settings(["epochs=250"]).epochs
            250
        """
        hints = get_type_hints(TrainingConfig)
        values: dict[str, Any] = {}
        for assignment in assignments:
            name, separator, text = assignment.partition("=")
            if not separator:
                raise SettingsError(f"--set {assignment}: write it as name=value")
            if name not in hints:
                close = difflib.get_close_matches(name, hints, n=1, cutoff=0.5)
                hint = f"did you mean {close[0]}?" if close else f"settings: {', '.join(hints)}"
                raise SettingsError(f"{name!r} is not a setting; {hint}")
            values[name] = _parse_value(name, text, hints[name])
        try:
            return replace(self, **values)
        except ValueError as error:
            raise SettingsError(str(error)) from None


_TRUTH = {"true": True, "yes": True, "false": False, "no": False}


def _parse_value(name: str, text: str, kind: Any) -> object:  # noqa: ANN401 - a typing construct
    """Read the text of a setting as the type that its field declares."""
    kinds = get_args(kind) if type(None) in get_args(kind) else (kind,)
    if text.lower() in ("none", "null") and type(None) in kinds:
        return None
    candidates: list[object] = [text]
    if text.lower() in _TRUTH:
        candidates.insert(0, _TRUTH[text.lower()])
    for convert in (float, int):
        try:
            candidates.insert(0, convert(text))
        except ValueError:
            continue
    for candidate in candidates:
        try:
            return from_plain(kind, candidate, where=name)
        except ArtifactError as error:
            problem = str(error)
    raise SettingsError(f"--set {name}={text}: {problem}")


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
    """Channels that the network sees: the image's, and one per foreground label of a previous stage."""
    previous = 0 if configuration.previous_stage is None else len(plan.labels.foreground_values)
    return len(plan.channels) + previous


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


@dataclass(frozen=True, slots=True, kw_only=True)
class FitReport:
    """What a finished fit tells.

    Args:
        iterations: Optimizer steps taken in all, resumed ones included.
        seconds: Wall time spent on training and validation passes, resumed ones included.
        best_score: Best smoothed validation Dice over patches.
        record: What was trained.
    """

    iterations: int
    seconds: float
    best_score: float
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
