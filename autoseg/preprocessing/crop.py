"""Cutting away the border that is zero in every channel, and marking the zeros that remain around the body."""

from __future__ import annotations

import numpy as np

from autoseg.geometry import BoundingBox

OUTSIDE = -1
"""Value of segmentation voxels that lie outside the nonzero mask and carry no label."""


def nonzero_mask(image: np.ndarray) -> np.ndarray:
    """Find where any channel differs from zero; zeros enclosed on all sides count as inside.

    Args:
        image: (c, z, y, x) or (c, y, x); not modified.

    Returns:
        Boolean (z, y, x) or (y, x).
    """
    mask = np.asarray(image[0] != 0)
    for channel in image[1:]:
        mask |= channel != 0
    # Nothing can be enclosed beyond the box around the mask.
    _fill_holes(mask[bounding_box(mask).slices])
    return mask


def bounding_box(mask: np.ndarray) -> BoundingBox:
    """Smallest box that holds every true voxel of a boolean mask; the whole extent when there is none."""
    return BoundingBox.around(mask)


def crop_to_nonzero(image: np.ndarray, segmentation: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, BoundingBox]:
    """Cut away the zero border and mark what is outside the nonzero mask.

    Args:
        image: (c, z, y, x) or (c, y, x); not modified.
        segmentation: Labels on the same grid; None stands for background everywhere.

    Returns:
        The cropped view of the image; the cropped segmentation as int16, ``OUTSIDE`` where there is neither
        intensity nor label; the box.
    """
    mask = nonzero_mask(image)
    box = bounding_box(mask)
    inside = mask[box.slices]
    labels = np.zeros(mask.shape, dtype=np.int16) if segmentation is None else segmentation
    cropped = labels[box.slices].astype(np.int16, order="C")  # a copy, whatever the type was
    cropped[~inside & (cropped == 0)] = OUTSIDE
    return image[(slice(None), *box.slices)], cropped, box


def _fill_holes(mask: np.ndarray) -> None:
    """Set background that does not reach the border of the array through its faces, in place."""
    if mask.all():
        return
    from scipy import ndimage  # a third of a second to import, and only where something is computed

    background, num_parts = ndimage.label(~mask)
    is_hole = np.ones(num_parts + 1, dtype=bool)
    for axis in range(mask.ndim):
        for end in (0, -1):
            is_hole[np.unique(background.take(end, axis=axis))] = False
    is_hole[0] = False  # the mask itself
    if not is_hole.any():
        return
    # Looked up where there is background only: inside the body of a CT that is a voxel here and there.
    zeros = np.nonzero(~mask)
    mask[zeros] = is_hole[background[zeros]]
