"""Order-1 resampling of label maps in one pass, however many labels there are.

A new voxel lies in a cell of 2 x 2 x 2 old ones. Where those carry one label, and they do nearly everywhere, that is
the result. Only in the mixed cells, along the borders between labels, are scores needed: the summed weights of each
label's corners. The weights are computed as ``scipy.ndimage.zoom`` computes them, product by product, so that exact
ties between labels are ties here as well.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from autoseg.arrays import IN_MEMORY, Room, let_go

_SLAB_VOXELS = 2**21


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AxisTaps:
    """Old voxels that each new position along an axis lies between.

    Args:
        lower: (new,) index of the old voxel below.
        upper: (new,) index of the one above.
        lower_weight: (new,) share of the lower one, 0 to 1; None where positions are old voxels: nothing is mixed.
        nearest: (new,) index of the nearest old voxel.
    """

    lower: np.ndarray
    upper: np.ndarray
    lower_weight: np.ndarray | None
    nearest: np.ndarray

    @classmethod
    def selecting(cls, index: np.ndarray) -> AxisTaps:
        """Take old voxels as they are."""
        return cls(lower=index, upper=index, lower_weight=None, nearest=index)

    @classmethod
    def interpolating(cls, old: int, new: int, order: int) -> AxisTaps:
        """Positions (i + 0.5) * old / new - 0.5; beyond the outermost voxels their values go on."""
        # In this order of operations: scipy's rounding decides which scores are exactly equal. It also keeps both
        # weights beyond the edge, where both taps meet the same voxel.
        position = (np.arange(new) + 0.5) * (old / new) - 0.5
        below = np.floor(position).astype(np.int64)
        nearest = np.clip(np.floor(position + 0.5).astype(np.int64), 0, old - 1)
        if order == 0 or old == new:
            return cls.selecting(nearest)
        lower, upper = np.clip(below, 0, old - 1), np.clip(below + 1, 0, old - 1)
        return cls(lower=lower, upper=upper, lower_weight=1.0 - (position - below), nearest=nearest)

    def part(self, rows: slice) -> AxisTaps:
        """Some of the new positions."""
        weight = None if self.lower_weight is None else self.lower_weight[rows]
        return AxisTaps(lower=self.lower[rows], upper=self.upper[rows], lower_weight=weight, nearest=self.nearest[rows])

    def moved(self, offset: int) -> AxisTaps:
        """The same positions in an array that starts ``-offset`` voxels later."""
        return replace(self, lower=self.lower + offset, upper=self.upper + offset, nearest=self.nearest + offset)

    def corners(self, position: np.ndarray) -> list[tuple[np.ndarray, np.ndarray | None]]:
        """Old index and weight of each of the one or two taps of new positions (n,)."""
        if self.lower_weight is None:
            return [(self.lower[position], None)]
        weight = self.lower_weight[position]
        return [(self.lower[position], weight), (self.upper[position], 1.0 - weight)]


def resample_labels(
    labels: np.ndarray, taps: tuple[AxisTaps, AxisTaps, AxisTaps], room: Room = IN_MEMORY
) -> np.ndarray:
    """Give every new voxel the label with the largest interpolated score.

    Args:
        labels: (z, y, x), an integer type; not modified.
        taps: Per axis, where the new voxels lie.
        room: Where the result lies.

    Returns:
        Labels on the new grid, in the same type.
    """
    shape = tuple(len(t.nearest) for t in taps)
    resampled = room.empty(shape, labels.dtype)
    step = max(1, _SLAB_VOXELS // (shape[1] * shape[2]))
    for start in range(0, shape[0], step):
        rows = slice(start, start + step)
        part = taps[0].part(rows)
        first, last = int(part.lower[0]), int(part.upper[-1]) + 1
        _resample_slab(labels[first:last], (part.moved(-first), taps[1], taps[2]), resampled[rows])
        let_go(labels, resampled)
    return resampled


def _resample_slab(labels: np.ndarray, taps: tuple[AxisTaps, AxisTaps, AxisTaps], out: np.ndarray) -> None:
    labels = np.ascontiguousarray(labels)
    out[...] = _select(labels, taps[0].nearest, taps[1].nearest, taps[2].nearest)
    if all(t.lower_weight is None for t in taps):
        return
    mixed = _mixed_cells(labels, taps)
    if not mixed.any():
        return
    positions = np.nonzero(_select(mixed, taps[0].lower, taps[1].lower, taps[2].lower))
    out[positions] = _decide(labels, taps, positions, out[positions])


def _select(array: np.ndarray, z: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Pick indices along each axis; last axis first, since whole rows and planes are cheap to repeat."""
    return array.take(x, axis=2).take(y, axis=1).take(z, axis=0)


def _mixed_cells(labels: np.ndarray, taps: tuple[AxisTaps, AxisTaps, AxisTaps]) -> np.ndarray:
    """Whether the cell above each old voxel holds more than one label; boolean, (z, y, x)."""
    smallest, largest = labels.copy(), labels.copy()
    for axis, t in enumerate(taps):
        if t.lower_weight is None:
            continue
        here = (slice(None),) * axis + (slice(None, -1),)
        above = (slice(None),) * axis + (slice(1, None),)
        smallest[here] = np.minimum(smallest[here], smallest[above])
        largest[here] = np.maximum(largest[here], largest[above])
    return np.asarray(smallest != largest)


def _decide(
    labels: np.ndarray,
    taps: tuple[AxisTaps, AxisTaps, AxisTaps],
    positions: tuple[np.ndarray, ...],
    nearest: np.ndarray,
) -> np.ndarray:
    """Labels (n,) of the new voxels at ``positions``, which lie in mixed cells; ``nearest`` wins ties."""
    corners, weights = [], []
    flat, (_, num_rows, num_columns) = labels.reshape(-1), labels.shape
    for (z, wz), (y, wy), (x, wx) in product(*(t.corners(p) for t, p in zip(taps, positions, strict=True))):
        corners.append(flat[(z * num_rows + y) * num_columns + x])
        weights.append(_product([w for w in (wz, wy, wx) if w is not None]))
    decided = nearest.copy()
    open_cases = np.flatnonzero(_score(corners, weights, nearest) <= 0.5 + 1e-6)  # the others have the majority
    if not open_cases.size:
        return decided
    corners, weights = [c[open_cases] for c in corners], [w[open_cases] for w in weights]
    scores = np.stack([_score(corners, weights, candidate) for candidate in corners])
    best = scores.max(axis=0)
    largest_value = np.iinfo(labels.dtype).max
    smallest_tied = np.where(scores == best, np.stack(corners), largest_value).min(axis=0)
    nearest = nearest[open_cases]
    decided[open_cases] = np.where(_score(corners, weights, nearest) == best, nearest, smallest_tied)
    return decided


def _product(factors: list[np.ndarray]) -> np.ndarray:
    """Multiply from the first axis to the last, as scipy does."""
    result = factors[0]
    for factor in factors[1:]:
        result = result * factor
    return result


def _score(corners: list[np.ndarray], weights: list[np.ndarray], candidate: np.ndarray) -> np.ndarray:
    """Sum of the weights of the corners that carry the candidate label, added in scipy's order."""
    score = np.zeros(len(candidate))
    for corner, weight in zip(corners, weights, strict=True):
        score += np.where(corner == candidate, weight, 0.0)
    return score
