"""A round of pseudo-labels: the model of a fold labels what nobody annotated in the cases that it was trained on.

Each fold asks its own model, which has never seen the held-out cases, so scores stay honest.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from autoseg.atomic import file_digest
from autoseg.codec import digest
from autoseg.data.completed import complete_segmentation, write_completed
from autoseg.dataset import load_dataset
from autoseg.errors import MissingArtifactError, SettingsError
from autoseg.inference.model import TrainedModel, load_model
from autoseg.inference.predictor import InferenceOptions, logit_slabs, logits_to_probabilities
from autoseg.preprocessing.previous_stage import read_previous, with_indicators
from autoseg.preprocessing.store import CaseStore
from autoseg.progress import Progress
from autoseg.receipt import complete, is_intact
from autoseg.training import TrainingJob
from autoseg.workspace import RunPaths, Workspace


def label_unannotated(workspace: Workspace, job: TrainingJob, progress: Progress) -> None:
    """Complete the annotation of a fold's training cases, as far as that is not done yet.

    Args:
        workspace: Holds the model, and knows how much of each case's foreground was annotated.
        job: The fold; ``config.pseudo_labels`` names the configuration whose model labels.
        progress: Told what happens.

    Raises:
        SettingsError: When that configuration lies on another grid, or every case is annotated in full.
        MissingArtifactError: When its fold is not trained.
    """
    if job.config.pseudo_labels is None or job.run.final.is_file():
        return
    run = _teacher(workspace, job)
    annotated = _annotated_shares(workspace, job)
    if not annotated:
        raise SettingsError(
            f"pseudo_labels={job.config.pseudo_labels}: every case is annotated in full. Declare an ignore label for "
            "voxels without annotation, or say in the table's column annotated which share of the foreground was drawn"
        )
    store, teacher_digest, model = CaseStore(job.preprocessed_dir), file_digest(run.final), None
    for case_id in progress.track(sorted(annotated), total=len(annotated), description="labelling what is open"):
        made_from = digest(
            [teacher_digest, store.open(case_id).record.digest, annotated[case_id], job.config.pseudo_confidence]
        )
        if is_intact(job.run.pseudo_labels, case_id, made_from=made_from):
            continue
        model = model or load_model(run.final, job.device)
        files = _label(case_id, model, store, job, annotated=annotated[case_id])
        complete(job.run.pseudo_labels, case_id, made_from=made_from, files=files)


def completed_cases(job: TrainingJob) -> dict[str, Path]:
    """Completed segmentations of a fold's training cases."""
    if job.config.pseudo_labels is None:
        return {}
    paths = {case_id: job.run.pseudo_labels / f"{case_id}.b2nd" for case_id in job.fold.train}
    return {case_id: path for case_id, path in paths.items() if path.is_file()}


def _teacher(workspace: Workspace, job: TrainingJob) -> RunPaths:
    source = str(job.config.pseudo_labels)
    teacher, learner = job.plan.configuration(source), job.configuration
    if (teacher.data, teacher.previous_stage) != (learner.data, learner.previous_stage):
        raise SettingsError(
            f"pseudo_labels={source}: its cases are preprocessed differently from those of {learner.name}; "
            f"take {learner.name.partition('@')[0]} or a variant of it"
        )
    run = RunPaths(workspace.results_dir(source) / job.fold_name)
    if not run.final.is_file():
        raise MissingArtifactError(
            f"pseudo_labels={source}: {job.fold_name} has no final checkpoint. "
            f"Train it first: autoseg train {source} {job.fold_name} -w {workspace.root}"
        )
    return run


def _annotated_shares(workspace: Workspace, job: TrainingJob) -> dict[str, float]:
    """Training cases whose annotation is to be completed -> share of the foreground that was annotated."""
    declared = {case.id: case.annotated for case in load_dataset(workspace.dataset_source).training}
    may_be_open = job.plan.labels.ignore_value is not None
    shares = {case_id: declared.get(case_id, 1.0) for case_id in job.fold.train}
    return {case_id: share for case_id, share in shares.items() if may_be_open or share < 1}


def _label(
    case_id: str, model: TrainedModel, store: CaseStore, job: TrainingJob, *, annotated: float
) -> tuple[Path, Path]:
    case, labels = store.open(case_id).load(), job.plan.labels
    assert case.segmentation is not None  # cases of folds have one
    channels = case.image
    if job.configuration.previous_stage is not None:
        previous = read_previous(job.previous[case_id], channels.shape[1:])
        channels = with_indicators(channels, previous, labels)
    slabs = logit_slabs([model], channels, InferenceOptions(device=job.device))
    probabilities = np.concatenate([logits_to_probabilities(slab, labels) for slab in slabs], axis=1)
    completed = complete_segmentation(
        case.segmentation, probabilities, labels, confidence=job.config.pseudo_confidence, annotated=annotated
    )
    return write_completed(job.run.pseudo_labels, case_id, completed, labels, patch_size=job.configuration.patch_size)
