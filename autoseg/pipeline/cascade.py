"""Cascades: what the previous stage leaves for the next one, and what is still missing of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from autoseg.errors import MissingArtifactError
from autoseg.inference.ensemble import Member
from autoseg.inference.predictor import logits_to_probabilities
from autoseg.plan import Configuration, Plan
from autoseg.preprocessing.case import CaseTrace
from autoseg.preprocessing.previous_stage import bring_to_next_stage, write_previous
from autoseg.receipt import standing
from autoseg.splits import Fold, fold_dir_name
from autoseg.training import TrainingJob
from autoseg.workspace import RunPaths, Workspace


def next_stages(plan: Plan, name: str) -> tuple[Configuration, ...]:
    """Cascades whose previous stage a configuration is, or is a variant of; one per preprocessed grid."""
    base = name.rpartition("@")[0]
    following = [c for c in plan.configurations if c.previous_stage is not None and c.previous_stage in (name, base)]
    return tuple({c.data: c for c in following}.values())


def is_handed_over(run: RunPaths, plan: Plan, name: str, fold: Fold) -> bool:
    """Whether every held-out case of a fold has its segmentation for every next stage."""
    return all(run.next_stage(c.data, case).is_file() for c in next_stages(plan, name) for case in fold.val)


def hand_over(job: TrainingJob, case_id: str, logits: np.ndarray, trace: CaseTrace) -> None:
    """Write a held-out case's segmentation on the grid of each next stage.

    Args:
        job: The fold of the previous stage.
        case_id: Held-out case.
        logits: (k, *trace.resampled_shape); not modified.
        trace: What was done to the image.
    """
    for following in next_stages(job.plan, job.configuration.name):
        scores = bring_to_next_stage(logits, trace, job.configuration.resampling, following)
        if job.plan.labels.has_regions:
            scores = logits_to_probabilities(scores.astype(np.float32), job.plan.labels)
        segmentation = job.plan.labels.segmentation(scores)
        write_previous(job.run.next_stage(following.data, case_id), segmentation, patch_size=following.patch_size)


def find_previous(
    workspace: Workspace, configuration: Configuration, folds: Sequence[Fold], cases: Sequence[str]
) -> dict[str, Path]:
    """Files of the previous stage's segmentations, each made by the fold that held the case out.

    Args:
        workspace: Holds the results of the previous stage.
        configuration: The configuration to train; without a previous stage the result is empty.
        folds: All folds.
        cases: Cases to train on and to predict.

    Raises:
        MissingArtifactError: Names the missing cases and folds, and the command that makes them.
    """
    stage = configuration.previous_stage
    if stage is None:
        return {}
    fold_of = {case: number for number, fold in enumerate(folds) for case in fold.val}
    found, missing = dict[str, Path](), dict[int, list[str]]()
    for case in cases:
        if case not in fold_of:
            raise MissingArtifactError(
                f"{configuration.name} needs a segmentation of {stage} for case {case}, and no fold holds it out: "
                f"{workspace.splits_path} must hold out every case once to train a cascade"
            )
        run = workspace.run(stage, fold_of[case])
        path = run.next_stage(configuration.data, case)
        if path.is_file() and standing(run.validation, case) != "altered":
            found[case] = path
        else:
            missing.setdefault(fold_of[case], []).append(case)
    if missing:
        listing = "; ".join(
            f"{fold_dir_name(fold)} ({len(absent)} of {len(folds[fold].val)}: {', '.join(sorted(absent)[:5])}"
            f"{', ...' if len(absent) > 5 else ''})"
            for fold, absent in sorted(missing.items())
        )
        raise MissingArtifactError(
            f"{configuration.name} trains with the segmentations that {stage} makes of its held-out cases. "
            f"Missing: {listing}. Make them: autoseg train {stage} -w {workspace.root}"
        )
    return found


def first_stage(workspace: Workspace, plan: Plan, member: Member) -> Member | None:
    """Models of the previous stage that predict for a member: the same folds where they are trained, else all.

    Returns:
        None for a configuration without a previous stage.

    Raises:
        MissingArtifactError: When nothing of the previous stage is trained.
    """
    stage = plan.configuration(member.configuration).previous_stage
    if stage is None:
        return None
    trained = workspace.trained_folds(stage)
    if not trained:
        raise MissingArtifactError(
            f"{member.configuration} predicts from the segmentation of {stage}, of which no fold is trained in "
            f"{workspace.root}. Train: autoseg train {stage} -w {workspace.root}"
        )
    folds = member.folds if set(member.folds) <= set(trained) else tuple(f for f in trained if f != "all") or trained
    return Member(configuration=stage, folds=folds, checkpoint=member.checkpoint)
