"""Scores per contender, postprocessing and case, each computed once: folds of the nested rule share nearly all."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import blosc2
import numpy as np

from autoseg.errors import DatasetError, SettingsError
from autoseg.evaluation.calibration import with_temperature
from autoseg.evaluation.measures import DICE_AND_IOU, Measuring, Metric
from autoseg.evaluation.report import CaseScore, Evaluation, score_case, summarize
from autoseg.evaluation.selection.candidates import Candidate, Contender
from autoseg.image import Segmentation, read_image, read_segmentation
from autoseg.inference.ensemble import average_probabilities
from autoseg.inference.export import read_probabilities
from autoseg.labels import LabelScheme
from autoseg.postprocessing.steps import (
    POSTPROCESSING,
    Steps,
    apply_postprocessing,
    refine_probabilities,
)


class ScoreSource(Protocol):
    """Where a search finds its scores."""

    @property
    def labels(self) -> LabelScheme:
        """What is scored."""
        ...

    def scores(self, contender: Contender, steps: Steps, cases: Sequence[str]) -> np.ndarray:
        """What is to be maximized, float64 (cases, targets), NaN where it is undefined."""
        ...


def overall(scores: np.ndarray) -> float:
    """Mean over cases, then over targets, of what is defined; minus infinity where nothing is."""
    means = per_target(scores)
    defined = means[~np.isnan(means)]
    return float(np.mean(defined)) if len(defined) else -np.inf


def per_target(scores: np.ndarray) -> np.ndarray:
    """Mean of each target over the cases in which it is defined; NaN where it never is."""
    columns = (column[~np.isnan(column)] for column in scores.T)
    return np.asarray([np.mean(defined) if len(defined) else np.nan for defined in columns])


def per_case(scores: np.ndarray) -> np.ndarray:
    """Mean of each case over its targets; NaN where none is defined."""
    numbers = (~np.isnan(scores)).sum(axis=1)
    return np.where(numbers > 0, np.nansum(scores, axis=1) / np.maximum(numbers, 1), np.nan)


class ScoreTable:
    """Scores of contenders, read and computed when they are first asked for.

    One case is in memory at a time, apart from compressed segmentations.

    Args:
        references: Case -> reference segmentation.
        labels: What is scored.
        metrics: What is to be maximized: the mean of these.
        images: Case -> its image files, for postprocessing that looks at intensities.
        frames: Case -> point in time of its files, where these hold several.

    Raises:
        SettingsError: When metrics cannot be averaged.
        DatasetError: When a reference cannot be read.
    """

    def __init__(
        self,
        references: Mapping[str, Path],
        labels: LabelScheme,
        metrics: Sequence[Metric],
        images: Mapping[str, tuple[Path, ...]] | None = None,
        frames: Mapping[str, int | None] | None = None,
    ) -> None:
        _check_metrics(metrics)
        self.labels = labels
        self.metrics = tuple(metrics)
        self._measuring = Measuring(metrics=(*DICE_AND_IOU.metrics, *metrics))
        self._frames = frames or {}
        self._references = {
            case: _Packed(read_reference(path, labels, self._frames.get(case))) for case, path in references.items()
        }
        self._images = images or {}
        self._segmentations: dict[tuple[str, Steps, str], _Packed] = {}
        self._scores: dict[tuple[str, Steps, str], tuple[CaseScore, ...]] = {}

    def scores(self, contender: Contender, steps: Steps, cases: Sequence[str]) -> np.ndarray:
        """What is to be maximized, float64 (cases, targets), NaN where it is undefined."""
        return np.asarray([[self._objective(row) for row in self.rows(contender, steps, case)] for case in cases])

    def evaluation(self, contender: Contender, steps: Steps, cases: Iterable[str]) -> Evaluation:
        """Scores of some cases after some postprocessing."""
        return summarize(row for case in cases for row in self.rows(contender, steps, case))

    def rows(self, contender: Contender, steps: Steps, case: str) -> tuple[CaseScore, ...]:
        """Scores of one case."""
        key = (contender.name, steps, case)
        if key not in self._scores:
            prediction = self._segmentation(contender, steps, case, keep=not steps)
            reference = self._references[case].unpack()
            self._scores[key] = score_case(
                case,
                reference.array,
                prediction.array,
                self.labels,
                spacing=reference.geometry.spacing,
                measuring=self._measuring,
            )
        return self._scores[key]

    def _objective(self, row: CaseScore) -> float:
        values = [row.value(metric.name) for metric in self.metrics]
        if any(value is None for value in values):
            return np.nan
        sign = 1 if self.metrics[0].is_better_higher else -1
        return sign * float(np.mean([value for value in values if value is not None]))

    def _segmentation(self, contender: Contender, steps: Steps, case: str, *, keep: bool) -> Segmentation:
        """Segmentation of a case; kept, compressed, where later steps will start from it."""
        key = (contender.name, steps, case)
        if key in self._segmentations:
            return self._segmentations[key].unpack()
        early = tuple(step for step in steps if POSTPROCESSING.get(step.name).on == "probabilities")
        if len(early) < len(steps):
            last = next(step for step in reversed(steps) if step not in early)
            before = tuple(step for step in steps if step is not last)
            source = self._segmentation(contender, before, case, keep=True)
            segmentation = apply_postprocessing((last,), source)
        elif early:
            segmentation = self._refined(contender, early, case)
        else:
            segmentation = self._predicted(contender, case)
        if keep:
            self._segmentations[key] = _Packed(segmentation)
        return segmentation

    def _predicted(self, contender: Contender, case: str) -> Segmentation:
        reference = self._references[case]
        if len(contender.members) == 1:
            path = contender.members[0].segmentations[case]
            segmentation = read_segmentation(path)
            if segmentation.array.shape != reference.geometry.shape:
                found = segmentation.array.shape
                raise DatasetError(f"{path} has shape {found}, the reference {reference.geometry.shape}")
            return segmentation
        decided = self.labels.segmentation(self._probabilities(contender, case))
        return Segmentation(array=decided, geometry=reference.geometry)

    def _refined(self, contender: Contender, steps: Steps, case: str) -> Segmentation:
        geometry = self._references[case].geometry
        image = read_image(self._images[case], frame=self._frames.get(case)) if case in self._images else None
        refined = refine_probabilities(
            steps, self._probabilities(contender, case), self.labels, geometry.spacing, image
        )
        return Segmentation(array=self.labels.segmentation(refined), geometry=geometry)

    def _probabilities(self, contender: Contender, case: str) -> np.ndarray:
        return averaged_probabilities(contender, case, self.labels, self._references[case].geometry.shape)


def read_reference(path: Path, labels: LabelScheme, frame: int | None = None) -> Segmentation:
    """Read a reference with the values that the labels declare.

    Raises:
        DatasetError: When it cannot be read.
    """
    segmentation = read_segmentation(path, frame=frame)
    return replace(segmentation, array=labels.without_aliases(segmentation.array))


def averaged_probabilities(contender: Contender, case: str, labels: LabelScheme, shape: tuple[int, ...]) -> np.ndarray:
    """Calibrated probabilities of the members of a contender, averaged: float32 (k, *shape).

    Raises:
        MissingArtifactError: When a file is missing.
        DatasetError: When it does not fit the reference.
    """

    def read(candidate: Candidate) -> np.ndarray:
        path = candidate.probabilities[case]
        probabilities = read_probabilities(path)
        expected = (labels.num_outputs, *shape)
        if probabilities.size != np.prod(expected):  # nnU-Net gives 2D images an axis of length one
            raise DatasetError(f"{path} has shape {probabilities.shape}, expected {expected}")
        return with_temperature(probabilities.reshape(expected), candidate.temperature, labels)

    parts = (read(member) for member in contender.members)
    return average_probabilities(parts, [float(weight) for weight in contender.weights])


class _Packed:
    """A segmentation in memory at a fraction of its size."""

    def __init__(self, segmentation: Segmentation) -> None:
        self.geometry = segmentation.geometry
        self._array = blosc2.asarray(np.ascontiguousarray(segmentation.array))

    def unpack(self) -> Segmentation:
        return Segmentation(array=self._array[:], geometry=self.geometry)


def _check_metrics(metrics: Sequence[Metric]) -> None:
    if not metrics:
        raise SettingsError("selection needs a metric, for instance dice")
    if odd := [metric.name for metric in metrics if not metric.is_quality or metric.family == "volume_difference"]:
        raise SettingsError(f"{odd[0]} does not say which of two segmentations is better; choose for instance dice")
    if len(metrics) > 1 and not all(metric.is_better_higher for metric in metrics):
        raise SettingsError(
            f"{', '.join(m.name for m in metrics)}: distances cannot be averaged with each other or with shares; "
            "name one distance alone, or use surface Dice (nsd@1mm)"
        )
