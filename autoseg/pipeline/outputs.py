"""Files besides the segmentation: one per label, pictures, a zip for an upload, a run-length table."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoseg.atomic import atomic_path
from autoseg.dataset import Case
from autoseg.figures import draw_overlay
from autoseg.image import Image, Segmentation, read_segmentation, write_segmentation
from autoseg.inference.run_length import write_run_lengths
from autoseg.plan import Plan

PICTURES_DIR = "pictures"
_CARRY_LABELS = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd", ".png", ".tif", ".tiff")
"""Formats that keep integers as they are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtraOutputs:
    """What is written besides a segmentation per case.

    Args:
        separate_labels: One file per label, CASE/LABEL, one where the label or region is.
        pictures: pictures/CASE.png, the segmentation over the image.
        zip_path: All segmentations in one archive.
        run_lengths: CSV with one row per slice.
    """

    separate_labels: bool = False
    pictures: bool = False
    zip_path: Path | None = None
    run_lengths: Path | None = None


def output_ending(case: Case, plan: Plan) -> str:
    """Ending of a case's segmentation: that of the dataset, or of the image where it comes in another format.

    A format that does not keep integers (JPEG, DICOM) is answered with the dataset's.
    """
    name = case.images[0].name.lower()
    if name.endswith(plan.file_ending.lower()):
        return plan.file_ending
    return next((ending for ending in _CARRY_LABELS if name.endswith(ending)), plan.file_ending)


def write_extras(
    extras: ExtraOutputs, output: Path, case: Case, image: Image, segmentation: Segmentation, plan: Plan
) -> list[Path]:
    """Write what was asked for of one case.

    Returns:
        The files.
    """
    written = []
    if extras.separate_labels:
        for target in plan.labels.targets:
            path = output / case.id / f"{_file_name(target.name)}{output_ending(case, plan)}"
            mask = target.mask(segmentation.array).astype(np.uint8)
            write_segmentation(path, Segmentation(array=mask, geometry=segmentation.geometry))
            written.append(path)
    if extras.pictures:
        path = output / PICTURES_DIR / f"{case.id}.png"
        draw_overlay(
            image.array,
            segmentation.array,
            path,
            spacing=image.geometry.spacing,
            labels=plan.labels,
            title=case.id,
            orientation=image.geometry.orientation,
        )
        written.append(path)
    return written


def write_tables(extras: ExtraOutputs, output: Path, cases: Sequence[Case], plan: Plan) -> None:
    """Write what was asked for of all cases together, those predicted earlier included."""
    files = [output / f"{case.id}{output_ending(case, plan)}" for case in cases]
    if extras.zip_path is not None:
        with atomic_path(extras.zip_path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
            for path in files:
                archive.write(path, path.name)  # compressed already
    if extras.run_lengths is not None:

        def segmentations() -> Iterator[tuple[str, np.ndarray]]:
            for case, path in zip(cases, files, strict=True):
                yield case.id, read_segmentation(path).array

        write_run_lengths(extras.run_lengths, segmentations())


def _file_name(label: str) -> str:
    return re.sub(r"[^\w.+-]+", "_", label).strip("_.") or "label"
