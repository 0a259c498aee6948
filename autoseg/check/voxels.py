"""Problems that only the voxels show: one case at a time, read once for checking and measuring."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from autoseg.check.report import Problem
from autoseg.dataset import Case
from autoseg.errors import DatasetError
from autoseg.image import Image, Segmentation, read_image, read_segmentation
from autoseg.labels import LabelScheme
from autoseg.nifti import count_nonfinite, is_nifti


@dataclass(frozen=True, slots=True, kw_only=True)
class VoxelJob:
    """One case to read.

    Args:
        case: Its files.
        labels: What its label may hold.
        num_channels: Channels that the dataset declares; None accepts any number.
        declared_in: What declares them, for messages.
    """

    case: Case
    labels: LabelScheme
    num_channels: int | None = None
    declared_in: str = "dataset.json"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CheckedVoxels:
    """A case, and what is wrong with it.

    Args:
        image: As read; None when that failed.
        segmentation: As read; None when that failed or there is none.
        problems: What was found.
        values: Labels above zero that occur.
    """

    image: Image | None
    segmentation: Segmentation | None
    problems: tuple[Problem, ...]
    values: tuple[int, ...] = ()

    @property
    def is_usable(self) -> bool:
        """Whether nothing keeps the case from being used."""
        return not any(problem.severity == "error" for problem in self.problems)


def read_and_check(job: VoxelJob) -> CheckedVoxels:
    """Read the files of a case and look at every voxel; what is wrong becomes a problem, not an exception."""
    problems: list[Problem] = []
    image = segmentation = None
    try:
        image = read_image(job.case.images, frame=job.case.frame)
        problems.extend(_nonfinite_problems(job.case, image))
    except DatasetError as error:
        problems.append(_problem(job.case, str(error)))
    try:
        segmentation = None if job.case.label is None else read_segmentation(job.case.label, frame=job.case.frame)
        if segmentation is not None and job.labels.aliases:
            segmentation = replace(segmentation, array=job.labels.without_aliases(segmentation.array))
        problems.extend(_nonfinite_labels(job.case))
    except DatasetError as error:
        problems.append(_problem(job.case, str(error)))
    problems.extend(check_voxels(job, image, segmentation))
    values = () if segmentation is None else tuple(value for value in segmentation.values if value > 0)
    return CheckedVoxels(image=image, segmentation=segmentation, problems=tuple(problems), values=values)


def check_voxels(job: VoxelJob, image: Image | None, segmentation: Segmentation | None) -> Iterator[Problem]:
    """What would spoil everything that follows.

    Args:
        job: The case and what is declared.
        image: As read; None is not looked at.
        segmentation: As read; None is not looked at.
    """
    case = job.case
    if image is not None and job.num_channels is not None and len(image.array) != job.num_channels:
        files = ", ".join(str(path) for path in case.images)
        message = f"{files}: {len(image.array)} channel(s) found, {job.declared_in} declares {job.num_channels}"
        yield _problem(case, message)
    if image is not None and segmentation is not None:
        differences = image.geometry.differences(segmentation.geometry)
        if grave := [text for text in differences if text.startswith(("shape", "spacing"))]:
            yield _problem(case, f"{case.label} does not lie on the grid of {case.images[0]}: {'; '.join(grave)}")
    if segmentation is not None:
        yield from _label_problems(job, segmentation.values)


def _label_problems(job: VoxelJob, found: list[int]) -> Iterator[Problem]:
    ignore = job.labels.ignore_value
    declared = set(job.labels.values) | ({ignore} if ignore is not None else set())
    if undeclared := sorted(set(found) - declared):
        yield _problem(
            job.case,
            f"{job.case.label} holds the label value(s) {_listing(undeclared)}; {job.declared_in} declares "
            f"{_listing(sorted(declared))}. Declare them, or say with label_map what they stand for",
        )
    elif found == [0]:
        yield Problem(
            severity="warning",
            case=job.case.id,
            path=job.case.label,
            message="nothing is labelled, all is background",
            in_voxels=True,
        )


def _nonfinite_problems(case: Case, image: Image) -> Iterator[Problem]:
    """NaN and infinity, which are read as zero here and at prediction."""
    number = image.num_nonfinite
    files = [path for path in case.images if is_nifti(path)]
    if not number and files and not image.array.all():  # a file without any zero cannot hold them: ITK reads zeros
        number = sum(count_nonfinite(path) for path in files)
    if number:
        share = number / image.array.size
        yield Problem(
            severity="repaired",
            case=case.id,
            path=case.images[0] if len(case.images) == 1 else None,
            message=f"{number} voxel(s) are NaN or infinite ({share:.2%}); they are read as zero",
            in_voxels=True,
        )


def _nonfinite_labels(case: Case) -> Iterator[Problem]:
    """NaN in a NIfTI file of labels, which ITK reads as background; other formats are refused when they are read."""
    if case.label is not None and is_nifti(case.label) and (number := count_nonfinite(case.label)):
        yield Problem(
            severity="repaired",
            case=case.id,
            path=case.label,
            message=f"{number} label(s) are NaN or infinite; they are read as background",
            in_voxels=True,
        )


def _problem(case: Case, message: str) -> Problem:
    return Problem(severity="error", case=case.id, message=message, in_voxels=True)


def _listing(values: list[int]) -> str:
    """Numbers in words; of very many, which a wrong file may hold, the first."""
    words = [str(np.int64(value)) for value in values[:20]]
    return ", ".join(words) + (f" and {len(values) - 20} more" if values[20:] else "")
