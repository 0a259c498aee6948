"""How often cases are drawn, by how much of each is annotated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autoseg.data.sampling import PatchSource
from autoseg.geometry import BoundingBox
from autoseg.labels import LabelScheme

_SLAB_VOXELS = 1 << 24  # read at once


def annotated_share(source: PatchSource, labels: LabelScheme) -> float:
    """Share of a case's voxels that are not ignored; 1 without an ignore label."""
    if labels.ignore_value is None:
        return 1.0
    shape = source.image_shape[1:]
    ignored = 0
    for slab in _slabs(shape):
        ignored += int(np.count_nonzero(source.read_segmentation(slab) == labels.ignore_value))
    return 1.0 - ignored / int(np.prod(shape))


def _slabs(shape: Sequence[int]) -> list[BoundingBox]:
    """Boxes that make up a volume, cut along its first axis."""
    thickness = max(1, _SLAB_VOXELS // max(1, int(np.prod(shape[1:]))))
    starts = range(0, shape[0], thickness)
    rest = (0,) * (len(shape) - 1)
    return [BoundingBox(start=(a, *rest), stop=(min(a + thickness, shape[0]), *shape[1:])) for a in starts]
