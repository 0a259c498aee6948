"""Removing what anatomy rules out: small or stray connected components, and holes."""

from __future__ import annotations

import math

import cc3d
import numpy as np
from scipy import ndimage

from autoseg.errors import SettingsError
from autoseg.geometry import BoundingBox
from autoseg.postprocessing.steps import Operation, Surroundings

_CONNECTIVITIES = {3: (26, 18, 6), 2: (8, 8, 4)}  # by the number of axes; what 26, 18 and 6 mean in 2D


def keep_largest(
    segmentation: np.ndarray,
    values: tuple[int, ...],
    around: Surroundings | None = None,
    /,
    *,
    connectivity: float = 26,
) -> np.ndarray:
    """Keep the largest connected component of the union of some labels; the rest of the union becomes background.

    Equally large components all stay, as in nnU-Net.

    Args:
        segmentation: Label values (z, y, x) or (y, x); not modified.
        values: Labels that form one object.
        around: Not looked at.
        connectivity: Neighbours share a face (6), also an edge (18), or also a corner (26, in 2D 8).
    """
    del around
    mask = np.isin(segmentation, values)
    if not mask.any():
        return segmentation
    box = BoundingBox.around(mask).slices  # a fraction of most volumes
    components, sizes = _components(mask[box], connectivity)
    if len(sizes) == 2:
        return segmentation
    return _without(segmentation, box, mask[box] & ~(sizes == sizes[1:].max())[components])


def remove_small(
    segmentation: np.ndarray,
    values: tuple[int, ...],
    around: Surroundings,
    /,
    *,
    min_mm3: float,
    connectivity: float = 26,
) -> np.ndarray:
    """Make components of the union of some labels background that are smaller than a volume.

    Args:
        segmentation: Label values (z, y, x) or (y, x); not modified.
        values: Labels that form one object.
        around: Knows the spacing.
        min_mm3: Volume in mm3 (area in mm2 in 2D) that stays.
        connectivity: As in :func:`keep_largest`.
    """
    mask = np.isin(segmentation, values)
    if not mask.any():
        return segmentation
    box = BoundingBox.around(mask).slices
    components, sizes = _components(mask[box], connectivity)
    is_small = sizes * math.prod(around.spacing) < min_mm3 * (1 - 1e-9)
    is_small[0] = False
    return _without(segmentation, box, is_small[components]) if is_small.any() else segmentation


def fill_holes(segmentation: np.ndarray, values: tuple[int, ...], around: Surroundings, /) -> np.ndarray:
    """Fill background that the union of some labels encloses; other labels inside stay.

    Args:
        segmentation: Label values (z, y, x) or (y, x); not modified.
        values: Labels that form one object; a filled voxel gets the nearest one of them.
        around: Knows the spacing.
    """
    mask = np.isin(segmentation, values)
    if not mask.any():
        return segmentation
    box = BoundingBox.around(mask).slices
    inside = segmentation[box]
    holes = ndimage.binary_fill_holes(mask[box]) & (inside == 0)
    if not holes.any():
        return segmentation
    filled = segmentation.copy()
    if len(values) == 1:
        filled[box][holes] = values[0]
    else:
        nearest = ndimage.distance_transform_edt(
            ~mask[box], sampling=around.spacing, return_distances=False, return_indices=True
        )
        filled[box][holes] = inside[tuple(nearest)][holes]
    return filled


def largest_components(mask: np.ndarray, connectivity: float = 26) -> np.ndarray:
    """The largest component of a boolean mask (z, y, x) or (y, x); equally large ones all stay."""
    if not mask.any():
        return mask
    components, sizes = _components(mask, connectivity)
    return np.asarray(mask & (sizes == sizes.max())[components])


def _components(mask: np.ndarray, connectivity: float) -> tuple[np.ndarray, np.ndarray]:
    """Number of each voxel's component, 0 outside, and voxels per component, the first of which is set to 0."""
    if connectivity not in _CONNECTIVITIES[3]:
        raise SettingsError(f"connectivity must be 6, 18 or 26, found {connectivity:g}")
    neighbors = _CONNECTIVITIES[mask.ndim][_CONNECTIVITIES[3].index(int(connectivity))]
    # As integers: for booleans cc3d takes another way, which labels background at the edge of odd shapes (4.1.1).
    integers = np.ascontiguousarray(mask, dtype=np.uint8)
    components = cc3d.connected_components(integers, connectivity=neighbors)
    sizes = np.bincount(components.ravel())
    sizes[0] = 0
    return components, sizes


def _without(segmentation: np.ndarray, box: tuple[slice, ...], removed: np.ndarray) -> np.ndarray:
    cleaned = segmentation.copy()
    cleaned[box][removed] = 0
    return cleaned


KEEP_LARGEST = Operation(
    apply=keep_largest,
    on="segmentation",
    defaults={"connectivity": 26},
    says="Only the largest component of {label} is kept",
)
REMOVE_SMALL = Operation(
    apply=remove_small,
    on="segmentation",
    defaults={"min_mm3": 10, "connectivity": 26},
    trials={"min_mm3": (10, 30, 100, 300, 1000)},
    says="Components of {label} below {min_mm3:g} mm3 are removed",
)
FILL_HOLES = Operation(apply=fill_holes, on="segmentation", says="Holes in {label} are filled")
