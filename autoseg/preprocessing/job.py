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
class PreprocessJob:
    """One case to preprocess for one configuration.

    Args:
        case: Its files.
        plan: The plan.
        configuration: One of its configurations.
        folder: Where the preprocessed cases of the configuration lie.
        digest: Of everything the result depends on.
    """

    case: Case
    plan: Plan
    configuration: Configuration
    folder: Path
    digest: str


def preprocess_file(job: PreprocessJob) -> str:
    """Read a case, preprocess it and write the result.

    Returns:
        The case id.

    Raises:
        DatasetError: When the files cannot be read or do not fit the plan.
    """
    image = read_image(job.case.images)
    segmentation = read_segmentation(job.case.label) if job.case.label is not None else None
    case = preprocess_case(job.case.id, image, segmentation, job.plan, job.configuration)
    write_case(case, job.folder, patch_size=job.configuration.patch_size, digest=job.digest)
    return job.case.id
