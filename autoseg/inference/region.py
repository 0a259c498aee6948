"""Where to look: the foreground that a quick look at low resolution finds, with a margin."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from scipy import ndimage

from autoseg.labels import LabelScheme


def foreground_region(
    logits: Iterable[np.ndarray], labels: LabelScheme, *, spacing: Sequence[float], margin_mm: float
) -> np.ndarray | None:
    """Voxels that are foreground, or near it.

    Args:
        logits: Slabs (k, n, ...) of consecutive planes.
        labels: What the outputs mean.
        spacing: Millimetres per voxel of their grid.
        margin_mm: How far around the foreground the region reaches.

    Returns:
        Boolean, the logits' grid; None where no foreground is: then there is no saying where to look.
    """
    parts = (slab.max(axis=0) > 0 if labels.has_regions else labels.segmentation(slab) != 0 for slab in logits)
    found = np.concatenate(list(parts))
    if not found.any():
        return None
    return np.asarray(ndimage.distance_transform_edt(~found, sampling=spacing) <= margin_mm)


def on_grid(region: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """A region on another grid over the same box: each voxel takes what the nearest one says.

    Cropping depends on the image only, so that the grids of all configurations cover one box.
    """
    nearest = [
        np.minimum(((np.arange(new) + 0.5) * old / new).astype(int), old - 1)
        for old, new in zip(region.shape, shape, strict=True)
    ]
    return region[np.ix_(*nearest)]
