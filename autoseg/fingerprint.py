"""The fingerprint: what a planner needs to know about a dataset, measured once per case and merged."""

from __future__ import annotations

from dataclasses import dataclass

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseFingerprint:
    """Grid of one case, axes as stored (or as turned to the dataset's orientation).

    Args:
        id: Case id.
        spacing: Millimetres per voxel.
        shape: Voxels as stored.
        cropped_shape: Voxels after the zero border is cut away.
        orientation: Anatomical direction of the stored array axes.
        labels: Label values above zero that occur in it; empty where nobody looked.
    """

    id: str
    spacing: tuple[float, ...]
    shape: tuple[int, ...]
    cropped_shape: tuple[int, ...]
    orientation: str
    labels: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class IntensityStatistics:
    """Intensities of one channel over the foreground voxels of all cases."""

    mean: float
    median: float
    std: float
    min: float
    max: float
    percentile_00_5: float
    percentile_99_5: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """What was measured on the training cases.

    Args:
        cases: One entry per training case, ordered by id.
        intensities: One entry per channel; empty when no case has foreground.
        median_relative_size: Median over cases of cropped voxels / stored voxels.
        orientation: Orientation that most cases share.
        source: Digest of the files that were measured; empty where nobody asked for one.
    """

    schema_version: int = SCHEMA_VERSION
    cases: tuple[CaseFingerprint, ...]
    intensities: tuple[IntensityStatistics, ...]
    median_relative_size: float
    orientation: str
    source: str = ""
