"""Preprocessing as worker processes do it: files in, files out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from autoseg.dataset import Case
from autoseg.image import read_image, read_segmentation
from autoseg.plan import Configuration, Plan
from autoseg.preprocessing.case import preprocess_case
from autoseg.preprocessing.store import write_case


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
    """

    case: Case
    plan: Plan
    targets: tuple[PreprocessTarget, ...]


def preprocess_file(job: PreprocessJob) -> str:
    """Read a case, preprocess it for every target and write the results.

    Returns:
        The case id.

    Raises:
        DatasetError: When the files cannot be read or do not fit the plan.
    """
    image = read_image(job.case.images)
    segmentation = read_segmentation(job.case.label) if job.case.label is not None else None
    for target in job.targets:
        case = preprocess_case(job.case.id, image, segmentation, job.plan, target.configuration)
        write_case(case, target.folder, patch_size=target.configuration.patch_size, digest=target.digest)
    return job.case.id
