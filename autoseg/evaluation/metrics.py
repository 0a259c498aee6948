"""Scores of a segmentation against its reference."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from autoseg.labels import Target

_CHUNK = 1 << 16  # voxels counted at once: what is made of them stays in a processor's cache
_MANY_RUNS = 8  # voxels per run of equal pairs; where runs are shorter, voxels are counted one by one
_LARGEST_TABLE = 1 << 16  # label values up to here are looked up in a table, larger ones searched


@dataclass(frozen=True, slots=True, kw_only=True)
class OverlapCounts:
    """Voxels of one target, by what reference and prediction say about them."""

    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int

    @property
    def num_predicted(self) -> int:
        """Voxels that the prediction gives to the target."""
        return self.true_positives + self.false_positives

    @property
    def num_reference(self) -> int:
        """Voxels that the reference gives to the target."""
        return self.true_positives + self.false_negatives

    @property
    def dice(self) -> float:
        """2 TP / (2 TP + FP + FN); NaN where neither has the target: nothing was asked, nothing was said."""
        size = self.num_predicted + self.num_reference
        return 2 * self.true_positives / size if size else math.nan

    @property
    def iou(self) -> float:
        """TP / (TP + FP + FN); NaN where neither has the target."""
        union = self.true_positives + self.false_positives + self.false_negatives
        return self.true_positives / union if union else math.nan

    @property
    def precision(self) -> float:
        """TP / (TP + FP), also called positive predictive value; 0 where only the reference has the target."""
        return self._share_of(self.num_predicted)

    @property
    def recall(self) -> float:
        """TP / (TP + FN), also called sensitivity; 0 where only the prediction has the target."""
        return self._share_of(self.num_reference)

    @property
    def specificity(self) -> float:
        """TN / (TN + FP); NaN where every voxel belongs to the target."""
        negatives = self.true_negatives + self.false_positives
        return self.true_negatives / negatives if negatives else math.nan

    def _share_of(self, voxels: int) -> float:
        if voxels:
            return self.true_positives / voxels
        return 0.0 if self.num_predicted + self.num_reference else math.nan


def overlap_counts(
    reference: np.ndarray, prediction: np.ndarray, targets: Sequence[Target], *, ignore_value: int | None = None
) -> tuple[OverlapCounts, ...]:
    """Count the overlap of every target in one pass over the volume.

    Args:
        reference: Label values, any shape, an integer type.
        prediction: Label values, same shape.
        targets: Labels, or regions that unite several values and may overlap.
        ignore_value: Voxels with this value in the reference count nowhere.

    Returns:
        One entry per target, in their order.

    Raises:
        ValueError: When the shapes differ.
    """
    return JointCounts.of(reference, prediction, targets, ignore_value=ignore_value).overlaps(targets)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class JointCounts:
    """Voxels by what reference and prediction say: everything that overlap metrics need, from one pass.

    Args:
        values: Label values that are told apart, ascending.
        table: int64 (n + 1, n + 1), reference by prediction; index 0 is every value that is not listed, i + 1 is
            ``values[i]``. Ignored voxels are in no entry.
    """

    values: tuple[int, ...]
    table: np.ndarray

    @classmethod
    def of(
        cls,
        reference: np.ndarray,
        prediction: np.ndarray,
        targets: Sequence[Target],
        *,
        ignore_value: int | None = None,
    ) -> JointCounts:
        """Count a volume, or a part of one.

        Raises:
            ValueError: When the shapes differ.
        """
        if reference.shape != prediction.shape:
            raise ValueError(f"reference {reference.shape} and prediction {prediction.shape} differ in shape")
        listed = {v for target in targets for v in target.values}
        values = sorted(listed if ignore_value is None else listed | {ignore_value})
        joint = _joint_histogram(reference, prediction, values)
        if ignore_value is not None:
            joint[values.index(ignore_value) + 1] = 0
        return cls(values=tuple(values), table=joint)

    def __add__(self, other: JointCounts) -> JointCounts:
        """Counts of two parts of a volume, or of two volumes.

        Raises:
            ValueError: When they tell other values apart.
        """
        if self.values != other.values:
            raise ValueError(f"counts of the labels {self.values} and {other.values} cannot be added")
        return JointCounts(values=self.values, table=self.table + other.table)

    def overlaps(self, targets: Sequence[Target]) -> tuple[OverlapCounts, ...]:
        """Overlap of every target, in their order."""
        member = np.asarray([[False, *(v in t.values for v in self.values)] for t in targets]).astype(np.int64)
        in_reference = member @ self.table.sum(axis=1)
        in_prediction = member @ self.table.sum(axis=0)
        in_both = ((member @ self.table) * member).sum(axis=1)
        total = int(self.table.sum())
        return tuple(
            OverlapCounts(
                true_positives=int(both),
                false_positives=int(predicted - both),
                false_negatives=int(referenced - both),
                true_negatives=total - int(predicted + referenced - both),
            )
            for both, predicted, referenced in zip(in_both, in_prediction, in_reference, strict=True)
        )


def _joint_histogram(reference: np.ndarray, prediction: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """Voxel counts by (reference, prediction); index 0 is every value that is not listed, i + 1 is ``values[i]``."""
    positions = position_lookup(values)
    first, second = reference.reshape(-1), prediction.reshape(-1)
    size = len(values) + 1
    highest = max(_highest(first), _highest(second))
    if (highest + 1) ** 2 > _LARGEST_TABLE:
        return _count_pairs(first, second, size, positions)
    # Few small values, as nearly always: the voxels are counted as they are, then the counts are brought together.
    counts = _count_pairs(first, second, highest + 1, lambda labels: labels.astype(np.uint16))
    place = positions(np.arange(highest + 1))
    joint = np.zeros((size, size), dtype=np.int64)
    np.add.at(joint, (place[:, None], place[None, :]), counts)
    return joint


def _highest(labels: np.ndarray) -> int:
    """Highest value of an array of indices; one too high for a table of pairs where it is none."""
    if labels.size == 0:
        return 0
    if labels.dtype.kind not in "ub" and not (labels.dtype.kind == "i" and labels.min() >= 0):
        return _LARGEST_TABLE
    return int(labels.max())


def _count_pairs(
    first: np.ndarray, second: np.ndarray, size: int, indices: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Count (size, size) pairs of indices below ``size``; ``size`` squared fits the type that ``indices`` gives."""
    counts = np.zeros(size * size, dtype=np.int64)
    for start in range(0, first.size, _CHUNK):
        chunk = slice(start, start + _CHUNK)
        pairs = indices(first[chunk])
        pairs *= pairs.dtype.type(size)
        pairs += indices(second[chunk])
        ends = np.flatnonzero(pairs[1:] != pairs[:-1])
        if len(ends) * _MANY_RUNS > len(pairs):
            counts += np.bincount(pairs, minlength=size * size)
            continue
        ends = np.append(ends, len(pairs) - 1)  # neighbours are mostly alike: runs are counted by their length
        np.add.at(counts, pairs[ends], np.diff(ends, prepend=-1))
    return counts.reshape(size, size)


def position_lookup(values: Sequence[int]) -> Callable[[np.ndarray], np.ndarray]:
    """Make the function from labels to 1 + their position in the ascending ``values``, or 0."""
    listed = np.asarray(values, dtype=np.int64)
    if listed.size == 0 or listed[0] < 0 or listed[-1] >= _LARGEST_TABLE:

        def search(labels: np.ndarray) -> np.ndarray:
            position = np.searchsorted(listed, labels)
            found = position < len(listed)
            found[found] = listed[position[found]] == labels[found]
            return np.where(found, position + 1, 0)

        return search

    table = np.zeros(listed[-1] + 3, dtype=np.int64)  # the last two stand for values above all and below zero
    table[listed] = np.arange(1, len(listed) + 1)

    def look_up(labels: np.ndarray) -> np.ndarray:
        # Clipped first: a stray value must neither run over the end nor, being negative, pick a listed one.
        return np.asarray(table[np.clip(labels, -1, len(table) - 2, dtype=np.int64, casting="unsafe")])

    return look_up
