"""Preprocessing as worker processes do it: files in, files out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from autoseg.arrays import IN_MEMORY, Room
from autoseg.dataset import Case
from autoseg.dataset.kept import KEPT_CASES
from autoseg.image import read_image, read_segmentation
from autoseg.plan import Configuration, NormalizationPlan, Plan
from autoseg.preprocessing.case import NormalizedCase, normalize_case, resample_case, target_spacing
from autoseg.preprocessing.store import write_case

K = TypeVar("K")


@dataclass(frozen=True, slots=True, kw_only=True)
class PreprocessTarget:
    """What to make of a case for one configuration, or for several that share their data.

    Args:
        configuration: The configuration.
        folder: Where its preprocessed cases lie.
        digest: Of everything the result depends on.
    """

    configuration: Configuration
    folder: Path
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PreprocessJob:
    """One case to read once and to preprocess for some configurations.

    Args:
        case: Its files.
        plan: The plan.
        targets: What to make of it.
        cache: Folder for what takes minutes to compute; None has none.
        room: Where large arrays lie.
    """

    case: Case
    plan: Plan
    targets: tuple[PreprocessTarget, ...]
    cache: Path | None = None
    room: Room = IN_MEMORY


def preprocess_file(job: PreprocessJob) -> str:
    """Read a case, preprocess it for every target and write the results; what targets share is computed once.

    Returns:
        The case id.

    Raises:
        DatasetError: When the files cannot be read or do not fit the plan.
    """
    for normalization, alike in _grouped(job.targets, lambda c: c.normalization):
        normalized = _read_and_normalize(job, normalization)
        for _, same in _grouped(alike, partial(_resampling_of, normalized)):
            case = resample_case(normalized, job.plan, same[0].configuration, room=job.room)
            for target in same:
                write_case(case, target.folder, patch_size=target.configuration.patch_size, digest=target.digest)
    return job.case.id


def _read_and_normalize(job: PreprocessJob, normalization: Sequence[NormalizationPlan]) -> NormalizedCase:
    """In a function of its own, so that nothing keeps the image as read while the rest is done."""
    kept = KEPT_CASES.take(job.case)
    if kept is not None:
        return normalize_case(job.case.id, *kept, job.plan, normalization, cache=job.cache, room=job.room)
    case = job.case
    segmentation = None if case.label is None else read_segmentation(case.label, frame=case.frame)
    if segmentation is not None:
        segmentation = replace(segmentation, array=job.plan.labels.without_aliases(segmentation.array))
    image = read_image(case.images, frame=case.frame)
    return normalize_case(job.case.id, image, segmentation, job.plan, normalization, cache=job.cache, room=job.room)


def _resampling_of(case: NormalizedCase, configuration: Configuration) -> tuple[object, ...]:
    """What decides how a case is resampled."""
    return target_spacing(case.spacing, configuration), configuration.resampling


def _grouped(
    targets: Sequence[PreprocessTarget], key: Callable[[Configuration], K]
) -> list[tuple[K, list[PreprocessTarget]]]:
    """Targets whose configurations agree in something, in the order of the first of each group."""
    groups: list[tuple[K, list[PreprocessTarget]]] = []
    for target in targets:
        value = key(target.configuration)
        group = next((members for known, members in groups if known == value), None)
        if group is None:
            groups.append((value, [target]))
        else:
            group.append(target)
    return groups
