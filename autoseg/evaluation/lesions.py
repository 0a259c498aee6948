"""Detection of lesions: connected components of the reference that are found, and predicted ones that are right."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cc3d
import numpy as np
from scipy.optimize import linear_sum_assignment


@dataclass(frozen=True, slots=True, kw_only=True)
class LesionCounts:
    """Components, by whether they have a counterpart.

    Args:
        found: Components of the reference that were found.
        missed: Components of the reference that were not.
        right: Predicted components that have a counterpart.
        false: Predicted components that have none.
    """

    found: int
    missed: int
    right: int
    false: int

    @property
    def recall(self) -> float:
        """Share of the reference's components that were found; NaN where there is no component at all."""
        return self._share(self.found, self.found + self.missed)

    @property
    def precision(self) -> float:
        """Share of the predicted components that are right; NaN where there is no component at all."""
        return self._share(self.right, self.right + self.false)

    @property
    def f1(self) -> float:
        """Harmonic mean of both."""
        recall, precision = self.recall, self.precision
        return 2 * recall * precision / (recall + precision) if recall + precision else recall + precision

    def _share(self, part: int, whole: int) -> float:
        if whole:
            return part / whole
        return 0.0 if self.found + self.missed + self.right + self.false else math.nan


def count_lesions(reference: np.ndarray, prediction: np.ndarray, *, min_iou: float = 0.0) -> LesionCounts:
    """Match the connected components of two masks; neighbours share a face, an edge or a corner.

    Args:
        reference: Boolean (z, y, x) or (y, x).
        prediction: Likewise.
        min_iou: 0 takes any overlap, and one component may be the counterpart of several. Above 0 each has at most
            one counterpart with at least this IoU, chosen so that the sum of IoUs is largest.
    """
    first, num_first = _components(reference)
    second, num_second = _components(prediction)
    pairs = np.bincount(
        first.ravel().astype(np.int64) * (num_second + 1) + second.ravel(), minlength=(num_first + 1) * (num_second + 1)
    ).reshape(num_first + 1, num_second + 1)
    shared = pairs[1:, 1:]
    if min_iou > 0:
        sizes = pairs.sum(axis=1)[1:, None] + pairs.sum(axis=0)[None, 1:]
        iou = shared / np.maximum(sizes - shared, 1)
        iou[iou < min_iou] = 0
        rows, columns = linear_sum_assignment(iou, maximize=True)
        found = right = int(np.count_nonzero(iou[rows, columns]))
    else:
        found, right = int(shared.any(axis=1).sum()), int(shared.any(axis=0).sum())
    return LesionCounts(found=found, missed=num_first - found, right=right, false=num_second - right)


def _components(mask: np.ndarray) -> tuple[np.ndarray, int]:
    # As integers: for booleans cc3d takes another way, which labels background at the edge of odd shapes (4.1.1).
    integers = np.ascontiguousarray(mask, dtype=np.uint8)
    labels = cc3d.connected_components(integers, connectivity=26 if mask.ndim == 3 else 8)
    return labels, int(labels.max(initial=0))
