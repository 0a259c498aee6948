"""Which resolutions a dataset is worth: in plane, full, and a lower one where patches see too little of a case."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from autoseg.planners.budget import Sizer, Sizing
from autoseg.planners.spacing import Grid
from autoseg.planners.wording import millimeters

_ENOUGH_CONTEXT = 0.25  # of the median case in one patch
_COARSENING = 1.03  # spacing grows by this factor until a patch has enough context
_SIMILAR = 2.0  # axes that are finer than the coarsest by more than this are coarsened alone
_WORTHWHILE = 2.0  # times fewer voxels than at full resolution


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolutions:
    """Sizes of a dataset's configurations, axes in the plan's order.

    Args:
        in_plane: 2D networks on slices.
        full: 3D networks at full resolution; None for flat data.
        low: 3D networks at a lower resolution; None where it is not worthwhile.
        note: Why there is or is not a lower resolution.
    """

    in_plane: Sizing
    full: Sizing | None
    low: Sizing | None
    note: str


def choose_resolutions(grid: Grid, sizer: Sizer, *, num_cases: int) -> Resolutions:
    """Size a 2D network, a 3D network unless cases are flat, and one at a lower resolution where that helps.

    Args:
        grid: Full resolution.
        sizer: Fits networks into memory.
        num_cases: Training cases; their voxels at full resolution limit the batches of both full-resolution networks.

    Raises:
        PlanError: When memory is too little for any patch.
    """
    dataset_voxels = grid.num_voxels * num_cases
    axes = grid.in_plane
    in_plane = sizer.size(grid.spacing[axes], grid.median_shape[axes], dataset_voxels=dataset_voxels)
    if grid.is_flat:
        return Resolutions(in_plane=in_plane, full=None, low=None, note="Cases are single slices: only 2d is planned.")
    full = sizer.size(grid.spacing, grid.median_shape, dataset_voxels=dataset_voxels)
    low, note = find_low_resolution(full, sizer, num_cases=num_cases)
    return Resolutions(in_plane=in_plane, full=full, low=low, note=note)


def find_low_resolution(full: Sizing, sizer: Sizer, *, num_cases: int) -> tuple[Sizing | None, str]:
    """Coarsen the spacing in small steps until a patch sees a quarter of the median case.

    Args:
        full: The network at full resolution.
        sizer: Fits networks into memory.
        num_cases: Training cases.

    Returns:
        The size at the lower resolution, or None where it would hardly differ from full resolution; and why.
    """
    full_voxels = math.prod(full.median_shape)
    spacing, num_voxels, low = full.spacing, full_voxels, full
    while math.prod(low.patch_size) / num_voxels < _ENOUGH_CONTEXT:
        spacing = coarsen(spacing)
        shape = [f / s * n for f, s, n in zip(full.spacing, spacing, full.median_shape, strict=True)]
        num_voxels = math.prod(shape)
        low = sizer.size(spacing, [round(n) for n in shape], dataset_voxels=num_voxels * num_cases)
    sees = f"a full-resolution patch sees {full.coverage:.0%} of the median case"
    if low is full:
        return None, f"3d_lowres is not planned: {sees}, at least {_ENOUGH_CONTEXT:.0%} is enough."
    times_fewer = full_voxels / num_voxels
    found = f"at {millimeters(spacing)} it would see {low.coverage:.0%} of {times_fewer:.1f} times fewer voxels"
    if times_fewer < _WORTHWHILE:
        return None, f"3d_lowres is not planned: {sees}; {found}, too similar to full resolution to be worth it."
    return low, f"3d_lowres and a cascade are planned: {sees}; {found}."


def coarsen(spacing: Sequence[float]) -> tuple[float, ...]:
    """Take one step to a coarser spacing: the fine axes alone until they catch up, then all.

    Example:
        >>> coarsen((5.0, 1.0, 1.0)), coarsen((1.0, 1.0, 1.0))
        ((5.0, 1.03, 1.03), (1.03, 1.03, 1.03))
    """
    coarsest = max(spacing)
    fine = [coarsest / s > _SIMILAR for s in spacing]
    return tuple(s * _COARSENING if is_fine or not any(fine) else s for s, is_fine in zip(spacing, fine, strict=True))
