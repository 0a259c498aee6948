"""Scores of a folder of predictions against a folder of references."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from autoseg.errors import DatasetError
from autoseg.evaluation.measures import DICE_AND_IOU, Measuring
from autoseg.evaluation.metrics import JointCounts
from autoseg.evaluation.report import CaseScore, ConfusionMatrix, Evaluation, scores_and_counts, summarize
from autoseg.image import Segmentation, distinct_values, read_header, read_segmentation
from autoseg.labels import LabelScheme, Target
from autoseg.parallel import default_workers, map_cases

IMAGE_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".gipl", ".png", ".tif", ".tiff", ".bmp")
PROBABILITY_ENDINGS = (".probabilities.b2nd", ".npz")
_SECONDS_PER_VOXEL, _SECONDS_PER_VOXEL_OF_SURFACES = 1e-8, 3e-7  # reading and counting; and whatever else there is
_WORTH_WORKERS = 3.0  # seconds of work: processes need one or two to start


def evaluate_folder(
    reference_dir: Path,
    prediction_dir: Path,
    labels: LabelScheme | None = None,
    *,
    measuring: Measuring = DICE_AND_IOU,
    groups: Mapping[str, Mapping[str, str]] | None = None,
    workers: int | None = 0,
) -> Evaluation:
    """Score every reference of a folder against the prediction of the same name; other files are ignored.

    A missing or unreadable prediction counts as Dice 0 for every label and is a problem of the evaluation; it does
    not stop the other cases. One that lies elsewhere in the world than its reference is compared voxel by voxel, and
    is a problem too. Cases that took a known time to predict (quality/CASE.json beside the predictions) have it
    in their rows.

    Args:
        reference_dir: Reference segmentations.
        prediction_dir: Predictions.
        labels: What is scored; None takes dataset.json in the reference folder or the one above it, else every
            value above zero that occurs.
        measuring: What to measure besides Dice and IoU.
        groups: Case -> kind of group (phase, view, domain, ...) -> its name.
        workers: Processes that read and count; 0 works in this one, None takes as many as there are processors where
            there is enough to do for them.

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
        _Pair(
            case=case,
            reference=path,
            prediction=predictions.get(case),
            folder=prediction_dir,
            labels=labels,
            measuring=measuring,
        )
        for case, path in references.items()
    ]
    scores: list[CaseScore] = []
    problems: list[str] = []
    joint: JointCounts | None = None
    seconds = prediction_seconds(prediction_dir)
    if workers is None:
        workers = default_workers() if _forecast(jobs) > _WORTH_WORKERS else 0
    for pair, outcome in zip(jobs, map_cases(_score_pair, jobs, workers=workers, label=_case_of), strict=True):
        of_case = {} if groups is None else dict(groups.get(pair.case, {}))
        scores.extend(replace(row, groups=of_case, seconds=seconds.get(pair.case)) for row in outcome.scores)
        problems.extend(outcome.problems)
        if outcome.joint is not None:
            joint = outcome.joint if joint is None else joint + outcome.joint
    confusion = None if joint is None else ConfusionMatrix.from_joint(joint, labels)
    return replace(summarize(scores, problems=problems), confusion=confusion, empty=measuring.both_empty)


def prediction_seconds(folder: Path) -> dict[str, float]:
    """Seconds that each case took, from what a prediction leaves in quality/CASE.json; empty where it says nothing."""
    found = {}
    for path in sorted(folder.glob("quality/*.json")):
        try:
            seconds = json.loads(path.read_text(encoding="utf-8"))["seconds"]
        except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError):
            continue
        if isinstance(seconds, int | float):
            found[path.name.removesuffix(".json")] = float(seconds)
    return found


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
    measuring: Measuring


def _forecast(pairs: Sequence[_Pair]) -> float:
    """About how many seconds one process needs."""
    per_label = any(pairs[0].measuring.needs(kind) for kind in ("surfels", "voxels", "lesions"))
    seconds = 0.0
    for pair in pairs:
        if seconds > _WORTH_WORKERS:
            break  # more headers would change nothing
        try:
            voxels = math.prod(read_header(pair.reference).geometry.shape)
        except DatasetError:
            continue  # scoring will report it
        seconds += voxels * (_SECONDS_PER_VOXEL_OF_SURFACES if per_label else _SECONDS_PER_VOXEL)
    return seconds


def _case_of(pair: _Pair) -> str:
    return pair.case


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _PairOutcome:
    scores: tuple[CaseScore, ...] = ()
    problems: tuple[str, ...] = ()
    joint: JointCounts | None = None


def _score_pair(pair: _Pair) -> _PairOutcome:
    try:
        reference = read_segmentation(pair.reference)
        reference = replace(reference, array=pair.labels.without_aliases(reference.array))
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
    scores, joint = scores_and_counts(
        pair.case,
        reference.array,
        prediction.array,
        pair.labels,
        spacing=reference.geometry.spacing,
        measuring=pair.measuring,
    )
    problems: tuple[str, ...] = ()
    if differences := reference.geometry.differences(prediction.geometry):
        problems = (f"case {pair.case} is compared voxel by voxel, but lies elsewhere: {'; '.join(differences)}",)
    return _PairOutcome(scores=scores, problems=problems, joint=joint)


def _failed(pair: _Pair, reference: Segmentation, problem: str) -> _PairOutcome:
    """Score a case without a usable prediction as the worst there is, also for labels that the reference lacks."""
    nothing = np.zeros_like(reference.array)
    scores, joint = scores_and_counts(
        pair.case,
        reference.array,
        nothing,
        pair.labels,
        spacing=reference.geometry.spacing,
        measuring=replace(pair.measuring, both_empty="worst"),
    )
    return _PairOutcome(
        scores=tuple(replace(row, dice=0.0, iou=0.0, true_positives=0) for row in scores),
        problems=(problem,),
        joint=joint,
    )


def _labels_that_occur(paths: Iterable[Path]) -> LabelScheme:
    found: set[int] = set()
    for path in paths:
        try:
            found.update(distinct_values(read_segmentation(path).array))
        except DatasetError:
            continue  # scoring will report it
    values = sorted(found - {0})
    if not values:
        raise DatasetError("neither references nor predictions hold anything but background")
    return LabelScheme(targets=tuple(Target(name=str(v), values=(v,)) for v in values), declared_count=len(values) + 1)
