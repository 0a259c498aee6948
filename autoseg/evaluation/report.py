"""Scores of many cases: summarized, and on disk as JSON or CSV."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from autoseg.atomic import atomic_path
from autoseg.codec import read_json, write_json
from autoseg.errors import DatasetError
from autoseg.evaluation.metrics import OverlapCounts, overlap_counts
from autoseg.image import Segmentation, read_segmentation
from autoseg.labels import LabelScheme, Target
from autoseg.parallel import map_cases

SCHEMA_VERSION = 1
METRICS = ("dice", "iou")
IMAGE_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".gipl", ".png", ".tif", ".tiff", ".bmp")


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseScore:
    """Scores of one label or region in one case.

    Args:
        case: Name of the case.
        label: Name of the label or region.
        dice: Dice coefficient; None where neither reference nor prediction has the label.
        iou: Intersection over union; None likewise.
        values: Label values that belong to it.
        true_positives: Voxels in both; likewise the other three. Ignored voxels count nowhere.
    """

    case: str
    label: str
    dice: float | None
    iou: float | None
    values: tuple[int, ...]
    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int

    @classmethod
    def from_counts(cls, case: str, target: Target, counts: OverlapCounts) -> CaseScore:
        """Score what was counted."""
        return cls(
            case=case,
            label=target.name,
            dice=_defined(counts.dice),
            iou=_defined(counts.iou),
            values=target.values,
            true_positives=counts.true_positives,
            false_positives=counts.false_positives,
            false_negatives=counts.false_negatives,
            true_negatives=counts.true_negatives,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """Scores of a set of cases. Means leave out what is undefined and are None where nothing is defined.

    Args:
        cases: One row per case and label.
        labels: Label -> metric -> mean over cases.
        mean: Metric -> mean over the labels' means.
        undefined: Label -> number of cases in which neither reference nor prediction has it.
        problems: What kept cases from being scored as they should, one sentence each.
    """

    schema_version: int = SCHEMA_VERSION
    cases: tuple[CaseScore, ...]
    labels: dict[str, dict[str, float | None]]
    mean: dict[str, float | None]
    undefined: dict[str, int] = field(default_factory=dict)
    problems: tuple[str, ...] = ()


def summarize(scores: Iterable[CaseScore], *, problems: Sequence[str] = ()) -> Evaluation:
    """Average scores over cases, then over labels.

    Args:
        scores: Rows of any number of cases; labels keep the order in which they appear first.
        problems: Sentences to hand on.
    """
    rows = tuple(scores)
    names = list(dict.fromkeys(row.label for row in rows))
    labels = {
        name: {metric: mean_of_defined(getattr(row, metric) for row in rows if row.label == name) for metric in METRICS}
        for name in names
    }
    return Evaluation(
        cases=rows,
        labels=labels,
        mean={metric: mean_of_defined(means[metric] for means in labels.values()) for metric in METRICS},
        undefined={name: sum(row.dice is None for row in rows if row.label == name) for name in names},
        problems=tuple(problems),
    )


def mean_of_defined(values: Iterable[float | None]) -> float | None:
    """Mean of the values that are not None; None when there are none."""
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None


def score_case(
    case_id: str, reference: np.ndarray, prediction: np.ndarray, labels: LabelScheme
) -> tuple[CaseScore, ...]:
    """Score one case.

    Args:
        case_id: Name for the rows.
        reference: Label values (z, y, x) or (y, x).
        prediction: Label values, same shape.
        labels: What is scored, one row per target.

    Raises:
        ValueError: When the shapes differ.
    """
    counts = overlap_counts(reference, prediction, labels.targets, ignore_value=labels.ignore_value)
    return tuple(CaseScore.from_counts(case_id, t, c) for t, c in zip(labels.targets, counts, strict=True))


def evaluate_folder(
    reference_dir: Path, prediction_dir: Path, labels: LabelScheme | None = None, *, workers: int = 0
) -> Evaluation:
    """Score every reference of a folder against the prediction of the same name; other files are ignored.

    A missing or unreadable prediction counts as Dice 0 for every label and is a problem of the evaluation; it does
    not stop the other cases.

    Args:
        reference_dir: Reference segmentations.
        prediction_dir: Predictions.
        labels: What is scored; None takes dataset.json in the reference folder or the one above it, else every
            value above zero that occurs.
        workers: Processes that read and count; 0 works in this one.

    Raises:
        DatasetError: When a folder does not exist or has no segmentation, a dataset.json is malformed, or a pair
            differs in shape.
    """
    for folder in (reference_dir, prediction_dir):
        if not folder.is_dir():
            raise DatasetError(f"{folder} is not a folder")
    ending = None
    if labels is None:
        labels, ending = declared_labels(reference_dir)
    ending = ending or commonest_ending(reference_dir)
    references = files_by_case(reference_dir, (ending,))
    if not references:
        raise DatasetError(f"{reference_dir} holds no segmentation ending in {ending}")
    found = files_by_case(prediction_dir, (ending, *IMAGE_ENDINGS))
    predictions = {case: path for case, path in found.items() if case in references}
    if labels is None:
        labels = _labels_that_occur([*references.values(), *predictions.values()])
    jobs = [
        _Pair(case=case, reference=path, prediction=predictions.get(case), folder=prediction_dir, labels=labels)
        for case, path in references.items()
    ]
    scores: list[CaseScore] = []
    problems: list[str] = []
    for outcome in map_cases(_score_pair, jobs, workers=workers, label=lambda pair: pair.case):
        scores.extend(outcome.scores)
        problems.extend(outcome.problems)
    return summarize(scores, problems=problems)


def write_evaluation(evaluation: Evaluation, path: Path) -> None:
    """Write JSON; what is undefined is null."""
    write_json(evaluation, path)


def read_evaluation(path: Path) -> Evaluation:
    """Read what :func:`write_evaluation` wrote.

    Raises:
        MissingArtifactError: When there is no such file.
        ArtifactError: When it is something else.
    """
    return read_json(Evaluation, path)


def write_csv(evaluation: Evaluation, path: Path) -> None:
    """Write one line per case and label; what is undefined is empty."""
    columns = ("case", "label", *METRICS, "true_positives", "false_positives", "false_negatives", "true_negatives")
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows([getattr(row, column) for column in columns] for row in evaluation.cases)


def declared_labels(
    reference_dir: Path, *, label_map: Mapping[str, int] | None = None
) -> tuple[LabelScheme | None, str | None]:
    """Labels and file ending of the dataset.json that belongs to a folder of references; None without one.

    Args:
        reference_dir: dataset.json lies in it or in the folder above it.
        label_map: Value in the files -> value in dataset.json; None takes the map that may stand there.

    Raises:
        DatasetError: When the file is malformed.
    """
    for path in (reference_dir / "dataset.json", reference_dir.resolve().parent / "dataset.json"):
        if not path.is_file():
            continue
        try:
            table = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise DatasetError(f"{path} cannot be read as JSON: {error}") from None
        if not isinstance(table, dict) or not isinstance(table.get("labels"), dict):
            raise DatasetError(f"{path} declares no labels")
        ending = table.get("file_ending")
        return LabelScheme.from_declaration(table, where=str(path), label_map=label_map), ending if isinstance(
            ending, str
        ) else None
    return None, None


def files_by_case(folder: Path, endings: Sequence[str]) -> dict[str, Path]:
    """Segmentations by file name without ending, ordered by it.

    Args:
        folder: Looked through without its sub-folders; hidden files are ignored.
        endings: Accepted endings; the first one wins where a case has several files.
    """
    found: dict[str, Path] = {}
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    for ending in endings:
        for path in files:
            if path.name.endswith(ending):
                found.setdefault(path.name.removesuffix(ending), path)
    return dict(sorted(found.items()))


def commonest_ending(folder: Path) -> str:
    """Ending of the references where no dataset.json declares it: a stray picture among them is no reference."""
    counts = {ending: len(files_by_case(folder, (ending,))) for ending in IMAGE_ENDINGS}
    return max(IMAGE_ENDINGS, key=lambda ending: counts[ending])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    """Files to compare."""

    case: str
    reference: Path
    prediction: Path | None
    folder: Path
    labels: LabelScheme


@dataclass(frozen=True, slots=True, kw_only=True)
class _PairOutcome:
    scores: tuple[CaseScore, ...] = ()
    problems: tuple[str, ...] = ()


def _score_pair(pair: _Pair) -> _PairOutcome:
    try:
        reference = read_segmentation(pair.reference)
    except DatasetError as error:
        return _PairOutcome(problems=(f"case {pair.case} is not scored: {error}",))
    if pair.prediction is None:
        return _failed(pair, reference, f"case {pair.case} has no prediction in {pair.folder}; it counts as Dice 0")
    try:
        prediction = read_segmentation(pair.prediction)
    except DatasetError as error:
        return _failed(pair, reference, f"case {pair.case} counts as Dice 0: {error}")
    if reference.array.shape != prediction.array.shape:
        raise DatasetError(
            f"{pair.prediction} has shape {prediction.array.shape}, its reference {pair.reference} has "
            f"{reference.array.shape}"
        )
    return _PairOutcome(scores=score_case(pair.case, reference.array, prediction.array, pair.labels))


def _failed(pair: _Pair, reference: Segmentation, problem: str) -> _PairOutcome:
    """Score a case without a usable prediction: zero, also for labels that the reference does not have."""
    nothing = np.zeros_like(reference.array)
    counts = overlap_counts(reference.array, nothing, pair.labels.targets, ignore_value=pair.labels.ignore_value)
    rows = tuple(
        CaseScore(
            case=pair.case,
            label=target.name,
            dice=0.0,
            iou=0.0,
            values=target.values,
            true_positives=0,
            false_positives=0,
            false_negatives=count.false_negatives,
            true_negatives=count.true_negatives,
        )
        for target, count in zip(pair.labels.targets, counts, strict=True)
    )
    return _PairOutcome(scores=rows, problems=(problem,))


def _labels_that_occur(paths: Iterable[Path]) -> LabelScheme:
    found: set[int] = set()
    for path in paths:
        try:
            found.update(int(v) for v in np.unique(read_segmentation(path).array))
        except DatasetError:
            continue  # scoring will report it
    values = sorted(found - {0})
    if not values:
        raise DatasetError("neither references nor predictions hold anything but background")
    return LabelScheme(targets=tuple(Target(name=str(v), values=(v,)) for v in values), declared_count=len(values) + 1)


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else value
