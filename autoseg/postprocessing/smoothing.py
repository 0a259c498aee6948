"""Smoothing the outline of segmentations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from autoseg.geometry import BoundingBox
from autoseg.postprocessing.steps import Operation, Surroundings


def smooth(
    segmentation: np.ndarray, values: tuple[int, ...], around: Surroundings, /, *, sigma_mm: float
) -> np.ndarray:
    """Even out the outlines of some labels: every label is blurred, and the strongest one wins.

    Blurring keeps volumes, which opening and closing do not. Voxels of other labels stay as they are.

    Args:
        segmentation: Label values (z, y, x) or (y, x); not modified.
        values: Labels that may gain or lose voxels, among each other and against the background.
        around: Knows the spacing.
        sigma_mm: Standard deviation of the Gaussian.
    """
    box = _box_with_margin(np.isin(segmentation, values), around.spacing, 4 * sigma_mm)
    if box is None or sigma_mm <= 0:
        return segmentation
    inside = segmentation[box]
    sigma = [sigma_mm / s for s in around.spacing]
    best, winner = np.zeros(inside.shape, np.float32), np.zeros_like(inside)
    for value in (0, *values):
        # Labels that are left alone count as their own side's outside; 0 gathers everything else.
        mask = inside == value if value else ~np.isin(inside, values)
        blurred = ndimage.gaussian_filter(mask.astype(np.float32), sigma, mode="nearest")
        is_stronger = blurred > best
        best[is_stronger], winner[is_stronger] = blurred[is_stronger], value
    is_free = (inside == 0) | np.isin(inside, values)
    smoothed = segmentation.copy()
    smoothed[box][is_free] = winner[is_free]
    return smoothed


def open_close(
    segmentation: np.ndarray, values: tuple[int, ...], around: Surroundings, /, *, radius_mm: float
) -> np.ndarray:
    """Remove what is thinner than a ball from the union of some labels, then fill what is narrower than it.

    Args:
        segmentation: Label values (z, y, x) or (y, x); not modified.
        values: Labels that form one object; a filled voxel gets the nearest one of them.
        around: Knows the spacing.
        radius_mm: Radius of the ball.
    """
    mask = np.isin(segmentation, values)
    box = _box_with_margin(mask, around.spacing, 2 * radius_mm)
    if box is None or radius_mm <= 0:
        return segmentation
    inside, object_mask = segmentation[box], mask[box]
    changed = _closed(_opened(object_mask, around.spacing, radius_mm), around.spacing, radius_mm)
    result = segmentation.copy()
    result[box][object_mask & ~changed] = 0
    added = changed & (inside == 0)
    if added.any():
        nearest = ndimage.distance_transform_edt(
            ~object_mask, sampling=around.spacing, return_distances=False, return_indices=True
        )
        result[box][added] = inside[tuple(nearest)][added]
    return result


def _opened(mask: np.ndarray, spacing: Sequence[float], radius: float) -> np.ndarray:
    """Erosion, then dilation, with a ball in mm: two distance transforms, whatever the radius."""
    padded = np.pad(mask, 1)
    core = ndimage.distance_transform_edt(padded, sampling=spacing) > radius
    if not core.any():
        return np.zeros_like(mask)
    grown = ndimage.distance_transform_edt(~core, sampling=spacing) <= radius
    return np.asarray((grown & padded)[(slice(1, -1),) * mask.ndim])


def _closed(mask: np.ndarray, spacing: Sequence[float], radius: float) -> np.ndarray:
    if not mask.any():
        return mask
    grown = ndimage.distance_transform_edt(~mask, sampling=spacing) <= radius
    if grown.all():
        return mask
    return np.asarray(mask | (ndimage.distance_transform_edt(grown, sampling=spacing) > radius))


def _box_with_margin(mask: np.ndarray, spacing: Sequence[float], margin_mm: float) -> tuple[slice, ...] | None:
    if not mask.any():
        return None
    box = BoundingBox.around(mask)
    margins = [int(np.ceil(margin_mm / s)) + 1 for s in spacing]
    return tuple(
        slice(max(start - m, 0), min(stop + m, n))
        for start, stop, m, n in zip(box.start, box.stop, margins, mask.shape, strict=True)
    )


SMOOTH = Operation(
    apply=smooth,
    on="segmentation",
    defaults={"sigma_mm": 1.0},
    trials={"sigma_mm": (0.5, 1.0, 1.5)},
    says="The outline of {label} is smoothed (Gaussian of {sigma_mm:g} mm)",
)
OPEN_CLOSE = Operation(
    apply=open_close,
    on="segmentation",
    defaults={"radius_mm": 1.5},
    trials={"radius_mm": (1.0, 2.0)},
    says="{label} is opened and closed with a ball of {radius_mm:g} mm",
)
