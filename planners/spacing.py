"""The grid that images are resampled to at full resolution: spacing, order of axes, median shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autoseg.errors import PlanError
from autoseg.fingerprint import CaseFingerprint, Fingerprint
from autoseg.planners.wording import counted, millimeters

_ANISOTROPY = 3.0  # an axis coarser and shorter than the others by more than this counts as a stack of slices
_FINER_PERCENTILE = 10  # what a stack of slices is resampled to: finer than the median, yet common
_JUST_ABOVE = 1e-5  # mm; keeps the coarsest axis the coarsest, so that it stays the first one

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpacingChoice:
    """A spacing, axes as stored, in mm, and why it was chosen."""

    spacing: tuple[float, ...]
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Full resolution of a dataset. All axes but those of ``transpose`` are in the plan's order.

    Args:
        spacing: Target spacing, mm.
        spacing_reason: Why.
        transpose: Plan axis i is stored axis ``transpose[i]``.
        median_spacing: Median spacing of the cases, mm.
        median_shape: Median voxels per axis of the cropped cases at the target spacing; halves are possible.
    """

    spacing: tuple[float, ...]
    spacing_reason: str
    transpose: tuple[int, ...]
    median_spacing: tuple[float, ...]
    median_shape: tuple[float, ...]

    @property
    def num_voxels(self) -> float:
        """Voxels of a case with the median shape."""
        return math.prod(self.median_shape)

    @property
    def is_flat(self) -> bool:
        """Whether cases are single slices, so that only a 2D network makes sense."""
        return len(self.spacing) == 2 or self.median_shape[0] == 1

    @property
    def in_plane(self) -> slice:
        """Axes of a 2D configuration: of three, all but the first, which is the coarsest."""
        return slice(len(self.spacing) - 2, None)


def full_resolution_grid(fingerprint: Fingerprint, requested: Sequence[float] | None = None) -> Grid:
    """Choose the spacing that a dataset is resampled to, and put its coarsest axis first.

    Args:
        fingerprint: Spacings and cropped shapes of the cases.
        requested: Spacing in mm, axes as stored, that the user wants instead; for 2D data a leading third entry is
            accepted and dropped.

    Raises:
        PlanError: When there are no cases, when 2D and 3D cases are mixed, or when ``requested`` is impossible.
    """
    cases = fingerprint.cases
    if not cases:
        raise PlanError("the fingerprint has no cases; there is nothing to plan for")
    if len({len(case.spacing) for case in cases}) > 1:
        raise PlanError("the dataset mixes 2D and 3D cases; split it into two datasets")
    spacings = np.array([case.spacing for case in cases], dtype=np.float64)  # (n, d)
    shapes = np.array([case.cropped_shape for case in cases], dtype=np.float64)  # (n, d)
    choice = choose_spacing(spacings, shapes) if requested is None else _given(requested, spacings.shape[1])
    median_shape = np.median([resampled_shape(case, choice.spacing) for case in cases], axis=0)
    median_spacing = np.median(spacings, axis=0)
    transpose = coarsest_first(choice.spacing)
    return Grid(
        spacing=tuple(choice.spacing[axis] for axis in transpose),
        spacing_reason=choice.reason,
        transpose=transpose,
        median_spacing=tuple(float(median_spacing[axis]) for axis in transpose),
        # A slice that is merged away entirely would leave nothing to plan for.
        median_shape=tuple(max(1.0, float(median_shape[axis])) for axis in transpose),
    )


def choose_spacing(spacings: FloatArray, shapes: FloatArray) -> SpacingChoice:
    """Take the median spacing; along a much coarser and shorter axis a finer one, so that slices are not merged.

    Args:
        spacings: Millimeters per case and axis, (n, d).
        shapes: Cropped voxels per case and axis, (n, d).
    """
    target = [float(s) for s in np.percentile(spacings, 50, axis=0)]
    size = [float(n) for n in np.percentile(shapes, 50, axis=0)]
    median = f"median of {counted(len(spacings), 'case')}, {millimeters(target)} as stored"
    coarsest = int(np.argmax(target))
    other_spacings = [s for axis, s in enumerate(target) if axis != coarsest]
    other_sizes = [n for axis, n in enumerate(size) if axis != coarsest]
    is_stack = (
        len(target) == 3
        and target[coarsest] > _ANISOTROPY * max(other_spacings)
        and size[coarsest] * _ANISOTROPY < min(other_sizes)
    )
    if not is_stack:
        return SpacingChoice(spacing=tuple(target), reason=median)
    finer = float(np.percentile(spacings[:, coarsest], _FINER_PERCENTILE))
    if finer < max(other_spacings):
        finer = max(*other_spacings, finer) + _JUST_ABOVE
    reason = (
        f"{median}, except along axis {coarsest}: with {size[coarsest]:g} voxels of "
        f"{target[coarsest]:.3g} mm it is a stack of slices, and {finer:.3g} mm, about the finest tenth of the cases, "
        "keeps them apart"
    )
    target[coarsest] = finer
    return SpacingChoice(spacing=tuple(target), reason=reason)


def coarsest_first(spacing: Sequence[float]) -> tuple[int, ...]:
    """Order of three axes with the coarsest first and the others as they were; two axes keep their order.

    Example:
        >>> coarsest_first((0.8, 0.8, 2.5))
        (2, 0, 1)
    """
    axes = range(len(spacing))
    if len(spacing) == 2:
        return tuple(axes)
    coarsest = max(axes, key=lambda axis: spacing[axis])
    return (coarsest, *(axis for axis in axes if axis != coarsest))


def resampled_shape(case: CaseFingerprint, spacing: Sequence[float]) -> tuple[int, ...]:
    """Voxels per stored axis of a cropped case at another spacing."""
    return tuple(round(old / new * n) for old, new, n in zip(case.spacing, spacing, case.cropped_shape, strict=True))


def _given(requested: Sequence[float], ndim: int) -> SpacingChoice:
    spacing = tuple(float(s) for s in requested)
    if len(spacing) == 3 and ndim == 2:
        spacing = spacing[1:]
    if len(spacing) != ndim or not all(math.isfinite(s) and s > 0 for s in spacing):
        raise PlanError(f"the spacing must be {ndim} positive numbers of millimeters, got {tuple(requested)}")
    return SpacingChoice(spacing=spacing, reason=f"requested: {millimeters(spacing)}, axes as stored")
