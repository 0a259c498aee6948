"""Where the foreground of a case lies: positions that patches are later centered on."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from autoseg.labels import LabelScheme
from autoseg.preprocessing.crop import OUTSIDE

_SEED = 1234  # nnU-Net's, once per case
_MOST = 10_000
_SHARE = 0.01


def foreground_positions(segmentation: np.ndarray, labels: LabelScheme) -> tuple[np.ndarray, ...]:
    """Draw voxels of every target: 10 000 of them, or one in a hundred where that is more, or all there are.

    The draws are nnU-Net's: one generator per case, a target without voxels takes nothing from it, and a region's
    voxels are listed label by label.

    Args:
        segmentation: (z, y, x) or (y, x) labels, ``OUTSIDE`` included; not modified.
        labels: What is segmented.

    Returns:
        One int32 array (n, ndim) per target; with an ignore label one more, of annotated voxels.
    """
    generator = np.random.RandomState(_SEED)
    by_value = _VoxelsByValue(segmentation)
    wanted = [by_value.of(target.values) for target in labels.targets]
    if labels.ignore_value is not None:
        flat = segmentation.reshape(-1)
        annotated = [np.flatnonzero(flat == value) for value in (OUTSIDE, 0)]
        wanted.append(np.concatenate([*annotated, by_value.of(labels.foreground_values)]))
    return tuple(_draw(generator, voxels, segmentation.shape) for voxels in wanted)


class _VoxelsByValue:
    """Flat positions of labelled voxels, grouped by label in one pass instead of one per label."""

    def __init__(self, segmentation: np.ndarray) -> None:
        flat = segmentation.reshape(-1)
        labelled = np.flatnonzero(flat > 0)
        values = flat[labelled]
        order = np.argsort(values, kind="stable")  # a radix sort on 16-bit integers; keeps the order within a label
        self._positions, self._values = labelled[order], values[order]

    def of(self, values: Sequence[int]) -> np.ndarray:
        """Positions of several labels, one label after the other."""
        parts = []
        for value in values:
            first, last = np.searchsorted(self._values, [value, value + 1])
            parts.append(self._positions[first:last])
        return np.concatenate(parts)


def _draw(generator: np.random.RandomState, voxels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    total = len(voxels)
    if total:
        num_wanted = max(min(_MOST, total), math.ceil(total * _SHARE))
        voxels = voxels[generator.choice(total, num_wanted, replace=False)]
    return np.stack(np.unravel_index(voxels, shape), axis=-1).astype(np.int32)
