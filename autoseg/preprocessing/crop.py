"""Cutting away the border that is zero in every channel, and marking the zeros that remain around the body."""

from __future__ import annotations

import numpy as np

from autoseg.arrays import IN_MEMORY, Room, let_go, slabs
from autoseg.geometry import BoundingBox
from autoseg.slab_components import fill_holes

OUTSIDE = -1
"""Value of segmentation voxels that lie outside the nonzero mask and carry no label."""


def nonzero_box(image: np.ndarray) -> BoundingBox:
    """Smallest box that holds every voxel where any channel differs from zero; the whole extent when there is none.

    Args:
        image: (c, z, y, x) or (c, y, x); not modified, and looked at slab by slab.
    """
    shape = image.shape[1:]
    planes, within = np.zeros(shape[0], dtype=bool), np.zeros(shape[1:], dtype=bool)
    for part in slabs(shape):
        mask = _differs(image[:, part])
        planes[part] = mask.any(axis=tuple(range(1, mask.ndim)))
        within |= mask.any(axis=0)
        let_go(image)
    around = BoundingBox.around(within)
    occupied = np.flatnonzero(planes)
    if not occupied.size:
        return BoundingBox.whole(shape)
    return BoundingBox(start=(int(occupied[0]), *around.start), stop=(int(occupied[-1]) + 1, *around.stop))


def nonzero_mask(image: np.ndarray, room: Room = IN_MEMORY) -> np.ndarray:
    """Find where any channel differs from zero; zeros enclosed on all sides count as inside.

    Args:
        image: (c, z, y, x) or (c, y, x); not modified.
        room: Where the mask lies.

    Returns:
        Boolean (z, y, x) or (y, x).
    """
    mask = room.empty(image.shape[1:], bool)
    for part in slabs(mask.shape):
        mask[part] = _differs(image[:, part])
        let_go(image, mask)
    # Nothing can be enclosed beyond the box around the mask.
    fill_holes(mask[bounding_box(mask).slices])
    return mask


def bounding_box(mask: np.ndarray) -> BoundingBox:
    """Smallest box that holds every true voxel of a boolean mask; the whole extent when there is none."""
    return nonzero_box(mask[None])


def crop_to_nonzero(
    image: np.ndarray, segmentation: np.ndarray | None, room: Room = IN_MEMORY
) -> tuple[np.ndarray, np.ndarray, BoundingBox]:
    """Cut away the zero border and mark what is outside the nonzero mask.

    Args:
        image: (c, z, y, x) or (c, y, x); not modified.
        segmentation: Labels on the same grid; None stands for background everywhere.
        room: Where the results lie.

    Returns:
        The cropped view of the image; the cropped segmentation as int16, ``OUTSIDE`` where there is neither
        intensity nor label; the box.
    """
    mask = nonzero_mask(image, room)
    box = bounding_box(mask)
    inside = mask[box.slices]
    labels = np.broadcast_to(np.int16(0), mask.shape) if segmentation is None else segmentation
    within = labels[box.slices]
    cropped = room.empty(box.shape, np.int16)  # a copy, whatever the type was
    for part in slabs(box.shape):
        marked = within[part].astype(np.int16)
        marked[~inside[part] & (marked == 0)] = OUTSIDE
        cropped[part] = marked
        let_go(mask, within, cropped)
    return image[(slice(None), *box.slices)], cropped, box


def _differs(image: np.ndarray) -> np.ndarray:
    """Where any channel of (c, ...) differs from zero."""
    mask = np.asarray(image[0] != 0)
    for channel in image[1:]:
        mask |= channel != 0
    return mask
