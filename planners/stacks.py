"""The 2.5D configuration: which axes slices are cut across, and how large a slice the network sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from autoseg.errors import PlanError
from autoseg.plan import Configuration, SlicePlan
from autoseg.planners.budget import Sizer, Sizing
from autoseg.planners.spacing import Grid
from autoseg.planners.wording import millimeters, voxels
from autoseg.planning import STACKS, SliceRequest

_ALIKE = 2.0  # spacings that differ less than this many times: a slice along any axis shows things in the same shape
_LONG_ENOUGH = 0.25  # of the longest axis; a thinner slice would be padding for the most part


@dataclass(frozen=True, slots=True, kw_only=True)
class Stacks:
    """A 2.5D configuration's choices.

    Args:
        name: Of the configuration, without the planner's.
        slices: Axes and number of slices.
        spacing: Of the volumes that slices are cut from: two entries where cases keep their own slices.
        median_shape: As many axes.
        sizing: Patch, batch and network.
        reason: Why these axes.
    """

    name: str
    slices: SlicePlan
    spacing: tuple[float, ...]
    median_shape: tuple[float, ...]
    sizing: Sizing
    reason: str


def choose_stacks(request: SliceRequest, grid: Grid, sizer: Sizer, *, num_cases: int) -> Stacks:
    """Plan for stacks of slices, along all axes where these are alike.

    Args:
        request: What was asked for.
        grid: Full resolution.
        sizer: Fits networks into memory.
        num_cases: Training cases; their voxels limit the batch.

    Raises:
        PlanError: When cases are flat, or memory is too little.
    """
    if grid.is_flat:
        raise PlanError(f"cases are single slices: there are no stacks to plan {STACKS} for, use 2d")
    axes, why = (request.axes, "as asked for") if request.axes is not None else _axes_worth_it(grid)
    slices = SlicePlan(context=request.context, axes=axes)
    spacing, median_shape = _plane(slices, grid.spacing, grid.median_shape)
    sizing = sizer.size(spacing, median_shape, dataset_voxels=grid.num_voxels * num_cases)
    # Where slices are cut as they were acquired, nothing is resampled across them, as for the configuration 2d.
    kept = slice(1, None) if axes == (0,) else slice(None)
    return Stacks(
        name=STACKS if request.axes is None else f"{STACKS}@axis{''.join(map(str, axes))}",
        slices=slices,
        spacing=grid.spacing[kept],
        median_shape=grid.median_shape[kept],
        sizing=sizing,
        reason=f"{slices.context} neighboring slices as channels, the middle one is segmented; {why}",
    )


def plane_of(configuration: Configuration) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Spacing and median shape of what the network of a configuration sees."""
    slices, spacing, shape = configuration.slices, configuration.spacing, configuration.median_shape
    return (spacing, shape) if slices is None or len(spacing) == 2 else _plane(slices, spacing, shape)


def _plane(
    slices: SlicePlan, spacing: Sequence[float], median_shape: Sequence[float]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The finest spacing and the longest edge that rows, and that columns have in slices across any of the axes."""
    planes = [slices.in_plane(axis) for axis in slices.axes]
    return (
        tuple(min(spacing[plane[place]] for plane in planes) for place in range(2)),
        tuple(max(median_shape[plane[place]] for plane in planes) for place in range(2)),
    )


def _axes_worth_it(grid: Grid) -> tuple[tuple[int, ...], str]:
    shape = f"{voxels(grid.median_shape)} voxels of {millimeters(grid.spacing)}"
    if max(grid.spacing) >= _ALIKE * min(grid.spacing):
        return (0,), f"across the first axis only: with {shape}, slices along the others show things out of shape"
    if min(grid.median_shape) < _LONG_ENOUGH * max(grid.median_shape):
        return (0,), f"across the first axis only: of {shape}, slices along the others are narrow strips"
    return (0, 1, 2), f"across all axes, {shape} being alike along them; one network learns and predicts all three"
