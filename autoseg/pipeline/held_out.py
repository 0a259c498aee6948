"""Full-size prediction of a fold's held-out cases, and their scores: what every selection is based on."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from autoseg.atomic import file_digest
from autoseg.codec import digest
from autoseg.communication import wait
from autoseg.dataset import Case, Dataset
from autoseg.errors import ArtifactError, DatasetError, MissingArtifactError
from autoseg.evaluation.report import CaseScore, Evaluation, read_evaluation, score_case, summarize, write_evaluation
from autoseg.image import read_image, read_segmentation, write_segmentation
from autoseg.inference.export import PROBABILITIES_ENDING, decide_labels
from autoseg.inference.model import load_model
from autoseg.inference.predictor import ConfigurationPredictor, InferenceOptions
from autoseg.pipeline.cascade import hand_over, is_handed_over, next_stages
from autoseg.pipeline.prepare import preprocessing_digest
from autoseg.plan import Plan
from autoseg.preprocessing.case import preprocess_case
from autoseg.preprocessing.previous_stage import read_previous, with_indicators
from autoseg.progress import Progress
from autoseg.receipt import complete, digest_files, is_intact
from autoseg.splits import Fold
from autoseg.training import TrainingJob
from autoseg.workspace import RunPaths

_BUDGET_SHARE = 0.35
"""Share of a time budget that held-out prediction may take beyond it; the whole command stays within 1.5 budgets."""


def predict_held_out(job: TrainingJob, dataset: Dataset, progress: Progress, *, again: bool = False) -> Evaluation:
    """Predict the held-out cases of a trained fold with its final weights, keep their probabilities, score them.

    The first stage of a cascade also leaves their segmentations on the grid of the second.

    A case whose prediction is there, unaltered and made from the same, is not predicted again. Scores are written
    last: their presence means that the fold is complete.

    Args:
        job: The fold; a time budget in its settings bounds the prediction as well.
        dataset: Where images and references lie.
        progress: Told what happens.
        again: Predict even if scores are there.

    Raises:
        DatasetError: When a held-out case is no longer in the dataset.
    """
    by_id = {case.id: case for case in dataset.training}
    if missing := [case for case in job.fold.val if case not in by_id]:
        raise DatasetError(f"held-out case {missing[0]} is not in {dataset.root} any more")
    cases = [by_id[case] for case in job.fold.val]
    origins = _origins(job, cases)
    todo = [case for case in cases if again or not _is_predicted(case, job, origins[case.id])]
    is_done = not todo and is_scored(job.run, job.plan, job.configuration.name, job.fold)
    wait(job.ranks)  # all have looked before anything changes
    if is_done:
        return read_evaluation(job.run.scores)
    if job.ranks.is_first:
        job.run.scores.unlink(missing_ok=True)
    if own := job.ranks.turn(todo):
        _predict(own, job, origins, progress)
    wait(job.ranks)
    if job.ranks.is_first:
        write_evaluation(summarize([score for case in cases for score in _score(case, job)]), job.run.scores)
    wait(job.ranks)
    return read_evaluation(job.run.scores)


def is_scored(run: RunPaths, plan: Plan, name: str, fold: Fold) -> bool:
    """Whether a fold is complete: it has scores that can be trusted, and all that a cascade needs."""
    try:
        read_evaluation(run.scores)
    except (ArtifactError, MissingArtifactError):
        return False
    return is_handed_over(run, plan, name, fold)


def _origins(job: TrainingJob, cases: Sequence[Case]) -> dict[str, str]:
    """Per case the digest of everything its prediction is made from, save how windows are summed."""
    common = [file_digest(job.run.final), job.plan.labels, preprocessing_digest(job.plan, job.configuration)]
    return {case.id: digest([*common, digest_files(_inputs(case, job))]) for case in cases}


def _inputs(case: Case, job: TrainingJob) -> list[Path]:
    assert case.label is not None  # training cases have one
    return [*case.images, case.label, *([job.previous[case.id]] if case.id in job.previous else [])]


def _is_predicted(case: Case, job: TrainingJob, origin: str) -> bool:
    return is_intact(job.run.validation, case.id, made_from=origin, files=_outputs(case, job))


def _outputs(case: Case, job: TrainingJob) -> list[Path]:
    """Everything that predicting a case leaves."""
    folder, following = job.run.validation, next_stages(job.plan, job.configuration.name)
    own = [folder / f"{case.id}{job.plan.file_ending}", folder / f"{case.id}{PROBABILITIES_ENDING}"]
    return [*own, *(job.run.next_stage(c.data, case.id) for c in following)]


def _predict(cases: Sequence[Case], job: TrainingJob, origins: Mapping[str, str], progress: Progress) -> None:
    model = load_model(job.run.final, job.device)
    predictor = ConfigurationPredictor(job.plan, [model], InferenceOptions(device=job.device))
    started = time.perf_counter()
    for done, case in enumerate(progress.track(cases, total=len(cases), description="predicting held-out cases")):
        if done == 1 and job.config.time_budget is not None:
            predictor = _within_budget(predictor, time.perf_counter() - started, len(cases), job, progress)
        _predict_case(case, predictor, job)
        complete(job.run.validation, case.id, made_from=origins[case.id], files=_outputs(case, job))


def _score(case: Case, job: TrainingJob) -> tuple[CaseScore, ...]:
    """Compare the written prediction with the reference."""
    assert case.label is not None  # training cases have one
    predicted = read_segmentation(job.run.validation / f"{case.id}{job.plan.file_ending}")
    labels = job.plan.labels
    reference = labels.without_aliases(read_segmentation(case.label, frame=case.frame).array)
    return score_case(case.id, reference, predicted.array, labels)


def _predict_case(case: Case, predictor: ConfigurationPredictor, job: TrainingJob) -> None:
    image = read_image(case.images, frame=case.frame)
    memory = predictor.memory_for(image, case.id)
    prepared = preprocess_case(case.id, image, None, job.plan, predictor.configuration, room=memory.room)
    channels = prepared.image
    if job.configuration.previous_stage is not None:
        previous = read_previous(job.previous[case.id], channels.shape[1:])
        channels = with_indicators(channels, previous, job.plan.labels, memory.room)
    slabs = predictor.logit_slabs(channels, memory)
    if next_stages(job.plan, job.configuration.name):
        logits = np.concatenate(list(slabs), axis=1)  # of the coarse stage of a cascade
        hand_over(job, case.id, logits, prepared.trace)
        slabs = iter([logits])
    prediction = predictor.finish(slabs, prepared.trace, case.id)
    folder = job.run.validation
    segmentation = decide_labels(
        prediction, job.plan.labels, probabilities_path=folder / f"{case.id}{PROBABILITIES_ENDING}"
    )
    write_segmentation(folder / f"{case.id}{job.plan.file_ending}", segmentation)


def _within_budget(
    predictor: ConfigurationPredictor, first_case_seconds: float, num_cases: int, job: TrainingJob, progress: Progress
) -> ConfigurationPredictor:
    """Leave out mirroring where the time budget would not hold with it."""
    assert job.config.time_budget is not None
    forecast, allowed = first_case_seconds * num_cases, job.config.time_budget * _BUDGET_SHARE
    if forecast <= allowed:
        return predictor
    progress.message(
        f"held-out cases are predicted without mirroring: {num_cases} of them would take {forecast:.0f} s, "
        f"the time budget leaves {allowed:.0f} s"
    )
    return ConfigurationPredictor(predictor.plan, predictor.models, replace(predictor.options, augmentation="none"))
