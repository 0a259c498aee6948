"""The settings of a training run: values with checked names and types, never subclasses."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from autoseg.assignments import parse_assignments
from autoseg.augmentation.recipe import parse_recipe
from autoseg.errors import SettingsError

Precision = Literal["auto", "float32", "bfloat16", "float16"]
OptimizerName = Literal["auto", "sgd", "adam", "adamw"]
ScheduleName = Literal["poly", "cosine", "step", "exponential", "plateau", "one_cycle", "decay", "constant"]
Sampling = Literal["case", "class", "probabilistic", "pos_neg", "windows"]
CaseWeights = Literal["equal", "annotated", "table"]
Compilation = Literal["auto", "true", "false"]

_LIMITS: tuple[tuple[tuple[str, ...], Callable[[float], bool], str], ...] = (
    (
        (
            *("epochs", "iterations", "time_budget", "iterations_per_epoch", "validation_iterations", "batch_size"),
            *("volume_every", "volume_patience", "keep_best", "gradient_clip", "learning_rate", "patience"),
            *("decay_every", "decay_factor", "patches_per_case", "cases_per_epoch", "windows_per_case", "window_tries"),
        ),
        lambda value: value > 0,
        "be positive",
    ),
    (("seed", "cooldown"), lambda value: value >= 0, "not be negative"),
    (
        ("foreground_share", "cases_per_epoch", "window_image_share", "window_foreground_share", "pseudo_confidence"),
        lambda value: 0 <= value <= 1,
        "lie between 0 and 1",
    ),
    (("warmup", "momentum"), lambda value: 0 <= value < 1, "lie between 0 and 1"),
)
"""Settings, what their values must satisfy where they are not None, and the same in words."""


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
        volume_every: Epochs between two validations over the whole held-out cases, by sliding window without
            mirroring; the last epoch has one too. The best checkpoint is then chosen by them. None makes none.
        volume_patience: Stop after so many of them in a row without a better Dice; None trains to the end.
        keep_best: How many of the best epochs keep their weights.
        batch_size: Patches of a batch; None takes the plan's.
        optimizer: "sgd" (Nesterov), "adam", "adamw", or "auto": SGD, except under a time budget too short for it.
        learning_rate: Initial learning rate; None takes the optimizer's own (0.01 for SGD).
        momentum: Momentum of SGD.
        amsgrad: Whether Adam and AdamW divide by the largest second moment so far (https://arxiv.org/abs/1904.09237),
            as nnU-Net's Adam trainers do.
        weight_decay: L2 penalty on all parameters; None takes the optimizer's own (3e-5 for SGD).
        gradient_clip: Largest global gradient norm.
        schedule: Curve of the learning rate. "poly" is nnU-Net's; "step" takes a tenth after 1/2 and 3/4 of the run;
            "exponential" falls to a hundredth; "plateau" takes a fifth when the smoothed validation Dice has not
            improved for 30 epochs; "decay" multiplies with ``decay_factor`` every ``decay_every`` epochs.
        decay_every: Epochs between two steps of "decay".
        decay_factor: What each of them multiplies with.
        warmup: Share of the run in which the learning rate first rises; None takes the optimizer's own (0 for SGD,
            0.05 for Adam and AdamW).
        patience: Stop when the smoothed validation Dice has not improved for so many epochs; None trains to the end.
        cooldown: Epochs in which the learning rate falls to zero before such a stop; 0 stops at once.
        loss: A name of the loss registry, or a weighted sum such as "dice+0.1*focal".
        foreground_share: Share of patches that are forced to hold foreground.
        sampling: How patches are drawn. "case": forced ones draw a case, then one of its classes (nnU-Net's). "class":
            they draw a class among all of the dataset, then a case that has it, so that rare classes are seen as
            often as common ones. "probabilistic": every patch is forced with the chance ``foreground_share``.
            "pos_neg": every patch is centered on foreground with that chance, else on background, inside the image.
            "windows": an epoch shows random windows of some of the cases; it is as long as they are many.
        patches_per_case: Patches that are drawn from a case once it is chosen.
        cases_per_epoch: Share of the cases that an epoch of windows shows.
        windows_per_case: Windows of each of them.
        window_image_share: A window is drawn again when less of it lies where the image is not zero.
        window_foreground_share: A window is drawn again when less of it is foreground.
        window_tries: After so many windows the last one is taken.
        case_weights: How often cases are drawn: all "equal", by the share that is "annotated" (not ignored), or by
            the column weight of the dataset's "table".
        pseudo_labels: Configuration, perhaps a variant, whose model of the same fold labels what is not annotated in
            the training cases: ignored voxels, and foreground that is missing by the table's column annotated.
        pseudo_confidence: Least probability with which it may label an ignored voxel.
        augmentation: Random variation of patches: "nnunet"; "light" (rotation, zoom, brightness, contrast, mirroring);
            "strong" (twice as often, at most every second patch, with shifts and elastic bending); "da5" (nnU-Net's
            trainer of that name: wider ranges, quarter turns, rectangles, gradients, sharpening); or "none", which
            does not mirror either. Steps may be added and taken away: "nnunet-blur", "none+rotation+mirror"; and
            "+all_planes" turns flat patches in all planes, "+nearest_labels" does not interpolate labels.
        mirroring: Axes of the patch that are mirrored in training and prediction: "all" that the plan allows, "none",
            or numbers such as "0,1".
        seed: Seed of weights, patch choice and augmentation.
        precision: Arithmetic of forward and backward passes; "auto" is float16 on CUDA, float32 on a CPU, except
            under a time budget where bfloat16 is taken when it was measured to be faster.
        deterministic: Whether operations must repeat bit for bit on a GPU too, which is slower; where torch has no
            such operation it warns. A CPU repeats anyway.
        compile: Whether the network is compiled before training: "true", "false", or "auto" for long runs on CUDA.
        loggers: Where else curves go: "tensorboard", "wandb", "mlflow", several with commas; empty for nowhere.
        pretrained: Which weights the run begins with, as their identity; set by ``--pretrained``.
    """

    trainer: str = "supervised"
    epochs: int | None = None
    iterations: int | None = None
    time_budget: float | None = None
    iterations_per_epoch: int = 250
    validation_iterations: int = 50
    volume_every: int | None = None
    volume_patience: int | None = None
    keep_best: int = 1
    batch_size: int | None = None
    optimizer: OptimizerName = "auto"
    learning_rate: float | None = None
    momentum: float = 0.99
    amsgrad: bool = False
    weight_decay: float | None = None
    gradient_clip: float = 12.0
    schedule: ScheduleName = "poly"
    warmup: float | None = None
    decay_every: int = 10
    decay_factor: float = 0.9
    patience: int | None = None
    cooldown: int = 0
    loss: str = "dice_ce"
    foreground_share: float = 0.33
    sampling: Sampling = "case"
    patches_per_case: int = 1
    cases_per_epoch: float = 0.4
    windows_per_case: int = 16
    window_image_share: float = 0.0
    window_foreground_share: float = 0.0
    window_tries: int = 10
    case_weights: CaseWeights = "equal"
    pseudo_labels: str | None = None
    pseudo_confidence: float = 0.9
    augmentation: str = "nnunet"
    mirroring: str = "all"
    seed: int = 0
    precision: Precision = "auto"
    deterministic: bool = False
    compile: Compilation = "auto"
    loggers: str = ""
    pretrained: str | None = None

    def __post_init__(self) -> None:
        lengths = [name for name in ("epochs", "iterations", "time_budget") if getattr(self, name) is not None]
        if len(lengths) > 1:
            raise ValueError(f"{' and '.join(lengths)} exclude each other; give one")
        for names, is_possible, words in _LIMITS:
            for name in names:
                value = getattr(self, name)
                if value is not None and not is_possible(value):
                    raise ValueError(f"{name} must {words}, got {value}")
        if self.volume_patience is not None and self.volume_every is None:
            raise ValueError("volume_patience counts validations over whole volumes: set volume_every too")
        if self.amsgrad and self.optimizer not in ("adam", "adamw"):
            raise ValueError(f"amsgrad is for optimizer=adam and optimizer=adamw, not for {self.optimizer}")
        parse_recipe(self.augmentation)
        if re.fullmatch(r"all|none|[012](,[012])*", self.mirroring) is None:
            raise ValueError(f"mirroring must be all, none or axes such as 0,1, got {self.mirroring!r}")

    def mirror_axes(self, ndim: int, *, allowed: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """Axes of a patch that are mirrored.

        Args:
            ndim: Axes of the patch.
            allowed: What the plan allows, which "all" stands for; None allows every axis.

        Raises:
            SettingsError: When the patch has no such axis.
        """
        if self.mirroring == "none" or not parse_recipe(self.augmentation).chance("mirror"):
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
        try:
            return replace(self, **parse_assignments(TrainingConfig, assignments))
        except ValueError as error:
            raise SettingsError(str(error)) from None
