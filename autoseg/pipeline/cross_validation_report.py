"""Tables of a configuration's cross-validation: held-out cases on the grid of their files and on that of training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoseg.dataset import Case, load_dataset
from autoseg.device import choose_device
from autoseg.errors import DatasetError, MissingArtifactError
from autoseg.evaluation.measures import DICE_AND_IOU, Measuring
from autoseg.evaluation.publishing import publish
from autoseg.evaluation.report import CaseScore, Evaluation, score_case, summarize, with_spread
from autoseg.image import read_segmentation
from autoseg.inference.model import load_model
from autoseg.inference.predictor import InferenceOptions
from autoseg.inference.volumes import segment_case
from autoseg.pipeline.cascade import find_previous
from autoseg.pipeline.folds import load_folds
from autoseg.plan import Configuration, Plan
from autoseg.preprocessing.store import CaseStore
from autoseg.progress import LoggingProgress, Progress
from autoseg.receipt import complete, digest_files
from autoseg.splits import Fold, fold_dir_name
from autoseg.workspace import RunPaths, Workspace


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossValidationReport:
    """What was measured and written.

    Args:
        original: Scores of the written predictions on the grid of their files.
        training: Scores of the same cases on the preprocessed grid, before anything is resampled back.
        folder: Holds the tables.
        missing: Folds that are not in them, for they are not trained.
    """

    original: Evaluation
    training: Evaluation
    folder: Path
    missing: tuple[str, ...]


def report_cross_validation(
    workspace: Workspace | Path | str,
    configuration: str,
    *,
    measuring: Measuring = DICE_AND_IOU,
    folder: Path | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> CrossValidationReport:
    """Score the held-out cases of all trained folds on both grids and write the tables of an evaluation.

    The difference between the grids is what resampling and cropping cost. On the training grid cases are predicted
    again, each by the model that held it out; on the grid of the files the kept predictions are read.

    Args:
        workspace: Holds the trained folds; or its folder, or its dataset's.
        configuration: Name in the plan.
        measuring: What to measure besides Dice and IoU.
        folder: Receives the tables; None takes reports/CONFIGURATION in the workspace.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        progress: Told what happens; None logs.

    Raises:
        MissingArtifactError: When no fold is trained.
        DatasetError: When a held-out case is no longer in the dataset.
    """
    workspace, progress = Workspace.of(workspace), progress or LoggingProgress()
    plan, folds = workspace.load_plan(), load_folds(workspace)
    planned = plan.configuration(configuration)
    runs = {number: workspace.run(configuration, number) for number in range(len(folds))}
    trained = [number for number, run in runs.items() if run.scores.is_file() and run.final.is_file()]
    if not trained:
        raise MissingArtifactError(
            f"{configuration} has no trained fold. Train one first: autoseg train {configuration} fold0"
        )
    by_id = {case.id: case for case in load_dataset(workspace.dataset_source).training}
    held_out = [case for number in trained for case in folds[number].val]
    if gone := [case for case in held_out if case not in by_id]:
        raise DatasetError(f"held-out case {gone[0]} is not in {workspace.dataset_root} any more")
    previous = find_previous(workspace, planned, folds, held_out)
    options = InferenceOptions(device=choose_device(device))
    original, training = list[CaseScore](), list[CaseScore]()
    for number in progress.track(trained, total=len(trained), description="scoring folds on both grids"):
        cases = [by_id[case] for case in folds[number].val]
        original += _on_grid_of_files(cases, runs[number], plan, measuring)
        training += _on_training_grid(folds[number], runs[number], workspace, planned, previous, options, measuring)
    report = CrossValidationReport(
        original=with_spread(summarize(original)),
        training=with_spread(summarize(training)),
        folder=folder or workspace.reports_dir / configuration,
        missing=tuple(fold_dir_name(number) for number in runs if number not in trained),
    )
    written = publish(report.original, report.folder, training_grid=report.training)
    scores = digest_files([runs[number].scores for number in trained])
    complete(report.folder, "report", made_from=scores, files=written)
    return report


def _on_grid_of_files(cases: Sequence[Case], run: RunPaths, plan: Plan, measuring: Measuring) -> list[CaseScore]:
    scores = list[CaseScore]()
    for case in cases:
        assert case.label is not None  # training cases have one
        reference = read_segmentation(case.label, frame=case.frame)
        predicted = read_segmentation(run.validation / f"{case.id}{plan.file_ending}")
        values, spacing = plan.labels.without_aliases(reference.array), reference.geometry.spacing
        scores += score_case(case.id, values, predicted.array, plan.labels, spacing=spacing, measuring=measuring)
    return scores


def _on_training_grid(
    fold: Fold,
    run: RunPaths,
    workspace: Workspace,
    planned: Configuration,
    previous: dict[str, Path],
    options: InferenceOptions,
    measuring: Measuring,
) -> list[CaseScore]:
    model, store = load_model(run.final, options.device), CaseStore(workspace.preprocessed_dir(planned.data))
    labels, scores = model.record.labels, list[CaseScore]()
    for case_id in fold.val:
        case, predicted = segment_case(model, store, case_id, previous=previous, options=options)
        assert case.segmentation is not None  # cases of folds have one
        spacing = case.trace.resampled_spacing
        scores += score_case(case_id, case.segmentation, predicted, labels, spacing=spacing, measuring=measuring)
    return scores
