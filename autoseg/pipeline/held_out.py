"""Full-size prediction of a fold's held-out cases, and their scores: what every selection is based on."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from autoseg.dataset import Case, Dataset
from autoseg.errors import DatasetError
from autoseg.evaluation.report import CaseScore, Evaluation, read_evaluation, score_case, summarize, write_evaluation
from autoseg.image import read_image, read_segmentation, write_segmentation
from autoseg.inference.export import PROBABILITIES_ENDING, Prediction, decide_labels
from autoseg.inference.model import load_model
from autoseg.inference.predictor import ConfigurationPredictor, InferenceOptions
from autoseg.pipeline.cascade import hand_over, is_handed_over
from autoseg.preprocessing.case import preprocess_case
from autoseg.preprocessing.previous_stage import indicators, read_previous
from autoseg.progress import Progress
from autoseg.training import TrainingJob

_BUDGET_SHARE = 0.35
"""Share of a time budget that held-out prediction may take beyond it; the whole command stays within 1.5 budgets."""


def predict_held_out(job: TrainingJob, dataset: Dataset, progress: Progress, *, again: bool = False) -> Evaluation:
    """Predict the held-out cases of a trained fold with its final weights, keep their probabilities, score them.

    The first stage of a cascade also leaves their segmentations on the grid of the second.

    Scores are written last: their presence means that the fold is complete.

    Args:
        job: The fold; a time budget in its settings bounds the prediction as well.
        dataset: Where images and references lie.
        progress: Told what happens.
        again: Predict even if scores are there.

    Raises:
        DatasetError: When a held-out case is no longer in the dataset.
    """
    handed_over = is_handed_over(job.run, job.plan, job.configuration.name, job.fold)
    if job.run.scores.is_file() and handed_over and not again:
        return read_evaluation(job.run.scores)
    by_id = {case.id: case for case in dataset.training}
    if missing := [case for case in job.fold.val if case not in by_id]:
        raise DatasetError(f"held-out case {missing[0]} is not in {dataset.root} any more")
    job.run.scores.unlink(missing_ok=True)
    model = load_model(job.run.final, job.device)
    predictor = ConfigurationPredictor(job.plan, [model], InferenceOptions(device=job.device))
    cases = [by_id[case] for case in job.fold.val]
    scores: list[CaseScore] = []
    started = time.perf_counter()
    for done, case in enumerate(progress.track(cases, total=len(cases), description="predicting held-out cases")):
        if done == 1 and job.config.time_budget is not None:
            predictor = _within_budget(predictor, time.perf_counter() - started, len(cases), job, progress)
        scores.extend(_predict_and_score(case, predictor, job))
    evaluation = summarize(scores)
    write_evaluation(evaluation, job.run.scores)
    return evaluation


def _predict_and_score(case: Case, predictor: ConfigurationPredictor, job: TrainingJob) -> tuple[CaseScore, ...]:
    assert case.label is not None  # training cases have one
    image = read_image(case.images)
    prepared = preprocess_case(case.id, image, None, job.plan, predictor.configuration)
    channels = prepared.image
    if job.configuration.previous_stage is not None:
        previous = read_previous(job.previous[case.id], channels.shape[1:])
        channels = np.concatenate([channels, indicators(previous, job.plan.labels)])
    logits = predictor.logits(channels)
    hand_over(job, case.id, logits, prepared.trace)
    probabilities = predictor.finish(logits, prepared.trace)
    prediction = Prediction.from_array(case.id, image.geometry, probabilities)
    folder = job.run.validation
    segmentation = decide_labels(
        prediction, job.plan.labels, probabilities_path=folder / f"{case.id}{PROBABILITIES_ENDING}"
    )
    write_segmentation(folder / f"{case.id}{job.plan.file_ending}", segmentation)
    return score_case(case.id, read_segmentation(case.label).array, segmentation.array, job.plan.labels)


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
    return ConfigurationPredictor(predictor.plan, predictor.models, replace(predictor.options, mirroring=False))
