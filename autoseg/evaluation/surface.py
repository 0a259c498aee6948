"""Distances between the surfaces of a reference and a prediction, and the scores made of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import KDTree

from autoseg.evaluation.surfels import Surfels


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SurfaceDistances:
    """How far every element of each surface is from the other surface.

    Args:
        from_reference: Distances in mm from the reference's elements to the prediction, ascending; infinite where the
            prediction has no surface.
        reference_sizes: Area in mm2 (length in mm in two dimensions) of the same elements; ones where each counts
            the same.
        from_prediction: Likewise the other way round.
        prediction_sizes: Likewise.
    """

    from_reference: np.ndarray
    reference_sizes: np.ndarray
    from_prediction: np.ndarray
    prediction_sizes: np.ndarray

    @property
    def is_empty(self) -> bool:
        """Whether neither has a surface."""
        return not len(self.from_reference) and not len(self.from_prediction)

    @property
    def is_one_sided(self) -> bool:
        """Whether only one of them has a surface, so that there is no distance."""
        return bool(len(self.from_reference)) != bool(len(self.from_prediction))

    def hausdorff(self, percentile: float = 100.0) -> float:
        """The distance within which this share of each surface lies from the other; the larger of both directions.

        NaN where there is no surface, infinite where there is one.
        """
        if self.is_empty:
            return math.nan
        if self.is_one_sided:
            return math.inf
        share = percentile / 100
        return max(
            _weighted_percentile(self.from_reference, self.reference_sizes, share),
            _weighted_percentile(self.from_prediction, self.prediction_sizes, share),
        )

    def average(self) -> float:
        """Mean distance over both surfaces, weighted with the elements' sizes; NaN or infinite likewise."""
        if self.is_empty:
            return math.nan
        if self.is_one_sided:
            return math.inf
        total = self.reference_sizes.sum() + self.prediction_sizes.sum()
        weighted = self.from_reference @ self.reference_sizes + self.from_prediction @ self.prediction_sizes
        return float(weighted / total)

    def surface_dice(self, tolerance: float) -> float:
        """Share of both surfaces that lies within a tolerance in mm of the other; NaN where there is no surface.

        Nikolov et al., Clinically applicable segmentation of head and neck anatomy, JMIR 2021.
        """
        if self.is_empty:
            return math.nan
        total = self.reference_sizes.sum() + self.prediction_sizes.sum()
        within = self.reference_sizes[self.from_reference <= tolerance].sum()
        within += self.prediction_sizes[self.from_prediction <= tolerance].sum()
        return float(within / total)


def surfel_distances(reference: Surfels, prediction: Surfels, spacing: Sequence[float]) -> SurfaceDistances:
    """Measure between surfels, which count by their size.

    Args:
        reference: Surface of the reference.
        prediction: Surface of the prediction, in the same volume.
        spacing: Millimetres per array axis.
    """
    first, second = _nearest(reference.corners, prediction.corners, spacing)
    return SurfaceDistances(
        **_sorted("reference", first, reference.sizes(spacing)),
        **_sorted("prediction", second, prediction.sizes(spacing)),
    )


def voxel_distances(reference: np.ndarray, prediction: np.ndarray, spacing: Sequence[float]) -> SurfaceDistances:
    """Measure between the centres of border voxels, which all count the same, as MONAI and MedPy do.

    Args:
        reference: Indices (n, d) of the border voxels of the reference, see :func:`border_voxels`.
        prediction: Likewise of the prediction.
        spacing: Millimetres per array axis.
    """
    first, second = _nearest(reference, prediction, spacing)
    return SurfaceDistances(
        **_sorted("reference", first, np.ones(len(first))), **_sorted("prediction", second, np.ones(len(second)))
    )


def border_voxels(mask: np.ndarray) -> np.ndarray:
    """Voxels of a mask that have a face in common with the outside, boolean, the mask's shape.

    Beyond the array there is nothing.
    """
    padded = np.pad(mask, 1)
    inner = mask.copy()
    for axis in range(mask.ndim):
        for shift in (0, 2):
            window = [slice(1, -1)] * mask.ndim
            window[axis] = slice(shift, shift + mask.shape[axis])
            inner &= padded[tuple(window)]
    return np.asarray(mask & ~inner)


def unweighted_percentile(distances: SurfaceDistances, percentile: float) -> float:
    """Percentile of the distances as NumPy interpolates it, the larger of both directions, as MONAI does."""
    if distances.is_empty:
        return math.nan
    if distances.is_one_sided:
        return math.inf
    first, second = (np.percentile(d, percentile) for d in (distances.from_reference, distances.from_prediction))
    return float(max(first, second))


def _weighted_percentile(distances: np.ndarray, sizes: np.ndarray, share: float) -> float:
    if share >= 1:
        return float(distances[-1])
    covered = np.cumsum(sizes) / sizes.sum()
    return float(distances[min(int(np.searchsorted(covered, share)), len(distances) - 1)])


def _nearest(first: np.ndarray, second: np.ndarray, spacing: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Distance in mm of every point of one set from the other set, for both."""
    if not len(first) or not len(second):
        return np.full(len(first), np.inf), np.full(len(second), np.inf)
    scale = np.asarray(spacing, dtype=float)
    # Most points of two good segmentations coincide; only the others need a search.
    keys_first, keys_second = _keys(first, second)
    shared_first, shared_second = np.isin(keys_first, keys_second), np.isin(keys_second, keys_first)
    return (
        _distances_to(first, ~shared_first, second, scale),
        _distances_to(second, ~shared_second, first, scale),
    )


def _distances_to(points: np.ndarray, is_apart: np.ndarray, others: np.ndarray, scale: np.ndarray) -> np.ndarray:
    distances = np.zeros(len(points))
    if is_apart.any():
        # Neither balanced nor compact: points on a lattice share coordinates, which makes medians slow.
        tree = KDTree(others * scale, balanced_tree=False, compact_nodes=False)
        distances[is_apart] = tree.query(points[is_apart] * scale)[0]
    return distances


def _keys(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One integer per point, equal for equal points."""
    low = np.minimum(first.min(axis=0), second.min(axis=0)).astype(np.int64)
    shape = np.maximum(first.max(axis=0), second.max(axis=0)) - low + 1
    keys = (np.ravel_multi_index(tuple((points - low).T), tuple(shape)) for points in (first, second))
    one, other = keys
    return one, other


def _sorted(side: str, distances: np.ndarray, sizes: np.ndarray) -> dict[str, np.ndarray]:
    order = np.argsort(distances, kind="stable")
    return {f"from_{side}": distances[order], f"{side}_sizes": sizes[order]}
