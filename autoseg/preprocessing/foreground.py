"""Where the foreground of a case lies: positions that patches are later centered on."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from autoseg.arrays import let_go, slabs
from autoseg.labels import LabelScheme
from autoseg.preprocessing.crop import OUTSIDE

_SEED = 1234  # nnU-Net's, once per case
_MOST = 10_000
_SHARE = 0.01
_LARGE = 2**28  # voxels up to which lists of voxels are made


def foreground_positions(segmentation: np.ndarray, labels: LabelScheme) -> tuple[np.ndarray, ...]:
    """Draw voxels of every target: 10 000 of them, or one in a hundred where that is more, or all there are.

    The draws are nnU-Net's: one generator per case, a target without voxels takes nothing from it, and a region's
    voxels are listed label by label. Above 2**28 voxels the draws follow the same numbers from another generator,
    because nnU-Net's shuffle a list of all voxels of a label.

    Args:
        segmentation: (z, y, x) or (y, x) labels, ``OUTSIDE`` included; not modified.
        labels: What is segmented.

    Returns:
        One int32 array (n, ndim) per target; with an ignore label one more, of annotated voxels.
    """
    if segmentation.size > _LARGE:
        return _positions_of_many(segmentation, labels)
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
        voxels = voxels[generator.choice(total, _num_wanted(total), replace=False)]
    return np.stack(np.unravel_index(voxels, shape), axis=-1).astype(np.int32)


def _positions_of_many(segmentation: np.ndarray, labels: LabelScheme) -> tuple[np.ndarray, ...]:
    """The same without a list of voxels: ranks are drawn, and found again slab by slab."""
    sets = [target.values for target in labels.targets]
    if labels.ignore_value is not None:
        sets.append((OUTSIDE, 0, *labels.foreground_values))
    parts = list(slabs(segmentation.shape))
    counts = np.zeros((len(parts), len(sets)), dtype=np.int64)
    for row, part in enumerate(parts):
        counts[row] = [np.count_nonzero(np.isin(segmentation[part], values)) for values in sets]
        let_go(segmentation)
    generator = np.random.default_rng(_SEED)
    ranks = [np.sort(generator.choice(n, _num_wanted(n), replace=False, shuffle=False)) for n in counts.sum(axis=0)]
    found: list[list[np.ndarray]] = [[] for _ in sets]
    before = np.zeros(len(sets), dtype=np.int64)
    for part, here in zip(parts, counts, strict=True):
        slab = np.ascontiguousarray(segmentation[part])
        for number, values in enumerate(sets):
            first, last = np.searchsorted(ranks[number], [before[number], before[number] + here[number]])
            if first < last:
                voxels = np.flatnonzero(np.isin(slab, values))[ranks[number][first:last] - before[number]]
                positions = np.stack(np.unravel_index(voxels, slab.shape), axis=-1).astype(np.int32)
                positions[:, 0] += part.start
                found[number].append(positions)
        before += here
        let_go(segmentation)
    empty = np.empty((0, segmentation.ndim), dtype=np.int32)
    return tuple(np.concatenate([empty, *positions]) for positions in found)


def _num_wanted(total: int) -> int:
    return max(min(_MOST, total), math.ceil(total * _SHARE))
