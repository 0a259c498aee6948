"""What all folds of a configuration came to: the mean Dice of each, their mean and their standard deviation."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from autoseg.codec import write_json
from autoseg.evaluation.report import read_evaluation
from autoseg.pipeline.folds import load_folds
from autoseg.workspace import Workspace

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldStatistics:
    """One figure over the folds; a fold in which it is undefined is None and left out of the rest.

    Args:
        folds: Mean over the held-out cases of each fold, in their order.
        mean: Over the folds.
        deviation: Standard deviation over the folds (n - 1); None for fewer than two.
    """

    folds: tuple[float | None, ...]
    mean: float | None
    deviation: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossValidation:
    """Held-out Dice of a configuration whose folds are all trained.

    Args:
        configuration: Its name.
        dice: Mean over the targets.
        targets: Target name -> the same for that target alone.
    """

    schema_version: int = SCHEMA_VERSION
    configuration: str
    dice: FoldStatistics
    targets: dict[str, FoldStatistics]

    def summary(self) -> str:
        """One line for people."""
        named = ", ".join(f"{name} {_in_words(found)}" for name, found in self.targets.items())
        return (
            f"{self.configuration} over {len(self.dice.folds)} folds: Dice {_in_words(self.dice)} "
            f"(mean and standard deviation of the folds); {named}"
        )


def cross_validation(workspace: Workspace, configuration: str) -> CrossValidation | None:
    """Read the scores of all folds, and write what they come to beside them, as ``cross_validation.json``.

    Args:
        workspace: Where the folds were trained.
        configuration: Name of a configuration or variant.

    Returns:
        None while a fold has no scores.

    Raises:
        ArtifactError: When scores were altered.
    """
    folds = [workspace.run(configuration, number).scores for number in range(len(load_folds(workspace)))]
    if not all(path.is_file() for path in folds):
        return None
    scores = [read_evaluation(path) for path in folds]
    names = dict.fromkeys(name for score in scores for name in score.labels)
    found = CrossValidation(
        configuration=configuration,
        dice=fold_statistics([score.mean.get("dice") for score in scores]),
        targets={name: fold_statistics([score.labels.get(name, {}).get("dice") for score in scores]) for name in names},
    )
    write_json(found, workspace.results_dir(configuration) / "cross_validation.json")
    return found


def fold_statistics(values: Sequence[float | None]) -> FoldStatistics:
    """Mean and standard deviation of the folds in which a figure is defined.

    Example:
        >>> fold_statistics([0.5, None, 0.75]).mean
        0.625
    """
    defined = [value for value in values if value is not None]
    return FoldStatistics(
        folds=tuple(values),
        mean=statistics.fmean(defined) if defined else None,
        deviation=statistics.stdev(defined) if len(defined) > 1 else None,
    )


def _in_words(found: FoldStatistics) -> str:
    if found.mean is None:
        return "undefined"
    return f"{found.mean:.3f}" if found.deviation is None else f"{found.mean:.3f} ± {found.deviation:.3f}"
